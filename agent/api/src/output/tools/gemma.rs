//! Parser of Gemma's calls: `call:name{key:value,…}` between two marks. Texts are between two quote marks, and all else
//! is as in JSON without quotes. A call is reported once it is whole.

use serde_json::{Map, Value};

use super::scan::Scan;
use super::{Calls, OutputPiece};

/// Longest text between the mark and the arguments, in bytes.
const MAX_HEAD: usize = 512;
/// Most levels of lists and objects.
const MAX_DEPTH: usize = 64;
const CALL: &str = "call:";

/// Marks of a style.
#[derive(Debug)]
pub(crate) struct Marks {
    pub begin: &'static str,
    pub end: &'static str,
    pub quote: &'static str,
}

/// Parser of such calls. The text between two calls is content.
#[derive(Debug)]
pub(crate) struct Gemma {
    marks: &'static Marks,
    part: Part,
}

#[derive(Debug)]
enum Part {
    Content(Scan),
    /// After the mark, up to the arguments.
    Head(String),
    Arguments {
        name: String,
        written: String,
        extent: Extent,
    },
    /// After the arguments, up to the mark of their end.
    Rest(Scan),
}

/// Search for the brace that closes the arguments.
#[derive(Debug, Default)]
struct Extent {
    depth: usize,
    quoted: bool,
    /// Set within a text in JSON's quotes, which some models write.
    in_json: bool,
    escaped: bool,
}

impl Extent {
    /// Takes the text up to its last character. Returns true if the character closes the arguments.
    fn push(&mut self, written: &str, char: char, quote: &str) -> bool {
        if written.ends_with(quote) && !self.in_json {
            self.quoted = !self.quoted;
            return false;
        }
        let in_mark = || quote.find('"').is_some_and(|at| written.ends_with(&quote[..=at]));
        match char {
            _ if self.quoted => {}
            _ if self.escaped => self.escaped = false,
            '\\' if self.in_json => self.escaped = true,
            '"' if !in_mark() => self.in_json = !self.in_json,
            _ if self.in_json => {}
            '{' | '[' => self.depth += 1,
            '}' if self.depth == 0 => return true,
            '}' | ']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        false
    }
}

impl Gemma {
    pub(crate) fn new(marks: &'static Marks) -> Self {
        Self { marks, part: Part::Content(Scan::default()) }
    }

    pub(crate) fn step(&mut self, char: char, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        match &mut self.part {
            Part::Content(scan) => {
                if scan.step(char, &[self.marks.begin], |text| out.add_content(text, pieces)).is_some() {
                    self.part = Part::Head(String::new());
                }
            }
            Part::Head(held) => {
                held.push(char);
                self.decide_head(out, pieces);
            }
            Part::Arguments { written, extent, .. } => {
                written.push(char);
                if extent.push(written, char, self.marks.quote) {
                    self.finish_call(out, pieces);
                }
            }
            Part::Rest(scan) => {
                if scan.step(char, &[self.marks.end], |_| ()).is_some() {
                    self.part = Part::Content(Scan::default());
                }
            }
        }
    }

    /// Decides by the text since the mark if the arguments begin, or if the text is no call.
    fn decide_head(&mut self, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        let Part::Head(held) = &mut self.part else { return };
        let written = held.trim_start();
        let is_name = |text: &str| text.chars().all(|char| char.is_alphanumeric() || "_.-".contains(char));
        match written.strip_prefix(CALL).map(|name| (name.strip_suffix('{'), name)) {
            Some((Some(name), _)) if !name.trim().is_empty() && is_name(name.trim()) => {
                let name = name.trim().to_owned();
                self.part = Part::Arguments { name, written: String::new(), extent: Extent::default() };
            }
            Some((None, name)) if is_name(name.trim()) && held.len() < MAX_HEAD => {}
            None if CALL.starts_with(written) && held.len() < MAX_HEAD => {}
            _ => {
                // The mark is content. The text after the mark may hold another mark, so parse it again.
                let held = std::mem::take(held);
                out.add_content(self.marks.begin, pieces);
                self.part = Part::Content(Scan::default());
                held.chars().for_each(|char| self.step(char, out, pieces));
            }
        }
    }

    fn finish_call(&mut self, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        let Part::Arguments { name, written, .. } = &mut self.part else { return };
        let mut reader = Reader { rest: written, quote: self.marks.quote };
        match reader.parse_members(0) {
            Some(arguments) => {
                out.begin_call(std::mem::take(name), None, pieces);
                out.add_arguments(Value::Object(arguments).to_string(), pieces);
                self.part = Part::Rest(Scan::default());
            }
            None => {
                out.add_content(&format!("{}{CALL}{name}{{{written}", self.marks.begin), pieces);
                self.part = Part::Content(Scan::default());
            }
        }
    }

    pub(crate) fn finish(&mut self, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        match &mut self.part {
            Part::Content(scan) => out.add_content(&scan.held, pieces),
            Part::Head(held) => out.add_content(&[self.marks.begin, held.as_str()].concat(), pieces),
            Part::Arguments { name, written, .. } => {
                out.add_content(&format!("{}{CALL}{name}{{{written}", self.marks.begin), pieces);
            }
            Part::Rest(_) => {}
        }
    }
}

struct Reader<'a> {
    rest: &'a str,
    quote: &'static str,
}

impl<'a> Reader<'a> {
    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take_if_next(&mut self, text: &str) -> bool {
        self.skip_blanks();
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                self.skip_blanks();
                true
            }
            None => false,
        }
    }

    /// Parses `key:value,…}`.
    fn parse_members(&mut self, depth: usize) -> Option<Map<String, Value>> {
        let mut members = Map::new();
        while !self.take_if_next("}") {
            if !members.is_empty() && !self.take_if_next(",") {
                return None;
            }
            let key = match self.take_text()? {
                Some(key) => key,
                None => self.take_bare(":,{}[]").to_owned(),
            };
            if key.is_empty() || !self.take_if_next(":") {
                return None;
            }
            members.insert(key, self.parse_value(depth + 1)?);
        }
        Some(members)
    }

    fn parse_value(&mut self, depth: usize) -> Option<Value> {
        if depth > MAX_DEPTH {
            return None;
        }
        if let Some(text) = self.take_text()? {
            return Some(Value::String(text));
        }
        if self.take_if_next("{") {
            return self.parse_members(depth).map(Value::Object);
        }
        if self.take_if_next("[") {
            let mut items = Vec::new();
            while !self.take_if_next("]") {
                if !items.is_empty() && !self.take_if_next(",") {
                    return None;
                }
                items.push(self.parse_value(depth + 1)?);
            }
            return Some(Value::Array(items));
        }
        let text = self.take_bare(",}]");
        match text {
            "" => None,
            "None" => Some(Value::Null),
            "True" => Some(Value::Bool(true)),
            "False" => Some(Value::Bool(false)),
            _ => Some(serde_json::from_str(text).unwrap_or_else(|_| Value::from(text))),
        }
    }

    /// Takes a text in quote marks or in JSON's quotes, if one comes next. Returns `None` if it has no end.
    fn take_text(&mut self) -> Option<Option<String>> {
        self.skip_blanks();
        if let Some(rest) = self.rest.strip_prefix(self.quote) {
            let (text, rest) = rest.split_once(self.quote)?;
            self.rest = rest;
            return Some(Some(text.to_owned()));
        }
        if !self.rest.starts_with('"') {
            return Some(None);
        }
        let mut values = serde_json::Deserializer::from_str(self.rest).into_iter::<String>();
        let text = values.next()?.ok()?;
        self.rest = &self.rest[values.byte_offset()..];
        Some(Some(text))
    }

    fn take_bare(&mut self, ends: &str) -> &'a str {
        let end = self.rest.find(|char| ends.contains(char)).unwrap_or(self.rest.len());
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest;
        text.trim()
    }
}
