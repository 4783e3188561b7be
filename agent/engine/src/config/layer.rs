//! Differences between the layers of one model: windows, RoPEs and experts.

use super::error::ConfigError;
use super::families::{
    ExpertCount, ExpertFacts, ExpertSize, FamilyFacts, Normalization, SlidingLayers, SparseLayers, WindowKey,
};
use super::raw::RawConfig;

/// One layer's part of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerConfig {
    /// Most positions that a query sees, its own included. `None`: it sees all before it.
    pub window: Option<usize>,
    /// Index of the RoPE, among the model's, that turns queries and keys.
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
    /// The weights of a token's experts sum to one. Otherwise they are their share of the softmax over all experts.
    pub normalize: bool,
    /// Prefix of the tensors of router and experts within a layer.
    pub prefix: &'static str,
    /// Names of an expert's gate, up and down projection.
    pub projections: [&'static str; 3],
}

const SLIDING: &str = "sliding_attention";
const FULL: &str = "full_attention";

impl RawConfig {
    /// Returns all layers. Their number must have been checked.
    pub fn layers(&self, family: &FamilyFacts) -> Result<Vec<LayerConfig>, ConfigError> {
        let window = self.window(family)?;
        let sliding = self.sliding_layers(family, window)?;
        let two_ropes = self.has_local_rope(family);
        let layer = |(index, sliding): (usize, bool)| {
            Ok(LayerConfig {
                window: if sliding { window } else { None },
                rope: usize::from(sliding && two_ropes),
                sparse: family.experts.as_ref().map_or(Ok(false), |experts| self.is_sparse(experts, index))?,
            })
        };
        sliding.into_iter().enumerate().map(layer).collect()
    }

    /// Returns the window of the layers that slide; `None` if no layer does.
    fn window(&self, family: &FamilyFacts) -> Result<Option<usize>, ConfigError> {
        let used = self.use_sliding_window == Some(true);
        let window = match family.window {
            WindowKey::Unsupported if used => {
                return Err(ConfigError::UnsupportedFeature {
                    key: "use_sliding_window",
                    remedy: "sliding attention is not supported for this architecture",
                });
            }
            WindowKey::Unsupported => None,
            WindowKey::IfGiven => self.sliding_window.flatten(),
            WindowKey::Default(size) => self.sliding_window.unwrap_or(Some(size)),
            WindowKey::IfUsed { default } if used => self.sliding_window.unwrap_or(Some(default)),
            WindowKey::IfUsed { .. } => None,
        };
        match window {
            Some(0) => Err(ConfigError::out_of_bounds("sliding_window", 0, "at least 1: a position sees itself")),
            window => Ok(window),
        }
    }

    /// Returns for each layer true if it slides.
    fn sliding_layers(&self, family: &FamilyFacts, window: Option<usize>) -> Result<Vec<bool>, ConfigError> {
        if self.sliding_window_pattern == Some(0) {
            return Err(ConfigError::out_of_bounds("sliding_window_pattern", 0, "at least 1"));
        }
        let usual: Vec<bool> = (0..self.num_hidden_layers)
            .map(|index| match family.sliding_layers {
                SlidingLayers::All => window.is_some(),
                SlidingLayers::From { default } => {
                    window.is_some() && index >= self.max_window_layers.unwrap_or(default)
                }
                SlidingLayers::AllButEvery(period) => !(index + 1).is_multiple_of(period),
                SlidingLayers::AllButPattern { default } => {
                    !(index + 1).is_multiple_of(self.sliding_window_pattern.unwrap_or(default))
                }
            })
            .collect();
        let sliding = match &self.layer_types {
            Some(types) => self.check_layer_types(types, family, usual)?,
            None => usual,
        };
        if window.is_none() && sliding.contains(&true) {
            return Err(ConfigError::NoWindow);
        }
        Ok(sliding)
    }

    /// Returns for each layer true if `types` says that it slides. `usual` is the answer without them.
    fn check_layer_types(
        &self,
        types: &[String],
        family: &FamilyFacts,
        usual: Vec<bool>,
    ) -> Result<Vec<bool>, ConfigError> {
        if types.len() != self.num_hidden_layers {
            return Err(ConfigError::LayerTypeCount { found: types.len(), expected: self.num_hidden_layers });
        }
        let slides = |kind: &String| match kind.as_str() {
            SLIDING => Ok(true),
            FULL => Ok(false),
            other => Err(ConfigError::LayerType { found: other.into(), supported: format!("{FULL}, {SLIDING}") }),
        };
        let given: Vec<bool> = types.iter().map(slides).collect::<Result<_, _>>()?;
        match family.sliding_layers {
            SlidingLayers::All if given != usual => {
                let kind = if usual.contains(&true) { SLIDING } else { FULL };
                Err(ConfigError::MixedLayerTypes { family: family.name, kind })
            }
            SlidingLayers::All
            | SlidingLayers::From { .. }
            | SlidingLayers::AllButEvery(_)
            | SlidingLayers::AllButPattern { .. } => Ok(given),
        }
    }

    fn is_sparse(&self, experts: &ExpertFacts, layer: usize) -> Result<bool, ConfigError> {
        match experts.layers {
            SparseLayers::All => Ok(true),
            SparseLayers::ByStep => match self.decoder_sparse_step {
                Some(0) => Err(ConfigError::out_of_bounds("decoder_sparse_step", 0, "at least 1")),
                step => Ok(!self.mlp_only_layers.iter().flatten().any(|dense| *dense == layer)
                    && (layer + 1).is_multiple_of(step.unwrap_or(1))),
            },
        }
    }

    /// Returns the mixture of experts of a family that has one.
    pub fn moe(&self, family: &FamilyFacts) -> Result<Option<MoeConfig>, ConfigError> {
        let Some(experts) = &family.experts else { return Ok(None) };
        let (count_key, count, default_count) = match experts.count {
            ExpertCount::NumLocalExperts { default } => {
                ("num_local_experts", self.num_experts.or(self.num_local_experts), default)
            }
            ExpertCount::NumExperts { default } => {
                ("num_experts", self.num_local_experts.or(self.num_experts), default)
            }
        };
        let size = |key, value: Option<Option<usize>>, default| {
            value.unwrap_or(Some(default)).ok_or(ConfigError::Null { key })
        };
        let per_token = size("num_experts_per_tok", self.num_experts_per_tok, experts.default_experts_per_token)?;
        let moe = MoeConfig {
            num_experts: size(count_key, count, default_count)?,
            experts_per_token: per_token,
            intermediate_size: match experts.intermediate_size {
                ExpertSize::IntermediateSize => self.intermediate_size,
                ExpertSize::MoeIntermediateSize { default } => {
                    size("moe_intermediate_size", self.moe_intermediate_size, default)?
                }
            },
            normalize: match experts.normalization {
                Normalization::Always => true,
                Normalization::NormTopkProb => self.norm_topk_prob,
            },
            prefix: experts.prefix,
            projections: experts.projections,
        };
        if moe.experts_per_token == 0 || moe.experts_per_token > moe.num_experts {
            let allowed = format!("from 1 to the number of experts ({})", moe.num_experts);
            return Err(ConfigError::out_of_bounds("num_experts_per_tok", moe.experts_per_token, allowed));
        }
        Ok(Some(moe))
    }
}
