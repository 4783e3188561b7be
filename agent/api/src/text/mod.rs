//! Text and tokens: the tokenizer, the chat template, and what turns a stream of tokens back into text.
//!
//! Nothing behind the service seam knows text. Everything here is pure.

mod chat;
mod clock;
mod detokenize;
#[cfg(test)]
pub(crate) mod fixtures;
mod jinja;
mod stop;
mod tokenizer;

pub use chat::{ChatMessage, Conversation, ToolCall};
pub(crate) use chat::{ChatTemplate, special_token};
pub(crate) use detokenize::Detokenizer;
pub(crate) use stop::{StopMatcher, Stopped};
pub use tokenizer::Tokenizer;

/// `generation_config.json`: what a request's unset fields take. `do_sample: false` means greedy.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct GenerationDefaults {
    pub temperature: Option<f32>,
    pub top_k: Option<u32>,
    pub top_p: Option<f32>,
    pub min_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
}

/// Why text and tokens could not be turned into one another.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    #[error("read tokenizer.json: {0}")]
    Tokenizer(String),
    #[error("read tokenizer_config.json: {0}")]
    TokenizerConfig(serde_json::Error),
    #[error("the model's chat template does not parse: {0:#}")]
    TemplateSyntax(minijinja::Error),
    /// The conversation does not suit the template, in the template's own words where it has some.
    #[error("the model's chat template refuses the conversation: {0}")]
    TemplateRefused(String),
    #[error("the model has no chat template: send a plain prompt, or add chat_template.jinja to the model's files")]
    NoTemplate,
    #[error(
        "the text has {bytes} bytes, more than a context of {context_length} tokens can hold: shorten it, or serve the \
         model with a larger context length"
    )]
    TooLong { bytes: usize, context_length: u32 },
    #[error("encode text: {0}")]
    Encode(String),
}
