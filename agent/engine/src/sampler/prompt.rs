//! Log-probabilities of given tokens, those of prompts. Each rank holds the logits of its own part of the vocabulary, so
//! two small exchanges are needed: the first brings the token's logit and the sums to all ranks, and the second the
//! number of likelier tokens.

use lockstep_collectives::{Communicator, Slice, SliceMut};
use lockstep_kernels::{log_sum_exp, top_k};
use lockstep_schedule::plan::{PromptToken, SeqId, TokenLogprobs};

use super::choose::SamplingMethod;
use super::rank_summary::RankSummary;
use super::{MAX_CANDIDATES, RowExchange, RowSummary, Sampler};
use crate::EngineError;

/// A token whose log-probability one row of logits gives.
#[derive(Debug, Clone, Copy)]
pub struct TargetRow {
    pub seq: SeqId,
    pub token: u32,
    /// Number of likeliest tokens to report beside the token.
    pub top: u32,
}

impl Sampler {
    /// Returns the log-probability of each row's token. `logits` is this rank's `[rows, shard width]`.
    ///
    /// # Errors
    /// [`EngineError::Logits`] on all ranks alike, [`EngineError::Collective`].
    pub fn score(
        &self,
        rows: &[TargetRow],
        logits: &[f32],
        communicator: &mut dyn Communicator,
    ) -> Result<Vec<PromptToken>, EngineError> {
        let shard = Shard { first_id: self.first_id(), width: self.vocab_range(self.group.rank()).len(), logits };
        let exchanges: Vec<RowExchange> = rows.iter().map(|row| RowExchange::for_target(row.top)).collect();
        let seqs: Vec<SeqId> = rows.iter().map(|row| row.seq).collect();
        let own = rows.iter().enumerate().map(|(index, row)| shard.summarize(index, row));
        let own = own.collect::<Result<Vec<_>, _>>()?;
        let summaries = self.exchange_summaries(&seqs, &exchanges, &own, communicator)?;
        let likelier = rows.iter().zip(&summaries).enumerate();
        let likelier: Vec<u32> =
            likelier.map(|(index, (row, summary))| shard.count_likelier(index, row.token, summary.winner.0)).collect();
        let mut all_counts = vec![0; likelier.len() * self.group.world_size()];
        let counts = vec![likelier.len(); self.group.world_size()];
        communicator.all_gather(Slice::U32(&likelier), &counts, SliceMut::U32(&mut all_counts))?;
        let rank_of = |index: usize| 1 + all_counts.iter().skip(index).step_by(rows.len()).sum::<u32>();
        let tokens = summaries.iter().zip(rows).enumerate();
        Ok(tokens.map(|(index, (summary, row))| build_token(summary, row, rank_of(index))).collect())
    }
}

fn build_token(summary: &RowSummary, row: &TargetRow, rank: u32) -> PromptToken {
    let likeliest = summary.candidates.iter().take(row.top as usize);
    let top = likeliest.map(|(logit, id)| (*id, summary.log_probability(*logit))).collect();
    PromptToken { logprobs: TokenLogprobs { chosen: summary.log_probability(summary.winner.0), top }, rank }
}

impl RowExchange {
    fn for_target(top: u32) -> Self {
        let num_candidates = top.min(MAX_CANDIDATES as u32) as usize;
        Self { method: SamplingMethod::Greedy, num_candidates, needs_mass: false, needs_log_sum: true }
    }
}

/// A rank's part of all rows.
struct Shard<'a> {
    first_id: u32,
    width: usize,
    logits: &'a [f32],
}

impl Shard<'_> {
    fn row(&self, index: usize) -> &[f32] {
        &self.logits[index * self.width..(index + 1) * self.width]
    }

    /// Summarizes a row. The token is the winner of the rank that holds its logit.
    fn summarize(&self, index: usize, row: &TargetRow) -> Result<RankSummary, EngineError> {
        let logits = self.row(index);
        if !logits.iter().all(|logit| logit.is_finite()) {
            return Ok(RankSummary::default());
        }
        let own = row.token.checked_sub(self.first_id).and_then(|offset| logits.get(offset as usize));
        let top = row.top.min(MAX_CANDIDATES as u32) as usize;
        Ok(RankSummary {
            finite: true,
            log_sum: log_sum_exp(logits),
            scaled_log_sum: 0.0,
            key: if own.is_some() { 1.0 } else { 0.0 },
            winner: (own.copied().unwrap_or_default(), row.token),
            candidates: if top > 0 { top_k(logits, self.first_id, top)? } else { Vec::new() },
        })
    }

    /// Returns how many tokens of the shard come before `token`, whose logit is `logit`, in the order of all tokens.
    fn count_likelier(&self, index: usize, token: u32, logit: f32) -> u32 {
        let is_likelier = |(other, id): &(&f32, u32)| **other > logit || (**other == logit && *id < token);
        self.row(index).iter().zip(self.first_id..).filter(is_likelier).count().try_into().unwrap_or(u32::MAX)
    }
}
