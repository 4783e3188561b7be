//! A mixture of experts: a router sends each token to a few feed-forward layers (Shazeer et al. 2017,
//! <https://arxiv.org/abs/1701.06538>).
//!
//! Every rank holds its shard of *each* expert's intermediate dimension, and the whole router. Whichever experts a
//! token needs, every rank reads the same share of their weights. So a decode step never waits for a rank that happens
//! to own most of the experts in use, and any world size up to the intermediate size works. Ranks compute only routed
//! rows.

use candle_core::Tensor;
use lockstep_kernels::{mix_rows, top_k};

use super::{ColumnParallelLinear, GatedMlp, MlpNames, Pass};
use crate::EngineError;
use crate::config::{ModelConfig, MoeConfig};
use crate::loader::{Loader, RowPart};
use crate::sampler::math;

/// Feed-forward layer of a sparse block.
pub struct SparseMoe {
    router: ColumnParallelLinear,
    experts: Vec<GatedMlp>,
    config: MoeConfig,
}

impl SparseMoe {
    /// Loads the router `gate` and the experts `experts.0`, `experts.1`, …, whose matrices are called `names`.
    pub fn load(
        loader: &Loader<'_>,
        config: &ModelConfig,
        moe: MoeConfig,
        names: MlpNames,
    ) -> Result<Self, EngineError> {
        let whole = RowPart { name: "gate", num_rows: moe.num_experts, rows: 0..moe.num_experts };
        let experts = loader.child("experts");
        let expert = |index| GatedMlp::load(&experts.child(index), config, names, moe.intermediate_size);
        Ok(Self {
            router: ColumnParallelLinear::load(&loader.as_exact(), &[whole], config.hidden_size, false)?,
            experts: (0..moe.num_experts).map(expert).collect::<Result<_, _>>()?,
            config: moe,
        })
    }

    /// Maps `[tokens, hidden]` to `[tokens, hidden]`.
    pub fn forward(&self, pass: &mut Pass<'_>, x: &Tensor) -> Result<Tensor, EngineError> {
        let logits = self.router.forward(pass, x)?.to_vec2::<f32>()?;
        let routing = Routing::new(&logits, &self.config)?;
        let mut outputs = Vec::new();
        for (expert, rows) in self.experts.iter().zip(&routing.rows_of) {
            if !rows.is_empty() {
                let rows = Tensor::new(rows.as_slice(), x.device())?;
                outputs.push(expert.forward_partial(pass, &x.index_select(&rows, 0)?)?);
            }
        }
        let outputs = Tensor::cat(&outputs, 0)?;
        let each = self.config.experts_per_token;
        let part = mix_rows(pass.context, &outputs, &routing.slots, &routing.weights, each)?;
        pass.all_reduce_sum(part)
    }
}

/// Assignment of rows to experts. All ranks have the same logits to the last bit, and so the same routing.
#[derive(Debug, PartialEq)]
struct Routing {
    /// Rows of each expert, ascending.
    rows_of: Vec<Vec<u32>>,
    /// Index of the output of each row's experts, by row and then by ascending expert, in the concatenated outputs of
    /// all experts.
    slots: Vec<u32>,
    /// Weight of each output, in the order of `slots`.
    weights: Vec<f32>,
}

impl Routing {
    /// Routes rows by `logits`, which have one row for each token and one number for each expert.
    fn new(logits: &[Vec<f32>], config: &MoeConfig) -> Result<Self, EngineError> {
        let mut rows_of = vec![Vec::new(); config.num_experts];
        let (mut places, mut weights) = (Vec::new(), Vec::new());
        for (row, logits) in (0u32..).zip(logits) {
            for (expert, weight) in choose_experts(logits, config)? {
                let rows: &mut Vec<u32> = &mut rows_of[expert];
                places.push((expert, rows.len()));
                weights.push(weight);
                rows.push(row);
            }
        }
        let mut end = 0;
        let first: Vec<usize> = rows_of
            .iter()
            .map(|rows| {
                end += rows.len();
                end - rows.len()
            })
            .collect();
        let slot = |(expert, index): (usize, usize)| u32::try_from(first[expert] + index).unwrap_or(u32::MAX);
        Ok(Self { rows_of, slots: places.into_iter().map(slot).collect(), weights })
    }
}

/// Returns the experts of one token, ascending, with their weights.
fn choose_experts(logits: &[f32], config: &MoeConfig) -> Result<Vec<(usize, f32)>, EngineError> {
    let mut chosen = top_k(logits, 0, config.experts_per_token)?;
    let greatest = chosen.first().map_or(0.0, |(logit, _)| *logit);
    let exp = |logit: f32| math::exp(f64::from(logit) - f64::from(greatest));
    let sum: f64 = match config.normalize {
        true => chosen.iter().map(|(logit, _)| exp(*logit)).sum(),
        false => logits.iter().map(|logit| exp(*logit)).sum(),
    };
    chosen.sort_unstable_by_key(|(_, expert)| *expert);
    #[expect(clippy::cast_possible_truncation, reason = "activations are f32")]
    let weight = |(logit, expert): (f32, u32)| (expert as usize, (exp(logit) / sum) as f32);
    Ok(chosen.into_iter().map(weight).collect())
}

#[cfg(test)]
mod tests;
