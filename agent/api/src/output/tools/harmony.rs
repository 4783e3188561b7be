//! Parser of gpt-oss's answers (Harmony): messages with a channel and a recipient. The channel `analysis` is reasoning,
//! messages to `functions.name` are calls, and all else is content. Messages to other recipients are dropped: the model
//! addresses tools that it was not given.

use super::call::{JsonValue, JsonValueStep};
use super::scan::Scan;
use super::{Calls, OutputPiece, push_piece};

/// Longest header of a message, in bytes.
const MAX_HEADER: usize = 1024;
const START: &str = "<|start|>";
const CHANNEL: &str = "<|channel|>";
const MESSAGE: &str = "<|message|>";
const RECIPIENT: &str = "to=";
const FUNCTIONS: &str = "functions.";
/// Marks that end a message.
const ENDS: [&str; 4] = ["<|end|>", "<|call|>", "<|return|>", START];

/// Parser of such answers.
#[derive(Debug)]
pub(crate) struct Harmony {
    /// False if reasoning is content.
    has_reasoning: bool,
    /// Set once a message of the kind was there: the next one begins on a new line.
    has_content: bool,
    has_thoughts: bool,
    part: Part,
}

#[derive(Debug)]
enum Part {
    /// Before a message's text, as written.
    Header(String),
    Body {
        scan: Scan,
        kind: Kind,
    },
}

#[derive(Debug)]
enum Kind {
    Content,
    Reasoning,
    Arguments(JsonValue),
    /// A call whose arguments have not begun, with its name.
    Call(String),
    Dropped,
}

impl Harmony {
    pub(crate) const MARKS: [&str; 7] = [START, CHANNEL, MESSAGE, "<|end|>", "<|call|>", "<|return|>", "<|constrain|>"];

    pub(crate) fn new(has_reasoning: bool) -> Self {
        Self { has_reasoning, has_content: false, has_thoughts: false, part: Part::Header(String::new()) }
    }

    pub(crate) fn step(&mut self, char: char, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        match &mut self.part {
            Part::Header(held) => {
                held.push(char);
                self.decide_header(out, pieces);
            }
            Part::Body { scan, kind } => {
                let mut text = String::new();
                let end = scan.step(char, &ENDS, |other| text.push_str(other));
                push_body(kind, &text, out, pieces);
                if let Some(end) = end {
                    end_body(kind, out, pieces);
                    self.part = Part::Header(if end == START { START.into() } else { String::new() });
                }
            }
        }
    }

    /// Decides by the text since the last message if a message begins, or if the text is content without a header.
    fn decide_header(&mut self, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        let Part::Header(held) = &mut self.part else { return };
        if let Some(header) = held.strip_suffix(MESSAGE) {
            let kind = read_header(header, self.has_reasoning);
            self.begin_body(kind, out, pieces);
            return;
        }
        let written = held.trim_start();
        let may_begin = |mark: &&str| written.starts_with(*mark) || mark.starts_with(written);
        if ![START, CHANNEL, RECIPIENT].iter().any(may_begin) || held.len() > MAX_HEADER {
            let held = std::mem::take(held);
            self.begin_body(Kind::Content, out, pieces);
            held.chars().for_each(|char| self.step(char, out, pieces));
        }
    }

    fn begin_body(&mut self, kind: Kind, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        match kind {
            Kind::Content if std::mem::replace(&mut self.has_content, true) => out.add_content("\n", pieces),
            Kind::Reasoning if std::mem::replace(&mut self.has_thoughts, true) => {
                push_piece(pieces, OutputPiece::Reasoning("\n".into()));
            }
            _ => {}
        }
        self.part = Part::Body { scan: Scan::default(), kind };
    }

    pub(crate) fn finish(&mut self, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        match &mut self.part {
            Part::Header(held) => {
                let is_header = held.trim_start().starts_with('<') || held.trim().is_empty();
                if !is_header {
                    out.add_content(held, pieces);
                }
            }
            Part::Body { scan, kind } => {
                let held = std::mem::take(&mut scan.held);
                push_body(kind, &held, out, pieces);
                end_body(kind, out, pieces);
            }
        }
    }
}

/// Reads the header of a message: `to=recipient` before or after `<|channel|>channel`. The last channel counts.
fn read_header(header: &str, has_reasoning: bool) -> Kind {
    let (role, channel) = header.rsplit_once(CHANNEL).unwrap_or((header, ""));
    let role = role.split(CHANNEL).next().unwrap_or_default();
    let recipient = [channel, role].into_iter().find_map(|part| {
        let (_, recipient) = part.split_once(RECIPIENT)?;
        recipient.split(|char: char| char.is_whitespace() || char == '<').next()
    });
    match recipient {
        Some("assistant" | "user" | "all") | None => {}
        Some(name) => {
            let function = name.strip_prefix(FUNCTIONS).filter(|name| !name.is_empty());
            return function.map_or(Kind::Dropped, |name| Kind::Call(name.to_owned()));
        }
    }
    match channel.split_whitespace().next() {
        Some("analysis") if has_reasoning => Kind::Reasoning,
        _ => Kind::Content,
    }
}

fn push_body(kind: &mut Kind, text: &str, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
    match kind {
        Kind::Content => out.add_content(text, pieces),
        Kind::Reasoning => push_piece(pieces, OutputPiece::Reasoning(text.to_owned())),
        Kind::Call(_) | Kind::Arguments(_) => text.chars().for_each(|char| push_argument(kind, char, out, pieces)),
        Kind::Dropped => {}
    }
}

/// Takes a character of a call's message. The first JSON object is its arguments.
fn push_argument(kind: &mut Kind, char: char, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
    match kind {
        Kind::Call(name) if char == '{' => {
            out.begin_call(std::mem::take(name), None, pieces);
            out.add_arguments("{".into(), pieces);
            *kind = Kind::Arguments(JsonValue::begin('{'));
        }
        Kind::Arguments(raw) => {
            let step = raw.step(char);
            out.add_arguments(char.into(), pieces);
            if step != JsonValueStep::More {
                *kind = Kind::Dropped;
            }
        }
        _ => {}
    }
}

/// Ends a message. A call without arguments is reported now.
fn end_body(kind: &mut Kind, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
    if let Kind::Call(name) = kind {
        out.begin_call(std::mem::take(name), None, pieces);
        out.add_arguments("{}".into(), pieces);
        *kind = Kind::Dropped;
    }
}
