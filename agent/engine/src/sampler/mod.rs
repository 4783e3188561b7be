//! Sampling, which all ranks do identically: logits stay sharded, and the ranks exchange summaries of their shards.
//!
//! One all-gather serves the whole batch. A second all-gather brings a whole row in three cases: `top_k` or the number of
//! log-probabilities is above `MAX_CANDIDATES`, or the row has no `top_k` and neither `top_p` nor `min_p` ends within the
//! candidates that the ranks sent. Every rank then makes the same choice from the same numbers with the same arithmetic.
//! Biases, penalties and bans change the logits of single tokens, so each rank first applies them to its own shard.

mod adjust;
mod choose;
pub(crate) mod math;
mod prompt;
mod rank_summary;

use lockstep_collectives::{Communicator, RankGroup, Slice, SliceMut};
use lockstep_kernels::{argmax, gumbel_argmax, log_sum_exp, top_k};
use lockstep_schedule::plan::{Sampled, SamplingParams, SeqId, TokenLogprobs, TokenMask};

use crate::EngineError;
pub use adjust::TokenCounts;
use adjust::{adjust_logits, is_excluded};
use choose::{Candidate, KnownCandidates, SamplingMethod, choose_token};
pub use prompt::TargetRow;
use rank_summary::RankSummary;

/// Candidates of each rank if `top_p` or `min_p` limits a row and `top_k` does not. One of the two filters nearly always
/// ends within these candidates. If neither does, the ranks gather the whole row.
const TOP_P_CANDIDATES: usize = 64;
/// Most candidates that a rank sends. If more are needed, it sends the whole row.
const MAX_CANDIDATES: usize = 256;

/// One row of logits from which to sample a token.
#[derive(Debug, Clone, Copy)]
pub struct SamplingRow<'a> {
    pub seq: SeqId,
    pub params: &'a SamplingParams,
    /// Counts of the sequence's tokens so far; `None` if it has no penalties.
    pub counts: Option<&'a TokenCounts>,
    /// Tokens that a grammar allows; `None` if there is no grammar.
    pub allowed: Option<&'a TokenMask>,
    /// Index in its sequence of the token that is sampled.
    pub position: u32,
}

impl SamplingRow<'_> {
    /// Returns true if the row reports more tokens than the ranks send in a summary.
    fn needs_whole_row(&self) -> bool {
        self.params.logprobs.is_some_and(|count| count as usize > MAX_CANDIDATES)
    }
}

/// Sampler of one rank, which knows the sharding of the vocabulary.
#[derive(Debug, Clone, Copy)]
pub struct Sampler {
    group: RankGroup,
    vocab_size: usize,
}

impl Sampler {
    pub fn new(group: RankGroup, vocab_size: usize) -> Self {
        Self { group, vocab_size }
    }

    /// Samples one token for each row. `logits` is this rank's `[rows, shard width]`.
    ///
    /// # Errors
    /// [`EngineError::Logits`] on all ranks alike, [`EngineError::Collective`].
    pub fn sample(
        &self,
        rows: &[SamplingRow<'_>],
        logits: &[f32],
        communicator: &mut dyn Communicator,
    ) -> Result<Vec<Sampled>, EngineError> {
        let (first_id, width) = (self.first_id(), self.vocab_range(self.group.rank()).len());
        let adjusted = adjust_logits(rows, logits, width, first_id);
        let logits = &*adjusted;
        let exchanges: Vec<RowExchange> =
            rows.iter().map(|row| RowExchange::new(row.params, self.vocab_size)).collect();
        let own = rows.iter().zip(&exchanges).enumerate().map(|(index, (row, exchange))| {
            exchange.summarize(row, &logits[index * width..(index + 1) * width], first_id)
        });
        let own = own.collect::<Result<Vec<_>, _>>()?;
        let seqs: Vec<SeqId> = rows.iter().map(|row| row.seq).collect();
        let mut summaries = self.exchange_summaries(&seqs, &exchanges, &own, communicator)?;
        let mut chosen: Vec<Option<Candidate>> = summaries
            .iter()
            .zip(rows.iter().zip(&exchanges))
            .map(|(summary, (row, exchange))| summary.choose_token(exchange, row))
            .collect();
        let is_needed_whole = |index: &usize| chosen[*index].is_none() || rows[*index].needs_whole_row();
        let whole: Vec<usize> = (0..rows.len()).filter(is_needed_whole).collect();
        if !whole.is_empty() {
            let whole_rows = self.gather_rows(&whole, logits, communicator)?;
            for (index, logits) in whole.into_iter().zip(&whole_rows) {
                let summary = &mut summaries[index];
                summary.candidates = top_k(logits, 0, logits.len())?;
                summary.is_whole_vocabulary = true;
                if chosen[index].is_none() {
                    chosen[index] = summary.choose_token(&exchanges[index], &rows[index]);
                }
            }
        }
        rows.iter()
            .zip(chosen)
            .zip(&summaries)
            .map(|((row, candidate), summary)| {
                // A whole row always has a choice.
                let candidate = candidate.ok_or(EngineError::Logits { seq: row.seq, rank: self.group.rank() })?;
                Ok(summary.build_sampled(row, candidate))
            })
            .collect()
    }

    /// Gathers whole rows of logits on every rank: those of `indices`, in that order.
    ///
    /// # Errors
    /// [`EngineError::Collective`].
    pub fn gather_rows(
        &self,
        indices: &[usize],
        logits: &[f32],
        communicator: &mut dyn Communicator,
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        let width = self.vocab_range(self.group.rank()).len();
        let own_rows: Vec<f32> =
            indices.iter().flat_map(|row| &logits[row * width..(row + 1) * width]).copied().collect();
        let widths: Vec<usize> = (0..self.group.world_size()).map(|rank| self.vocab_range(rank).len()).collect();
        let counts: Vec<usize> = widths.iter().map(|width| width * indices.len()).collect();
        let mut gathered = vec![0.0; indices.len() * self.vocab_size];
        communicator.all_gather(Slice::F32(&own_rows), &counts, SliceMut::F32(&mut gathered))?;
        let mut rows = vec![Vec::with_capacity(self.vocab_size); indices.len()];
        let mut remaining = gathered.as_slice();
        for width in widths {
            for row in &mut rows {
                let (shard, after) = remaining.split_at(width);
                row.extend_from_slice(shard);
                remaining = after;
            }
        }
        Ok(rows)
    }

    /// Exchanges the ranks' summaries of all rows, and merges those of each row. `seqs` are the rows' sequences.
    fn exchange_summaries(
        &self,
        seqs: &[SeqId],
        exchanges: &[RowExchange],
        own: &[RankSummary],
        communicator: &mut dyn Communicator,
    ) -> Result<Vec<RowSummary>, EngineError> {
        let mut own_words = Vec::new();
        for (summary, exchange) in own.iter().zip(exchanges) {
            summary.append_to(exchange.num_candidates, &mut own_words);
        }
        let world_size = self.group.world_size();
        let mut all_words = vec![0; own_words.len() * world_size];
        communicator.all_gather(
            Slice::U32(&own_words),
            &vec![own_words.len(); world_size],
            SliceMut::U32(&mut all_words),
        )?;
        let mut start = 0;
        let mut summaries = Vec::with_capacity(seqs.len());
        for (seq, exchange) in seqs.iter().zip(exchanges) {
            let num_words = RankSummary::num_words(exchange.num_candidates);
            let of_rank =
                |rank: usize| RankSummary::from_words(&all_words[rank * own_words.len() + start..][..num_words]);
            let rank_summaries: Vec<RankSummary> = (0..world_size).map(of_rank).collect();
            if let Some(rank) = rank_summaries.iter().position(|rank_summary| !rank_summary.finite) {
                return Err(EngineError::Logits { seq: *seq, rank });
            }
            summaries.push(self.merge(exchange, &rank_summaries));
            start += num_words;
        }
        Ok(summaries)
    }

    /// Merges the ranks' summaries of one row.
    fn merge(&self, exchange: &RowExchange, rank_summaries: &[RankSummary]) -> RowSummary {
        let greater = |best: &RankSummary, next: &RankSummary| {
            next.key > best.key || (next.key == best.key && next.winner.1 < best.winner.1)
        };
        let winner = rank_summaries.iter().reduce(|best, next| if greater(best, next) { next } else { best });
        let mut candidates: Vec<Candidate> =
            rank_summaries.iter().flat_map(|rank_summary| rank_summary.candidates.iter().copied()).collect();
        candidates.sort_unstable_by(by_descending_logit);
        // The candidates that a rank does not send are at most its last one. So the merged list is exact down to the
        // greatest of these last ones.
        let cut_short = |(rank, rank_summary): (usize, &RankSummary)| {
            (self.vocab_range(rank).len() > exchange.num_candidates)
                .then(|| rank_summary.candidates.last().copied())
                .flatten()
        };
        let bound = rank_summaries.iter().enumerate().filter_map(cut_short).min_by(by_descending_logit);
        if let Some(bound) = bound {
            candidates.truncate(candidates.partition_point(|candidate| by_descending_logit(candidate, &bound).is_le()));
        }
        let max = candidates.first().map_or(0.0, |(logit, _)| *logit);
        let scaled = |temperature: f32| {
            let below = |rank_summary: &RankSummary| {
                (rank_summary.candidates.first().map_or(0.0, |(logit, _)| *logit) - max) / temperature
            };
            add_log_sums(rank_summaries.iter().map(|rank_summary| rank_summary.scaled_log_sum + below(rank_summary)))
        };
        RowSummary {
            winner: winner.map_or((f32::NEG_INFINITY, 0), |rank_summary| rank_summary.winner),
            is_whole_vocabulary: candidates.len() == self.vocab_size,
            candidates,
            log_sum: add_log_sums(rank_summaries.iter().map(|rank_summary| rank_summary.log_sum)),
            log_mass: match exchange.method {
                SamplingMethod::Truncated { temperature, .. } if exchange.needs_mass => Some(scaled(temperature)),
                _ => None,
            },
        }
    }

    /// Returns the first token of this rank's shard.
    fn first_id(&self) -> u32 {
        u32::try_from(self.vocab_range(self.group.rank()).start).unwrap_or(u32::MAX)
    }

    fn vocab_range(&self, rank: usize) -> std::ops::Range<usize> {
        RankGroup::new(rank, self.group.world_size()).map_or(0..0, |group| group.part_of(self.vocab_size))
    }
}

/// Contents of the exchange for one row. They follow from the row's parameters, so all ranks agree.
#[derive(Debug, Clone, Copy)]
struct RowExchange {
    method: SamplingMethod,
    num_candidates: usize,
    needs_mass: bool,
    needs_log_sum: bool,
}

impl RowExchange {
    fn new(params: &SamplingParams, vocab_size: usize) -> Self {
        let method = SamplingMethod::from_params(params, vocab_size);
        let candidates = match method {
            SamplingMethod::Truncated { top_k: 0, .. } => TOP_P_CANDIDATES,
            SamplingMethod::Truncated { top_k, .. } if top_k <= MAX_CANDIDATES => top_k,
            _ => 0,
        };
        // Only the mass of the whole vocabulary tells whether the candidates that are sent have a share of it.
        let needs_mass = match method {
            SamplingMethod::Greedy | SamplingMethod::WholeVocabulary { temperature: _ } => false,
            SamplingMethod::Truncated { temperature: _, top_k, top_p, min_p: _ } => top_k == 0 && top_p < 1.0,
        };
        Self {
            method,
            num_candidates: candidates.max(params.logprobs.unwrap_or(0).min(MAX_CANDIDATES as u32) as usize),
            needs_mass,
            needs_log_sum: params.logprobs.is_some(),
        }
    }

    fn summarize(&self, row: &SamplingRow<'_>, logits: &[f32], first_id: u32) -> Result<RankSummary, EngineError> {
        if !logits.iter().all(|logit| logit.is_finite()) {
            return Ok(RankSummary::default());
        }
        let SamplingParams { seed, choice, .. } = *row.params;
        let (key, id) = match self.method {
            SamplingMethod::Greedy => argmax(logits, first_id)?,
            SamplingMethod::WholeVocabulary { temperature } => {
                gumbel_argmax(logits, first_id, temperature, seed, choice, row.position)?
            }
            SamplingMethod::Truncated { .. } => (0.0, first_id),
        };
        let candidates =
            if self.num_candidates > 0 { top_k(logits, first_id, self.num_candidates)? } else { Vec::new() };
        let max = candidates.first().map_or(0.0, |(logit, _)| *logit);
        let scaled = |temperature: f32| logits.iter().map(|logit| (logit - max) / temperature).collect::<Vec<_>>();
        Ok(RankSummary {
            finite: true,
            log_sum: if self.needs_log_sum { log_sum_exp(logits) } else { 0.0 },
            scaled_log_sum: match self.method {
                SamplingMethod::Truncated { temperature, .. } if self.needs_mass => log_sum_exp(&scaled(temperature)),
                _ => 0.0,
            },
            key,
            winner: (logits[(id - first_id) as usize], id),
            candidates,
        })
    }
}

/// Merged summary of one row, which all ranks have.
#[derive(Debug)]
struct RowSummary {
    winner: Candidate,
    candidates: Vec<Candidate>,
    is_whole_vocabulary: bool,
    log_sum: f64,
    log_mass: Option<f64>,
}

impl RowSummary {
    fn choose_token(&self, exchange: &RowExchange, row: &SamplingRow<'_>) -> Option<Candidate> {
        match exchange.method {
            SamplingMethod::Greedy | SamplingMethod::WholeVocabulary { .. } => Some(self.winner),
            SamplingMethod::Truncated { .. } => {
                let known = KnownCandidates {
                    candidates: &self.candidates,
                    is_whole_vocabulary: self.is_whole_vocabulary,
                    log_mass: self.log_mass,
                };
                choose_token(&known, exchange.method, row.params, row.position)
            }
        }
    }

    fn build_sampled(&self, row: &SamplingRow<'_>, (logit, token): Candidate) -> Sampled {
        let likely = self.candidates.iter().filter(|(logit, _)| !is_excluded(*logit));
        let logprobs = row.params.logprobs.map(|count| TokenLogprobs {
            chosen: self.log_probability(logit),
            top: likely.take(count as usize).map(|(logit, id)| (*id, self.log_probability(*logit))).collect(),
        });
        Sampled { seq: row.seq, token, logprobs }
    }

    #[expect(clippy::cast_possible_truncation, reason = "log-probabilities are reported in f32")]
    fn log_probability(&self, logit: f32) -> f32 {
        (f64::from(logit) - self.log_sum) as f32
    }
}

/// Computes `ln Σ exp` over all shards from the logarithms of their sums.
fn add_log_sums(log_sums: impl Iterator<Item = f32> + Clone) -> f64 {
    let max = log_sums.clone().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = log_sums.map(|log_sum| math::exp(f64::from(log_sum) - f64::from(max))).sum();
    f64::from(max) + math::ln(sum)
}

/// Orders by descending logit, then by ascending id. Logits are finite here.
fn by_descending_logit(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.0.partial_cmp(&a.0).unwrap_or(std::cmp::Ordering::Equal).then(a.1.cmp(&b.1))
}

#[cfg(test)]
mod tests;
