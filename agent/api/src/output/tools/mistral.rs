//! Parser of Mistral's calls, which have one mark and several spellings after it.

use super::call::{CallStep, JsonValue, JsonValueStep};
use super::scan::{Attempt, Scan};
use super::{Calls, OutputPiece};

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
    pub(crate) const MARKS: [&str; 3] = [Self::BEGIN, Self::ARGUMENTS, Self::ID];
    const BEGIN: &str = "[TOOL_CALLS]";
    const ARGUMENTS: &str = "[ARGS]";
    const ID: &str = "[CALL_ID]";
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
                let (name, id) = head.split_once(Self::ID).map_or((head, None), |(name, id)| (name, Some(id.trim())));
                let id = id.filter(|id| !id.is_empty()).map(str::to_owned);
                out.begin_call(name.trim().to_owned(), id, pieces);
                out.add_arguments("{".into(), pieces);
                self.part = MistralPart::Arguments(JsonValue::begin('{'));
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
