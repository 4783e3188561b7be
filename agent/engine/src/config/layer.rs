//! How the layers of one model differ: which slide, which turn by another RoPE, which hold experts.

use super::Architecture;
use super::raw::RawConfig;

/// One layer's part of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerConfig {
    /// A query sees at most this many positions, its own included.
    pub window: Option<usize>,
    /// Which of the model's RoPEs turns queries and keys.
    pub rope: usize,
    /// The feed-forward part is a mixture of experts.
    pub sparse: bool,
}

/// A mixture of experts (Shazeer et al. 2017, <https://arxiv.org/abs/1701.06538>).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MoeConfig {
    pub num_experts: usize,
    /// Experts that each token visits; at most all.
    pub experts_per_token: usize,
    /// Intermediate size of one expert.
    pub intermediate_size: usize,
    /// The weights of a token's experts sum to one; else they are what the softmax over all experts gives.
    pub normalize: bool,
}

const SLIDING: &str = "sliding_attention";
const FULL: &str = "full_attention";

impl RawConfig {
    /// All layers; the number of them was checked.
    pub fn layers(&self, architecture: Architecture) -> Result<Vec<LayerConfig>, String> {
        let window = self.window(architecture)?;
        let sliding = self.sliding_layers(architecture, window)?;
        let two_ropes = self.has_local_rope(architecture);
        let layer = |(index, sliding): (usize, bool)| {
            Ok(LayerConfig {
                window: if sliding { window } else { None },
                rope: usize::from(sliding && two_ropes),
                sparse: self.is_sparse(architecture, index)?,
            })
        };
        sliding.into_iter().enumerate().map(layer).collect()
    }

    /// The window of the layers that slide; `None` where none does.
    fn window(&self, architecture: Architecture) -> Result<Option<usize>, String> {
        let window = match architecture {
            Architecture::Llama if self.use_sliding_window == Some(true) => {
                return Err("use_sliding_window: sliding attention is not supported for this architecture".into());
            }
            Architecture::Llama => None,
            Architecture::Qwen2 | Architecture::Qwen3 | Architecture::Qwen3Moe => {
                if self.use_sliding_window == Some(true) { self.sliding_window.unwrap_or(Some(4096)) } else { None }
            }
            // What transformers takes where the field is absent; `null` means none.
            Architecture::Mistral | Architecture::Gemma2 | Architecture::Gemma3 => {
                self.sliding_window.unwrap_or(Some(4096))
            }
            Architecture::Mixtral | Architecture::Phi3 => self.sliding_window.flatten(),
        };
        match window {
            Some(0) => Err("sliding_window is 0: a position sees itself at least".into()),
            window => Ok(window),
        }
    }

    /// Which layers slide.
    fn sliding_layers(&self, architecture: Architecture, window: Option<usize>) -> Result<Vec<bool>, String> {
        let count = self.num_hidden_layers;
        let usual = |index: usize| match architecture {
            Architecture::Llama => false,
            Architecture::Mistral | Architecture::Mixtral | Architecture::Phi3 | Architecture::Qwen3Moe => {
                window.is_some()
            }
            Architecture::Qwen2 | Architecture::Qwen3 => {
                window.is_some() && index >= self.max_window_layers.unwrap_or(28)
            }
            Architecture::Gemma2 => !(index + 1).is_multiple_of(2),
            Architecture::Gemma3 => !(index + 1).is_multiple_of(self.sliding_window_pattern.unwrap_or(6)),
        };
        if self.sliding_window_pattern == Some(0) {
            return Err("sliding_window_pattern is 0: it must be at least 1".into());
        }
        let usual: Vec<bool> = (0..count).map(usual).collect();
        let Some(types) = &self.layer_types else {
            return Self::with_window(usual, window);
        };
        if types.len() != count {
            return Err(format!("layer_types has {} entries, num_hidden_layers is {count}", types.len()));
        }
        let slides = |kind: &String| match kind.as_str() {
            SLIDING => Ok(true),
            FULL => Ok(false),
            other => Err(format!("layer_types holds `{other}`; supported: {FULL}, {SLIDING}")),
        };
        let given: Vec<bool> = types.iter().map(slides).collect::<Result<_, _>>()?;
        if !architecture.mixes_layer_types() && given != usual {
            let kind = if usual.contains(&true) { SLIDING } else { FULL };
            return Err(format!("layer_types: every layer of a {} is {kind} here, and not", architecture.name()));
        }
        Self::with_window(given, window)
    }

    fn with_window(sliding: Vec<bool>, window: Option<usize>) -> Result<Vec<bool>, String> {
        if window.is_none() && sliding.contains(&true) {
            return Err(format!("some layers are {SLIDING}, and sliding_window is not set"));
        }
        Ok(sliding)
    }

    fn is_sparse(&self, architecture: Architecture, layer: usize) -> Result<bool, String> {
        match architecture {
            Architecture::Mixtral => Ok(true),
            Architecture::Qwen3Moe => match self.decoder_sparse_step {
                Some(0) => Err("decoder_sparse_step is 0: it must be at least 1".into()),
                step => Ok(!self.mlp_only_layers.iter().flatten().any(|dense| *dense == layer)
                    && (layer + 1).is_multiple_of(step.unwrap_or(1))),
            },
            _ => Ok(false),
        }
    }

    /// The experts, in families that have them.
    pub fn moe(&self, architecture: Architecture) -> Result<Option<MoeConfig>, String> {
        let needs = |name: &str, size: Option<usize>| size.ok_or_else(|| format!("{name} is missing"));
        let moe = match architecture {
            Architecture::Mixtral => MoeConfig {
                num_experts: needs("num_local_experts", self.num_local_experts)?,
                experts_per_token: needs("num_experts_per_tok", self.num_experts_per_tok)?,
                intermediate_size: self.intermediate_size,
                normalize: true,
            },
            Architecture::Qwen3Moe => MoeConfig {
                num_experts: needs("num_experts", self.num_experts.or(self.num_local_experts))?,
                experts_per_token: needs("num_experts_per_tok", self.num_experts_per_tok)?,
                intermediate_size: needs("moe_intermediate_size", self.moe_intermediate_size)?,
                normalize: self.norm_topk_prob,
            },
            _ => return Ok(None),
        };
        if moe.experts_per_token == 0 || moe.experts_per_token > moe.num_experts {
            return Err(format!(
                "num_experts_per_tok is {}: it must be from 1 to the number of experts ({})",
                moe.experts_per_token, moe.num_experts
            ));
        }
        Ok(Some(moe))
    }
}
