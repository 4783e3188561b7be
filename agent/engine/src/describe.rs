//! Everything of a model but its weights: the head, which holds none, reads it.

use std::sync::Arc;

use serde_json::Value;

use crate::EngineError;
use crate::config::{CONFIG_FILE, GENERATION_FILE, GenerationDefaults, ModelConfig};
use crate::expected;
use crate::gguf;
use crate::json;
use crate::runner::dtype_name;
use crate::shard::largest_world_size;
use crate::source::ModelFiles;
use crate::weights::Weights;

const TOKENIZER_FILE: &str = "tokenizer.json";
const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";
const TEMPLATE_FILE: &str = "chat_template.jinja";

/// A model without its weights.
#[derive(Debug, Clone)]
pub struct ModelDescription {
    pub config: ModelConfig,
    /// Name of the family in `config.json`.
    pub architecture: &'static str,
    /// Positions that the model was made for.
    pub context_length: u32,
    pub vocab_size: u32,
    /// Most ranks that one stage of the model can be split over.
    pub largest_world_size: usize,
    pub generation: GenerationDefaults,
    /// The bytes of `tokenizer.json`.
    pub tokenizer_json: Vec<u8>,
    /// Chat template, in Jinja. `None`: the model has none, or none for conversations without tools.
    pub chat_template: Option<String>,
    /// Chat template of conversations with tools, if the model has one of its own for them.
    pub tool_use_template: Option<String>,
    /// Text of the token that begins a sequence, for the template.
    pub bos_token: Option<String>,
    /// Text of the token that ends an answer, for the template.
    pub eos_token: Option<String>,
    /// `tokenizer_config.json`. Null: the model has none.
    pub tokenizer_config: Value,
    /// `config.json` and, if the model has it, `generation_config.json`, by their names.
    pub config_files: Vec<(&'static str, Vec<u8>)>,
    /// Faults of the files that do not keep the model from serving.
    pub warnings: Vec<String>,
}

/// Reads everything of a model but its weights.
///
/// # Errors
/// [`EngineError::Missing`] or [`EngineError::Format`] naming the file.
pub fn describe(files: &dyn ModelFiles) -> Result<ModelDescription, EngineError> {
    let config = ModelConfig::from_files(files)?;
    let generation = GenerationDefaults::from_files(files, &config)?;
    let tokenizer_config = match files.read_all(TOKENIZER_CONFIG_FILE)? {
        Some(text) => json::parse(TOKENIZER_CONFIG_FILE, &text)?,
        None => Value::Null,
    };
    // As in transformers, a template file stands in place of all templates in the tokenizer's configuration.
    let (chat_template, tool_use_template) = match files.read_all(TEMPLATE_FILE)? {
        Some(bytes) => {
            let text =
                String::from_utf8(bytes).map_err(|error| EngineError::format(TEMPLATE_FILE, error.to_string()))?;
            (Some(text), None)
        }
        None => (named_template(&tokenizer_config, "default"), named_template(&tokenizer_config, "tool_use")),
    };
    Ok(ModelDescription {
        architecture: config.architecture.name(),
        context_length: u32::try_from(config.context_length).unwrap_or(u32::MAX),
        vocab_size: u32::try_from(config.vocab_size).unwrap_or(u32::MAX),
        largest_world_size: largest_world_size(&config),
        generation,
        tokenizer_json: files.require(TOKENIZER_FILE)?,
        bos_token: token_text(&tokenizer_config, "bos_token"),
        eos_token: token_text(&tokenizer_config, "eos_token"),
        chat_template,
        tool_use_template,
        config_files: config_files(files)?,
        tokenizer_config,
        warnings: files.warnings().to_vec(),
        config,
    })
}

/// Reads the files of a model's configuration as they are.
fn config_files(files: &dyn ModelFiles) -> Result<Vec<(&'static str, Vec<u8>)>, EngineError> {
    let mut read = vec![(CONFIG_FILE, files.require(CONFIG_FILE)?)];
    read.extend(files.read_all(GENERATION_FILE)?.map(|bytes| (GENERATION_FILE, bytes)));
    Ok(read)
}

/// Facts from the headers of the weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightFacts {
    /// Number of parameters. Shared ones count once.
    pub parameters: u64,
    /// Type of most of the parameters: `f32`, `bf16`, `f16`, `q8_0`, ….
    pub dtype: &'static str,
    /// The parameters are in a quantized format. They stay so whatever type is asked for.
    pub is_quantized: bool,
}

/// Reads the headers of the weights. Files that are missing or too short are errors, and so are tensors that do not fit the
/// configuration.
///
/// # Errors
/// [`EngineError::Missing`], [`EngineError::Truncated`], [`EngineError::Format`], [`EngineError::Unloadable`].
pub fn weight_facts(files: Arc<dyn ModelFiles>) -> Result<WeightFacts, EngineError> {
    let config = ModelConfig::from_files(files.as_ref())?;
    let weights = Weights::open(files.clone())?;
    let spell = |name: &str| weights.is_gguf().then(|| gguf::in_gguf(config.architecture, name)).flatten();
    expected::check(&config, files.source(), spell, |name| weights.find(name))?;
    let quantized = weights.main_format();
    let dtype = quantized.unwrap_or_else(|| dtype_name(weights.main_dtype()));
    let parameters = weights.parameters(config.tie_word_embeddings);
    Ok(WeightFacts { parameters, dtype, is_quantized: quantized.is_some() })
}

/// Returns the chat template `name` of a tokenizer's configuration. A single template is called `default`. There is no
/// other fallback: transformers refuses a conversation if none of several templates is called so.
fn named_template(tokenizer_config: &Value, name: &str) -> Option<String> {
    let template = match &tokenizer_config["chat_template"] {
        Value::String(template) => (name == "default").then_some(template.as_str()),
        Value::Array(named) => named.iter().find(|entry| entry["name"] == name)?["template"].as_str(),
        _ => None,
    };
    template.map(str::to_owned)
}

/// Returns the text of a special token, which a configuration holds as a text or as an object with its `content`.
fn token_text(tokenizer_config: &Value, name: &str) -> Option<String> {
    let token = &tokenizer_config[name];
    token.as_str().or_else(|| token["content"].as_str()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::open;

    fn described(model: &fixture::FixtureModel) -> Result<ModelDescription, EngineError> {
        describe(open(model.source())?.as_ref())
    }

    #[test]
    fn a_model_is_described_without_its_weights() {
        let model = fixture::tiny_llama();
        model.remove("model.safetensors");
        let plain = described(&model).unwrap();
        assert_eq!((plain.architecture, plain.context_length, plain.vocab_size), ("LlamaForCausalLM", 128, 101));
        assert_eq!(plain.tokenizer_json, b"{}");
        assert_eq!((plain.chat_template, plain.bos_token), (None, None));

        let configs = [
            (r#"{"chat_template": "T", "bos_token": "<s>", "eos_token": {"content": "</s>"}}"#, (Some("T"), None)),
            (
                r#"{"chat_template": [{"name": "tool_use", "template": "U"}, {"name": "default", "template": "D"}]}"#,
                (Some("D"), Some("U")),
            ),
            (
                r#"{"chat_template": [{"name": "rag", "template": "R"}, {"name": "tool_use", "template": "U"}]}"#,
                (None, Some("U")),
            ),
            (r#"{"chat_template": [{"name": "rag", "template": "R"}]}"#, (None, None)),
        ];
        let templates = |model: ModelDescription| (model.chat_template, model.tool_use_template);
        for (json, (template, tool_use)) in configs {
            model.write(TOKENIZER_CONFIG_FILE, json.as_bytes());
            let expected = (template.map(str::to_owned), tool_use.map(str::to_owned));
            assert_eq!(templates(described(&model).unwrap()), expected, "{json}");
        }
        model.write(TEMPLATE_FILE, b"J");
        model.write(TOKENIZER_CONFIG_FILE, configs[1].0.as_bytes());
        assert_eq!(templates(described(&model).unwrap()), (Some("J".into()), None));
        model.write(TOKENIZER_CONFIG_FILE, configs[0].0.as_bytes());
        let full = described(&model).unwrap();
        assert_eq!(full.chat_template.as_deref(), Some("J"));
        assert_eq!((full.bos_token.as_deref(), full.eos_token.as_deref()), (Some("<s>"), Some("</s>")));
    }

    #[test]
    fn what_is_missing_or_malformed_is_named() {
        let model = fixture::tiny_llama();
        model.write(TOKENIZER_CONFIG_FILE, b"{");
        assert!(described(&model).unwrap_err().to_string().starts_with("tokenizer_config.json"));
        model.remove(TOKENIZER_CONFIG_FILE);
        model.remove("tokenizer.json");
        assert!(described(&model).unwrap_err().to_string().starts_with("tokenizer.json is missing"));
        model.remove("config.json");
        assert!(described(&model).unwrap_err().to_string().starts_with("config.json is missing"));
    }
}
