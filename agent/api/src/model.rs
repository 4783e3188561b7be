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

/// Tokens that end a turn in some chat template, by llama.cpp's list of such names. Published files often name another
/// token as their only end token: that of a text, or that of the base model.
const TURN_ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|eot|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<end_of_utterance>",
    "<turn|>",
    "[e~[",
    "<｜end▁of▁sentence｜>",
];
/// Tokens that end an answer in the templates of gpt-oss and Solar. In such a vocabulary, `<|end|>` ends only a message of
/// the answer.
const HARMONY_ENDS: [[&str; 2]; 2] = [["<|return|>", "<|call|>"], ["<|flush|>", "<|calls|>"]];

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
    /// End tokens that the model's configuration names. More come from the tokenizer and the template.
    pub eos_token_ids: Vec<u32>,
    /// Sampling options that the model's makers suggest.
    pub sampling_defaults: SamplingDefaults,
    /// Style of the model's tool calls.
    pub tool_style: StyleChoice<ToolStyle>,
    /// Style of the model's reasoning.
    pub reasoning_style: StyleChoice<ReasoningStyle>,
}

/// Facts and files that routers ask for.
#[derive(Debug, Clone, Default)]
pub struct EngineFacts {
    /// Tokens of a block of the KV cache.
    pub block_size: u32,
    /// Most sequences that run at the same time.
    pub max_num_seqs: u32,
    /// Files that turn text into tokens and back, by their names in a model's folder.
    pub files: Vec<(String, Vec<u8>)>,
}

impl EngineFacts {
    /// Returns the model's configuration. Null if there is none among the files.
    pub(crate) fn model_config(&self) -> serde_json::Value {
        let file = self.files.iter().find(|(name, _)| name == "config.json");
        file.and_then(|(_, bytes)| serde_json::from_slice(bytes).ok()).unwrap_or_default()
    }
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
        let eos_token_ids = end_tokens(&tokenizer, model.eos_token_ids, &model.templates);
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
        // A template may take long for a short conversation.
        let (style, bytes) = (self.reasoning_style, conversation.bytes().max(INLINE_BYTES + 1));
        self.run_encoder(bytes, move |tokenizer| {
            let prompt = template.render(&conversation)?;
            let reasoning_begun = style.is_some_and(|style| prompt.trim_end().ends_with(style.begin_mark()));
            Ok(Rendered { ids: tokenizer.encode(&prompt, conversation.adds_special_tokens)?, reasoning_begun })
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

/// Returns the tokens that end an answer, without repetition: the `configured` ones, the tokenizer's own end token, and each
/// token of the vocabulary that ends a turn and that a chat template writes. A model without a template may write any of
/// these tokens.
fn end_tokens(tokenizer: &Tokenizer, configured: Vec<u32>, templates: &ChatTemplates) -> Vec<u32> {
    let sources = || [&templates.default, &templates.tool_use].into_iter().flatten();
    let is_written = |name: &str| sources().next().is_none() || sources().any(|source| source.contains(name));
    let is_harmony = HARMONY_ENDS.iter().any(|ends| ends.iter().all(|name| tokenizer.token_id(name).is_some()));
    let ends_turn = |name: &str| is_written(name) && !(is_harmony && name == "<|end|>");
    let named = TURN_ENDS.iter().copied().filter(|name| ends_turn(name));
    let texts = templates.eos_token.as_deref().into_iter().chain(named);
    let mut ids = Vec::new();
    for id in configured.into_iter().chain(texts.filter_map(|text| tokenizer.token_id(text))) {
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    ids
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Returns a tokenizer of these tokens, each with its index as its id.
    fn tokenizer(tokens: &[&str]) -> Tokenizer {
        let added = tokens.iter().enumerate().map(|(id, token)| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        });
        let vocab: serde_json::Map<_, _> =
            tokens.iter().enumerate().map(|(id, token)| ((*token).into(), json!(id))).collect();
        let json = json!({"version": "1.0", "added_tokens": added.collect::<Vec<_>>(),
            "model": {"type": "BPE", "vocab": vocab, "merges": []}});
        Tokenizer::from_json(&serde_json::to_vec(&json).unwrap()).unwrap()
    }

    #[test]
    fn answers_end_with_every_token_that_ends_a_turn() {
        let tokenizer = tokenizer(&["<|endoftext|>", "<|im_end|>", "<|eot_id|>", "</s>", "a"]);
        let ends = |configured: &[u32], template: Option<&str>, eos: Option<&str>| {
            let [default, eos_token] = [template, eos].map(|text| text.map(str::to_owned));
            end_tokens(&tokenizer, configured.to_vec(), &ChatTemplates { default, eos_token, ..Default::default() })
        };
        assert_eq!(ends(&[0], Some("{{ m }}<|im_end|>"), None), [0, 1], "the template ends turns");
        assert_eq!(ends(&[0], Some("{{ m }}"), Some("</s>")), [0, 3], "the tokenizer has an end token");
        assert_eq!(ends(&[1, 1], Some("<|im_end|>"), Some("<|im_end|>")), [1], "each token once");
        assert_eq!(ends(&[], None, Some("nowhere")), [2, 1, 0], "without a template, every such token");
    }

    #[test]
    fn messages_of_harmony_do_not_end_an_answer() {
        let tokenizer = tokenizer(&["<|end|>", "<|return|>", "<|call|>"]);
        let default = Some("<|end|><|return|><|call|>".to_owned());
        assert_eq!(end_tokens(&tokenizer, vec![], &ChatTemplates { default, ..Default::default() }), [1, 2]);
    }

    #[test]
    fn messages_of_muse_glimmer_do_not_end_an_answer() {
        let tokenizer = tokenizer(&["<|eom|>", "<|eot|>"]);
        let default = Some("<|eom|><|eot|>".to_owned());
        assert_eq!(end_tokens(&tokenizer, vec![], &ChatTemplates { default, ..Default::default() }), [1]);
    }
}
