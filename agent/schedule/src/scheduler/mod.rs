//! The queue, the sequences that run, and what becomes of them when requests or ranks come and go.
//!
//! Invariants: a sequence is either waiting (holds no block, ranks do not know it) or running (holds blocks, ranks know
//! it); sequences are admitted strictly in the order of their arrival, and the one that arrived last is the first to
//! be preempted, so whatever was preempted or lost its group is older than whatever never ran; the oldest sequence
//! always goes on, so nobody starves.

mod micro_batches;
mod planning;
mod results;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use crate::blocks::BlockManager;
use crate::budget::TokenBudget;
use crate::config::{Micros, SchedulerConfig};
use crate::plan::SeqId;
use crate::request::{Failure, Request, RequestOutput, SchedulerStats, SubmitError};
use crate::sequence::Sequence;

/// Number of a request in the order of arrival.
type Arrival = u64;

/// A plan whose result is still to come.
#[derive(Debug)]
struct Flight {
    step: u64,
    /// Tokens that it computes.
    tokens: usize,
    /// Every entry's sequence, in the plan's order, and whether a token is sampled for it.
    entries: Vec<(SeqId, bool)>,
}

/// What exists only while ranks are joined.
#[derive(Debug)]
struct Group {
    blocks: BlockManager,
    /// Number of the last plan.
    step: u64,
    in_flight: VecDeque<Flight>,
    /// Sequences that ranks hold and that the next plan tells them to drop.
    forget: Vec<SeqId>,
}

/// Requests in, step plans out, results in, outputs out.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    budget: TokenBudget,
    group: Option<Group>,
    /// Of the current group, or of the last one.
    epoch: u64,
    /// Since when no step has ended for want of a group; none while steps end.
    stranded_since: Option<Micros>,
    arrivals: u64,
    sequences: BTreeMap<Arrival, Sequence>,
    by_id: HashMap<SeqId, Arrival>,
    waiting: BTreeSet<Arrival>,
    running: BTreeSet<Arrival>,
    /// Failures that came with a new group, until the next [`Self::fail_expired`] gives them out; one per sequence at most.
    unreported: Vec<RequestOutput>,
    prefix_query_tokens: u64,
    prefix_hit_tokens: u64,
    preemptions: u64,
}

impl Scheduler {
    /// A schedule without a group: requests queue until [`Self::start_epoch`].
    ///
    /// # Panics
    /// If a value of the configuration that must be at least 1 is 0.
    pub fn new(config: SchedulerConfig) -> Self {
        assert!(config.block_size > 0, "block_size must be at least 1");
        assert!(config.max_running() > 0, "max_num_seqs and max_num_batched_tokens must be at least 1");
        assert!(config.max_steps_in_flight > 0, "max_steps_in_flight must be at least 1");
        assert!(config.pipeline_stages > 0, "pipeline_stages must be at least 1");
        Self {
            budget: TokenBudget::new(config.target_step, config.max_num_batched_tokens),
            config,
            group: None,
            epoch: 0,
            stranded_since: Some(0),
            arrivals: 0,
            sequences: BTreeMap::new(),
            by_id: HashMap::new(),
            waiting: BTreeSet::new(),
            running: BTreeSet::new(),
            unreported: Vec::new(),
            prefix_query_tokens: 0,
            prefix_hit_tokens: 0,
            preemptions: 0,
        }
    }

    /// Puts a request at the end of the queue. What can never be answered, or not by the group as it is, is refused.
    pub fn submit(&mut self, request: Request, now: Micros) -> Result<(), SubmitError> {
        let limit = self.config.context_length;
        if request.prompt.is_empty() {
            return Err(SubmitError::EmptyPrompt);
        }
        if request.max_tokens == 0 {
            return Err(SubmitError::NoTokensRequested);
        }
        if request.prompt.len() >= limit as usize {
            return Err(SubmitError::PromptTooLong { tokens: request.prompt.len(), limit });
        }
        if self.by_id.contains_key(&request.id) {
            return Err(SubmitError::DuplicateId { id: request.id });
        }
        let sequence = Sequence::new(request, limit, now);
        if let Some(group) = &self.group {
            let (needed, total) = (sequence.max_blocks(self.config.block_size), group.blocks.total());
            if needed > total {
                return Err(SubmitError::TooManyBlocks { needed, total });
            }
        }
        let never_started = |arrival: &&Arrival| self.sequences[arrival].cached_tokens.is_none();
        if self.waiting.iter().filter(never_started).count() >= self.config.max_waiting {
            return Err(SubmitError::QueueFull { limit: self.config.max_waiting });
        }
        self.arrivals += 1;
        self.by_id.insert(sequence.request.id, self.arrivals);
        self.waiting.insert(self.arrivals);
        self.sequences.insert(self.arrivals, sequence);
        Ok(())
    }

    /// Most tokens, prompt and answer together, that a request may ask for now and not be refused: what the context
    /// holds, and what the group's blocks hold.
    pub fn max_sequence_tokens(&self) -> u32 {
        let limit = self.config.context_length;
        let Some(group) = &self.group else { return limit };
        // The last token of a sequence is never computed and needs no place.
        limit.min(group.blocks.total().saturating_mul(self.config.block_size).saturating_add(1))
    }

    /// Ends a sequence without a further output and frees its blocks at once; results of it that are still on their
    /// way are dropped. Unknown and ended sequences are ignored.
    pub fn cancel(&mut self, id: SeqId) {
        if let Some(&arrival) = self.by_id.get(&id) {
            self.remove(arrival);
        }
        self.unreported.retain(|output| !matches!(output, RequestOutput::Failed { id: failed, .. } if *failed == id));
    }

    /// Ranks joined as `epoch`, with empty caches of `num_blocks` blocks each. Sequences wait to be prefilled again;
    /// those that can no longer fit are out of it, and [`Self::fail_expired`], due at once then, says so.
    pub fn start_epoch(&mut self, epoch: u64, num_blocks: u32, now: Micros) {
        self.end_epoch(now);
        debug_assert!(epoch > self.epoch, "epochs grow");
        self.epoch = epoch;
        self.budget.reset();
        self.group = Some(Group {
            blocks: BlockManager::new(num_blocks),
            step: 0,
            in_flight: VecDeque::new(),
            forget: Vec::new(),
        });
        let block_size = self.config.block_size;
        let failed = self.fail_where(|sequence| {
            let needed = sequence.max_blocks(block_size);
            (needed > num_blocks).then_some(Failure::TooManyBlocks { needed, total: num_blocks })
        });
        self.unreported.extend(failed);
    }

    /// A rank was lost, and with it every cache and every step in flight. Running sequences wait again, in the order of
    /// their arrival, with the tokens that they have: those that were given out stand.
    pub fn end_epoch(&mut self, now: Micros) {
        if self.group.take().is_none() {
            return;
        }
        self.stranded_since.get_or_insert(now);
        self.waiting.append(&mut self.running);
        for sequence in self.sequences.values_mut() {
            sequence.pending = 0;
            sequence.withdraw();
        }
    }

    /// Fails the requests whose time is over: their own deadline, or the time they may be without a working group.
    /// Also tells of those that the latest group is too small for.
    #[must_use = "clients wait for these"]
    pub fn fail_expired(&mut self, now: Micros) -> Vec<RequestOutput> {
        let recovery = self.recovery_limit();
        let mut outputs = std::mem::take(&mut self.unreported);
        outputs.extend(self.fail_where(|sequence| {
            if sequence.request.deadline.is_some_and(|deadline| deadline <= now) {
                Some(Failure::Deadline)
            } else {
                recovery.of(sequence).is_some_and(|limit| limit <= now).then_some(Failure::RecoveryTimeout)
            }
        }));
        outputs
    }

    /// The schedule in numbers.
    pub fn stats(&self) -> SchedulerStats {
        let blocks = self.group.as_ref().map(|group| &group.blocks);
        SchedulerStats {
            running: self.running.len(),
            waiting: self.waiting.len(),
            blocks_used: blocks.map_or(0, BlockManager::used),
            blocks_cached: blocks.map_or(0, BlockManager::cached),
            blocks_total: blocks.map_or(0, BlockManager::total),
            steps_in_flight: self.group.as_ref().map_or(0, |group| group.in_flight.len()),
            prefix_query_tokens: self.prefix_query_tokens,
            prefix_hit_tokens: self.prefix_hit_tokens,
            token_budget: self.budget.get(),
            preemptions: self.preemptions,
        }
    }

    /// Takes a sequence out of the schedule: its blocks are free, the next plan tells the ranks.
    fn remove(&mut self, arrival: Arrival) {
        let Some(mut sequence) = self.sequences.remove(&arrival) else { return };
        self.by_id.remove(&sequence.request.id);
        self.waiting.remove(&arrival);
        if self.running.remove(&arrival)
            && let Some(group) = &mut self.group
        {
            group.forget.push(sequence.request.id);
            group.blocks.release(&sequence.withdraw());
        }
    }

    /// Fails every sequence for which `why` gives a reason, in the order of arrival.
    fn fail_where(&mut self, why: impl Fn(&Sequence) -> Option<Failure>) -> Vec<RequestOutput> {
        let failed: Vec<_> = self.sequences.iter().filter_map(|(&a, s)| why(s).map(|reason| (a, reason))).collect();
        let mut outputs = Vec::with_capacity(failed.len());
        for (arrival, reason) in failed {
            outputs.push(RequestOutput::Failed { id: self.sequences[&arrival].request.id, reason });
            self.remove(arrival);
        }
        outputs
    }

    fn recovery_limit(&self) -> RecoveryLimit {
        let timeout = u64::try_from(self.config.recovery_timeout.as_micros()).unwrap_or(u64::MAX);
        RecoveryLimit { since: self.stranded_since, timeout }
    }
}

/// Until when sequences may be without a working group.
struct RecoveryLimit {
    since: Option<Micros>,
    timeout: u64,
}

impl RecoveryLimit {
    /// None while steps end: then nobody is stranded.
    fn of(&self, sequence: &Sequence) -> Option<Micros> {
        self.since.map(|since| since.max(sequence.submitted).saturating_add(self.timeout))
    }
}
