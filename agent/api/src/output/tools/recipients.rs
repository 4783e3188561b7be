//! Parser of functionary v3.2's answers: parts `recipient`, line end, text, with `>>>` between them. The prompt ends with
//! the first `>>>`. The text to `all` is content, and all other text is a call's arguments.

use super::call::{JsonValue, JsonValueStep};
use super::scan::Scan;
use super::{Calls, OutputPiece};

/// Longest name of a recipient, in bytes.
const MAX_NAME: usize = 256;
const MARK: &str = ">>>";
const ALL: &str = "all";

/// Parser of such answers.
#[derive(Debug)]
pub(crate) struct Recipients {
    part: Part,
}

#[derive(Debug)]
enum Part {
    /// The recipient, up to the line end. `mark` is what came before it.
    Name {
        mark: &'static str,
        held: String,
    },
    Content(Scan),
    /// The recipient's line, and white space before the arguments.
    Before {
        name: String,
        held: String,
    },
    Arguments(JsonValue),
    /// After the arguments.
    Rest(Scan),
}

impl Recipients {
    pub(crate) const MARKS: [&str; 1] = [MARK];

    pub(crate) fn step(&mut self, char: char, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        match &mut self.part {
            Part::Name { held, .. } => {
                held.push(char);
                self.decide_name(out, pieces);
            }
            Part::Content(scan) => {
                if scan.step(char, &[MARK], |text| out.add_content(text, pieces)).is_some() {
                    self.part = Part::Name { mark: MARK, held: String::new() };
                }
            }
            Part::Before { name, held } => match char {
                '{' => {
                    out.begin_call(std::mem::take(name), None, pieces);
                    out.add_arguments("{".into(), pieces);
                    self.part = Part::Arguments(JsonValue::begin('{'));
                }
                _ if char.is_whitespace() && held.len() < MAX_NAME => held.push(char),
                _ => {
                    let text = [name.as_str(), held].concat();
                    self.release("", &text, out, pieces);
                    self.step(char, out, pieces);
                }
            },
            Part::Arguments(raw) => {
                let step = raw.step(char);
                out.add_arguments(char.into(), pieces);
                if step != JsonValueStep::More {
                    self.part = Part::Rest(Scan::default());
                }
            }
            Part::Rest(scan) => {
                if scan.step(char, &[MARK], |_| ()).is_some() {
                    self.part = Part::Name { mark: MARK, held: String::new() };
                }
            }
        }
    }

    /// Decides by the text since the mark to whom the text is, or that the text is content without a recipient.
    fn decide_name(&mut self, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        let Part::Name { mark, held } = &mut self.part else { return };
        let line = held.strip_suffix('\n');
        let is_name = |text: &str| text.chars().all(|char| char.is_alphanumeric() || "_.-".contains(char));
        match line.map(str::trim) {
            Some(ALL) => self.part = Part::Content(Scan::default()),
            Some(name) if out.knows(name) => {
                self.part = Part::Before { name: name.to_owned(), held: "\n".into() };
            }
            None if is_name(held.trim()) && held.len() <= MAX_NAME => {}
            _ => {
                let (mark, held) = (*mark, std::mem::take(held));
                self.release(mark, &held, out, pieces);
            }
        }
    }

    /// Makes a text content. The text after its mark may hold another mark.
    fn release(&mut self, mark: &str, text: &str, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        out.add_content(mark, pieces);
        self.part = Part::Content(Scan::default());
        text.chars().for_each(|char| self.step(char, out, pieces));
    }

    pub(crate) fn finish(&mut self, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        match &mut self.part {
            Part::Name { mark, held } if held.trim() != ALL => out.add_content(&[*mark, held].concat(), pieces),
            Part::Content(scan) => out.add_content(&scan.held, pieces),
            Part::Before { name, .. } => {
                out.begin_call(std::mem::take(name), None, pieces);
                out.add_arguments("{}".into(), pieces);
            }
            Part::Name { .. } | Part::Arguments(_) | Part::Rest(_) => {}
        }
    }
}

impl Default for Recipients {
    fn default() -> Self {
        Self { part: Part::Name { mark: "", held: String::new() } }
    }
}
