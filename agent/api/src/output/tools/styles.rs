//! Parsers of the text around calls, one for each style. Each takes one character at a time, and holds back text that
//! may belong to a call. If the text turns out to be no call, it becomes content without a change.

use super::call::{Call, CallStep, JsonValue, JsonValueStep};
use super::{Calls, OutputPiece, python};

/// Search for marks in growing text.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Text that may be the beginning of a mark.
    pub held: String,
}

impl Scan {
    /// Takes one character. Returns the mark that this character completes, if any. Passes text that belongs to no mark
    /// to `other`. No mark may be the beginning of another mark.
    pub(crate) fn step<'a>(&mut self, char: char, marks: &[&'a str], mut other: impl FnMut(&str)) -> Option<&'a str> {
        self.held.push(char);
        while !marks.iter().any(|mark| mark.starts_with(self.held.as_str())) {
            let first = self.held.remove(0);
            other(first.encode_utf8(&mut [0; 4]));
        }
        let complete = marks.iter().find(|mark| **mark == self.held).copied();
        if complete.is_some() {
            self.held.clear();
        }
        complete
    }
}

/// A call that is a JSON object. The text of the call is kept while the text may still become content.
#[derive(Debug, Default)]
struct Attempt {
    call: Call,
    text: String,
}

impl Attempt {
    /// Begins a call. `text` is the text since the last content: marks and white space.
    fn after(text: impl Into<String>) -> Self {
        Self { call: Call::default(), text: text.into() }
    }

    /// Takes one character. `marked` is true if a mark came before: the text must then be a call, and may name an
    /// unknown tool.
    fn step(&mut self, char: char, marked: bool, out: &mut Calls, pieces: &mut Vec<OutputPiece>) -> CallStep {
        self.text.push(char);
        let mut events = Vec::new();
        let step = self.call.step(char, |name| marked || out.knows(name), |event| events.push(event));
        events.into_iter().for_each(|event| out.add_event(event, pieces));
        if self.call.is_reported() {
            self.text.clear();
        }
        if step == CallStep::Broken {
            self.release_as_content(out, pieces);
        }
        step
    }

    /// Adds the text to the content, because it is no call.
    fn release_as_content(&mut self, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        out.add_content(&std::mem::take(&mut self.text), pieces);
    }
}

/// Parser of calls as `<tool_call>{…}</tool_call>`. The text between two calls is content.
#[derive(Debug, Default)]
pub(crate) struct Hermes {
    scan: Scan,
    part: HermesPart,
}

#[derive(Debug, Default)]
enum HermesPart {
    #[default]
    Content,
    Call(Attempt),
    /// After the call, text up to the end mark is dropped.
    Rest,
}

impl Hermes {
    pub(crate) const BEGIN: &str = "<tool_call>";
    pub(crate) const END: &str = "</tool_call>";

    pub(crate) fn step(&mut self, char: char, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        match &mut self.part {
            HermesPart::Content => {
                if self.scan.step(char, &[Self::BEGIN], |text| out.add_content(text, pieces)).is_some() {
                    self.part = HermesPart::Call(Attempt::after(Self::BEGIN));
                }
            }
            HermesPart::Call(attempt) => match attempt.step(char, true, out, pieces) {
                CallStep::More => {}
                CallStep::Broken if !attempt.call.is_reported() => self.part = HermesPart::Content,
                CallStep::Done | CallStep::Broken => self.part = HermesPart::Rest,
            },
            HermesPart::Rest => {
                if self.scan.step(char, &[Self::END], |_| ()).is_some() {
                    self.part = HermesPart::Content;
                }
            }
        }
    }

    pub(crate) fn finish(&mut self, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        match &mut self.part {
            HermesPart::Content => out.add_content(&std::mem::take(&mut self.scan.held), pieces),
            HermesPart::Call(attempt) => attempt.release_as_content(out, pieces),
            HermesPart::Rest => {}
        }
    }
}

/// Parser of an answer that consists of calls from its first character on.
#[derive(Debug, Default)]
pub(crate) struct Llama {
    part: LlamaPart,
}

#[derive(Debug)]
enum LlamaPart {
    /// White space and the tag, as written.
    Start(String),
    Call(Attempt),
    /// Between two calls.
    Between(String),
    Content,
}

impl Default for LlamaPart {
    fn default() -> Self {
        Self::Start(String::new())
    }
}

impl Llama {
    pub(crate) const TAG: &str = "<|python_tag|>";
    /// Longest white space before a call, in bytes. After more of it, the text is no call.
    const MAX_BLANKS: usize = 512;

    pub(crate) fn step(&mut self, char: char, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        match &mut self.part {
            LlamaPart::Content => out.add_content(char.encode_utf8(&mut [0; 4]), pieces),
            LlamaPart::Call(attempt) => match attempt.step(char, false, out, pieces) {
                CallStep::More => {}
                CallStep::Done => self.part = LlamaPart::Between(String::new()),
                CallStep::Broken => self.part = LlamaPart::Content,
            },
            LlamaPart::Start(held) => {
                held.push(char);
                let written = held.trim_start();
                let after_tag = written.strip_prefix(Self::TAG).map(str::trim_start);
                if written == "{" || after_tag == Some("{") {
                    held.pop();
                    self.begin_call(out, pieces);
                } else if !(Self::TAG.starts_with(written) || after_tag == Some("")) || held.len() > Self::MAX_BLANKS {
                    out.add_content(&std::mem::take(held), pieces);
                    self.part = LlamaPart::Content;
                }
            }
            LlamaPart::Between(held) => match char {
                '{' => self.begin_call(out, pieces),
                ';' | ',' if held.trim().is_empty() => held.push(char),
                _ => {
                    held.push(char);
                    if !char.is_whitespace() {
                        out.add_content(&std::mem::take(held), pieces);
                        self.part = LlamaPart::Content;
                    }
                }
            },
        }
    }

    fn begin_call(&mut self, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        let before = match &mut self.part {
            LlamaPart::Start(held) | LlamaPart::Between(held) => std::mem::take(held),
            LlamaPart::Call(_) | LlamaPart::Content => String::new(),
        };
        let mut attempt = Attempt::after(before);
        attempt.step('{', false, out, pieces);
        self.part = LlamaPart::Call(attempt);
    }

    pub(crate) fn finish(&mut self, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        match &mut self.part {
            LlamaPart::Start(held) => out.add_content(&std::mem::take(held), pieces),
            LlamaPart::Call(attempt) => attempt.release_as_content(out, pieces),
            LlamaPart::Between(_) | LlamaPart::Content => {}
        }
    }
}

/// Parser of calls as `[TOOL_CALLS]`, then a list of objects, one object, or a name and its arguments.
#[derive(Debug, Default)]
pub(crate) struct Mistral {
    scan: Scan,
    part: MistralPart,
}

#[derive(Debug, Default)]
enum MistralPart {
    #[default]
    Content,
    /// Text from the mark on, as written. A list, an object or a name follows the mark.
    Start(String),
    Call {
        attempt: Attempt,
        listed: bool,
    },
    /// After an object of the list.
    Between,
    Arguments(JsonValue),
}

impl Mistral {
    pub(crate) const BEGIN: &str = "[TOOL_CALLS]";
    pub(crate) const ARGUMENTS: &str = "[ARGS]";
    pub(crate) const ID: &str = "[CALL_ID]";
    /// Longest name with its id, in bytes.
    const MAX_NAME: usize = 512;

    pub(crate) fn step(&mut self, char: char, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        match &mut self.part {
            MistralPart::Content => {
                if self.scan.step(char, &[Self::BEGIN], |text| out.add_content(text, pieces)).is_some() {
                    self.part = MistralPart::Start(Self::BEGIN.into());
                }
            }
            MistralPart::Start(held) => {
                held.push(char);
                self.decide_start(out, pieces);
            }
            MistralPart::Call { attempt, listed } => match attempt.step(char, true, out, pieces) {
                CallStep::More => {}
                CallStep::Done if *listed => self.part = MistralPart::Between,
                CallStep::Done | CallStep::Broken => self.part = MistralPart::Content,
            },
            MistralPart::Between => match char {
                '{' => {
                    let mut attempt = Attempt::default();
                    attempt.step(char, true, out, pieces);
                    self.part = MistralPart::Call { attempt, listed: true };
                }
                ']' => self.part = MistralPart::Content,
                _ => {}
            },
            MistralPart::Arguments(raw) => {
                let step = raw.step(char);
                out.add_arguments(char.into(), pieces);
                if step != JsonValueStep::More {
                    self.part = MistralPart::Content;
                }
            }
        }
    }

    /// Decides by the text since the mark if a list, an object or a name has begun, or if the text is no call.
    fn decide_start(&mut self, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        let MistralPart::Start(held) = &mut self.part else { return };
        let written = held[Self::BEGIN.len()..].trim_start();
        let listed = written.strip_prefix('[').map(str::trim_start);
        match written.strip_suffix('{') {
            Some("") => self.begin_object(false, out, pieces),
            _ if listed == Some("{") => self.begin_object(true, out, pieces),
            Some(head) if listed.is_none() => {
                let head = head.trim_end().trim_end_matches(Self::ARGUMENTS);
                let name = head.split(Self::ID).next().unwrap_or_default().trim().to_owned();
                out.begin_call(name, pieces);
                out.add_arguments("{".into(), pieces);
                let mut raw = JsonValue::default();
                raw.step('{');
                self.part = MistralPart::Arguments(raw);
            }
            _ if listed.is_some_and(|rest| !rest.is_empty()) || written.len() > Self::MAX_NAME => {
                out.add_content(&std::mem::take(held), pieces);
                self.part = MistralPart::Content;
            }
            _ => {}
        }
    }

    fn begin_object(&mut self, listed: bool, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        let MistralPart::Start(held) = &mut self.part else { return };
        held.pop();
        let mut attempt = Attempt::after(std::mem::take(held));
        attempt.step('{', true, out, pieces);
        self.part = MistralPart::Call { attempt, listed };
    }

    pub(crate) fn finish(&mut self, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        match &mut self.part {
            MistralPart::Content => out.add_content(&std::mem::take(&mut self.scan.held), pieces),
            MistralPart::Start(held) => out.add_content(&std::mem::take(held), pieces),
            MistralPart::Call { attempt, .. } => attempt.release_as_content(out, pieces),
            MistralPart::Between | MistralPart::Arguments(_) => {}
        }
    }
}

/// Parser of an answer that is a list of Python calls. A call is reported once it is whole.
#[derive(Debug, Default)]
pub(crate) struct Pythonic {
    part: PythonicPart,
}

#[derive(Debug)]
enum PythonicPart {
    /// White space, [`Pythonic::START`], `[`, a name and `(`, as written.
    Start(String),
    /// After a call.
    Next(String),
    Arguments {
        written: String,
        name: String,
        text: python::Extent,
    },
    Content,
    /// After the list.
    Ended,
}

impl Default for PythonicPart {
    fn default() -> Self {
        Self::Start(String::new())
    }
}

impl Pythonic {
    /// Marks around the list, in Llama 4.
    pub(crate) const START: &str = "<|python_start|>";
    pub(crate) const END: &str = "<|python_end|>";
    /// Longest name with the text before it, in bytes.
    const MAX_HEAD: usize = 512;

    pub(crate) fn step(&mut self, char: char, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        match &mut self.part {
            PythonicPart::Content => out.add_content(char.encode_utf8(&mut [0; 4]), pieces),
            PythonicPart::Ended => {}
            PythonicPart::Start(held) | PythonicPart::Next(held) => {
                held.push(char);
                self.decide_call(out, pieces);
            }
            PythonicPart::Arguments { written, text, .. } => {
                written.push(char);
                if text.push(char) {
                    self.finish_call(out, pieces);
                }
            }
        }
    }

    /// Decides by the text before a call if a call begins, if the list has ended, or if the text is no call.
    fn decide_call(&mut self, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        let (held, lead) = match &mut self.part {
            PythonicPart::Start(held) => (held, '['),
            PythonicPart::Next(held) => (held, ','),
            _ => return,
        };
        let written = held.trim_start();
        if lead == ',' && written == "]" {
            self.part = PythonicPart::Ended;
            return;
        }
        let written =
            if lead == '[' { written.strip_prefix(Self::START).unwrap_or(written).trim_start() } else { written };
        let is_name = |text: &str| text.chars().all(|char| char.is_alphanumeric() || "_.-".contains(char));
        let name = written.strip_prefix(lead).map(str::trim);
        let possible = match name {
            Some(name) => is_name(name.strip_suffix('(').unwrap_or(name)) && held.len() < Self::MAX_HEAD,
            None => {
                held.len() < Self::MAX_HEAD && (written.is_empty() || lead == '[' && Self::START.starts_with(written))
            }
        };
        match name.and_then(|name| name.strip_suffix('(')) {
            Some(name) if out.knows(name.trim_end()) => {
                let (name, written) = (name.trim_end().to_owned(), std::mem::take(held));
                self.part = PythonicPart::Arguments { written, name, text: python::Extent::default() };
            }
            None if possible => {}
            _ => {
                out.add_content(&std::mem::take(held), pieces);
                self.part = PythonicPart::Content;
            }
        }
    }

    fn finish_call(&mut self, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        let PythonicPart::Arguments { written, name, text } = &mut self.part else { return };
        match python::arguments(text.text()) {
            Some(arguments) => {
                out.begin_call(std::mem::take(name), pieces);
                out.add_arguments(arguments.to_string(), pieces);
                self.part = PythonicPart::Next(String::new());
            }
            None => {
                out.add_content(&std::mem::take(written), pieces);
                self.part = PythonicPart::Content;
            }
        }
    }

    pub(crate) fn finish(&mut self, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        match &mut self.part {
            PythonicPart::Start(held) | PythonicPart::Arguments { written: held, .. } => {
                out.add_content(&std::mem::take(held), pieces);
            }
            PythonicPart::Next(_) | PythonicPart::Ended | PythonicPart::Content => {}
        }
    }
}
