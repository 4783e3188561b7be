//! Text and tokens: the tokenizer, the chat template, the detokenizer and the stop strings.
//!
//! The head knows only tokens, so all text stays in this crate. The module does no I/O.

mod chat;
mod clock;
mod detokenize;
#[cfg(test)]
pub(crate) mod fixtures;
mod jinja;
mod stop;
mod tokenizer;

pub(crate) use chat::ChatTemplate;
pub use chat::{ChatMessage, ChatTemplates, Conversation, PromptEnding, ToolCall};
pub(crate) use detokenize::{Detokenizer, take_characters};
pub(crate) use stop::{StopMatcher, Stopped};
pub use tokenizer::Tokenizer;

/// Reason why text could not become tokens, or tokens text.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    #[error("read tokenizer.json: {0}")]
    Tokenizer(String),
    #[error("the model's chat template does not parse: {0:#}")]
    TemplateSyntax(minijinja::Error),
    /// The template refuses the conversation, in the template's own words if it has any.
    #[error("the model's chat template refuses the conversation: {0}")]
    TemplateRefused(String),
    #[error("the model has no chat template: send a plain prompt, or add chat_template.jinja to the model's files")]
    NoTemplate,
    #[error(
        "this model's maximum context length is {context_length} tokens, and the text has {bytes} bytes, more than so \
         many tokens can be: shorten it, or serve the model with a larger context length"
    )]
    TooLong { bytes: usize, context_length: u32 },
    #[error("encode text: {0}")]
    Encode(String),
}
