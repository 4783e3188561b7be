//! Parser of calls as Python: `[name(argument=value), …]`. A call is reported once it is whole.

use super::python;
use super::scan::Scan;
use super::{Calls, OutputPiece};

/// Longest name with the text before it, in bytes.
const MAX_HEAD: usize = 512;

/// Marks of a style.
#[derive(Debug)]
pub(crate) struct Marks {
    /// Marks before calls.
    pub begin: &'static [&'static str],
    /// Mark after calls. Text up to it is dropped.
    pub end: &'static str,
    /// Set if an answer may also be a list without marks.
    pub bare: bool,
    /// Set if calls after a mark need no brackets around them.
    pub loose: bool,
}

/// Parser of such calls. The text between two lists with marks is content.
#[derive(Debug)]
pub(crate) struct Pythonic {
    marks: &'static Marks,
    /// The mark before the calls, if there is one.
    mark: Option<&'static str>,
    /// Set if the calls are in brackets.
    bracketed: bool,
    part: Part,
}

#[derive(Debug)]
enum Part {
    /// At the beginning of an answer that may be a list: white space.
    Begin(String),
    Content(Scan),
    /// Before a call, as written: white space, `[` or `,`, and the name. `first` is set before the first call.
    Head {
        held: String,
        first: bool,
    },
    Arguments {
        written: String,
        first: bool,
        name: String,
        text: python::Extent,
    },
    /// After the calls, up to the mark of their end.
    Rest(Scan),
    /// After a list without marks. Further text is dropped.
    Ended,
}

/// Meaning of the text before a call.
enum Lead<'a> {
    /// More text decides.
    Open,
    /// The beginning of a name, or a name and `(`.
    Name(&'a str),
    /// The calls have ended.
    End,
    NoCall,
}

impl Pythonic {
    pub(crate) fn new(marks: &'static Marks) -> Self {
        let part = if marks.bare { Part::Begin(String::new()) } else { Part::Content(Scan::default()) };
        Self { marks, mark: None, bracketed: false, part }
    }

    pub(crate) fn step(&mut self, char: char, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        match &mut self.part {
            Part::Begin(held) => {
                held.push(char);
                if !char.is_whitespace() || held.len() > MAX_HEAD {
                    let held = std::mem::take(held);
                    if char == '[' {
                        self.part = Part::Head { held, first: true };
                    } else {
                        self.reparse(&held, out, pieces);
                    }
                }
            }
            Part::Content(scan) => {
                if let Some(mark) = scan.step(char, self.marks.begin, |text| out.add_content(text, pieces)) {
                    self.mark = Some(mark);
                    self.part = Part::Head { held: String::new(), first: true };
                }
            }
            Part::Head { held, .. } => {
                held.push(char);
                self.decide_head(out, pieces);
            }
            Part::Arguments { written, text, .. } => {
                written.push(char);
                if text.push(char) {
                    self.finish_call(out, pieces);
                }
            }
            Part::Rest(scan) => {
                if scan.step(char, &[self.marks.end], |_| ()).is_some() {
                    self.part = Part::Content(Scan::default());
                }
            }
            Part::Ended => {}
        }
    }

    /// Decides by the text before a call if the call begins, if the calls have ended, or if the text is no call.
    fn decide_head(&mut self, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        let Part::Head { held, first } = &mut self.part else { return };
        let first = *first;
        if first {
            self.bracketed = held.trim_start().starts_with('[');
        }
        let is_name = |text: &str| text.chars().all(|char| char.is_alphanumeric() || "_.-".contains(char));
        let call = match read_lead(self.marks, self.bracketed, self.mark.is_some(), first, held) {
            Lead::Open if held.len() < MAX_HEAD => return,
            Lead::Name(name) => match name.strip_suffix('(').map(str::trim_end) {
                Some(name) if out.knows(name) => Some(name.to_owned()),
                None if is_name(name.trim_end()) && held.len() < MAX_HEAD => return,
                _ => None,
            },
            Lead::End => return self.end_calls(),
            Lead::Open | Lead::NoCall => None,
        };
        let held = std::mem::take(held);
        match call {
            Some(name) => {
                self.part = Part::Arguments { written: held, first, name, text: python::Extent::default() };
            }
            None => self.release(&held, first, out, pieces),
        }
    }

    fn end_calls(&mut self) {
        let is_open = self.bracketed && !self.marks.end.is_empty();
        self.part = match self.mark {
            Some(_) if is_open => Part::Rest(Scan::default()),
            Some(_) => Part::Content(Scan::default()),
            None => Part::Ended,
        };
    }

    /// Makes a text content, because it is no call. The mark before it is content too if no call came first.
    fn release(&mut self, text: &str, first: bool, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        if let Some(mark) = self.mark.take().filter(|_| first) {
            out.add_content(mark, pieces);
        }
        self.reparse(text, out, pieces);
    }

    /// Parses a text again as content: it may hold a mark.
    fn reparse(&mut self, text: &str, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        self.part = Part::Content(Scan::default());
        text.chars().for_each(|char| self.step(char, out, pieces));
    }

    fn finish_call(&mut self, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        let Part::Arguments { written, first, name, text } = &mut self.part else { return };
        match python::arguments(text.text()) {
            Some(arguments) => {
                out.begin_call(std::mem::take(name), None, pieces);
                out.add_arguments(arguments.to_string(), pieces);
                self.part = Part::Head { held: String::new(), first: false };
            }
            None => {
                let (written, first) = (std::mem::take(written), *first);
                self.release(&written, first, out, pieces);
            }
        }
    }

    pub(crate) fn finish(&mut self, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        let mark = self.mark.unwrap_or_default();
        match &mut self.part {
            Part::Begin(held) => out.add_content(held, pieces),
            Part::Content(scan) => out.add_content(&scan.held, pieces),
            Part::Head { held, first: true } => out.add_content(&[mark, held].concat(), pieces),
            Part::Arguments { written, first, .. } => {
                out.add_content(&[if *first { mark } else { "" }, written].concat(), pieces);
            }
            Part::Head { .. } | Part::Rest(_) | Part::Ended => {}
        }
    }
}

/// Reads the text before a call.
fn read_lead<'a>(marks: &Marks, bracketed: bool, marked: bool, first: bool, held: &'a str) -> Lead<'a> {
    let written = held.trim_start();
    let comma = written.strip_prefix(',').map(str::trim_start);
    match (first, bracketed) {
        (true, true) => Lead::Name(written.strip_prefix('[').unwrap_or(written).trim_start()),
        (true, false) if written.is_empty() => Lead::Open,
        (true, false) if marks.loose && marked => Lead::Name(written),
        (true, false) => Lead::NoCall,
        (false, true) if written == "]" => Lead::End,
        (false, true) if written.is_empty() => Lead::Open,
        (false, true) => comma.map_or(Lead::NoCall, Lead::Name),
        // Line ends separate calls without brackets.
        (false, false) if written == marks.end => Lead::End,
        (false, false) if marks.end.starts_with(written) => Lead::Open,
        (false, false) => Lead::Name(comma.unwrap_or(written)),
    }
}
