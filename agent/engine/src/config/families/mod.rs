//! Model families that are built in: one file a family, and in it everything that the family's files mean.
//!
//! A [`FamilyFacts`] is written out in full for each family. No field has a default, so a new family that forgets one
//! does not compile. All lists of families come from the one table below.

mod facts;
mod gemma2;
mod gemma3;
mod gguf;
mod llama;
mod mistral;
mod mixtral;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_moe;

pub use facts::{
    ActivationKey, AttentionFacts, AttentionScale, Bias, BlockKind, Defaults, EmbeddingScale, ExpertCount, ExpertFacts,
    ExpertSize, FamilyFacts, GateActivation, HeadDim, LocalRope, MlpFacts, Multimodal, Normalization, SlidingLayers,
    SoftCap, SparseLayers, WindowKey,
};
pub use gguf::{GgufFacts, GgufValue, GgufVariant, GgufWindow};

use crate::EngineError;

/// Declares [`Architecture`] with the module that holds the facts of each family.
macro_rules! architectures {
    ($($(#[$doc:meta])* $variant:ident => $module:ident,)+) => {
        /// Model families that are built in.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Architecture { $($(#[$doc])* $variant),+ }

        impl Architecture {
            /// Every family that is built in.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Returns the facts about the family.
            pub(crate) fn facts(self) -> &'static FamilyFacts {
                match self { $(Self::$variant => &$module::FACTS),+ }
            }
        }
    };
}

architectures! {
    /// Llama 2, Llama 3.x, and every other model that calls itself `LlamaForCausalLM`.
    Llama => llama,
    /// Mistral 7B, Nemo and Small: Llama's layers, in some versions with a sliding window.
    Mistral => mistral,
    /// Mistral's mixture of experts.
    Mixtral => mixtral,
    /// Qwen2 and Qwen2.5, dense.
    Qwen2 => qwen2,
    /// Qwen3, dense.
    Qwen3 => qwen3,
    /// Qwen3, mixture of experts.
    Qwen3Moe => qwen3_moe,
    /// Gemma 2.
    Gemma2 => gemma2,
    /// Gemma 3's text part, alone or in a multimodal checkpoint.
    Gemma3 => gemma3,
    /// Phi-3 and Phi-4.
    Phi3 => phi3,
}

impl Architecture {
    /// Returns the name that `architectures` in `config.json` holds.
    pub fn name(self) -> &'static str {
        self.facts().name
    }

    /// Returns true if llama.cpp has a name for the family, so that GGUF files can be of it.
    pub fn has_gguf_files(self) -> bool {
        self.facts().gguf.is_some()
    }

    /// Returns the first of `names` that is built in, and the multimodal wrapper if the name is the wrapper's.
    ///
    /// # Errors
    /// [`EngineError::Architecture`] if none is built in.
    pub(super) fn parse(names: &[String]) -> Result<(Self, Option<&'static Multimodal>), EngineError> {
        let known = |name: &String| {
            Self::ALL.iter().find_map(|architecture| {
                let facts = architecture.facts();
                let multimodal = facts.multimodal.as_ref().filter(|multimodal| multimodal.name == name);
                (facts.name == name || multimodal.is_some()).then_some((*architecture, multimodal))
            })
        };
        names.iter().find_map(known).ok_or_else(|| EngineError::Architecture {
            found: names.join(", "),
            supported: Self::ALL.iter().map(|architecture| architecture.name()).collect::<Vec<_>>().join(", "),
        })
    }
}
