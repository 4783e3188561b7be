//! Parser of answers that consist of messages with a header.
//!
//! gpt-oss's header (Harmony) has a channel and a recipient. The channel `analysis` is reasoning, messages to
//! `functions.name` are calls, and all else is content. Messages to other recipients are dropped: the model addresses tools
//! that it was not given.
//!
//! Muse Glimmer's header has a recipient. Messages to `self` are reasoning, and messages to `user` are content. Messages to
//! tools have calls in tags.

use super::call::{JsonValue, JsonValueStep};
use super::scan::Scan;
use super::tagged::{Tagged, Tags};
use super::{Calls, OutputPiece, push_piece};

/// Longest header of a message, in bytes.
const MAX_HEADER: usize = 1024;
const START: &str = "<|start|>";
const CHANNEL: &str = "<|channel|>";
const MESSAGE: &str = "<|message|>";
const RECIPIENT: &str = "to=";
const FUNCTIONS: &str = "functions.";

/// Messages of a model.
#[derive(Debug)]
pub(crate) struct Dialect {
    /// Beginnings of a header.
    begins: &'static [&'static str],
    /// Marks that end a message.
    ends: &'static [&'static str],
    /// Marks within a header.
    others: &'static [&'static str],
    /// Tags of the calls. `None` if a call's message is its arguments.
    tags: Option<&'static Tags>,
}

pub(crate) const GPT_OSS: Dialect = Dialect {
    begins: &[START, CHANNEL, RECIPIENT],
    ends: &["<|end|>", "<|call|>", "<|return|>", START],
    others: &[CHANNEL, MESSAGE, "<|constrain|>"],
    tags: None,
};
pub(crate) const MUSE_GLIMMER: Dialect = Dialect {
    begins: &[START, MESSAGE, RECIPIENT],
    ends: &["<|eom|>", "<|eot|>", START],
    others: &[MESSAGE],
    tags: Some(&Tags {
        outer: Some(["<atem:function_calls>", "</atem:function_calls>"]),
        function: ["<atem:invoke name=\"", "\">"],
        function_end: "</atem:invoke>",
        parameter: ["<atem:parameter name=\"", "\">"],
        value: "",
        parameter_end: "</atem:parameter>",
        has_line_ends: false,
        sections: &[],
        known: false,
        quotes: ["", ""],
    }),
};

impl Dialect {
    /// Returns true if a call's values are in tags.
    pub(crate) fn has_tags(&self) -> bool {
        self.tags.is_some()
    }

    pub(crate) fn marks(&self) -> Vec<&'static str> {
        [self.ends, self.others, &self.tags.map(Tags::marks).unwrap_or_default()].concat()
    }
}

/// Parser of such answers.
#[derive(Debug)]
pub(crate) struct Harmony {
    dialect: &'static Dialect,
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
    /// Calls in tags.
    Tags(Tagged),
    Dropped,
}

impl Harmony {
    pub(crate) fn new(dialect: &'static Dialect, has_reasoning: bool) -> Self {
        Self { dialect, has_reasoning, has_content: false, has_thoughts: false, part: Part::Header(String::new()) }
    }

    pub(crate) fn step(&mut self, char: char, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        match &mut self.part {
            Part::Header(held) => {
                held.push(char);
                self.decide_header(out, pieces);
            }
            Part::Body { scan, kind } => {
                let mut text = String::new();
                let end = scan.step(char, self.dialect.ends, |other| text.push_str(other));
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
            let kind = match self.dialect.tags {
                Some(tags) => read_recipient(header, tags, self.has_reasoning),
                None => read_header(header, self.has_reasoning),
            };
            self.begin_body(kind, out, pieces);
            return;
        }
        let written = held.trim_start();
        let may_begin = |mark: &&str| written.starts_with(*mark) || mark.starts_with(written);
        if !self.dialect.begins.iter().any(may_begin) || held.len() > MAX_HEADER {
            let held = std::mem::take(held);
            let kind = self.dialect.tags.map_or(Kind::Content, |tags| Kind::Tags(Tagged::new(tags)));
            self.begin_body(kind, out, pieces);
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
                let written = held.trim_start();
                let is_header = written.starts_with('<') || written.starts_with(RECIPIENT) || written.is_empty();
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

/// Reads the header of a message: `to=recipient`. A message without a recipient may have calls and content.
fn read_recipient(header: &str, tags: &'static Tags, has_reasoning: bool) -> Kind {
    let recipient = header.split_once(RECIPIENT).map(|(_, recipient)| recipient.trim());
    match recipient {
        Some("self") if has_reasoning => Kind::Reasoning,
        Some("self" | "user") => Kind::Content,
        _ => Kind::Tags(Tagged::new(tags)),
    }
}

fn push_body(kind: &mut Kind, text: &str, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
    match kind {
        Kind::Content => out.add_content(text, pieces),
        Kind::Reasoning => push_piece(pieces, OutputPiece::Reasoning(text.to_owned())),
        Kind::Call(_) | Kind::Arguments(_) => text.chars().for_each(|char| push_argument(kind, char, out, pieces)),
        Kind::Tags(calls) => text.chars().for_each(|char| calls.step(char, out, pieces)),
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
    match kind {
        Kind::Call(name) => {
            out.begin_call(std::mem::take(name), None, pieces);
            out.add_arguments("{}".into(), pieces);
            *kind = Kind::Dropped;
        }
        Kind::Tags(calls) => calls.finish(out, pieces),
        Kind::Content | Kind::Reasoning | Kind::Arguments(_) | Kind::Dropped => {}
    }
}
