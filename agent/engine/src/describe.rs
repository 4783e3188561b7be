//! Everything of a model but its weights: the head, which holds none, reads it.

use std::sync::Arc;

use lockstep_kernels::BlockFormat;
use serde_json::Value;

use crate::EngineError;
use crate::config::{GenerationDefaults, ModelConfig};
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
    /// `tokenizer_config.json`; `Null` where there is none.
    pub tokenizer_config: Value,
    /// The chat template, in Jinja; `None` where the model has none.
    pub chat_template: Option<String>,
    /// Text of the token that begins a sequence, for the template.
    pub bos_token: Option<String>,
    /// Text of the token that ends an answer, for the template.
    pub eos_token: Option<String>,
}

/// Reads everything of a model but its weights.
///
/// # Errors
/// [`EngineError::Missing`] or [`EngineError::Format`] naming the file.
pub fn describe(files: &dyn ModelFiles) -> Result<ModelDescription, EngineError> {
    let config = ModelConfig::from_files(files)?;
    let generation = GenerationDefaults::from_files(files, &config)?;
    let tokenizer_config = match files.read_all(TOKENIZER_CONFIG_FILE)? {
        Some(json) => serde_json::from_slice(&json)
            .map_err(|error| EngineError::format(TOKENIZER_CONFIG_FILE, error.to_string()))?,
        None => Value::Null,
    };
    let chat_template = match files.read_all(TEMPLATE_FILE)? {
        Some(bytes) => {
            Some(String::from_utf8(bytes).map_err(|error| EngineError::format(TEMPLATE_FILE, error.to_string()))?)
        }
        None => template_in(&tokenizer_config),
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
        tokenizer_config,
        config,
    })
}

/// Facts from the headers of the weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightFacts {
    /// Number of parameters. Shared ones count once.
    pub parameters: u64,
    /// Type of most of the parameters: `f32`, `bf16`, `f16`, `q8_0`, ….
    pub dtype: &'static str,
    /// The parameters are in blocks. They stay so whatever type is asked for.
    pub in_blocks: bool,
}

/// Reads the headers of the weights, which also finds files that are missing or too short.
///
/// # Errors
/// [`EngineError::Missing`], [`EngineError::Truncated`], [`EngineError::Format`].
pub fn weight_facts(files: Arc<dyn ModelFiles>) -> Result<WeightFacts, EngineError> {
    let tied = ModelConfig::from_files(files.as_ref())?.tie_word_embeddings;
    let weights = Weights::open(files)?;
    let blocks = weights.main_blocks().map(BlockFormat::name);
    let dtype = blocks.unwrap_or_else(|| dtype_name(weights.main_dtype()));
    Ok(WeightFacts { parameters: weights.parameters(tied), dtype, in_blocks: blocks.is_some() })
}

/// A template, or the one called `default` of several.
fn template_in(config: &Value) -> Option<String> {
    match &config["chat_template"] {
        Value::String(template) => Some(template.clone()),
        Value::Array(named) => named
            .iter()
            .find(|entry| entry["name"] == "default")
            .and_then(|entry| entry["template"].as_str().map(str::to_owned)),
        _ => None,
    }
}

/// A special token, written as its text or as an object that holds it.
fn token_text(config: &Value, name: &str) -> Option<String> {
    let token = &config[name];
    token.as_str().or_else(|| token["content"].as_str()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::open;

    fn described(model: &fixture::Model) -> Result<ModelDescription, EngineError> {
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
            (r#"{"chat_template": "T", "bos_token": "<s>", "eos_token": {"content": "</s>"}}"#, "T"),
            (r#"{"chat_template": [{"name": "tool", "template": "X"}, {"name": "default", "template": "D"}]}"#, "D"),
        ];
        for (json, template) in configs {
            model.write(TOKENIZER_CONFIG_FILE, json.as_bytes());
            assert_eq!(described(&model).unwrap().chat_template.as_deref(), Some(template));
        }
        model.write(TOKENIZER_CONFIG_FILE, configs[0].0.as_bytes());
        model.write(TEMPLATE_FILE, b"J");
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
