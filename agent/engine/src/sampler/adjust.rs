//! What changes single logits before a token is chosen: biases, penalties, tokens that are not allowed yet.
//!
//! Every change depends on one token's logit and on what all ranks know, so each rank makes it on its own part, and the
//! result does not depend on how the vocabulary is split.

use std::borrow::Cow;
use std::collections::HashMap;

use lockstep_schedule::plan::TokenHistory;

use super::Row;

/// The logit of a token that must not be chosen: below any that a model gives, and finite, so that sums, differences
/// and quotients by the least temperature stay numbers.
const EXCLUDED: f32 = -1e30;

/// Whether a logit is that of a token that must not be chosen.
pub fn is_excluded(logit: f32) -> bool {
    logit <= EXCLUDED
}

/// How often tokens are in a sequence, for penalties.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenCounts {
    /// Of each token that is there: how often in the answer; 0 where only the prompt has it.
    in_answer: HashMap<u32, u32>,
}

impl TokenCounts {
    /// Of a sequence that is admitted.
    pub fn of(history: &TokenHistory) -> Self {
        let mut counts = Self { in_answer: history.prompt.iter().map(|token| (*token, 0)).collect() };
        history.answer.iter().for_each(|token| counts.add(*token));
        counts
    }

    /// One more token of the answer.
    pub fn add(&mut self, token: u32) {
        *self.in_answer.entry(token).or_default() += 1;
    }
}

/// The logits as tokens are chosen by them; `logits` is this rank's `[rows, part]`, whose first column is the token
/// `first_id`. A copy only where a row asks for a change.
pub fn adjust<'a>(rows: &[Row<'_>], logits: &'a [f32], part: usize, first_id: u32) -> Cow<'a, [f32]> {
    let mut logits = Cow::Borrowed(logits);
    for (index, row) in rows.iter().enumerate() {
        if row.is_adjusted() {
            let mut part = Part { first_id, logits: &mut logits.to_mut()[index * part..(index + 1) * part] };
            part.adjust(row);
        }
    }
    logits
}

impl Row<'_> {
    fn is_adjusted(&self) -> bool {
        let params = self.params;
        let biased = self.counts.is_some() || !params.logit_bias.is_empty();
        biased || self.allowed.is_some() || !self.suppressed().is_empty()
    }

    /// Tokens that must not be chosen at this position.
    fn suppressed(&self) -> &[u32] {
        if self.position < self.params.suppressed_until { &self.params.suppressed } else { &[] }
    }
}

/// This rank's part of one row.
struct Part<'a> {
    first_id: u32,
    logits: &'a mut [f32],
}

impl Part<'_> {
    /// In the order of vLLM: biases, penalties; what is excluded stays so whatever its bias.
    fn adjust(&mut self, row: &Row<'_>) {
        for (id, bias) in &row.params.logit_bias {
            self.change(*id, |logit| logit + bias);
        }
        if let Some(counts) = row.counts {
            let penalties = row.params.penalties;
            for (id, count) in &counts.in_answer {
                self.change(*id, |logit| {
                    let scaled = if logit > 0.0 { logit / penalties.repetition } else { logit * penalties.repetition };
                    let present = if *count > 0 { penalties.presence } else { 0.0 };
                    scaled - present - penalties.frequency * *count as f32
                });
            }
        }
        for id in row.suppressed() {
            self.change(*id, |_| EXCLUDED);
        }
        if let Some(allowed) = row.allowed {
            let excluded = self.logits.iter_mut().zip(self.first_id..).filter(|(_, id)| !allowed.contains(*id));
            excluded.for_each(|(logit, _)| *logit = EXCLUDED);
        }
    }

    /// Changes the logit of one token, where it is in this part.
    fn change(&mut self, id: u32, change: impl FnOnce(f32) -> f32) {
        if let Some(logit) = id.checked_sub(self.first_id).and_then(|at| self.logits.get_mut(at as usize)) {
            *logit = change(*logit);
        }
    }
}

#[cfg(test)]
mod tests {
    use lockstep_schedule::plan::{Penalties, SamplingParams};

    use super::*;

    fn adjusted(params: &SamplingParams, counts: Option<&TokenCounts>, position: u32, logits: &[f32]) -> Vec<f32> {
        let row = Row { seq: 1, params, counts, allowed: None, position };
        let whole = adjust(&[row], logits, logits.len(), 0).into_owned();
        let halves = logits.chunks(logits.len() / 2).zip([0, logits.len() as u32 / 2]);
        let halves: Vec<f32> =
            halves.flat_map(|(half, first)| adjust(&[row], half, half.len(), first).into_owned()).collect();
        assert_eq!(whole, halves, "however the row is split");
        whole
    }

    #[test]
    fn penalties_follow_the_counts() {
        let penalties = Penalties { repetition: 2.0, presence: 0.5, frequency: 0.25 };
        let params = SamplingParams { penalties, ..Default::default() };
        let mut counts = TokenCounts::of(&TokenHistory { prompt: vec![0, 1, 1], answer: vec![1] });
        counts.add(3);
        counts.add(3);
        let logits = [4.0, 4.0, 4.0, -4.0];
        assert_eq!(adjusted(&params, Some(&counts), 5, &logits), [2.0, 2.0 - 0.75, 4.0, -8.0 - 1.0]);
    }

    #[test]
    fn biases_add_and_bans_last_until_their_position() {
        let params = SamplingParams {
            logit_bias: vec![(1, -2.0), (2, 100.0), (9, 1.0)],
            suppressed: vec![2],
            suppressed_until: 6,
            ..Default::default()
        };
        assert_eq!(adjusted(&params, None, 5, &[1.0; 4]), [1.0, -1.0, EXCLUDED, 1.0]);
        assert_eq!(adjusted(&params, None, 6, &[1.0; 4]), [1.0, -1.0, 101.0, 1.0]);
    }

    #[test]
    fn plain_rows_are_not_copied() {
        let params = SamplingParams { suppressed: vec![1], suppressed_until: 5, ..Default::default() };
        let row = |position| Row { seq: 1, params: &params, counts: None, allowed: None, position };
        assert!(matches!(adjust(&[row(5)], &[0.0; 2], 2, 0), Cow::Borrowed(_)));
        assert!(matches!(adjust(&[row(4)], &[0.0; 2], 2, 0), Cow::Owned(_)));
    }
}
