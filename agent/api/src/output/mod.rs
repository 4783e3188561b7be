//! What an answer's text means: reasoning, content, tool calls. Pure: text in, [`OutputPiece`]s out.
//!
//! Invariant: pieces, joined, do not depend on how the text was cut. Every parser therefore goes by characters and holds
//! back only what the next ones can still change.

pub(crate) mod reasoning;
pub(crate) mod tools;

use std::sync::Arc;

use reasoning::{Reasoning, ReasoningStyle};
use tools::{Function, ToolParser, ToolStyle};

/// What somebody chose, or left to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StyleChoice<T> {
    #[default]
    Auto,
    Off,
    Is(T),
}

impl<T> StyleChoice<T> {
    /// What was chosen, else what `auto` finds.
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
    /// A call begins. Calls are numbered from 0.
    Call {
        index: usize,
        name: String,
    },
    /// More of a call's arguments: joined they are JSON, as far as the model can write it.
    Arguments {
        index: usize,
        fragment: String,
    },
}

/// Adds a piece, joining it to the last where they are one.
fn push(pieces: &mut Vec<OutputPiece>, piece: OutputPiece) {
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

/// How answers of one request are read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OutputFormat {
    pub reasoning: Option<ReasoningStyle>,
    /// The prompt has begun the reasoning already.
    pub reasoning_begun: bool,
    pub tools: Option<ToolFormat>,
}

/// How tool calls are read.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolFormat {
    pub style: ToolStyle,
    /// The tools that may be called.
    pub tools: Arc<[Function]>,
    /// Calls after that many are left out.
    pub max_calls: usize,
}

impl OutputFormat {
    /// Marks that the model may spell with special tokens, which otherwise do not show in the text.
    pub fn marks(&self) -> Vec<&'static str> {
        let reasoning = self.reasoning.map(ReasoningStyle::marks).unwrap_or_default();
        let tools = self.tools.as_ref().map(|tools| tools.style.marks()).unwrap_or_default();
        [reasoning, tools].concat()
    }
}

/// Reads one answer: its reasoning first, then what it says and calls.
#[derive(Debug)]
pub struct OutputParser {
    reasoning: Option<Reasoning>,
    tools: Option<ToolParser>,
}

impl OutputParser {
    pub fn new(format: &OutputFormat) -> Self {
        Self {
            reasoning: format.reasoning.map(|style| Reasoning::new(style, format.reasoning_begun)),
            tools: format.tools.clone().map(ToolParser::new),
        }
    }

    /// Takes more of the answer; gives what is certain.
    pub fn push(&mut self, text: &str) -> Vec<OutputPiece> {
        let mut pieces = Vec::new();
        let content = match &mut self.reasoning {
            Some(reasoning) => reasoning.push(text, &mut pieces),
            None => text.to_owned(),
        };
        self.content(&content, &mut pieces);
        pieces
    }

    /// Ends the answer; gives what was held back.
    pub fn finish(&mut self) -> Vec<OutputPiece> {
        let mut pieces = Vec::new();
        let content = self.reasoning.take().map(|mut reasoning| reasoning.finish(&mut pieces)).unwrap_or_default();
        self.content(&content, &mut pieces);
        if let Some(mut tools) = self.tools.take() {
            tools.finish(&mut pieces);
        }
        pieces
    }

    fn content(&mut self, text: &str, pieces: &mut Vec<OutputPiece>) {
        match &mut self.tools {
            Some(tools) => tools.push(text, pieces),
            None => push(pieces, OutputPiece::Content(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests;
