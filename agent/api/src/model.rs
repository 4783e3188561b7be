//! All that the client half knows of the served model: tokenizer, chat template, grammars and styles.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::grammar::{Grammar, GrammarError, Grammars, Guide};
use crate::output::Chosen;
use crate::output::reasoning::ReasoningStyle;
use crate::output::tools::ToolStyle;
use crate::text::{ChatTemplate, Conversation, GenerationDefaults, TextError, Tokenizer, special_token};

/// Texts up to this many bytes are encoded where they are: a hop to another thread would cost more.
const INLINE_BYTES: usize = 2 << 10;

/// Long texts encoded at the same time; the others wait for their turn, each within its own request.
const ENCODERS: usize = 2;

/// A text of more than this many bytes per token of context cannot be a prompt; it is refused without encoding it.
const MAX_BYTES_PER_TOKEN: usize = 256;

/// What a checkpoint says about text, as read from its files.
#[derive(Debug, Clone, Default)]
pub struct ModelText {
    /// `tokenizer.json`.
    pub tokenizer_json: Vec<u8>,
    /// `tokenizer_config.json`, where there is one.
    pub tokenizer_config: Option<Vec<u8>>,
    /// `chat_template.jinja`, where there is one; otherwise the template in `tokenizer_config` counts.
    pub chat_template: Option<String>,
    /// Tokens in the model's vocabulary, padding included.
    pub vocab_size: u32,
    /// Longest prompt and answer together, in tokens.
    pub context_length: u32,
    /// End tokens of the model; where empty, the tokenizer's own end token.
    pub eos_token_ids: Vec<u32>,
    pub generation: GenerationDefaults,
    /// How the model spells tool calls and reasoning.
    pub tool_style: Chosen<ToolStyle>,
    pub reasoning_style: Chosen<ReasoningStyle>,
}

/// A prompt made by a chat template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    pub ids: Vec<u32>,
    /// The prompt ends where the model's reasoning begins.
    pub reasoning_begun: bool,
}

/// Everything about text of the served model; cheap to clone.
#[derive(Clone)]
pub struct Text {
    tokenizer: Arc<Tokenizer>,
    template: Option<Arc<ChatTemplate>>,
    grammars: Arc<Grammars>,
    encoders: Arc<Semaphore>,
    /// Tokens in the model's vocabulary.
    pub vocab_size: u32,
    /// Longest prompt and answer together, in tokens.
    pub context_length: u32,
    /// The model's own end tokens.
    pub eos_token_ids: Arc<[u32]>,
    pub generation: GenerationDefaults,
    /// How the model spells tool calls; none: it is not known to.
    pub tool_style: Option<ToolStyle>,
    /// How the model marks its reasoning; none: it is content.
    pub reasoning_style: Option<ReasoningStyle>,
}

impl Text {
    /// Parses the tokenizer and the chat template.
    ///
    /// # Errors
    /// Names the file that does not parse.
    pub fn new(model: ModelText) -> Result<Self, TextError> {
        let tokenizer = Tokenizer::from_json(&model.tokenizer_json)?;
        let config = match &model.tokenizer_config {
            Some(bytes) => serde_json::from_slice(bytes).map_err(TextError::TokenizerConfig)?,
            None => serde_json::Value::Null,
        };
        let template = ChatTemplate::new(model.chat_template, &config)?;
        let mut eos_token_ids = model.eos_token_ids;
        if eos_token_ids.is_empty() {
            eos_token_ids.extend(special_token(&config, "eos_token").and_then(|token| tokenizer.token_id(&token)));
        }
        let tokenizer = Arc::new(tokenizer);
        let source = template.as_ref().map_or("", ChatTemplate::source);
        let tool_style = model.tool_style.or(|| ToolStyle::of_template(source));
        let reasoning_style = model.reasoning_style.or(|| ReasoningStyle::of_template(source));
        let eos_token_ids: Arc<[u32]> = eos_token_ids.into();
        Ok(Self {
            grammars: Arc::new(Grammars::new(tokenizer.clone(), model.vocab_size, eos_token_ids.clone())),
            tokenizer,
            template: template.map(Arc::new),
            encoders: Arc::new(Semaphore::new(ENCODERS)),
            vocab_size: model.vocab_size,
            context_length: model.context_length,
            eos_token_ids,
            generation: model.generation,
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

    /// Token ids of a conversation, rendered by the chat template, which writes the special tokens itself.
    ///
    /// # Errors
    /// There is no template, it refuses the conversation, or as [`Self::encode`].
    pub async fn encode_chat(&self, conversation: Conversation) -> Result<Rendered, TextError> {
        let template = self.template.clone().ok_or(TextError::NoTemplate)?;
        let (style, bytes) = (self.reasoning_style, conversation.bytes());
        self.off_thread(bytes, move |tokenizer| {
            let prompt = template.render(&conversation)?;
            let reasoning_begun = style.is_some_and(|style| prompt.trim_end().ends_with(style.begin()));
            Ok(Rendered { ids: tokenizer.encode(&prompt, false)?, reasoning_begun })
        })
        .await
    }

    /// Whether the chat template shows tools to the model.
    pub fn shows_tools(&self) -> bool {
        self.template.as_ref().is_some_and(|template| template.source().contains("tools"))
    }

    /// Token ids of a text; `special` lets the tokenizer add the special tokens that it is configured to add.
    ///
    /// # Errors
    /// The text is longer than any prompt, or the tokenizer has no token for it.
    pub async fn encode(&self, text: String, special: bool) -> Result<Vec<u32>, TextError> {
        self.off_thread(text.len(), move |tokenizer| tokenizer.encode(&text, special)).await
    }

    /// Compiles a grammar on another thread, in turn with long texts.
    ///
    /// # Errors
    /// What is wrong with it.
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

    /// Encodes here where there is little to do, else on another thread, in turn.
    async fn off_thread<T: Send + 'static>(
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
