//! The plan of one step: decodes first, then prefills that have begun, then waiting sequences, within one token budget.
//!
//! If the group has pipeline stages, the stages work on several steps at once. So each step takes a share of the
//! decodes and a share of the prefills. With S stages, a sequence that step n decodes comes up again in step n + S, or
//! earlier if the head has received its token by then. In both cases the ranks have sampled the token, so the first
//! stage does not wait. A step waits for a token of a step in flight only if there is nothing else to do.
//!
//! A sequence is admitted with blocks for all tokens that it has, so only a decode can lack a block. The scheduler then
//! preempts the sequence that arrived last. Decodes are planned in the order of arrival and before prefills, so a
//! preempted sequence never has an entry in the plan that takes its blocks.

use super::micro_batches::Stall;
use super::{EpochState, InFlightEntry, InFlightStep, Scheduler, SeqKey};
use crate::block_event::{StoredBlock, short_hash};
use crate::config::SchedulerConfig;
use crate::plan::{BlockId, PlanEntry, StepPlan};
use crate::sequence::Sequence;
use crate::token_budget::MIN_TOKEN_BUDGET;

/// Most prompt tokens with log-probabilities of one step. With the 20 likeliest tokens beside each, which a client may
/// ask for, their message takes 6 MiB.
const MAX_TARGETS: usize = 1 << 15;

/// A plan that is being built.
struct PlanBuilder {
    plan: StepPlan,
    /// Prompt tokens with log-probabilities of all entries.
    num_targets: usize,
    /// Sequences of the plan's entries, in the same order.
    scheduled: Vec<SeqKey>,
}

impl PlanBuilder {
    fn new(epoch: u64, step: u64) -> Self {
        Self { plan: StepPlan { epoch, step, ..StepPlan::default() }, num_targets: 0, scheduled: Vec::new() }
    }

    /// Returns how many tokens of a prefill fit the plan.
    fn chunk_len(&self, sequence: &Sequence, token_budget: usize) -> usize {
        let most = if sequence.has_to_report() { MAX_TARGETS - self.num_targets } else { usize::MAX };
        sequence.num_unscheduled_tokens().min(token_budget).min(most)
    }

    /// Schedules the next `num_tokens` tokens of a sequence. Its block table must have slots for them.
    fn schedule(&mut self, key: SeqKey, sequence: &mut Sequence, num_tokens: usize, new_blocks: Vec<BlockId>) {
        let sample = num_tokens == sequence.num_unscheduled_tokens();
        let prompt_targets = sequence.next_targets(num_tokens);
        self.num_targets += prompt_targets.as_ref().map_or(0, |targets| targets.tokens.len());
        self.plan.entries.push(PlanEntry {
            seq: sequence.request.id,
            position: sequence.num_scheduled_tokens as u32,
            tokens: sequence.next_tokens(num_tokens),
            new_blocks,
            sample,
            allowed: None,
            prompt_targets,
        });
        self.scheduled.push(key);
        sequence.num_scheduled_tokens += num_tokens;
        if sample {
            sequence.num_in_flight += 1;
            sequence.last_sampling_step = self.plan.step;
        }
    }
}

impl Scheduler {
    /// Plans the next step of all ranks. Returns `None` if there is no group, if enough steps are in flight, or if
    /// there is nothing to do before a result or a request comes.
    pub fn next_plan(&mut self) -> Option<StepPlan> {
        let mut epoch_state = self.epoch_state.take()?;
        let has_room = epoch_state.in_flight.len() < self.config.max_steps_in_flight;
        let plan = has_room.then(|| self.plan_step(&mut epoch_state)).flatten();
        self.epoch_state = Some(epoch_state);
        plan
    }

    fn plan_step(&mut self, epoch_state: &mut EpochState) -> Option<StepPlan> {
        let mut builder = PlanBuilder::new(self.epoch, epoch_state.last_step + 1);
        let preempted = self.plan_decodes(epoch_state, &mut builder, Stall::Forbidden);
        let num_decodes = builder.scheduled.len();
        // Decodes leave at least MIN_TOKEN_BUDGET tokens to prefills, as far as the largest batch has room.
        let mut token_budget = self.token_budget.num_tokens().saturating_sub(num_decodes).max(MIN_TOKEN_BUDGET);
        token_budget = token_budget.min(self.config.max_num_batched_tokens - num_decodes).min(self.prefill_share());
        self.plan_prefills(&mut builder, &mut token_budget);
        if !preempted {
            self.admit_waiting(epoch_state, &mut builder, &mut token_budget);
        }
        if builder.scheduled.is_empty() {
            self.plan_decodes(epoch_state, &mut builder, Stall::OnOldestStep);
        }
        if builder.scheduled.is_empty() {
            return None;
        }
        // Full blocks enter the cache only now, when the plan has all its entries: no entry may share a block that the
        // same step fills.
        for key in &builder.scheduled {
            if let Some(sequence) = self.sequences.get_mut(key) {
                cache_full_blocks(&self.config, epoch_state, sequence);
            }
        }
        epoch_state.last_step += 1;
        let mut plan = builder.plan;
        plan.forget = std::mem::take(&mut epoch_state.forget);
        epoch_state.in_flight.push_back(InFlightStep {
            step: plan.step,
            num_tokens: plan.num_tokens(),
            entries: plan.entries.iter().map(InFlightEntry::from).collect(),
        });
        Some(plan)
    }

    /// Schedules one token of each decode in this step's share. Returns true if a sequence was preempted.
    fn plan_decodes(&mut self, epoch_state: &mut EpochState, builder: &mut PlanBuilder, stall: Stall) -> bool {
        let mut preempted = false;
        for key in self.select_decodes(builder.plan.step, stall) {
            // An earlier decode may have preempted this sequence.
            if !self.running.contains(&key) {
                continue;
            }
            let sequence = &self.sequences[&key];
            let num_blocks = Sequence::num_blocks_for(sequence.len(), self.config.block_size);
            let num_new_blocks = num_blocks - sequence.block_table.len();
            while epoch_state.blocks.num_available() < num_new_blocks && self.running.contains(&key) {
                self.preempt_last(epoch_state);
                preempted = true;
            }
            if !self.running.contains(&key) {
                break;
            }
            let Some(sequence) = self.sequences.get_mut(&key) else { continue };
            let new_blocks: Vec<BlockId> =
                (0..num_new_blocks).map_while(|_| epoch_state.blocks.allocate_block()).collect();
            sequence.block_table.extend(&new_blocks);
            builder.schedule(key, sequence, 1, new_blocks);
        }
        preempted
    }

    /// Preempts the running sequence that arrived last. The sequence waits again. Its next prefill computes all tokens
    /// that it has by then.
    fn preempt_last(&mut self, epoch_state: &mut EpochState) {
        let Some(key) = self.running.pop_last() else { return };
        let Some(sequence) = self.sequences.get_mut(&key) else { return };
        epoch_state.forget.push(sequence.request.id);
        epoch_state.blocks.release_blocks(&sequence.reset());
        self.waiting.insert(key);
        self.preemptions += 1;
    }

    /// Schedules further chunks of the prefills that have begun. They have all their blocks already.
    fn plan_prefills(&mut self, builder: &mut PlanBuilder, token_budget: &mut usize) {
        for &key in &self.running {
            let Some(sequence) = self.sequences.get_mut(&key) else { continue };
            let num_tokens = builder.chunk_len(sequence, *token_budget);
            if num_tokens > 0 && sequence.is_schedulable() && sequence.num_unscheduled_tokens() > 1 {
                builder.schedule(key, sequence, num_tokens, Vec::new());
                *token_budget -= num_tokens;
            }
        }
    }

    /// Admits waiting sequences strictly in the order of arrival, without those that are held, and schedules their first
    /// chunks.
    fn admit_waiting(&mut self, epoch_state: &mut EpochState, builder: &mut PlanBuilder, token_budget: &mut usize) {
        while *token_budget > 0
            && self.running.len() < self.config.max_running()
            && let Some(key) = self.first_waiting()
            && let Some(sequence) = self.sequences.get_mut(&key)
        {
            // A preempted sequence waits until no token of it is in flight.
            if sequence.num_in_flight > 0
                || builder.chunk_len(sequence, *token_budget) == 0
                || !allocate_block_table(&self.config, epoch_state, sequence, self.running.len())
            {
                return;
            }
            let num_cached_tokens = sequence.num_scheduled_tokens;
            self.prefix_query_tokens += sequence.len() as u64;
            self.prefix_hit_tokens += num_cached_tokens as u64;
            sequence.num_cached_tokens.get_or_insert(num_cached_tokens as u32);
            builder.plan.admit.push(sequence.admission());
            let num_tokens = builder.chunk_len(sequence, *token_budget);
            let new_blocks = sequence.block_table.clone();
            builder.schedule(key, sequence, num_tokens, new_blocks);
            *token_budget -= num_tokens;
            self.waiting.remove(&key);
            self.running.insert(key);
        }
    }
}

/// Gives a waiting sequence its block table: the longest cached prefix, then new blocks for the other tokens. Returns
/// false and changes nothing if there is no room.
///
/// The new table must leave one available block to each of the `num_running` other sequences, so that the new sequence
/// is not preempted at once. A sequence that runs alone always fits.
fn allocate_block_table(
    config: &SchedulerConfig,
    epoch_state: &mut EpochState,
    sequence: &mut Sequence,
    num_running: usize,
) -> bool {
    let blocks = &mut epoch_state.blocks;
    let num_blocks = Sequence::num_blocks_for(sequence.len(), config.block_size);
    let cached_prefix = if config.prefix_caching {
        let max_cached_blocks = sequence.max_cached_tokens() / config.block_size as usize;
        let block_hashes = sequence.block_hashes(&config.prefix_key, config.block_size);
        blocks.find_cached_prefix(&block_hashes[..max_cached_blocks])
    } else {
        Vec::new()
    };
    let num_taken = num_blocks - cached_prefix.len() + blocks.count_unreferenced(&cached_prefix);
    if blocks.num_available() < num_taken + num_running {
        return false;
    }
    for &block in &cached_prefix {
        blocks.share_block(block);
    }
    sequence.num_scheduled_tokens = cached_prefix.len() * config.block_size as usize;
    sequence.num_hashed_blocks = cached_prefix.len();
    sequence.block_table = cached_prefix;
    sequence.block_table.extend((sequence.block_table.len()..num_blocks).map_while(|_| blocks.allocate_block()));
    true
}

/// Offers the full blocks of a sequence to the prefix cache. A block is full once the head knows all its tokens and has
/// planned their computation. Ranks run plans in order, so any later plan may share the block.
pub(super) fn cache_full_blocks(config: &SchedulerConfig, epoch_state: &mut EpochState, sequence: &mut Sequence) {
    let num_full_blocks = sequence.num_full_blocks(config.block_size);
    if !config.prefix_caching || sequence.num_hashed_blocks >= num_full_blocks {
        return;
    }
    for index in sequence.num_hashed_blocks..num_full_blocks {
        let hashes = sequence.block_hashes(&config.prefix_key, config.block_size);
        let (hash, parent) = (hashes[index], index.checked_sub(1).map(|before| short_hash(&hashes[before])));
        let id = sequence.block_table[index];
        let is_new = epoch_state.blocks.cache_block(id, hash);
        if is_new && config.block_events && sequence.request.cache_salt.is_empty() {
            let size = config.block_size as usize;
            let tokens = sequence.tokens[index * size..(index + 1) * size].to_vec();
            epoch_state.blocks.report_stored(id, StoredBlock { hash: short_hash(&hash), parent, tokens });
        }
    }
    sequence.num_hashed_blocks = num_full_blocks;
}
