//! Answers of a given form: JSON of a schema, texts of a regular expression or of a grammar.
//!
//! `llguidance` does the work. What a request asks for is compiled here, on the client side of the service seam, into a
//! [`Guide`]; the head asks that for the tokens that may come next and tells it the one that came. The state is the
//! head's alone: it depends on the tokens that were given out and on nothing that is lost with a rank.
//!
//! Bounds: a source has at most [`MAX_SOURCE_BYTES`]; compiling and each set of tokens stop at the parser's limits
//! (about 20 ms), and so does the memory of its automaton.

mod compile;
mod guide;
mod vocabulary;

use serde_json::Value;

pub use compile::Grammars;
pub(crate) use compile::{literal, with_whitespace};
pub use guide::Guide;

/// Longest schema, regular expression or grammar, all choices together.
pub(crate) const MAX_SOURCE_BYTES: usize = 256 << 10;

/// The form of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Grammar {
    /// JSON of this schema.
    JsonSchema(Value),
    /// Any JSON object.
    JsonObject,
    /// The whole answer matches; syntax of the `regex` crate.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// llguidance's dialect of Lark.
    Lark(String),
}

/// Why a grammar cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// The client's mistake.
    #[error("{0}")]
    Invalid(String),
    /// The server's.
    #[error("{0}")]
    Internal(String),
}
