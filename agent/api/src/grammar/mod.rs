//! Forms of answers: JSON by a schema, text by a regular expression or by a grammar.
//!
//! `llguidance` does the work. A request's form is compiled here, on the client side of the service seam, to a
//! [`Guide`]. The head asks the guide for the tokens that may come next, and passes each new token to it. Only the head
//! holds this state. It depends on the tokens that were given out, and on nothing that is lost with a rank.
//!
//! Bounds: a source has at most [`MAX_SOURCE_BYTES`]. The parser's limits bound the time of compiling and of each set
//! of tokens (about 20 ms), and the memory of the automaton.

mod compile;
mod ebnf;
mod guide;
mod rules;
mod schema;
pub(crate) mod tags;
mod vocabulary;

use serde_json::Value;

pub use compile::Grammars;
pub(crate) use compile::{literal, with_whitespace};
pub use guide::Guide;
pub(crate) use rules::TokenRules;
pub(crate) use schema::relax;

/// Longest schema, regular expression or grammar, in bytes. All choices count together.
pub(crate) const MAX_SOURCE_BYTES: usize = 256 << 10;

/// Form of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Grammar {
    /// JSON that this schema allows.
    JsonSchema(Value),
    /// Any JSON object.
    JsonObject,
    /// A text that this expression matches from beginning to end. The expression has the syntax of the `regex` crate.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A text of this grammar, in llguidance's dialect of Lark, or in the dialect of EBNF of llama.cpp and XGrammar.
    Lark(String),
    /// A text of a grammar in llguidance's own format.
    Llguidance(Value),
}

/// Reason why a grammar cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// A mistake of the client.
    #[error("{0}")]
    Invalid(String),
    /// A fault of the server.
    #[error("{0}")]
    Internal(String),
}
