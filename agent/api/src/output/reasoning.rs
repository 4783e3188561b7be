//! Reasoning before the answer: `<think> … </think>` (DeepSeek-R1, Qwen3 and many others), `[THINK] … [/THINK]`
//! (Magistral). The parser drops white space before and after each mark.

use super::{OutputPiece, push_piece};

/// Longest white space that is held back, in bytes. Longer white space counts as text.
const MAX_HELD: usize = 256;

/// Marks around a model's reasoning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReasoningStyle {
    /// `<think>` and `</think>`.
    Think,
    /// `[THINK]` and `[/THINK]`.
    Mistral,
}

impl ReasoningStyle {
    /// Finds the style whose mark a chat template contains.
    pub fn from_template(template: &str) -> Option<Self> {
        [Self::Mistral, Self::Think].into_iter().find(|style| template.contains(style.end_mark()))
    }

    /// Names on the command line. vLLM's names are among them.
    pub const NAMES: &[(&str, Self)] =
        &[("think", Self::Think), ("deepseek_r1", Self::Think), ("qwen3", Self::Think), ("mistral", Self::Mistral)];

    pub fn begin_mark(self) -> &'static str {
        match self {
            Self::Think => "<think>",
            Self::Mistral => "[THINK]",
        }
    }

    pub fn end_mark(self) -> &'static str {
        match self {
            Self::Think => "</think>",
            Self::Mistral => "[/THINK]",
        }
    }

    pub fn marks(self) -> Vec<&'static str> {
        vec![self.begin_mark(), self.end_mark()]
    }
}

/// Parser that splits the reasoning off the front of an answer.
#[derive(Debug)]
pub(crate) struct Reasoning {
    style: ReasoningStyle,
    state: ReasoningState,
    /// White space, or the beginning of a mark. The next characters decide which.
    held: String,
}

#[derive(Debug, PartialEq, Eq)]
enum ReasoningState {
    /// White space, and perhaps the beginning mark.
    Start,
    /// White space before the reasoning's first word.
    Begun,
    Reasoning,
    /// White space after the end mark.
    Ended,
    Content,
}

impl Reasoning {
    /// Makes the parser. `begun` is true if the prompt ends with the mark that begins reasoning.
    pub(crate) fn new(style: ReasoningStyle, begun: bool) -> Self {
        Self { style, state: if begun { ReasoningState::Begun } else { ReasoningState::Start }, held: String::new() }
    }

    /// Takes more of the answer. Returns the text after the reasoning.
    pub(crate) fn push(&mut self, text: &str, pieces: &mut Vec<OutputPiece>) -> String {
        let mut content = String::new();
        for char in text.chars() {
            self.step(char, pieces, &mut content);
        }
        content
    }

    /// Ends the answer. Returns the content that was held back.
    pub(crate) fn finish(&mut self, pieces: &mut Vec<OutputPiece>) -> String {
        let held = std::mem::take(&mut self.held);
        match self.state {
            ReasoningState::Reasoning => push_piece(pieces, OutputPiece::Reasoning(held.trim_end().to_owned())),
            ReasoningState::Start | ReasoningState::Content => return held,
            ReasoningState::Begun | ReasoningState::Ended => {}
        }
        String::new()
    }

    fn step(&mut self, char: char, pieces: &mut Vec<OutputPiece>, content: &mut String) {
        match self.state {
            ReasoningState::Content => content.push(char),
            ReasoningState::Ended | ReasoningState::Begun if char.is_whitespace() => {}
            ReasoningState::Ended => {
                self.state = ReasoningState::Content;
                content.push(char);
            }
            ReasoningState::Start => self.step_start(char, content),
            ReasoningState::Begun | ReasoningState::Reasoning => {
                self.state = ReasoningState::Reasoning;
                self.step_reasoning(char, pieces);
            }
        }
    }

    fn step_start(&mut self, char: char, content: &mut String) {
        self.held.push(char);
        let begin = self.style.begin_mark();
        let mark = self.held.trim_start();
        if mark == begin {
            self.state = ReasoningState::Begun;
            self.held.clear();
        } else if !begin.starts_with(mark) || self.held.len() > MAX_HELD {
            self.state = ReasoningState::Content;
            content.push_str(&std::mem::take(&mut self.held));
        }
    }

    /// Holds back white space, which may end the reasoning, and any beginning of the end mark.
    fn step_reasoning(&mut self, char: char, pieces: &mut Vec<OutputPiece>) {
        self.held.push(char);
        let end = self.style.end_mark();
        loop {
            let mark = self.held.trim_start();
            if mark == end {
                self.state = ReasoningState::Ended;
                self.held.clear();
                return;
            }
            if end.starts_with(mark) && self.held.len() < MAX_HELD {
                return;
            }
            let first = self.held.remove(0);
            push_piece(pieces, OutputPiece::Reasoning(first.into()));
        }
    }
}
