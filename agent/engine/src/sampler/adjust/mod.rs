//! Changes of single logits before a token is chosen: biases, penalties, tokens that are not allowed.
//!
//! Every change depends on one token's logit and on data that all ranks have. So each rank changes its own shard, and
//! the result does not depend on the sharding of the vocabulary.

use std::borrow::Cow;
use std::collections::HashMap;

use lockstep_schedule::plan::TokenHistory;

use super::SamplingRow;

/// Logit of a token that must not be chosen. It is below any that a model gives. It is also finite, so that sums,
/// differences and quotients by the least temperature stay numbers.
const EXCLUDED: f32 = -1e30;

/// Returns true if a logit is that of a token that must not be chosen.
pub fn is_excluded(logit: f32) -> bool {
    logit <= EXCLUDED
}

/// Counts of the tokens in a sequence, for penalties.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenCounts {
    /// Number of times that each token is in the answer; 0 if only the prompt has the token.
    in_answer: HashMap<u32, u32>,
}

impl TokenCounts {
    /// Counts the tokens of a sequence that is admitted.
    pub fn from_history(history: &TokenHistory) -> Self {
        let mut counts = Self { in_answer: history.prompt.iter().map(|token| (*token, 0)).collect() };
        history.answer.iter().for_each(|token| counts.increment(*token));
        counts
    }

    /// Counts one more token of the answer.
    pub fn increment(&mut self, token: u32) {
        *self.in_answer.entry(token).or_default() += 1;
    }
}

/// Returns the logits with all changes. `logits` is this rank's `[rows, shard_width]`, whose first column is the token
/// `first_id`. The result is a copy only if a row asks for a change.
pub fn adjust_logits<'a>(
    rows: &[SamplingRow<'_>],
    logits: &'a [f32],
    shard_width: usize,
    first_id: u32,
) -> Cow<'a, [f32]> {
    let mut logits = Cow::Borrowed(logits);
    for (index, row) in rows.iter().enumerate() {
        if row.is_adjusted() {
            let shard_logits = &mut logits.to_mut()[index * shard_width..(index + 1) * shard_width];
            LogitsShard { first_id, logits: shard_logits }.apply(row);
        }
    }
    logits
}

impl SamplingRow<'_> {
    fn is_adjusted(&self) -> bool {
        let params = self.params;
        let biased = self.counts.is_some() || !params.logit_bias.is_empty();
        biased || self.allowed.is_some() || !self.suppressed().is_empty()
    }

    /// Returns the tokens that must not be chosen at this position.
    fn suppressed(&self) -> &[u32] {
        if self.position < self.params.suppressed_until { &self.params.suppressed } else { &[] }
    }
}

/// This rank's shard of one row.
struct LogitsShard<'a> {
    first_id: u32,
    logits: &'a mut [f32],
}

impl LogitsShard<'_> {
    /// Changes the row, in the order of vLLM: biases, then penalties. An excluded token stays excluded whatever its
    /// bias.
    fn apply(&mut self, row: &SamplingRow<'_>) {
        for (id, bias) in &row.params.logit_bias {
            self.change_logit(*id, |logit| logit + bias);
        }
        if let Some(counts) = row.counts {
            let penalties = row.params.penalties;
            for (id, count) in &counts.in_answer {
                self.change_logit(*id, |logit| {
                    let scaled = if logit > 0.0 { logit / penalties.repetition } else { logit * penalties.repetition };
                    let present = if *count > 0 { penalties.presence } else { 0.0 };
                    scaled - present - penalties.frequency * *count as f32
                });
            }
        }
        for id in row.suppressed() {
            self.change_logit(*id, |_| EXCLUDED);
        }
        if let Some(allowed) = row.allowed {
            let excluded = self.logits.iter_mut().zip(self.first_id..).filter(|(_, id)| !allowed.contains(*id));
            excluded.for_each(|(logit, _)| *logit = EXCLUDED);
        }
    }

    /// Changes the logit of one token, if the token is in this shard.
    fn change_logit(&mut self, id: u32, change: impl FnOnce(f32) -> f32) {
        if let Some(logit) = id.checked_sub(self.first_id).and_then(|at| self.logits.get_mut(at as usize)) {
            *logit = change(*logit);
        }
    }
}

#[cfg(test)]
mod tests;
