//! Parser of an answer's text: it separates reasoning, content and tool calls. It does no I/O: text goes in, and
//! [`OutputPiece`]s come out.
//!
//! Invariant: the joined pieces do not depend on the cuts between the parts of the text. Every parser therefore takes
//! one character at a time, and holds back text only while the next characters can change its meaning.

pub(crate) mod reasoning;
pub(crate) mod tools;

use std::sync::Arc;

use reasoning::{Reasoning, ReasoningStyle};
use tools::{Function, ToolParser, ToolStyle};

/// A user's choice of a style. `Auto` leaves it to the chat template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StyleChoice<T> {
    #[default]
    Auto,
    Off,
    Is(T),
}

impl<T> StyleChoice<T> {
    /// Returns the chosen style, or the one that `auto` finds.
    pub fn or(self, auto: impl FnOnce() -> Option<T>) -> Option<T> {
        match self {
            Self::Auto => auto(),
            Self::Off => None,
            Self::Is(value) => Some(value),
        }
    }
}

/// A part of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputPiece {
    Content(String),
    Reasoning(String),
    /// A call begins. Calls are numbered from 0. `id` is set if the model writes ids.
    Call {
        index: usize,
        id: Option<String>,
        name: String,
    },
    /// More of a call's arguments. All fragments joined are JSON if the model wrote JSON.
    Arguments {
        index: usize,
        fragment: String,
    },
}

/// Adds a piece. A piece that continues the last one is joined to it.
fn push_piece(pieces: &mut Vec<OutputPiece>, piece: OutputPiece) {
    match (pieces.last_mut(), piece) {
        (_, OutputPiece::Content(text) | OutputPiece::Reasoning(text)) if text.is_empty() => {}
        (Some(OutputPiece::Content(last)), OutputPiece::Content(text))
        | (Some(OutputPiece::Reasoning(last)), OutputPiece::Reasoning(text)) => {
            last.push_str(&text);
        }
        (Some(OutputPiece::Arguments { index: last, fragment }), OutputPiece::Arguments { index, fragment: more })
            if *last == index =>
        {
            fragment.push_str(&more);
        }
        (_, piece) => pieces.push(piece),
    }
}

/// Format by which the answers of one request are parsed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OutputFormat {
    pub reasoning: Option<ReasoningStyle>,
    /// Set if the prompt ends with the mark that begins reasoning.
    pub reasoning_begun: bool,
    pub tools: Option<ToolFormat>,
}

/// Format by which tool calls are parsed.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolFormat {
    pub style: ToolStyle,
    /// The tools that may be called.
    pub tools: Arc<[Function]>,
    /// Most calls. Further ones are left out.
    pub max_calls: usize,
}

impl OutputFormat {
    /// Returns the marks that a model may spell with special tokens. Without this list, special tokens do not show in
    /// the text.
    pub fn marks(&self) -> Vec<&'static str> {
        let reasoning = self.reasoning.map(ReasoningStyle::marks).unwrap_or_default();
        let tools = self.tools.as_ref().map(|tools| tools.style.marks()).unwrap_or_default();
        [reasoning, tools].concat()
    }
}

/// Parser of one answer: first its reasoning, then its content and calls.
#[derive(Debug)]
pub struct OutputParser {
    reasoning: Option<Reasoning>,
    tools: Option<ToolParser>,
}

impl OutputParser {
    pub fn new(format: &OutputFormat) -> Self {
        // Some models' messages are reasoning, calls or content, so one parser reads all three.
        let framing = format.reasoning.and_then(ReasoningStyle::framing);
        let without_calls = |style| ToolFormat { style, tools: Arc::new([]), max_calls: 0 };
        let tools = format.tools.clone().or_else(|| framing.map(without_calls));
        let framed = tools.as_ref().is_some_and(|tools| tools.style.frames_reasoning());
        let reasoning = format.reasoning.filter(|_| !framed);
        Self {
            reasoning: reasoning.map(|style| Reasoning::new(style, format.reasoning_begun)),
            tools: tools.map(|tools| ToolParser::new(tools, format.reasoning.is_some())),
        }
    }

    /// Takes more of the answer. Returns the pieces that no later text can change.
    pub fn push(&mut self, text: &str) -> Vec<OutputPiece> {
        let mut pieces = Vec::new();
        let content = match &mut self.reasoning {
            Some(reasoning) => reasoning.push(text, &mut pieces),
            None => text.to_owned(),
        };
        self.parse_content(&content, &mut pieces);
        pieces
    }

    /// Ends the answer. Returns the text that was held back.
    pub fn finish(&mut self) -> Vec<OutputPiece> {
        let mut pieces = Vec::new();
        let content = self.reasoning.take().map(|mut reasoning| reasoning.finish(&mut pieces)).unwrap_or_default();
        self.parse_content(&content, &mut pieces);
        if let Some(mut tools) = self.tools.take() {
            tools.finish(&mut pieces);
        }
        pieces
    }

    fn parse_content(&mut self, text: &str, pieces: &mut Vec<OutputPiece>) {
        match &mut self.tools {
            Some(tools) => tools.push(text, pieces),
            None => push_piece(pieces, OutputPiece::Content(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests;
