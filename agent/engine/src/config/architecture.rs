//! The families that are built in.

use crate::EngineError;

/// Model families that are built in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// Llama 2, Llama 3.x and whatever else says `LlamaForCausalLM`.
    Llama,
    /// Mistral 7B, Nemo, Small: Llama with a sliding window in some versions.
    Mistral,
    /// Mistral's mixture of experts.
    Mixtral,
    /// Qwen2 and Qwen2.5, dense.
    Qwen2,
    /// Qwen3, dense.
    Qwen3,
    /// Qwen3, mixture of experts.
    Qwen3Moe,
    Gemma2,
    /// Gemma 3's text part, also out of a multimodal checkpoint.
    Gemma3,
    /// Phi-3 and Phi-4.
    Phi3,
}

impl Architecture {
    pub const ALL: [Self; 9] = [
        Self::Llama,
        Self::Mistral,
        Self::Mixtral,
        Self::Qwen2,
        Self::Qwen3,
        Self::Qwen3Moe,
        Self::Gemma2,
        Self::Gemma3,
        Self::Phi3,
    ];

    /// As `config.json` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Mixtral => "MixtralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
            Self::Qwen3Moe => "Qwen3MoeForCausalLM",
            Self::Gemma2 => "Gemma2ForCausalLM",
            Self::Gemma3 => "Gemma3ForCausalLM",
            Self::Phi3 => "Phi3ForCausalLM",
        }
    }

    /// How multimodal checkpoints spell it whose text part is this family.
    pub(super) fn multimodal_name(self) -> Option<&'static str> {
        match self {
            Self::Gemma3 => Some("Gemma3ForConditionalGeneration"),
            _ => None,
        }
    }

    /// The first of `names` that is built in.
    ///
    /// # Errors
    /// [`EngineError::Architecture`] where none is.
    pub fn parse(names: &[String]) -> Result<Self, EngineError> {
        let is = |architecture: Self, name: &str| {
            architecture.name() == name || architecture.multimodal_name().is_some_and(|other| other == name)
        };
        let known = |name: &String| Self::ALL.into_iter().find(|architecture| is(*architecture, name));
        names.iter().find_map(known).ok_or_else(|| EngineError::Architecture {
            found: names.join(", "),
            supported: Self::ALL.map(Self::name).join(", "),
        })
    }

    pub fn is_gemma(self) -> bool {
        matches!(self, Self::Gemma2 | Self::Gemma3)
    }

    /// Whether `layer_types` says which layers slide; other families have one kind.
    pub(super) fn mixes_layer_types(self) -> bool {
        matches!(self, Self::Qwen2 | Self::Qwen3 | Self::Gemma2 | Self::Gemma3)
    }
}
