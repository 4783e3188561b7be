//! Parser of calls in tags, as Qwen3-Coder writes them: `<function=name>`, and in it `<parameter=key>` before each
//! value. Values have no quotes, so only the tool's schema tells their type. The parser therefore reports a parameter
//! as a whole.
//!
//! A value may itself contain tags. It ends at an end tag that is followed by another tag of the call.

use super::styles::{Hermes, Scan};
use super::{Calls, OutputPiece, typed};

/// Longest name of a tool or of a parameter, in bytes.
const MAX_NAME: usize = 256;
/// Longest white space between two tags, in bytes. After longer white space, the first tag was not the end.
const MAX_BLANKS: usize = 512;
const FUNCTION: &str = "<function=";
const FUNCTION_END: &str = "</function>";
const PARAMETER: &str = "<parameter=";
const PARAMETER_END: &str = "</parameter>";
/// Tags that may follow a parameter.
const NEXT: [&str; 3] = [PARAMETER, FUNCTION_END, Hermes::END];

/// Parser of `<tool_call><function=name><parameter=key>value</parameter>…</function></tool_call>`, several with any
/// text between them. Models forget the outer tag. Without it, only a known tool's name begins a call.
#[derive(Debug, Default)]
pub(crate) struct Tagged {
    part: Part,
    /// Name of the called tool.
    name: String,
    /// Set once the call has a parameter.
    has_parameters: bool,
}

#[derive(Debug)]
enum Part {
    Content(Scan),
    /// From the mark on, as written: the outer tag, blanks, and the tool's name up to `>`.
    Start(String),
    /// Before a parameter or the end of the call. Text between tags is dropped.
    Body(Scan),
    /// A parameter's name, up to `>`.
    Key(String),
    Value {
        key: String,
        text: String,
    },
    /// After a possible end of a value. `since` is the text after it.
    AfterValue {
        key: String,
        text: String,
        since: String,
    },
    /// After the call: its outer end tag may follow.
    Ended(String),
}

impl Default for Part {
    fn default() -> Self {
        Self::Content(Scan::default())
    }
}

impl Tagged {
    pub(crate) fn step(&mut self, char: char, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        match &mut self.part {
            Part::Content(scan) => {
                if let Some(mark) = scan.step(char, &[Hermes::BEGIN, FUNCTION], |text| out.add_content(text, pieces)) {
                    self.part = Part::Start(mark.into());
                }
            }
            Part::Start(held) => {
                held.push(char);
                self.decide_start(out, pieces);
            }
            Part::Body(scan) => match scan.step(char, &NEXT, |_| ()) {
                None => {}
                Some(PARAMETER) => self.part = Part::Key(String::new()),
                Some(mark) => self.finish_call(mark, out, pieces),
            },
            Part::Key(key) => match char {
                '>' => self.part = Part::Value { key: std::mem::take(key), text: String::new() },
                '<' | '\n' => self.part = Part::Body(Scan::default()),
                _ if key.len() >= MAX_NAME => self.part = Part::Body(Scan::default()),
                _ => key.push(char),
            },
            Part::Value { key, text } => {
                text.push(char);
                if text.ends_with(PARAMETER_END) {
                    text.truncate(text.len() - PARAMETER_END.len());
                    let (key, text) = (std::mem::take(key), std::mem::take(text));
                    self.part = Part::AfterValue { key, text, since: String::new() };
                }
            }
            Part::AfterValue { since, .. } => {
                since.push(char);
                self.decide_end_of_value(out, pieces);
            }
            Part::Ended(held) => {
                held.push(char);
                let written = held.trim_start();
                if written == Hermes::END {
                    self.part = Part::default();
                } else if !Hermes::END.starts_with(written) || held.len() > MAX_BLANKS {
                    let held = std::mem::take(held);
                    self.part = Part::default();
                    held.chars().for_each(|char| self.step(char, out, pieces));
                }
            }
        }
    }

    /// Decides by the text since the mark if a call begins or the text is content.
    fn decide_start(&mut self, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        let Part::Start(held) = &mut self.part else { return };
        let inner = held.strip_prefix(Hermes::BEGIN);
        let written = inner.unwrap_or(held.as_str()).trim_start();
        let is_call = match written.strip_prefix(FUNCTION) {
            None => written.len() < FUNCTION.len() && FUNCTION.starts_with(written) && held.len() < MAX_NAME,
            Some(name) => match name.strip_suffix('>') {
                Some(name) if !name.is_empty() && (inner.is_some() || out.knows(name)) => {
                    self.name = name.to_owned();
                    self.has_parameters = false;
                    out.begin_call(self.name.clone(), pieces);
                    out.add_arguments("{".into(), pieces);
                    self.part = Part::Body(Scan::default());
                    return;
                }
                Some(_) => false,
                None => {
                    name.len() <= MAX_NAME
                        && !name.contains(|char: char| char.is_whitespace() || "<\"'{".contains(char))
                }
            },
        };
        if !is_call {
            // The mark is content. The text after the mark may hold another mark, so parse it again.
            let held = std::mem::take(held);
            let mark = if held.starts_with(FUNCTION) { FUNCTION } else { Hermes::BEGIN };
            out.add_content(mark, pieces);
            self.part = Part::default();
            held[mark.len()..].chars().for_each(|char| self.step(char, out, pieces));
        }
    }

    /// Decides by the text since an end tag if the value has ended.
    fn decide_end_of_value(&mut self, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        let Part::AfterValue { key, text, since } = &mut self.part else { return };
        let written = since.trim_start();
        match NEXT.into_iter().find(|mark| *mark == written) {
            Some(mark) => {
                let (key, text) = (std::mem::take(key), std::mem::take(text));
                self.add_parameter(&key, &text, out, pieces);
                match mark {
                    PARAMETER => self.part = Part::Key(String::new()),
                    _ => self.finish_call(mark, out, pieces),
                }
            }
            None if since.len() <= MAX_BLANKS && NEXT.iter().any(|mark| mark.starts_with(written)) => {}
            None => {
                // The end tag is part of the value.
                let (key, mut text, since) = (std::mem::take(key), std::mem::take(text), std::mem::take(since));
                text.push_str(PARAMETER_END);
                self.part = Part::Value { key, text };
                since.chars().for_each(|char| self.step(char, out, pieces));
            }
        }
    }

    fn add_parameter(&mut self, key: &str, text: &str, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        // Templates put a line end before and after a value.
        let text = text.strip_prefix('\n').unwrap_or(text);
        let value = typed::parse_value(text.strip_suffix('\n').unwrap_or(text), key, out.parameters(&self.name));
        let comma = if std::mem::replace(&mut self.has_parameters, true) { ", " } else { "" };
        out.add_arguments(format!("{comma}{}: {value}", serde_json::Value::from(key)), pieces);
    }

    /// Ends the call at `mark`, its end tag.
    fn finish_call(&mut self, mark: &str, out: &Calls, pieces: &mut Vec<OutputPiece>) {
        out.add_arguments("}".into(), pieces);
        self.part = if mark == Hermes::END { Part::default() } else { Part::Ended(String::new()) };
    }

    pub(crate) fn finish(&mut self, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        match std::mem::take(&mut self.part) {
            Part::Content(scan) => out.add_content(&scan.held, pieces),
            Part::Start(held) => out.add_content(&held, pieces),
            Part::AfterValue { key, text, .. } => self.add_parameter(&key, &text, out, pieces),
            // The model forgot `</parameter>`: the value ends with the end tag of the function.
            Part::Value { key, text } => {
                let text = text.trim_end();
                let text = text.strip_suffix(Hermes::END).unwrap_or(text).trim_end();
                if let Some(text) = text.strip_suffix(FUNCTION_END) {
                    self.add_parameter(&key, text, out, pieces);
                    out.add_arguments("}".into(), pieces);
                }
            }
            Part::Body(_) | Part::Key(_) | Part::Ended(_) => {}
        }
    }
}
