//! Sampling on the ranks, identically: logits stay sharded, ranks exchange summaries of their parts.
//!
//! One all-gather serves the whole batch. Where a row's short list has too little mass for its `top_p`, a second one
//! brings the whole row. Every rank then makes the same choice from the same numbers with the same arithmetic. Biases,
//! penalties and bans change the logits of single tokens, so each rank applies them to its own part first.

mod adjust;
mod choose;
pub(crate) mod math;
mod record;

use lockstep_collectives::{Communicator, RankGroup, Slice, SliceMut};
use lockstep_kernels::{argmax, gumbel_argmax, log_sum_exp, top_k};
use lockstep_schedule::plan::{Sampled, SamplingParams, SeqId, TokenLogprobs, TokenMask};

use crate::EngineError;
pub use adjust::TokenCounts;
use adjust::{adjust, is_excluded};
use choose::{Candidate, Known, Method, choose};
use record::Record;

/// Candidates of each rank where `top_p` alone cuts: nearly always more than the mass needs.
const TOP_P_LIST: usize = 64;
/// Longest list exchanged; beyond, the whole row is.
const LONGEST_LIST: usize = 256;

/// One row that wants a token.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    pub seq: SeqId,
    pub params: &'a SamplingParams,
    /// The sequence's tokens so far, where penalties apply.
    pub counts: Option<&'a TokenCounts>,
    /// Where a grammar restricts it: the tokens that may be chosen.
    pub allowed: Option<&'a TokenMask>,
    /// Index in its sequence of the token that is chosen.
    pub position: u32,
}

/// How the vocabulary is split.
#[derive(Debug, Clone, Copy)]
pub struct Sampler {
    group: RankGroup,
    vocab_size: usize,
}

impl Sampler {
    pub fn new(group: RankGroup, vocab_size: usize) -> Self {
        Self { group, vocab_size }
    }

    /// Chooses one token a row; `logits` is this rank's `[rows, vocabulary part]`.
    ///
    /// # Errors
    /// [`EngineError::Logits`] on all ranks alike, [`EngineError::Collective`].
    pub fn sample(
        &self,
        rows: &[Row<'_>],
        logits: &[f32],
        communicator: &mut dyn Communicator,
    ) -> Result<Vec<Sampled>, EngineError> {
        let part = self.part(self.group.rank());
        let adjusted = adjust(rows, logits, part.len(), u32::try_from(part.start).unwrap_or(u32::MAX));
        let logits = &*adjusted;
        let plans: Vec<RowPlan> = rows.iter().map(|row| RowPlan::new(row.params, self.vocab_size)).collect();
        let summaries = self.exchange_records(rows, &plans, logits, communicator)?;
        let mut chosen: Vec<Option<Candidate>> = summaries
            .iter()
            .zip(rows.iter().zip(&plans))
            .map(|(summary, (row, plan))| summary.choose(plan, row))
            .collect();
        let open: Vec<usize> = (0..rows.len()).filter(|index| chosen[*index].is_none()).collect();
        if !open.is_empty() {
            let whole = self.gather_rows(&open, logits, communicator)?;
            for (index, logits) in open.iter().zip(&whole) {
                let (row, plan) = (&rows[*index], &plans[*index]);
                let candidates = top_k(logits, 0, logits.len())?;
                let known = Known { candidates: &candidates, complete: true, log_mass: summaries[*index].log_mass };
                chosen[*index] = choose(&known, plan.method, row.params, row.position);
            }
        }
        rows.iter()
            .zip(chosen)
            .zip(&summaries)
            .map(|((row, candidate), summary)| {
                // A complete row always has a choice.
                let candidate = candidate.ok_or(EngineError::Logits { seq: row.seq, rank: self.group.rank() })?;
                Ok(summary.sampled(row, candidate))
            })
            .collect()
    }

    /// Whole rows of logits, those of `which` in that order, on every rank.
    ///
    /// # Errors
    /// [`EngineError::Collective`].
    pub fn gather_rows(
        &self,
        which: &[usize],
        logits: &[f32],
        communicator: &mut dyn Communicator,
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        let part = self.part(self.group.rank()).len();
        let mine: Vec<f32> = which.iter().flat_map(|row| &logits[row * part..(row + 1) * part]).copied().collect();
        let parts: Vec<usize> = (0..self.group.world_size()).map(|rank| self.part(rank).len()).collect();
        let counts: Vec<usize> = parts.iter().map(|part| part * which.len()).collect();
        let mut gathered = vec![0.0; which.len() * self.vocab_size];
        communicator.all_gather(Slice::F32(&mine), &counts, SliceMut::F32(&mut gathered))?;
        let mut rows = vec![Vec::with_capacity(self.vocab_size); which.len()];
        let mut rest = gathered.as_slice();
        for part in parts {
            for row in &mut rows {
                let (piece, after) = rest.split_at(part);
                row.extend_from_slice(piece);
                rest = after;
            }
        }
        Ok(rows)
    }

    fn exchange_records(
        &self,
        rows: &[Row<'_>],
        plans: &[RowPlan],
        logits: &[f32],
        communicator: &mut dyn Communicator,
    ) -> Result<Vec<Summary>, EngineError> {
        let part = self.part(self.group.rank());
        let first_id = u32::try_from(part.start).unwrap_or(u32::MAX);
        let mut mine = Vec::new();
        for (index, (row, plan)) in rows.iter().zip(plans).enumerate() {
            let logits = &logits[index * part.len()..(index + 1) * part.len()];
            plan.summarize(row, logits, first_id)?.write(plan.list_length, &mut mine);
        }
        let world_size = self.group.world_size();
        let mut all = vec![0; mine.len() * world_size];
        communicator.all_gather(Slice::U32(&mine), &vec![mine.len(); world_size], SliceMut::U32(&mut all))?;
        let mut start = 0;
        let mut summaries = Vec::with_capacity(rows.len());
        for (row, plan) in rows.iter().zip(plans) {
            let words = Record::words(plan.list_length);
            let of_rank = |rank: usize| Record::read(&all[rank * mine.len() + start..][..words]);
            let records: Vec<Record> = (0..world_size).map(of_rank).collect();
            if let Some(rank) = records.iter().position(|record| !record.finite) {
                return Err(EngineError::Logits { seq: row.seq, rank });
            }
            summaries.push(self.merge(plan, &records));
            start += words;
        }
        Ok(summaries)
    }

    /// Joins the ranks' summaries of one row.
    fn merge(&self, plan: &RowPlan, records: &[Record]) -> Summary {
        let greater = |best: &Record, next: &Record| {
            next.key > best.key || (next.key == best.key && next.winner.1 < best.winner.1)
        };
        let winner = records.iter().reduce(|best, next| if greater(best, next) { next } else { best });
        let mut list: Vec<Candidate> = records.iter().flat_map(|record| record.list.iter().copied()).collect();
        list.sort_unstable_by(falling);
        // What a rank left out is at most its last: the list is exact down to the greatest such.
        let cut_short = |(rank, record): (usize, &Record)| {
            (self.part(rank).len() > plan.list_length).then(|| record.list.last().copied()).flatten()
        };
        let bound = records.iter().enumerate().filter_map(cut_short).min_by(falling);
        if let Some(bound) = bound {
            list.truncate(list.partition_point(|candidate| falling(candidate, &bound).is_le()));
        }
        let most = list.first().map_or(0.0, |(logit, _)| *logit);
        let scaled = |temperature: f32| {
            let below = |record: &Record| (record.list.first().map_or(0.0, |(logit, _)| *logit) - most) / temperature;
            join(records.iter().map(|record| record.scaled_log_sum + below(record)))
        };
        Summary {
            winner: winner.map_or((f32::NEG_INFINITY, 0), |record| record.winner),
            complete: list.len() == self.vocab_size,
            list,
            log_sum: join(records.iter().map(|record| record.log_sum)),
            log_mass: match plan.method {
                Method::Cut { temperature, .. } if plan.needs_mass => Some(scaled(temperature)),
                _ => None,
            },
        }
    }

    fn part(&self, rank: usize) -> std::ops::Range<usize> {
        RankGroup::new(rank, self.group.world_size()).map_or(0..0, |group| group.part_of(self.vocab_size))
    }
}

/// What is exchanged for one row; follows from its parameters, so all ranks agree.
#[derive(Debug, Clone, Copy)]
struct RowPlan {
    method: Method,
    list_length: usize,
    needs_mass: bool,
    needs_log_sum: bool,
}

impl RowPlan {
    fn new(params: &SamplingParams, vocab_size: usize) -> Self {
        let method = Method::of(params, vocab_size);
        let list = match method {
            Method::Cut { top_k: 0, .. } => TOP_P_LIST,
            Method::Cut { top_k, .. } if top_k <= LONGEST_LIST => top_k,
            _ => 0,
        };
        Self {
            method,
            list_length: list.max(params.logprobs.unwrap_or(0).min(LONGEST_LIST as u32) as usize),
            needs_mass: matches!(method, Method::Cut { top_k: 0, top_p, .. } if top_p < 1.0),
            needs_log_sum: params.logprobs.is_some(),
        }
    }

    fn summarize(&self, row: &Row<'_>, logits: &[f32], first_id: u32) -> Result<Record, EngineError> {
        if !logits.iter().all(|logit| logit.is_finite()) {
            return Ok(Record::default());
        }
        let SamplingParams { seed, choice, .. } = *row.params;
        let (key, id) = match self.method {
            Method::Greedy => argmax(logits, first_id)?,
            Method::Pure { temperature } => gumbel_argmax(logits, first_id, temperature, seed, choice, row.position)?,
            Method::Cut { .. } => (0.0, first_id),
        };
        let list = if self.list_length > 0 { top_k(logits, first_id, self.list_length)? } else { Vec::new() };
        let most = list.first().map_or(0.0, |(logit, _)| *logit);
        let scaled = |temperature: f32| logits.iter().map(|logit| (logit - most) / temperature).collect::<Vec<_>>();
        Ok(Record {
            finite: true,
            log_sum: if self.needs_log_sum { log_sum_exp(logits) } else { 0.0 },
            scaled_log_sum: match self.method {
                Method::Cut { temperature, .. } if self.needs_mass => log_sum_exp(&scaled(temperature)),
                _ => 0.0,
            },
            key,
            winner: (logits[(id - first_id) as usize], id),
            list,
        })
    }
}

/// What all ranks know of one row.
#[derive(Debug)]
struct Summary {
    winner: Candidate,
    list: Vec<Candidate>,
    complete: bool,
    log_sum: f64,
    log_mass: Option<f64>,
}

impl Summary {
    fn choose(&self, plan: &RowPlan, row: &Row<'_>) -> Option<Candidate> {
        match plan.method {
            Method::Greedy | Method::Pure { .. } => Some(self.winner),
            Method::Cut { .. } => {
                let known = Known { candidates: &self.list, complete: self.complete, log_mass: self.log_mass };
                choose(&known, plan.method, row.params, row.position)
            }
        }
    }

    fn sampled(&self, row: &Row<'_>, (logit, token): Candidate) -> Sampled {
        #[expect(clippy::cast_possible_truncation, reason = "log-probabilities are reported in f32")]
        let log_probability = |logit: f32| (f64::from(logit) - self.log_sum) as f32;
        let likely = self.list.iter().filter(|(logit, _)| !is_excluded(*logit));
        let logprobs = row.params.logprobs.map(|count| TokenLogprobs {
            chosen: log_probability(logit),
            top: likely.take(count as usize).map(|(logit, id)| (*id, log_probability(*logit))).collect(),
        });
        Sampled { seq: row.seq, token, logprobs }
    }
}

/// `ln Σ exp` of logarithms of sums.
fn join(parts: impl Iterator<Item = f32> + Clone) -> f64 {
    let most = parts.clone().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = parts.map(|part| math::exp(f64::from(part) - f64::from(most))).sum();
    f64::from(most) + math::ln(sum)
}

/// By falling logit, then by rising id. Logits are finite here.
fn falling(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.0.partial_cmp(&a.0).unwrap_or(std::cmp::Ordering::Equal).then(a.1.cmp(&b.1))
}

#[cfg(test)]
mod tests;
