//! The served model as the client half knows it: tokenizer, chat template, grammars and styles.

use std::sync::Arc;

use lockstep_schedule::plan::SamplingDefaults;
use tokio::sync::Semaphore;

use crate::grammar::{Grammar, GrammarError, Grammars, Guide};
use crate::output::StyleChoice;
use crate::output::reasoning::ReasoningStyle;
use crate::output::tools::ToolStyle;
use crate::text::{ChatTemplate, ChatTemplates, Conversation, TextError, Tokenizer};

/// Longest text that is encoded on the caller's thread, in bytes. A hop to another thread would take longer than the
/// encoding.
const INLINE_BYTES: usize = 2 << 10;

/// Most long texts and grammars that are worked on at the same time. Further ones wait for their turn.
const ENCODERS: usize = 2;

/// Bytes per token of context above which a text cannot be a prompt. A longer text is refused without encoding it.
const MAX_BYTES_PER_TOKEN: usize = 256;

/// A checkpoint's files and settings about text.
#[derive(Debug, Clone, Default)]
pub struct ModelText {
    /// `tokenizer.json`.
    pub tokenizer_json: Vec<u8>,
    pub templates: ChatTemplates,
    /// Size of the model's vocabulary, padding included.
    pub vocab_size: u32,
    /// Longest prompt and answer together, in tokens.
    pub context_length: u32,
    /// End tokens of the model. If there are none, the tokenizer's own end token is used.
    pub eos_token_ids: Vec<u32>,
    /// Sampling options that the model's makers suggest.
    pub sampling_defaults: SamplingDefaults,
    /// Style of the model's tool calls.
    pub tool_style: StyleChoice<ToolStyle>,
    /// Style of the model's reasoning.
    pub reasoning_style: StyleChoice<ReasoningStyle>,
}

/// A conversation that a chat template has made a prompt of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    pub ids: Vec<u32>,
    /// Set if the prompt ends with the mark that begins reasoning.
    pub reasoning_begun: bool,
}

/// Everything about the served model's text. Cheap to clone.
#[derive(Clone)]
pub struct Text {
    tokenizer: Arc<Tokenizer>,
    template: Option<Arc<ChatTemplate>>,
    grammars: Arc<Grammars>,
    encoders: Arc<Semaphore>,
    /// Size of the model's vocabulary, padding included.
    pub vocab_size: u32,
    /// Longest prompt and answer together, in tokens.
    pub context_length: u32,
    /// End tokens of the model.
    pub eos_token_ids: Arc<[u32]>,
    /// Sampling options that the model's makers suggest.
    pub sampling_defaults: SamplingDefaults,
    /// Style of the model's tool calls. `None` if the model is not known to call tools.
    pub tool_style: Option<ToolStyle>,
    /// Style of the model's reasoning. `None` if reasoning is treated as content.
    pub reasoning_style: Option<ReasoningStyle>,
}

impl Text {
    /// Parses the tokenizer and the chat template.
    ///
    /// # Errors
    /// Names the file that does not parse.
    pub fn new(model: ModelText) -> Result<Self, TextError> {
        let tokenizer = Tokenizer::from_json(&model.tokenizer_json)?;
        let mut eos_token_ids = model.eos_token_ids;
        if eos_token_ids.is_empty() {
            eos_token_ids.extend(model.templates.eos_token.as_ref().and_then(|token| tokenizer.token_id(token)));
        }
        let template = ChatTemplate::new(model.templates)?;
        let tokenizer = Arc::new(tokenizer);
        let source = template.as_ref().map_or("", ChatTemplate::source);
        let tool_style = model.tool_style.or(|| ToolStyle::from_template(source));
        let reasoning_style = model.reasoning_style.or(|| ReasoningStyle::from_template(source));
        let eos_token_ids: Arc<[u32]> = eos_token_ids.into();
        Ok(Self {
            grammars: Arc::new(Grammars::new(tokenizer.clone(), model.vocab_size, eos_token_ids.clone())),
            tokenizer,
            template: template.map(Arc::new),
            encoders: Arc::new(Semaphore::new(ENCODERS)),
            vocab_size: model.vocab_size,
            context_length: model.context_length,
            eos_token_ids,
            sampling_defaults: model.sampling_defaults,
            tool_style,
            reasoning_style,
        })
    }

    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    pub fn has_chat_template(&self) -> bool {
        self.template.is_some()
    }

    /// Renders a conversation and returns its token ids. The chat template writes the special tokens itself.
    ///
    /// # Errors
    /// The model has no template, the template refuses the conversation, or [`Self::encode`] fails.
    pub async fn encode_chat(&self, conversation: Conversation) -> Result<Rendered, TextError> {
        let template = self.template.clone().ok_or(TextError::NoTemplate)?;
        let (style, bytes) = (self.reasoning_style, conversation.bytes());
        self.run_encoder(bytes, move |tokenizer| {
            let prompt = template.render(&conversation)?;
            let reasoning_begun = style.is_some_and(|style| prompt.trim_end().ends_with(style.begin_mark()));
            Ok(Rendered { ids: tokenizer.encode(&prompt, false)?, reasoning_begun })
        })
        .await
    }

    /// Returns true if the chat template shows tools to the model: its source has the word `tools`.
    pub fn shows_tools(&self) -> bool {
        self.template.as_ref().is_some_and(|template| template.source().contains("tools"))
    }

    /// Returns the token ids of a text. With `special`, the tokenizer adds the special tokens that it is configured to
    /// add.
    ///
    /// # Errors
    /// The text is longer than any prompt, or the tokenizer has no token for it.
    pub async fn encode(&self, text: String, special: bool) -> Result<Vec<u32>, TextError> {
        self.run_encoder(text.len(), move |tokenizer| tokenizer.encode(&text, special)).await
    }

    /// Compiles a grammar on another thread. Grammars and long texts take turns.
    ///
    /// # Errors
    /// The fault in the grammar.
    pub async fn compile(&self, grammar: Grammar) -> Result<Guide, GrammarError> {
        let internal = |error: String| GrammarError::Internal(error);
        let turn = self.encoders.clone().acquire_owned().await.map_err(|error| internal(error.to_string()))?;
        let grammars = self.grammars.clone();
        let work = move || {
            let _turn = turn;
            grammars.compile(&grammar)
        };
        tokio::task::spawn_blocking(work).await.map_err(|error| internal(error.to_string()))?
    }

    /// Calls `encode` on this thread for a short text, and on another thread in its turn for a long one.
    async fn run_encoder<T: Send + 'static>(
        &self,
        bytes: usize,
        encode: impl FnOnce(&Tokenizer) -> Result<T, TextError> + Send + 'static,
    ) -> Result<T, TextError> {
        let context_length = self.context_length;
        if bytes > (context_length as usize).saturating_mul(MAX_BYTES_PER_TOKEN) {
            return Err(TextError::TooLong { bytes, context_length });
        }
        if bytes <= INLINE_BYTES {
            return encode(&self.tokenizer);
        }
        let turn = self.encoders.clone().acquire_owned().await.map_err(|error| TextError::Encode(error.to_string()))?;
        let tokenizer = self.tokenizer.clone();
        let work = move || {
            let _turn = turn;
            encode(&tokenizer)
        };
        tokio::task::spawn_blocking(work).await.map_err(|error| TextError::Encode(error.to_string()))?
    }
}
