//! Parser of Llama's calls, which are JSON objects without a mark.

use super::call::CallStep;
use super::scan::Attempt;
use super::{Calls, OutputPiece};

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
