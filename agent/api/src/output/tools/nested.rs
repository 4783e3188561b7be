//! Parser of MiniMax-M3's calls: `<invoke name="…">`, and in it a tag around each value. A tag's name is the parameter's,
//! and a list or an object has a tag around each of its values. A mark before each tag tells it from a value's text.
//!
//! Values have no quotes, so only the tool's schema tells their type. The parser therefore reports a parameter as a whole.

use serde_json::Value;

use super::scan::Scan;
use super::typed::{self, Node};
use super::{Calls, OutputPiece};

/// Mark before each tag.
const MARK: &str = "]<]minimax[>[";
const BEGIN: &str = "]<]minimax[>[<tool_call>";
const END: &str = "]<]minimax[>[</tool_call>";
const INVOKE: &str = "]<]minimax[>[<invoke name=\"";
const NAME_END: &str = "\">";
/// Names of the tags that end a call.
const ENDS: [&str; 2] = ["invoke", "tool_call"];
/// Longest name of a tool or of a tag, in bytes.
const MAX_NAME: usize = 256;
/// Most tags around a value. Deeper tags are text.
const MAX_DEPTH: usize = 64;

/// Parser of such calls. The text between two calls is content.
#[derive(Debug, Default)]
pub(crate) struct Nested {
    part: Part,
    /// Set between the tags around calls.
    inside: bool,
    /// Name of the called tool.
    name: String,
    /// Set once the call has a parameter.
    has_parameters: bool,
    /// Tags that are open in the call, with their values so far.
    open: Vec<(String, Node)>,
}

#[derive(Debug)]
enum Part {
    Content(Scan),
    /// From the mark on, as written: the tag around calls, blanks, and the tool's name.
    Start(String),
    /// Within a call.
    Text(Scan),
    /// A tag within a call, from its `<` on.
    Tag(String),
}

impl Default for Part {
    fn default() -> Self {
        Self::Content(Scan::default())
    }
}

/// Meaning of the text since a mark.
enum Start<'a> {
    /// More text decides.
    Open,
    /// The text is no call.
    Content,
    Call(&'a str),
}

impl Nested {
    pub(crate) const MARKS: [&str; 3] = [MARK, "<tool_call>", "</tool_call>"];

    pub(crate) fn step(&mut self, char: char, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        match &mut self.part {
            Part::Content(scan) => match scan.step(char, &[BEGIN, END, INVOKE], |text| out.add_content(text, pieces)) {
                None => {}
                Some(END) => self.inside = false,
                Some(mark) => self.part = Part::Start(mark.into()),
            },
            Part::Start(held) => {
                held.push(char);
                self.decide_start(out, pieces);
            }
            Part::Text(scan) => {
                let mut text = String::new();
                if scan.step(char, &[MARK], |other| text.push_str(other)).is_some() {
                    self.part = Part::Tag(String::new());
                }
                self.add_text(&text);
            }
            Part::Tag(tag) => {
                tag.push(char);
                self.decide_tag(out, pieces);
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
        let outer = held.starts_with(BEGIN);
        match read_start(held, self.inside || outer, out) {
            Start::Open => {}
            Start::Call(name) => {
                self.name = name.to_owned();
                self.inside |= outer;
                self.has_parameters = false;
                self.part = Part::Text(Scan::default());
                out.begin_call(self.name.clone(), None, pieces);
                out.add_arguments("{".into(), pieces);
            }
            Start::Content => {
                // The mark is content. The text after the mark may hold another mark, so the parser takes it again.
                let held = held.clone();
                let mark = if outer { BEGIN } else { INVOKE };
                self.part = Part::default();
                out.add_content(mark, pieces);
                self.replay(&held[mark.len()..], out, pieces);
            }
        }
    }

    /// Adds to the value in the innermost open tag. Text outside of all tags is dropped.
    fn add_text(&mut self, text: &str) {
        if let Some((_, node)) = self.open.last_mut() {
            node.text.push_str(text);
        }
    }

    /// Decides by the text since a mark within a call if a tag begins or ends, or if the text is part of a value.
    fn decide_tag(&mut self, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        let Part::Tag(tag) = &self.part else { return };
        let is_tag = tag.starts_with('<') && !tag[1..].contains(['<', '\n']) && tag.len() <= MAX_NAME;
        let Some(written) = tag.strip_prefix('<').and_then(|tag| tag.strip_suffix('>')).filter(|_| is_tag) else {
            if !is_tag {
                let tag = tag.clone();
                self.part = Part::Text(Scan::default());
                self.add_text(MARK);
                self.replay(&tag, out, pieces);
            }
            return;
        };
        let written = written.to_owned();
        self.part = Part::Text(Scan::default());
        match written.strip_prefix('/') {
            Some(name) if self.open.iter().any(|(key, _)| key == name) => self.close(name, out, pieces),
            Some(name) if ENDS.contains(&name) => self.finish_call(name == ENDS[1], out, pieces),
            None if self.open.len() < MAX_DEPTH => self.open.push((written, Node::default())),
            _ => self.add_text(&format!("{MARK}<{written}>")),
        }
    }

    /// Closes the innermost tag of this name, and the tags in it that the model left open.
    fn close(&mut self, name: &str, out: &Calls, pieces: &mut Vec<OutputPiece>) {
        while let Some((key, node)) = self.open.pop() {
            let is_last = key == name;
            match self.open.last_mut() {
                Some((_, parent)) => parent.children.push((key, node)),
                None => self.add_parameter(&key, &node, out, pieces),
            }
            if is_last {
                return;
            }
        }
    }

    fn add_parameter(&mut self, key: &str, node: &Node, out: &Calls, pieces: &mut Vec<OutputPiece>) {
        let value = typed::parse_node(node, key, out.parameters(&self.name));
        let comma = if std::mem::replace(&mut self.has_parameters, true) { ", " } else { "" };
        out.add_arguments(format!("{comma}{}: {value}", Value::from(key)), pieces);
    }

    /// Ends the call, and all tags that the model left open. `outer` is set if the tag around the calls ends as well.
    fn finish_call(&mut self, outer: bool, out: &Calls, pieces: &mut Vec<OutputPiece>) {
        if let Some((first, _)) = self.open.first() {
            let first = first.clone();
            self.close(&first, out, pieces);
        }
        out.add_arguments("}".into(), pieces);
        self.inside &= !outer;
        self.part = Part::default();
    }

    pub(crate) fn finish(&mut self, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        match std::mem::take(&mut self.part) {
            Part::Content(scan) => out.add_content(&scan.held, pieces),
            Part::Start(held) => out.add_content(&held, pieces),
            // The call was cut.
            Part::Text(_) | Part::Tag(_) => {}
        }
    }
}

/// Reads the text since a mark. `marked` is set if the text must be a call, which may then name an unknown tool.
fn read_start<'a>(held: &'a str, marked: bool, out: &Calls) -> Start<'a> {
    let written = held.strip_prefix(BEGIN).unwrap_or(held).trim_start();
    let Some(text) = written.strip_prefix(INVOKE) else {
        let is_open = INVOKE.starts_with(written) && held.len() < MAX_NAME;
        return if is_open { Start::Open } else { Start::Content };
    };
    let is_name = |text: &str| !text.contains(|char: char| char.is_whitespace() || "<>\"'{".contains(char));
    match text.strip_suffix(NAME_END) {
        Some(name) if !name.is_empty() && is_name(name) && (marked || out.knows(name)) => Start::Call(name),
        None if text.len() <= MAX_NAME && is_name(text.strip_suffix('"').unwrap_or(text)) => Start::Open,
        _ => Start::Content,
    }
}
