//! Parser of calls that are JSON objects after a mark: one object, several, or a list.

use super::call::{CallStep, Shape};
use super::scan::{Attempt, Scan};
use super::{Calls, OutputPiece};

/// Marks of a style.
#[derive(Debug)]
pub(crate) struct Marks {
    pub begin: &'static [&'static str],
    /// After the calls, text up to this mark is dropped. Empty if a style has none.
    pub end: &'static str,
    /// Marks around content, which are dropped.
    pub dropped: &'static [&'static str],
    /// Set if more objects may follow one that is in no list.
    pub several: bool,
    pub shape: Shape,
}

/// Parser of `<tool_call>{…}</tool_call>` and the like. The text between two calls is content.
#[derive(Debug)]
pub(crate) struct Objects {
    marks: &'static Marks,
    /// Marks in content.
    wanted: Vec<&'static str>,
    part: Part,
}

#[derive(Debug)]
enum Part {
    Content(Scan),
    /// From the mark on, as written: white space, and perhaps `[`.
    Start {
        mark: &'static str,
        held: String,
    },
    Call {
        attempt: Attempt,
        listed: bool,
    },
    /// After an object of a list.
    Between,
    /// After the calls.
    Rest(Scan),
}

impl Objects {
    pub(crate) fn new(marks: &'static Marks) -> Self {
        Self { marks, wanted: [marks.begin, marks.dropped].concat(), part: Part::Content(Scan::default()) }
    }

    pub(crate) fn step(&mut self, char: char, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        match &mut self.part {
            Part::Content(scan) => {
                let mark = scan.step(char, &self.wanted, |text| out.add_content(text, pieces));
                if let Some(mark) = mark.filter(|mark| self.marks.begin.contains(mark)) {
                    self.part = Part::Start { mark, held: String::new() };
                }
            }
            Part::Start { held, .. } => {
                held.push(char);
                self.decide_start(out, pieces);
            }
            Part::Call { attempt, listed } => match attempt.step(char, true, out, pieces) {
                CallStep::More => {}
                CallStep::Done if *listed => self.part = Part::Between,
                CallStep::Broken if !attempt.is_reported() => self.part = Part::Content(Scan::default()),
                CallStep::Done | CallStep::Broken => self.end_calls(),
            },
            Part::Between => match char {
                '{' => self.begin_object(String::new(), true, out, pieces),
                ']' => self.end_calls(),
                _ => {}
            },
            Part::Rest(scan) => match char {
                '{' if self.marks.several && scan.held.is_empty() => {
                    self.begin_object(String::new(), false, out, pieces);
                }
                _ => {
                    if scan.step(char, &[self.marks.end], |_| ()).is_some() {
                        self.part = Part::Content(Scan::default());
                    }
                }
            },
        }
    }

    /// Decides by the text since the mark if an object or a list has begun, or if the text is no call.
    fn decide_start(&mut self, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        let Part::Start { mark, held } = &mut self.part else { return };
        let written = held.trim_start();
        let listed = written.starts_with('[');
        match written.strip_prefix('[').unwrap_or(written).trim_start() {
            "" => {}
            "{" => {
                let before = [*mark, &held[..held.len() - 1]].concat();
                self.begin_object(before, listed, out, pieces);
            }
            "]" if listed => self.end_calls(),
            _ => {
                // The mark is content. The text after the mark may hold another mark, so parse it again.
                let held = std::mem::take(held);
                out.add_content(mark, pieces);
                self.part = Part::Content(Scan::default());
                held.chars().for_each(|char| self.step(char, out, pieces));
            }
        }
    }

    /// Begins an object at its `{`. `before` is the text before it that is content if the object is no call.
    fn begin_object(&mut self, before: String, listed: bool, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        let mut attempt = Attempt::after(before).with_shape(self.marks.shape);
        attempt.step('{', true, out, pieces);
        self.part = Part::Call { attempt, listed };
    }

    fn end_calls(&mut self) {
        self.part = match self.marks.end {
            "" => Part::Content(Scan::default()),
            _ => Part::Rest(Scan::default()),
        };
    }

    pub(crate) fn finish(&mut self, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        match &mut self.part {
            Part::Content(scan) => out.add_content(&std::mem::take(&mut scan.held), pieces),
            Part::Start { mark, held } => out.add_content(&[*mark, held.as_str()].concat(), pieces),
            Part::Call { attempt, .. } => attempt.release_as_content(out, pieces),
            Part::Between | Part::Rest(_) => {}
        }
    }
}
