//! One plan: decodes first, then the prefills that have begun, then what waits, within one token budget.
//!
//! Ranks in several pipeline stages work on several steps at once. So a step takes a share of the sequences that decode
//! and a share of the prefills, and a sequence whose token is still being computed comes up again only after as many
//! steps as there are stages: by then the token is there when the first stage wants it. Only where nothing else can be
//! done does a step follow right after the one that it waits for.
//!
//! A sequence gets the blocks of all tokens that it has when it is admitted, so only a decode can want for a block; then
//! the sequence that arrived last gives up its own. Decodes are planned in the order of arrival and before prefills, so
//! a victim never has an entry in the plan that takes its blocks.

use super::micro_batches::Wait;
use super::{Arrival, Flight, Group, Scheduler};
use crate::budget::MIN_TOKEN_BUDGET;
use crate::config::SchedulerConfig;
use crate::plan::{BlockId, PlanEntry, StepPlan};
use crate::sequence::Sequence;

/// A plan in the making.
struct Draft {
    plan: StepPlan,
    /// Who has an entry, in the plan's order.
    planned: Vec<Arrival>,
}

impl Draft {
    fn new(epoch: u64, step: u64) -> Self {
        Self { plan: StepPlan { epoch, step, ..StepPlan::default() }, planned: Vec::new() }
    }

    /// Plans the next `count` tokens of a sequence, which must have a place.
    fn push(&mut self, arrival: Arrival, sequence: &mut Sequence, count: usize, new_blocks: Vec<BlockId>) {
        let sample = count == sequence.remaining();
        self.plan.entries.push(PlanEntry {
            seq: sequence.request.id,
            position: sequence.planned as u32,
            tokens: sequence.next_tokens(count),
            new_blocks,
            sample,
            allowed: None,
        });
        self.planned.push(arrival);
        sequence.planned += count;
        if sample {
            sequence.pending += 1;
            sequence.sampled_in = self.plan.step;
        }
    }
}

impl Scheduler {
    /// The next step for all ranks. None: no group, enough steps in flight, or nothing that can be done before a
    /// result or a request comes.
    pub fn next_plan(&mut self) -> Option<StepPlan> {
        let mut group = self.group.take()?;
        let plan = (group.in_flight.len() < self.config.max_steps_in_flight).then(|| self.plan(&mut group)).flatten();
        self.group = Some(group);
        plan
    }

    fn plan(&mut self, group: &mut Group) -> Option<StepPlan> {
        let mut draft = Draft::new(self.epoch, group.step + 1);
        let preempted = self.plan_decodes(group, &mut draft, Wait::None);
        let decodes = draft.planned.len();
        // However many decodes there are, prefills go on, if slowly.
        let mut left = self.budget.get().saturating_sub(decodes).max(MIN_TOKEN_BUDGET);
        left = left.min(self.config.max_num_batched_tokens - decodes).min(self.prefill_share());
        self.plan_prefills(&mut draft, &mut left);
        if !preempted {
            self.admit(group, &mut draft, &mut left);
        }
        if draft.planned.is_empty() {
            self.plan_decodes(group, &mut draft, Wait::ForOldest);
        }
        if draft.planned.is_empty() {
            return None;
        }
        // Only now: within one step nobody may rely on a block that the same step fills.
        for arrival in &draft.planned {
            if let Some(sequence) = self.sequences.get_mut(arrival) {
                name_full_blocks(&self.config, group, sequence);
            }
        }
        group.step += 1;
        let mut plan = draft.plan;
        plan.forget = std::mem::take(&mut group.forget);
        group.in_flight.push_back(Flight {
            step: plan.step,
            tokens: plan.num_tokens(),
            entries: plan.entries.iter().map(|entry| (entry.seq, entry.sample)).collect(),
        });
        Some(plan)
    }

    /// One token for each of a share of the sequences that have no more than one to compute. True if one had to give up
    /// its blocks.
    fn plan_decodes(&mut self, group: &mut Group, draft: &mut Draft, wait: Wait) -> bool {
        let mut preempted = false;
        for arrival in self.decodes(draft.plan.step, wait) {
            // A sequence that arrived later may have been preempted for one before.
            if !self.running.contains(&arrival) {
                continue;
            }
            let sequence = &self.sequences[&arrival];
            let missing = Sequence::blocks_for(sequence.len(), self.config.block_size) - sequence.table.len();
            while group.blocks.available() < missing && self.running.contains(&arrival) {
                self.preempt_last(group);
                preempted = true;
            }
            if !self.running.contains(&arrival) {
                break;
            }
            let Some(sequence) = self.sequences.get_mut(&arrival) else { continue };
            let new_blocks: Vec<BlockId> = (0..missing).map_while(|_| group.blocks.allocate()).collect();
            sequence.table.extend(&new_blocks);
            draft.push(arrival, sequence, 1, new_blocks);
        }
        preempted
    }

    /// The sequence that arrived last waits again: it will be prefilled with all that it has by then.
    fn preempt_last(&mut self, group: &mut Group) {
        let Some(arrival) = self.running.pop_last() else { return };
        let Some(sequence) = self.sequences.get_mut(&arrival) else { return };
        group.forget.push(sequence.request.id);
        group.blocks.release(&sequence.withdraw());
        self.waiting.insert(arrival);
        self.preemptions += 1;
    }

    /// Further chunks of the prefills that have begun. Their blocks are theirs already.
    fn plan_prefills(&mut self, draft: &mut Draft, left: &mut usize) {
        for &arrival in &self.running {
            let Some(sequence) = self.sequences.get_mut(&arrival) else { continue };
            let count = sequence.remaining().min(*left);
            if count > 0 && sequence.is_ready() && sequence.remaining() > 1 {
                draft.push(arrival, sequence, count, Vec::new());
                *left -= count;
            }
        }
    }

    /// Begins sequences that wait, strictly in the order of arrival.
    fn admit(&mut self, group: &mut Group, draft: &mut Draft, left: &mut usize) {
        while *left > 0
            && self.running.len() < self.config.max_running()
            && let Some(&arrival) = self.waiting.first()
            && let Some(sequence) = self.sequences.get_mut(&arrival)
        {
            // After a preemption, tokens that are still on their way are waited for.
            if sequence.pending > 0 || !place(&self.config, group, sequence, self.running.len()) {
                return;
            }
            let cached = sequence.planned;
            self.prefix_query_tokens += sequence.len() as u64;
            self.prefix_hit_tokens += cached as u64;
            sequence.cached_tokens.get_or_insert(cached as u32);
            draft.plan.admit.push(sequence.admission());
            let count = sequence.remaining().min(*left);
            let table = sequence.table.clone();
            draft.push(arrival, sequence, count, table);
            *left -= count;
            self.waiting.remove(&arrival);
            self.running.insert(arrival);
        }
    }
}

/// Gives a sequence that waits its block table: the longest cached prefix, and blocks of its own for the rest. False,
/// and nothing changed, if there is no room. Beside other sequences it must leave them a block each to grow into, so
/// that it is not preempted at once; alone it always fits.
fn place(config: &SchedulerConfig, group: &mut Group, sequence: &mut Sequence, running: usize) -> bool {
    let blocks = &mut group.blocks;
    let needed = Sequence::blocks_for(sequence.len(), config.block_size);
    let shared = if config.prefix_caching {
        // At least one token must be computed: the next one is sampled after it.
        let most = (sequence.len() - 1) / config.block_size as usize;
        let names = sequence.names(&config.prefix_key, config.block_size);
        blocks.find(&names[..most])
    } else {
        Vec::new()
    };
    let taken = needed - shared.len() + blocks.count_unreferenced(&shared);
    if blocks.available() < taken + running {
        return false;
    }
    for &block in &shared {
        blocks.share(block);
    }
    sequence.planned = shared.len() * config.block_size as usize;
    sequence.named = shared.len();
    sequence.table = shared;
    sequence.table.extend((sequence.table.len()..needed).map_while(|_| blocks.allocate()));
    true
}

/// Offers the blocks of a sequence to the prefix cache that are full, by tokens that the head knows and by steps that
/// are planned: plans run in order, so any later plan may share them.
pub(super) fn name_full_blocks(config: &SchedulerConfig, group: &mut Group, sequence: &mut Sequence) {
    let full = sequence.full_blocks(config.block_size);
    if !config.prefix_caching || sequence.named >= full {
        return;
    }
    for index in sequence.named..full {
        let name = sequence.names(&config.prefix_key, config.block_size)[index];
        group.blocks.name(sequence.table[index], name);
    }
    sequence.named = full;
}
