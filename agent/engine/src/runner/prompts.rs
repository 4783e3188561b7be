//! Log-probabilities of a prompt's tokens. The vocabulary is wide and a chunk has many rows, so a rank projects a piece
//! of the rows at a time.

use candle_core::Tensor;
use lockstep_schedule::plan::{PromptLogprobs, StepPlan};

use super::sequences::num_tokens;
use super::with_host_values;
use crate::EngineError;
use crate::layers::{Pass, Residual};
use crate::models::Model;
use crate::sampler::{Sampler, TargetRow};

/// Most rows whose logits a rank holds at once for prompts. With more rows a projection reads its weights less often,
/// but beyond this number the reading hardly counts.
pub(crate) const ROWS_PER_PIECE: usize = 64;

/// Computes the log-probabilities of the plan's targets, in plan order, from the stream that left the last layer.
///
/// # Errors
/// [`EngineError::Logits`] on all ranks alike, [`EngineError::Collective`].
pub(super) fn score_targets(
    plan: &StepPlan,
    stream: &Residual,
    (model, sampler): (&dyn Model, Sampler),
    pass: &mut Pass<'_>,
) -> Result<Vec<PromptLogprobs>, EngineError> {
    let (rows, targets) = select_target_rows(plan);
    let mut tokens = Vec::with_capacity(rows.len());
    for (rows, targets) in rows.chunks(ROWS_PER_PIECE).zip(targets.chunks(ROWS_PER_PIECE)) {
        let rows = Tensor::new(rows, stream.device())?;
        let logits = model.compute_logits(pass, stream.select_rows(&rows)?)?;
        tokens.extend(with_host_values(&logits, |logits| sampler.score(targets, logits, pass.communicator))?);
        pass.tick();
    }
    let mut tokens = tokens.into_iter();
    let of_entry = |(seq, len)| PromptLogprobs { seq, tokens: tokens.by_ref().take(len).collect() };
    let entries = plan.entries.iter();
    let lengths = entries.filter_map(|entry| Some((entry.seq, entry.prompt_targets.as_ref()?.tokens.len())));
    Ok(lengths.map(of_entry).collect())
}

/// Returns the batch's rows that targets follow, and the targets.
fn select_target_rows(plan: &StepPlan) -> (Vec<u32>, Vec<TargetRow>) {
    let mut start = 0;
    let (mut rows, mut all) = (Vec::new(), Vec::new());
    for entry in &plan.entries {
        if let Some(targets) = &entry.prompt_targets {
            let row = |&token: &u32| TargetRow { seq: entry.seq, token, top: targets.top };
            rows.extend((start + targets.first_row..).take(targets.tokens.len()));
            all.extend(targets.tokens.iter().map(row));
        }
        start += num_tokens(entry);
    }
    (rows, all)
}
