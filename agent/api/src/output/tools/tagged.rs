//! Parser of calls in tags, as Qwen3-Coder writes them: `<function=name>`, and in it `<parameter=key>` before each
//! value. Values have no quotes, so only the tool's schema tells their type. The parser therefore reports a parameter
//! as a whole.
//!
//! A value may itself contain tags. It ends at an end tag that is followed by another tag of the call.

use serde_json::Value;

use super::scan::Scan;
use super::{Calls, OutputPiece, typed};

/// Longest name of a tool or of a parameter, in bytes.
const MAX_NAME: usize = 256;
/// Longest white space between two tags, in bytes. After longer white space, the first tag was not the end.
const MAX_BLANKS: usize = 512;

/// Tags of a style.
#[derive(Debug)]
pub(crate) struct Tags {
    /// Tags around calls. Models forget them. Without them, only a known tool's name begins a call. `None` if a style has
    /// none.
    pub outer: Option<[&'static str; 2]>,
    /// Text before and after a tool's name. After an empty text, the name ends at white space or at the next tag.
    pub function: [&'static str; 2],
    pub function_end: &'static str,
    /// Text before and after a parameter's name.
    pub parameter: [&'static str; 2],
    /// Tag between a parameter's name and its value. Empty if a style has none.
    pub value: &'static str,
    pub parameter_end: &'static str,
    /// Set if a value has a line end before and after it.
    pub has_line_ends: bool,
    /// Marks around calls and content, which are dropped.
    pub sections: &'static [&'static str],
    /// Set if only a known tool's name begins a call.
    pub known: bool,
    /// Text before and after a value that holds other tags. Empty if a style has none.
    pub quotes: [&'static str; 2],
}

impl Tags {
    /// Returns the tags that a model may spell with special tokens.
    pub(crate) fn marks(&self) -> Vec<&'static str> {
        let own =
            [self.function[0], self.function_end, self.parameter[0], self.parameter[1], self.value, self.parameter_end];
        [&own[..], self.outer.as_ref().map_or(&[][..], |outer| &outer[..]), self.sections].concat()
    }

    /// Returns the tags that may follow a parameter. The last one may be there twice.
    fn after_value(&self) -> [&'static str; 3] {
        [self.parameter[0], self.function_end, self.outer_end()]
    }

    fn outer_begin(&self) -> Option<&'static str> {
        self.outer.map(|[begin, _]| begin)
    }

    fn outer_end(&self) -> &'static str {
        self.outer.map_or(self.function_end, |[_, end]| end)
    }
}

/// Parser of such calls, several with any text between them.
#[derive(Debug)]
pub(crate) struct Tagged {
    tags: &'static Tags,
    /// Tags in content: those that begin a call, and those of sections.
    wanted: Vec<&'static str>,
    part: Part,
    /// Set between the outer tags.
    inside: bool,
    /// Name of the called tool.
    name: String,
    /// Set once the call has a parameter.
    has_parameters: bool,
}

#[derive(Debug)]
enum Part {
    Content(Scan),
    /// From the mark on, as written: the outer tag, blanks, and the tool's name.
    Start(String),
    /// Before a parameter or the end of the call. Text between tags is dropped.
    Body(Scan),
    /// A parameter's name.
    Key(String),
    /// After a parameter's name, up to its value.
    BeforeValue {
        key: String,
        held: String,
    },
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

/// Meaning of the text since a mark.
enum Start {
    /// More text decides.
    Open,
    /// The text is no call.
    Content,
    /// A call begins. `outer` is set after the outer tag.
    Call { name: String, outer: bool },
}

impl Default for Part {
    fn default() -> Self {
        Self::Content(Scan::default())
    }
}

impl Tagged {
    pub(crate) fn new(tags: &'static Tags) -> Self {
        let begin = [&[tags.function[0]][..], tags.sections].concat();
        let wanted = begin.into_iter().chain(tags.outer_begin()).collect();
        Self { tags, wanted, part: Part::default(), inside: false, name: String::new(), has_parameters: false }
    }

    pub(crate) fn step(&mut self, char: char, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        let tags = self.tags;
        match &mut self.part {
            Part::Content(scan) => {
                let mark = scan.step(char, &self.wanted, |text| out.add_content(text, pieces));
                if let Some(mark) = mark.filter(|mark| !tags.sections.contains(mark)) {
                    self.part = Part::Start(mark.into());
                }
            }
            Part::Start(held) => {
                held.push(char);
                self.decide_start(out, pieces);
            }
            Part::Body(scan) => match scan.step(char, &tags.after_value(), |_| ()) {
                None => {}
                Some(mark) if mark == tags.parameter[0] => self.part = Part::Key(String::new()),
                Some(mark) => self.finish_call(mark, out, pieces),
            },
            Part::Key(key) => {
                key.push(char);
                self.decide_key();
            }
            Part::BeforeValue { held, .. } => {
                held.push(char);
                self.decide_begin_of_value();
            }
            Part::Value { text, .. } => {
                text.push(char);
                self.find_end_of_value();
            }
            Part::AfterValue { since, .. } => {
                since.push(char);
                self.decide_end_of_value(out, pieces);
            }
            Part::Ended(held) => {
                held.push(char);
                self.decide_ended(out, pieces);
            }
        }
    }

    /// Takes characters again, after the parser has decided what came before them.
    fn replay(&mut self, text: &str, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        text.chars().for_each(|char| self.step(char, out, pieces));
    }

    /// Decides by the text since the mark if a call begins or the text is content.
    fn decide_start(&mut self, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        let Part::Start(held) = &self.part else { return };
        match self.read_start(held, out) {
            Start::Open => {}
            Start::Content => self.release_start(out, pieces),
            Start::Call { name, outer } => {
                // After an empty text, the character after the name may begin a tag.
                let next = held.chars().next_back().filter(|_| self.tags.function[1].is_empty());
                self.inside |= outer;
                self.begin_call(name, out, pieces);
                next.into_iter().for_each(|char| self.step(char, out, pieces));
            }
        }
    }

    /// Reads the text since the mark: the outer tag, blanks, and the tool's name.
    fn read_start(&self, held: &str, out: &Calls) -> Start {
        let [before, after] = self.tags.function;
        let inner = self.tags.outer_begin().and_then(|begin| held.strip_prefix(begin));
        let written = inner.unwrap_or(held).trim_start();
        let Some(text) = written.strip_prefix(before) else {
            let is_open = before.starts_with(written) && held.len() < MAX_NAME;
            return if is_open { Start::Open } else { Start::Content };
        };
        let marked = self.inside || inner.is_some() || self.tags.outer.is_none() && !self.tags.known;
        match find_name(text, after) {
            Some(name) if is_name(name) && (marked || out.knows(name)) => {
                Start::Call { name: name.to_owned(), outer: inner.is_some() }
            }
            None if may_become_name(text, after) => Start::Open,
            _ => Start::Content,
        }
    }

    /// Adds the mark to the content. The text after the mark may hold another mark, so the parser takes it again.
    fn release_start(&mut self, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        let Part::Start(held) = std::mem::take(&mut self.part) else { return };
        let before = self.tags.function[0];
        let mark = if held.starts_with(before) { before } else { self.tags.outer_begin().unwrap_or(before) };
        out.add_content(mark, pieces);
        self.replay(&held[mark.len()..], out, pieces);
    }

    /// Decides if a parameter's name has ended, or if the text is no parameter.
    fn decide_key(&mut self) {
        let Part::Key(key) = &mut self.part else { return };
        let end = self.tags.parameter[1];
        if let Some(name) = key.strip_suffix(end) {
            let key = name.to_owned();
            self.part = match self.tags.value {
                "" => Part::Value { key, text: String::new() },
                _ => Part::BeforeValue { key, held: String::new() },
            };
            return;
        }
        let foreign = key.find('<').is_some_and(|at| !end.starts_with(&key[at..]));
        if foreign || key.ends_with('\n') || key.len() > MAX_NAME {
            self.part = Part::Body(Scan::default());
        }
    }

    /// Decides by the text since a parameter's name if the tag before the value follows.
    fn decide_begin_of_value(&mut self) {
        let Part::BeforeValue { key, held } = &mut self.part else { return };
        let (begin, written) = (self.tags.value, held.trim_start());
        if written == begin {
            self.part = Part::Value { key: std::mem::take(key), text: String::new() };
        } else if !begin.starts_with(written) || held.len() > MAX_BLANKS {
            self.part = Part::Body(Scan::default());
        }
    }

    /// Cuts the end tag off the value once the value has one.
    fn find_end_of_value(&mut self) {
        let Part::Value { key, text } = &mut self.part else { return };
        if let Some(end) = text.strip_suffix(self.tags.parameter_end).map(str::len) {
            text.truncate(end);
            let (key, text) = (std::mem::take(key), std::mem::take(text));
            self.part = Part::AfterValue { key, text, since: String::new() };
        }
    }

    /// Decides by the text since an end tag if the value has ended.
    fn decide_end_of_value(&mut self, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        let Part::AfterValue { key, text, since } = &mut self.part else { return };
        let (next, written) = (self.tags.after_value(), since.trim_start());
        match next.into_iter().find(|mark| *mark == written) {
            Some(mark) => {
                let (key, text) = (std::mem::take(key), std::mem::take(text));
                self.add_parameter(&key, &text, out, pieces);
                match mark {
                    _ if mark == self.tags.parameter[0] => self.part = Part::Key(String::new()),
                    _ => self.finish_call(mark, out, pieces),
                }
            }
            None if since.len() <= MAX_BLANKS && next.iter().any(|mark| mark.starts_with(written)) => {}
            None => {
                // The end tag is part of the value.
                let (key, mut text, since) = (std::mem::take(key), std::mem::take(text), std::mem::take(since));
                text.push_str(self.tags.parameter_end);
                self.part = Part::Value { key, text };
                self.replay(&since, out, pieces);
            }
        }
    }

    /// Decides by the text since a call if its outer end tag follows.
    fn decide_ended(&mut self, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        let Part::Ended(held) = &mut self.part else { return };
        let (end, written) = (self.tags.outer_end(), held.trim_start());
        if written == end {
            self.inside = false;
            self.part = Part::default();
        } else if !end.starts_with(written) || held.len() > MAX_BLANKS {
            let held = std::mem::take(held);
            self.part = Part::default();
            self.replay(&held, out, pieces);
        }
    }

    fn add_parameter(&mut self, key: &str, text: &str, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        // Some tags tell if the value is a text, after the name and a quote.
        let (key, attributes) = key.split_once('"').unwrap_or((key, ""));
        let inner = text.strip_prefix('\n').unwrap_or(text);
        let text = if self.tags.has_line_ends { inner.strip_suffix('\n').unwrap_or(inner) } else { text };
        let [before, after] = self.tags.quotes;
        let quoted = text.strip_prefix(before).and_then(|text| text.strip_suffix(after)).filter(|_| !before.is_empty());
        let has = |attribute: &str| attributes.contains(attribute);
        let value = match quoted {
            Some(text) => Value::from(text),
            None if has("string=\"true") || has("type=\"string") => Value::from(text),
            None if has("string=\"") || has("type=\"") => {
                serde_json::from_str(text.trim()).unwrap_or_else(|_| Value::from(text))
            }
            None => typed::parse_value(text, key, out.parameters(&self.name)),
        };
        let comma = if std::mem::replace(&mut self.has_parameters, true) { ", " } else { "" };
        out.add_arguments(format!("{comma}{}: {value}", Value::from(key)), pieces);
    }

    fn begin_call(&mut self, name: String, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        self.has_parameters = false;
        out.begin_call(name.clone(), None, pieces);
        out.add_arguments("{".into(), pieces);
        self.name = name;
        self.part = Part::Body(Scan::default());
    }

    /// Ends the call at `mark`, its end tag.
    fn finish_call(&mut self, mark: &str, out: &Calls, pieces: &mut Vec<OutputPiece>) {
        out.add_arguments("}".into(), pieces);
        if mark == self.tags.outer_end() {
            self.inside = false;
            self.part = Part::default();
        } else {
            self.part = Part::Ended(String::new());
        }
    }

    pub(crate) fn finish(&mut self, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        match std::mem::take(&mut self.part) {
            Part::Content(scan) => out.add_content(&scan.held, pieces),
            Part::Start(held) => out.add_content(&held, pieces),
            Part::AfterValue { key, text, .. } => self.add_parameter(&key, &text, out, pieces),
            // The model forgot the end tag of the value: the value ends with the end tag of the function.
            Part::Value { key, text } => {
                let text = text.trim_end();
                let text = match self.tags.outer {
                    Some([_, end]) => text.strip_suffix(end).unwrap_or(text).trim_end(),
                    None => text,
                };
                if let Some(text) = text.strip_suffix(self.tags.function_end) {
                    self.add_parameter(&key, text, out, pieces);
                    out.add_arguments("}".into(), pieces);
                }
            }
            Part::Body(_) | Part::Key(_) | Part::BeforeValue { .. } | Part::Ended(_) => {}
        }
    }
}

/// Returns the tool's name if `after`, the text after a name, is whole.
fn find_name<'a>(text: &'a str, after: &str) -> Option<&'a str> {
    let whole = match after {
        "" => text.trim_start().strip_suffix(|char: char| char.is_whitespace() || char == '<'),
        _ => text.strip_suffix(after),
    };
    whole.map(cut_attributes)
}

/// Returns true if the text may become a tool's name with `after`, the text after a name.
fn may_become_name(text: &str, after: &str) -> bool {
    let text = text.trim_start();
    text.len() <= MAX_NAME && (text.is_empty() || is_name(without_part(cut_attributes(text), after)))
}

/// Returns the name in a tag. Some tags have attributes after the name and a quote.
fn cut_attributes(text: &str) -> &str {
    text.split_once('"').map_or(text, |(name, _)| name)
}

/// Returns the text without the beginning of `end` at its end.
fn without_part<'a>(text: &'a str, end: &str) -> &'a str {
    let at = end.chars().next().and_then(|first| text.find(first));
    at.filter(|at| end.starts_with(&text[*at..])).map_or(text, |at| &text[..at])
}

/// Returns true if the text may be a tool's name.
fn is_name(text: &str) -> bool {
    !text.is_empty() && !text.contains(|char: char| char.is_whitespace() || "<>\"'{".contains(char))
}
