//! The sequences that a rank holds in one epoch, and the strict check of plans against them.
//!
//! [`Sequences::check`] changes nothing, and [`Sequences::apply`] takes a checked plan. So a refused plan leaves the
//! rank as it was.

use std::collections::{HashMap, HashSet};

use lockstep_schedule::plan::{Admission, BlockId, PlanEntry, PlanTokens, SamplingParams, SeqId, StepPlan, TokenMask};

use crate::sampler::TokenCounts;

/// Bounds of what a plan may contain.
#[derive(Debug, Clone, Copy)]
pub struct PlanLimits {
    pub num_blocks: u32,
    pub block_size: u32,
    pub context_length: u32,
    pub vocab_size: u32,
    pub max_num_batched_tokens: u32,
    pub max_num_seqs: u32,
}

/// State of one sequence on a rank.
#[derive(Debug, Clone)]
pub struct Sequence {
    pub params: SamplingParams,
    /// Counts of the tokens so far; `None` if the sequence has no penalties.
    pub counts: Option<TokenCounts>,
    pub block_table: Vec<BlockId>,
    /// Number of positions in the cache; `None` before the first step of the sequence.
    pub num_computed: Option<u32>,
    pub last_sampled: Option<LastSampled>,
}

/// Token that was sampled last for a sequence.
#[derive(Debug, Clone, Copy)]
pub struct LastSampled {
    /// Number of the step that sampled it.
    pub step: u64,
    /// The token; `None` on a pipeline stage that has not received it from the last stage.
    pub token: Option<u32>,
}

/// All sequences of an epoch.
#[derive(Debug, Default)]
pub struct Sequences {
    held: HashMap<SeqId, Sequence>,
}

impl Sequences {
    pub fn get(&self, seq: SeqId) -> Option<&Sequence> {
        self.held.get(&seq)
    }

    /// Checks that the plan can be executed. The error says what contradicts what.
    pub fn check(&self, plan: &StepPlan, limits: &PlanLimits) -> Result<(), String> {
        let tokens = plan.num_tokens();
        if tokens > limits.max_num_batched_tokens as usize {
            return Err(format!(
                "{tokens} tokens are more than max_num_batched_tokens ({})",
                limits.max_num_batched_tokens
            ));
        }
        let seqs = plan.entries.len();
        if seqs > limits.max_num_seqs as usize {
            return Err(format!("{seqs} sequences are more than max_num_seqs ({})", limits.max_num_seqs));
        }
        let forgotten: HashSet<SeqId> = plan.forget.iter().copied().collect();
        if let Some(unknown) = plan.forget.iter().find(|seq| !self.held.contains_key(seq)) {
            return Err(format!("forgets sequence {unknown}, which is not held"));
        }
        let mut admitted = HashSet::new();
        for Admission { seq, .. } in &plan.admit {
            let held = self.held.contains_key(seq) && !forgotten.contains(seq);
            if held || !admitted.insert(*seq) {
                return Err(format!("admits sequence {seq}, which is held already"));
            }
        }
        let mut stepped = HashSet::new();
        for entry in &plan.entries {
            if !stepped.insert(entry.seq) {
                return Err(format!("names sequence {} twice", entry.seq));
            }
            let held = if admitted.contains(&entry.seq) {
                None
            } else if forgotten.contains(&entry.seq) {
                return Err(format!("steps sequence {}, which it forgets", entry.seq));
            } else {
                Some(self.get(entry.seq).ok_or_else(|| format!("steps sequence {}, which is not held", entry.seq))?)
            };
            check_entry(entry, held, limits).map_err(|reason| format!("sequence {}: {reason}", entry.seq))?;
        }
        Ok(())
    }

    /// Applies a checked plan: forgets and admits sequences, and extends block tables.
    pub fn apply(&mut self, plan: &StepPlan) {
        for seq in &plan.forget {
            self.held.remove(seq);
        }
        for admission in &plan.admit {
            let sequence = Sequence {
                params: admission.sampling.clone(),
                counts: admission.history.as_ref().map(TokenCounts::from_history),
                block_table: Vec::new(),
                num_computed: None,
                last_sampled: None,
            };
            self.held.insert(admission.seq, sequence);
        }
        for entry in &plan.entries {
            if let Some(sequence) = self.held.get_mut(&entry.seq) {
                sequence.block_table.extend(&entry.new_blocks);
            }
        }
    }

    /// Records that the step was executed. Its positions are in the cache, and `sampled` holds one token for each
    /// sampling entry, in order, or nothing if another stage samples.
    pub fn finish(&mut self, plan: &StepPlan, sampled: impl Iterator<Item = u32>) {
        let mut sampled = sampled;
        for entry in &plan.entries {
            let Some(sequence) = self.held.get_mut(&entry.seq) else { continue };
            sequence.num_computed = Some(entry.position + num_tokens(entry));
            if entry.sample {
                // Only ranks of the last stage sample, so only they count tokens.
                let token = sampled.next();
                sequence.last_sampled = Some(LastSampled { step: plan.step, token });
                if let (Some(counts), Some(token)) = (&mut sequence.counts, token) {
                    counts.increment(token);
                }
            }
        }
    }

    /// Records that the last stage sampled `token` for `seq` in `step`. A sequence that was forgotten, or that a later
    /// step sampled for, ignores it.
    pub fn record_sampled(&mut self, seq: SeqId, step: u64, token: u32) {
        let last = self.held.get_mut(&seq).and_then(|sequence| sequence.last_sampled.as_mut());
        if let Some(last) = last.filter(|last| last.step == step) {
            last.token = Some(token);
        }
    }
}

/// Returns the number of tokens of an entry. A checked entry has few.
pub fn num_tokens(entry: &PlanEntry) -> u32 {
    u32::try_from(entry.tokens.len()).unwrap_or(u32::MAX)
}

fn check_entry(entry: &PlanEntry, held: Option<&Sequence>, limits: &PlanLimits) -> Result<(), String> {
    match &entry.tokens {
        PlanTokens::Given(ids) if ids.is_empty() => return Err("no tokens".into()),
        PlanTokens::Given(ids) => {
            if let Some(id) = ids.iter().find(|id| **id >= limits.vocab_size) {
                return Err(format!("token {id} is beyond the vocabulary of {}", limits.vocab_size));
            }
        }
        PlanTokens::LastSampled if held.is_none_or(|sequence| sequence.last_sampled.is_none()) => {
            return Err("its last sampled token is asked for, and none was sampled".into());
        }
        PlanTokens::LastSampled => {}
    }
    if let Some(allowed) = &entry.allowed {
        let words = TokenMask::num_words(limits.vocab_size as usize);
        let possible = (0..limits.vocab_size).any(|id| allowed.contains(id));
        if allowed.words().len() != words || !possible {
            return Err(format!("{allowed:?} allows nothing of a vocabulary of {}", limits.vocab_size));
        }
    }
    if let Some(num_computed) = held.and_then(|sequence| sequence.num_computed)
        && num_computed != entry.position
    {
        return Err(format!("position {} does not follow the {num_computed} computed positions", entry.position));
    }
    if let Some(targets) = &entry.prompt_targets {
        let rows = u64::from(targets.first_row) + targets.tokens.len() as u64;
        if targets.tokens.is_empty() || rows > entry.tokens.len() as u64 {
            return Err(format!("targets after {rows} rows of {}, which must be one at least", entry.tokens.len()));
        }
        if let Some(id) = targets.tokens.iter().find(|id| **id >= limits.vocab_size) {
            return Err(format!("target {id} is beyond the vocabulary of {}", limits.vocab_size));
        }
    }
    let end = u64::from(entry.position) + entry.tokens.len() as u64;
    if end > u64::from(limits.context_length) {
        return Err(format!("position {end} is beyond the context of {}", limits.context_length));
    }
    let table = held.map_or(&[][..], |sequence| &sequence.block_table);
    for (index, block) in entry.new_blocks.iter().enumerate() {
        if *block >= limits.num_blocks {
            return Err(format!("block {block} of {}", limits.num_blocks));
        }
        if table.contains(block) || entry.new_blocks[..index].contains(block) {
            return Err(format!("block {block} is in its table twice"));
        }
    }
    let capacity = (table.len() + entry.new_blocks.len()) as u64 * u64::from(limits.block_size);
    if end > capacity {
        return Err(format!("its blocks hold {capacity} positions, {end} are needed"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
