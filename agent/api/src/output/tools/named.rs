//! Parser of calls that are a name and then its arguments as a JSON object.

use super::call::{JsonValue, JsonValueStep};
use super::scan::Scan;
use super::{Calls, OutputPiece};

/// Longest text between the mark and the arguments, in bytes.
const MAX_HEAD: usize = 512;

/// Spelling of a style.
#[derive(Debug)]
pub(crate) struct Spelling {
    /// Marks that begin a call.
    pub begin: &'static [&'static str],
    /// Marks around all calls, which are dropped.
    pub sections: &'static [&'static str],
    /// After the arguments, text up to this mark is dropped. Empty if a style has none.
    pub end: &'static str,
    /// Reads the text before the arguments. Returns `None` if the text is no call.
    pub read_head: fn(&str) -> Option<Head<'_>>,
    /// Set if only a known tool's name makes a call.
    pub known: bool,
}

/// Name of the called tool, and the call's id if the model writes one.
pub(crate) struct Head<'a> {
    pub name: &'a str,
    pub id: Option<&'a str>,
}

impl<'a> Head<'a> {
    /// Returns the head of a call without an id, if the name may be one.
    pub(crate) fn named(name: &'a str) -> Option<Self> {
        let legal = |char: char| char.is_alphanumeric() || "_-.".contains(char);
        (!name.is_empty() && name.chars().all(legal)).then_some(Self { name, id: None })
    }
}

/// Parser of such calls. The text between two calls is content.
#[derive(Debug)]
pub(crate) struct Named {
    spelling: &'static Spelling,
    /// Marks in content and after arguments: those that begin a call, and those of sections.
    wanted: Vec<&'static str>,
    part: Part,
}

#[derive(Debug)]
enum Part {
    Content(Scan),
    /// After the mark, up to the arguments.
    Head {
        mark: &'static str,
        held: String,
    },
    Arguments(JsonValue),
    /// After the arguments: the model may forget the mark of their end.
    Rest {
        end: Scan,
        other: Scan,
    },
}

impl Named {
    pub(crate) fn new(spelling: &'static Spelling) -> Self {
        let wanted = [spelling.begin, spelling.sections].concat();
        Self { spelling, wanted, part: Part::Content(Scan::default()) }
    }

    pub(crate) fn step(&mut self, char: char, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        let spelling = self.spelling;
        match &mut self.part {
            Part::Content(scan) => {
                let mark = scan.step(char, &self.wanted, |text| out.add_content(text, pieces));
                if let Some(mark) = mark.filter(|mark| spelling.begin.contains(mark)) {
                    self.part = Part::Head { mark, held: String::new() };
                }
            }
            Part::Head { held, .. } => {
                held.push(char);
                self.decide_head(out, pieces);
            }
            Part::Arguments(raw) => {
                let step = raw.step(char);
                out.add_arguments(char.into(), pieces);
                if step != JsonValueStep::More {
                    self.part = match spelling.end {
                        "" => Part::Content(Scan::default()),
                        _ => Part::Rest { end: Scan::default(), other: Scan::default() },
                    };
                }
            }
            Part::Rest { end, other } => {
                if end.step(char, &[spelling.end], |_| ()).is_some() {
                    self.part = Part::Content(Scan::default());
                    return;
                }
                match other.step(char, &self.wanted, |_| ()) {
                    Some(mark) if spelling.begin.contains(&mark) => {
                        self.part = Part::Head { mark, held: String::new() };
                    }
                    Some(_) => self.part = Part::Content(Scan::default()),
                    None => {}
                }
            }
        }
    }

    /// Decides by the text since the mark if the arguments begin, if there are none, or if the text is no call.
    fn decide_head(&mut self, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        let Part::Head { mark, held } = &mut self.part else { return };
        let spelling = self.spelling;
        let whole = held.strip_suffix('{');
        let empty = if spelling.end.is_empty() { None } else { held.strip_suffix(spelling.end) };
        if let Some(text) = whole.or(empty) {
            let head = (spelling.read_head)(text).filter(|head| !spelling.known || out.knows(head.name));
            if let Some(Head { name, id }) = head {
                out.begin_call(name.to_owned(), id.map(str::to_owned), pieces);
                if whole.is_some() {
                    out.add_arguments("{".into(), pieces);
                    self.part = Part::Arguments(JsonValue::begin('{'));
                } else {
                    out.add_arguments("{}".into(), pieces);
                    self.part = Part::Content(Scan::default());
                }
                return;
            }
        }
        let has_mark = || spelling.begin.iter().any(|mark| held.contains(mark));
        if whole.is_some() || empty.is_some() || held.len() > MAX_HEAD || has_mark() {
            // The mark is content. The text after the mark may hold another mark, so parse it again.
            let held = std::mem::take(held);
            out.add_content(mark, pieces);
            self.part = Part::Content(Scan::default());
            held.chars().for_each(|char| self.step(char, out, pieces));
        }
    }

    pub(crate) fn finish(&mut self, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        match &mut self.part {
            Part::Content(scan) => out.add_content(&std::mem::take(&mut scan.held), pieces),
            Part::Head { mark, held } => out.add_content(&[*mark, held.as_str()].concat(), pieces),
            Part::Arguments(_) | Part::Rest { .. } => {}
        }
    }
}
