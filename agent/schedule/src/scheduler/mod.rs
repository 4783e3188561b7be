//! The scheduler: the queue, the running sequences, and the epochs of the group.
//!
//! Invariants:
//! - A sequence waits (it holds no block, and ranks do not know it) or runs (it holds blocks, and ranks know it).
//! - Sequences are admitted strictly in the order of arrival, and the sequence that arrived last is preempted first. So
//!   a sequence that has run and waits again, after a preemption or the end of an epoch, is older than all sequences
//!   that have never run.
//! - The oldest sequence always makes progress, so no sequence starves.

mod micro_batches;
mod planning;
mod results;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use crate::block_event::BlockEvent;
use crate::block_manager::BlockManager;
use crate::config::{Micros, SchedulerConfig};
use crate::plan::{PlanEntry, SeqId};
use crate::request::{Failure, Request, RequestOutput, SchedulerStats, SubmitError};
use crate::sequence::Sequence;
use crate::token_budget::TokenBudget;

/// Key of a sequence: its place in the queue, and its number in the order of arrival.
type SeqKey = (i64, u64);

/// A plan whose result is due.
#[derive(Debug)]
struct InFlightStep {
    step: u64,
    /// Tokens that the step computes.
    num_tokens: usize,
    /// Entries in the plan's order.
    entries: Vec<InFlightEntry>,
}

/// Part of an entry of a plan in flight that its result must match.
#[derive(Debug)]
struct InFlightEntry {
    seq: SeqId,
    /// True if the step samples a token for the sequence.
    sample: bool,
    /// Number of the entry's prompt targets.
    num_targets: usize,
    /// Number of tokens of the prompt that have log-probabilities before the entry's first target.
    num_reported_before: usize,
}

impl From<&PlanEntry> for InFlightEntry {
    fn from(entry: &PlanEntry) -> Self {
        let targets = entry.prompt_targets.as_ref();
        Self {
            seq: entry.seq,
            sample: entry.sample,
            num_targets: targets.map_or(0, |targets| targets.tokens.len()),
            num_reported_before: targets.map_or(0, |targets| (entry.position + targets.first_row) as usize),
        }
    }
}

/// State of the current epoch. It exists only while there is a group.
#[derive(Debug)]
struct EpochState {
    blocks: BlockManager,
    /// Number of the last plan.
    last_step: u64,
    in_flight: VecDeque<InFlightStep>,
    /// Ended and preempted sequences that the ranks still hold. The next plan tells the ranks to forget them.
    forget: Vec<SeqId>,
}

/// Scheduler of one group: it takes requests and results, and returns plans and outputs.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    token_budget: TokenBudget,
    epoch_state: Option<EpochState>,
    /// Number of the current epoch or, if there is no group, of the last one.
    epoch: u64,
    /// Moment since which there is no working group. `None` from the first result of an epoch until the epoch ends.
    recovering_since: Option<Micros>,
    /// Number of sequences that have arrived.
    arrivals: u64,
    sequences: BTreeMap<SeqKey, Sequence>,
    by_id: HashMap<SeqId, SeqKey>,
    waiting: BTreeSet<SeqKey>,
    running: BTreeSet<SeqKey>,
    /// Sequences that wait until they are released.
    held: BTreeSet<SeqId>,
    /// Failures at the start of the epoch that [`Self::fail_expired`] has yet to return; at most one per sequence.
    unreported_failures: Vec<RequestOutput>,
    /// Set if the end of an epoch, which emptied the prefix cache, is still to report.
    cache_cleared: bool,
    prefix_query_tokens: u64,
    prefix_hit_tokens: u64,
    preemptions: u64,
}

impl Scheduler {
    /// Makes a scheduler without a group. Requests wait until [`Self::start_epoch`].
    ///
    /// # Panics
    /// A value of the configuration that must be at least 1 is 0.
    pub fn new(config: SchedulerConfig) -> Self {
        assert!(config.block_size > 0, "block_size must be at least 1");
        assert!(config.max_running() > 0, "max_num_seqs and max_num_batched_tokens must be at least 1");
        assert!(config.max_steps_in_flight > 0, "max_steps_in_flight must be at least 1");
        assert!(config.pipeline_stages > 0, "pipeline_stages must be at least 1");
        Self {
            token_budget: TokenBudget::new(config.target_step, config.max_num_batched_tokens),
            config,
            epoch_state: None,
            epoch: 0,
            recovering_since: Some(0),
            arrivals: 0,
            sequences: BTreeMap::new(),
            by_id: HashMap::new(),
            waiting: BTreeSet::new(),
            running: BTreeSet::new(),
            held: BTreeSet::new(),
            unreported_failures: Vec::new(),
            cache_cleared: false,
            prefix_query_tokens: 0,
            prefix_hit_tokens: 0,
            preemptions: 0,
        }
    }

    /// Puts a request into the queue, at its place among those that wait.
    ///
    /// # Errors
    /// The queue is full, the request is malformed, or it is too large for the context or for the current group.
    pub fn submit(&mut self, request: Request, now: Micros) -> Result<(), SubmitError> {
        let limit = self.config.context_length;
        if request.prompt.is_empty() {
            return Err(SubmitError::EmptyPrompt);
        }
        if request.prompt.len() >= limit as usize {
            return Err(SubmitError::PromptTooLong { tokens: request.prompt.len(), limit });
        }
        if self.by_id.contains_key(&request.id) {
            return Err(SubmitError::DuplicateId { id: request.id });
        }
        let sequence = Sequence::new(request, limit, now);
        if let Some(epoch_state) = &self.epoch_state {
            let (needed, total) = (sequence.max_num_blocks(self.config.block_size), epoch_state.blocks.num_blocks());
            if needed > total {
                return Err(SubmitError::TooManyBlocks { needed, total });
            }
        }
        let has_never_run = |key: &&SeqKey| self.sequences[key].num_cached_tokens.is_none();
        if self.waiting.iter().filter(has_never_run).count() >= self.config.max_waiting {
            return Err(SubmitError::QueueFull { limit: self.config.max_waiting });
        }
        self.arrivals += 1;
        let key = (sequence.request.place(self.arrivals), self.arrivals);
        self.by_id.insert(sequence.request.id, key);
        self.waiting.insert(key);
        self.sequences.insert(key, sequence);
        Ok(())
    }

    /// Returns the most tokens, prompt and answer together, that a request may ask for now. The context and the group's
    /// blocks bound them.
    pub fn max_sequence_tokens(&self) -> u32 {
        let limit = self.config.context_length;
        let Some(epoch_state) = &self.epoch_state else { return limit };
        // The last token of a sequence is never computed and needs no slot.
        limit.min(epoch_state.blocks.num_blocks().saturating_mul(self.config.block_size).saturating_add(1))
    }

    /// Ends a sequence without a further output and frees its blocks at once. [`Self::complete_step`] drops the
    /// sequence's tokens in flight. Ignores unknown and ended sequences.
    pub fn cancel(&mut self, id: SeqId) {
        if let Some(&key) = self.by_id.get(&id) {
            self.remove_sequence(key);
        }
        self.unreported_failures
            .retain(|output| !matches!(output, RequestOutput::Failed { id: failed, .. } if *failed == id));
    }

    /// Keeps a sequence waiting until [`Self::release`], while others overtake it. Its deadlines hold. Nothing happens to a
    /// sequence that runs already.
    pub fn hold(&mut self, id: SeqId) {
        if self.by_id.contains_key(&id) {
            self.held.insert(id);
        }
    }

    /// Lets a sequence go on that [`Self::hold`] has kept.
    pub fn release(&mut self, id: SeqId) {
        self.held.remove(&id);
    }

    /// Returns true if a sequence runs, or waits and is not held.
    pub fn has_work(&self) -> bool {
        !self.running.is_empty() || self.first_waiting().is_some()
    }

    /// Returns the sequence to admit next.
    fn first_waiting(&self) -> Option<SeqKey> {
        self.waiting.iter().find(|key| !self.held.contains(&self.sequences[key].request.id)).copied()
    }

    /// Starts an epoch: the ranks have joined, with empty caches of `num_blocks` blocks each. All sequences wait to be
    /// prefilled again. The scheduler removes each sequence that is too large for the new group, and the next
    /// [`Self::fail_expired`] reports the removal.
    pub fn start_epoch(&mut self, epoch: u64, num_blocks: u32, now: Micros) {
        self.end_epoch(now);
        debug_assert!(epoch > self.epoch, "epochs grow");
        self.epoch = epoch;
        self.token_budget.reset();
        self.epoch_state = Some(EpochState {
            blocks: BlockManager::new(num_blocks),
            last_step: 0,
            in_flight: VecDeque::new(),
            forget: Vec::new(),
        });
        let block_size = self.config.block_size;
        let failures = self.fail_sequences(|sequence| {
            let needed = sequence.max_num_blocks(block_size);
            (needed > num_blocks).then_some(Failure::TooManyBlocks { needed, total: num_blocks })
        });
        self.unreported_failures.extend(failures);
    }

    /// Ends the epoch, because a rank is lost or a node departs. All caches and all steps in flight are lost. Running
    /// sequences wait again, in the order of arrival. They keep their tokens, because clients already have them.
    pub fn end_epoch(&mut self, now: Micros) {
        if self.epoch_state.take().is_none() {
            return;
        }
        self.cache_cleared = self.config.block_events;
        self.recovering_since.get_or_insert(now);
        self.waiting.append(&mut self.running);
        for sequence in self.sequences.values_mut() {
            sequence.num_in_flight = 0;
            sequence.reset();
        }
    }

    /// Fails the requests whose own deadline has passed, or that have been without a working group for too long. Also
    /// returns the failures of requests that [`Self::start_epoch`] found too large for the new group.
    #[must_use = "clients wait for these failures"]
    pub fn fail_expired(&mut self, now: Micros) -> Vec<RequestOutput> {
        let recovery_timeout = u64::try_from(self.config.recovery_timeout.as_micros()).unwrap_or(u64::MAX);
        let recovering_since = self.recovering_since;
        let mut outputs = std::mem::take(&mut self.unreported_failures);
        outputs.extend(self.fail_sequences(|sequence| {
            if sequence.request.deadline.is_some_and(|deadline| deadline <= now) {
                return Some(Failure::Deadline);
            }
            let waits_since = recovering_since?.max(sequence.submitted_at);
            (waits_since.saturating_add(recovery_timeout) <= now).then_some(Failure::RecoveryTimeout)
        }));
        outputs
    }

    /// Takes what the prefix cache has gained and lost since the last call, if the configuration asks for it.
    pub fn take_block_events(&mut self) -> Vec<BlockEvent> {
        let cleared = std::mem::take(&mut self.cache_cleared).then_some(BlockEvent::Cleared);
        let changes = self.epoch_state.as_mut().map(|epoch_state| epoch_state.blocks.take_events());
        cleared.into_iter().chain(changes.into_iter().flatten()).collect()
    }

    /// Returns the scheduler's state in numbers.
    pub fn stats(&self) -> SchedulerStats {
        let blocks = self.epoch_state.as_ref().map(|epoch_state| &epoch_state.blocks);
        SchedulerStats {
            running: self.running.len(),
            waiting: self.waiting.len(),
            blocks_used: blocks.map_or(0, BlockManager::num_used),
            blocks_cached: blocks.map_or(0, BlockManager::num_cached),
            blocks_total: blocks.map_or(0, BlockManager::num_blocks),
            steps_in_flight: self.epoch_state.as_ref().map_or(0, |epoch_state| epoch_state.in_flight.len()),
            prefix_query_tokens: self.prefix_query_tokens,
            prefix_hit_tokens: self.prefix_hit_tokens,
            token_budget: self.token_budget.num_tokens(),
            preemptions: self.preemptions,
        }
    }

    /// Removes a sequence and frees its blocks. If the sequence runs, the next plan tells the ranks to forget it.
    fn remove_sequence(&mut self, key: SeqKey) {
        let Some(mut sequence) = self.sequences.remove(&key) else { return };
        self.by_id.remove(&sequence.request.id);
        self.held.remove(&sequence.request.id);
        self.waiting.remove(&key);
        if self.running.remove(&key)
            && let Some(epoch_state) = &mut self.epoch_state
        {
            epoch_state.forget.push(sequence.request.id);
            epoch_state.blocks.release_blocks(&sequence.reset());
        }
    }

    /// Removes every sequence for which `failure_of` returns a reason, and returns the failures in the order of
    /// arrival.
    fn fail_sequences(&mut self, failure_of: impl Fn(&Sequence) -> Option<Failure>) -> Vec<RequestOutput> {
        let failed = self.sequences.iter().filter_map(|(&key, sequence)| Some((key, failure_of(sequence)?)));
        let failed: Vec<(SeqKey, Failure)> = failed.collect();
        let mut outputs = Vec::with_capacity(failed.len());
        for (key, reason) in failed {
            outputs.push(RequestOutput::Failed { id: self.sequences[&key].request.id, reason });
            self.remove_sequence(key);
        }
        outputs
    }
}
