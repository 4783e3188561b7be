//! Parts that several parsers of calls share: the search for marks, and a call that may turn out to be content.

use super::call::{Call, CallStep, Shape};
use super::{Calls, OutputPiece};

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
pub(crate) struct Attempt {
    call: Call,
    text: String,
}

impl Attempt {
    /// Begins a call. `text` is the text since the last content: marks and white space.
    pub(crate) fn after(text: impl Into<String>) -> Self {
        Self { call: Call::default(), text: text.into() }
    }

    /// Sets the place of the name in the call.
    pub(crate) fn with_shape(self, shape: Shape) -> Self {
        Self { call: Call::new(shape), ..self }
    }

    /// Takes one character. `marked` is true if a mark came before: the text must then be a call, and may name an
    /// unknown tool.
    pub(crate) fn step(
        &mut self,
        char: char,
        marked: bool,
        out: &mut Calls,
        pieces: &mut Vec<OutputPiece>,
    ) -> CallStep {
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

    pub(crate) fn is_reported(&self) -> bool {
        self.call.is_reported()
    }

    /// Adds the text to the content, because it is no call.
    pub(crate) fn release_as_content(&mut self, out: &mut Calls, pieces: &mut Vec<OutputPiece>) {
        out.add_content(&std::mem::take(&mut self.text), pieces);
    }
}
