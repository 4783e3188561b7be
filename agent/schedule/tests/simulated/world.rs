//! A head's driver, its clients and its group in one: everything that can happen to a schedule, checked as it happens.

use std::collections::{BTreeMap, VecDeque};

use lockstep_schedule::plan::{PlanTokens, SamplingParams, SeqId, StepOutput, StepPlan};
use lockstep_schedule::{
    Failure, FinishReason, Micros, Request, RequestOutput, Scheduler, SchedulerConfig, SubmitError,
};

use crate::rank::{Rank, next_token};

/// Prefills get at least this many tokens of a step, whatever the budget.
const LEAST_PREFILL: usize = 16;

/// A client's view of its request.
struct Client {
    request: Request,
    /// What it gets alone.
    expected: Vec<u32>,
    reason: FinishReason,
    /// Tokens received.
    received: usize,
    started: bool,
    submitted: Micros,
    ended: bool,
    /// Tokens that steps in flight sample for it.
    pending: usize,
    /// The last step that samples for it.
    sampled_in: u64,
    /// A group was formed that is too small for it.
    outgrown: bool,
}

impl Client {
    fn most_blocks(&self, context_length: u32, block_size: u32) -> u32 {
        let most = (self.request.prompt.len() as u32 + self.request.max_tokens).min(context_length);
        (most - 1).div_ceil(block_size)
    }
}

/// How often things happened, so that a test can tell that they did.
#[derive(Debug, Default, Clone, Copy)]
pub struct Seen {
    pub finished: usize,
    pub stopped: usize,
    pub cancelled: usize,
    pub deadlines: usize,
    pub timeouts: usize,
    pub outgrown: usize,
    pub refused_full: usize,
    pub losses: usize,
    pub steps: usize,
    pub last_sampled: usize,
    pub chunks: usize,
    /// Steps planned while others were in flight none of which they wait for.
    pub overlaps: usize,
    pub preemptions: u64,
    pub hits: u64,
}

pub struct World {
    pub config: SchedulerConfig,
    pub scheduler: Scheduler,
    pub seen: Seen,
    pub now: Micros,
    epoch: u64,
    rank: Option<Rank>,
    /// Results on their way to the head, oldest first, with what the step sampled for.
    results: VecDeque<StepOutput>,
    /// Results of an epoch that is over.
    stale: VecDeque<StepOutput>,
    /// In the order of arrival, those included that ended.
    clients: BTreeMap<SeqId, Client>,
    stranded_since: Option<Micros>,
}

impl World {
    pub fn new(config: SchedulerConfig) -> Self {
        Self {
            scheduler: Scheduler::new(config.clone()),
            config,
            seen: Seen::default(),
            now: 0,
            epoch: 0,
            rank: None,
            results: VecDeque::new(),
            stale: VecDeque::new(),
            clients: BTreeMap::new(),
            stranded_since: Some(0),
        }
    }

    fn next_id(&self) -> SeqId {
        self.clients.last_key_value().map_or(1, |(id, _)| id + 1)
    }

    /// A request with a fresh id and otherwise plain parameters.
    pub fn request(&self, prompt: Vec<u32>, max_tokens: u32) -> Request {
        Request {
            id: self.next_id(),
            prompt,
            sampling: SamplingParams { seed: 7, ..SamplingParams::default() },
            max_tokens,
            stop_token_ids: Vec::new(),
            deadline: None,
            needs_head: false,
        }
    }

    pub fn submit(&mut self, request: Request) -> Result<SeqId, SubmitError> {
        let id = request.id;
        let result = self.scheduler.submit(request.clone(), self.now);
        if let Err(refused) = result {
            self.seen.refused_full += usize::from(matches!(refused, SubmitError::QueueFull { .. }));
            return Err(refused);
        }
        let (expected, reason) = alone(&request, self.config.context_length);
        let client = Client {
            request,
            expected,
            reason,
            received: 0,
            started: false,
            submitted: self.now,
            ended: false,
            pending: 0,
            sampled_in: 0,
            outgrown: false,
        };
        self.clients.insert(id, client);
        Ok(id)
    }

    /// Cancels the live request of that index, if there is one.
    pub fn cancel_nth(&mut self, index: usize) {
        let live: Vec<SeqId> = self.live().map(|(&id, _)| id).collect();
        if let Some(&id) = live.get(index % live.len().max(1)) {
            self.cancel(id);
        }
    }

    pub fn cancel(&mut self, id: SeqId) {
        self.scheduler.cancel(id);
        self.clients.get_mut(&id).expect("a client cancels its own request").ended = true;
        self.seen.cancelled += 1;
    }

    fn live(&self) -> impl Iterator<Item = (&SeqId, &Client)> {
        self.clients.iter().filter(|(_, client)| !client.ended)
    }

    pub fn num_live(&self) -> usize {
        self.live().count()
    }

    pub fn has_group(&self) -> bool {
        self.rank.is_some()
    }

    pub fn form(&mut self, num_blocks: u32) {
        self.leave_group();
        self.epoch += 1;
        for client in self.clients.values_mut() {
            client.outgrown |= client.most_blocks(self.config.context_length, self.config.block_size) > num_blocks;
        }
        self.rank = Some(Rank::new(self.epoch, num_blocks, self.config.block_size));
        self.scheduler.start_epoch(self.epoch, num_blocks, self.now);
    }

    pub fn lose(&mut self) {
        self.leave_group();
        self.scheduler.end_epoch(self.now);
        assert_eq!(self.scheduler.next_plan(), None, "no plan without a group");
    }

    fn leave_group(&mut self) {
        if self.rank.take().is_some() {
            self.seen.losses += 1;
            self.stranded_since.get_or_insert(self.now);
        }
        self.stale.extend(self.results.drain(..));
        for client in self.clients.values_mut() {
            client.pending = 0;
        }
    }

    /// As [`Self::next_plan`]: whether there was one.
    pub fn plan(&mut self) -> bool {
        self.next_plan().is_some()
    }

    /// Asks for a plan and runs it; the result is on its way.
    pub fn next_plan(&mut self) -> Option<StepPlan> {
        let budget = self.scheduler.stats().token_budget;
        let plan = self.scheduler.next_plan()?;
        self.check_plan(&plan, budget);
        let rank = self.rank.as_mut().expect("plans are made for a group");
        let result = rank.execute(&plan);
        let stats = self.scheduler.stats();
        assert_eq!(stats.blocks_used as usize, rank.blocks_held(), "the head counts the blocks that ranks refer to");
        assert_eq!(stats.running, rank.num_held());
        assert!(stats.running <= self.config.max_num_seqs);
        for sampled in &result.sampled {
            let client = self.clients.get_mut(&sampled.seq).expect("a request exists");
            client.pending += 1;
            client.sampled_in = plan.step;
        }
        self.results.push_back(result);
        assert!(self.results.len() <= self.config.max_steps_in_flight);
        self.seen.steps += 1;
        Some(plan)
    }

    fn check_plan(&mut self, plan: &StepPlan, budget: usize) {
        let single = plan.entries.iter().filter(|entry| entry.tokens.len() == 1).count();
        assert!(plan.num_tokens() <= self.config.max_num_batched_tokens);
        assert!(plan.num_tokens() <= budget.max(single + LEAST_PREFILL), "the budget is kept");
        for entry in &plan.entries {
            let client = &self.clients[&entry.seq];
            assert!(!client.ended, "{} ended and is planned", entry.seq);
            let computed = entry.position as usize + entry.tokens.len();
            let most = client.request.prompt.len() + client.request.max_tokens as usize;
            assert!(computed < most.min(self.config.context_length as usize), "no step for a token nobody wants");
            if client.request.needs_head {
                assert!(matches!(entry.tokens, PlanTokens::Given(_)), "{} waits for its token", entry.seq);
                assert_eq!(client.pending, 0);
            }
            self.seen.last_sampled += usize::from(entry.tokens == PlanTokens::LastSampled);
            self.seen.chunks += usize::from(!entry.sample);
        }
        self.check_overlap(plan);
        // The oldest request goes on in every step, or waits for its own result: so nobody starves.
        if let Some((id, client)) = self.live().find(|(_, client)| !client.outgrown) {
            let planned = plan.entries.iter().any(|entry| entry.seq == *id);
            assert!(planned || client.pending > 0, "{id}, the oldest, is passed over");
        }
    }

    /// A step that waits for one of the last is a last resort, and tokens on their way are bounded.
    fn check_overlap(&mut self, plan: &StepPlan) {
        let stages = self.config.pipeline_stages;
        let waits = |client: &Client| client.pending > 0 && client.sampled_in + stages as u64 > plan.step;
        let waiting = plan.entries.iter().filter(|entry| waits(&self.clients[&entry.seq])).count();
        assert!(waiting == 0 || waiting == plan.entries.len(), "a step that need not wait is made to: {plan:?}");
        self.seen.overlaps += usize::from(waiting == 0 && !self.results.is_empty());
        let most = (self.config.max_steps_in_flight + 1).saturating_sub(stages).max(1);
        for entry in plan.entries.iter().filter(|entry| entry.tokens == PlanTokens::LastSampled) {
            assert!(self.clients[&entry.seq].pending < most, "{} runs too far ahead", entry.seq);
        }
    }

    /// The oldest result arrives. False if none is on its way.
    pub fn complete(&mut self, micros: u64) -> bool {
        let Some(result) = self.results.pop_front() else { return false };
        for sampled in &result.sampled {
            self.clients.get_mut(&sampled.seq).expect("a request exists").pending -= 1;
        }
        self.now += micros;
        self.stranded_since = None;
        let outputs = self.scheduler.complete_step(result, micros).expect("results come in order");
        self.receive(outputs);
        true
    }

    /// A result of an earlier epoch arrives late.
    pub fn complete_stale(&mut self) {
        if let Some(result) = self.stale.pop_front() {
            assert_eq!(self.scheduler.complete_step(result, 1), Ok(Vec::new()));
        }
    }

    /// Time passes.
    pub fn advance(&mut self, micros: u64) {
        let due = self.next_deadline();
        self.now += micros;
        let outputs = self.scheduler.fail_expired(self.now);
        assert_eq!(!outputs.is_empty(), due.is_some_and(|due| due <= self.now), "requests fail when they are due");
        self.receive(outputs);
        assert!(self.next_deadline().is_none_or(|due| due > self.now));
    }

    /// Returns the earliest moment at which a request fails if no step ends before.
    fn next_deadline(&self) -> Option<Micros> {
        let timeout = self.config.recovery_timeout.as_micros() as u64;
        self.live()
            .filter_map(|(_, client)| {
                let recovery = self.stranded_since.map(|since| since.max(client.submitted) + timeout);
                let too_large = client.outgrown.then_some(0);
                [too_large, client.request.deadline, recovery].into_iter().flatten().min()
            })
            .min()
    }

    fn receive(&mut self, outputs: Vec<RequestOutput>) {
        for output in outputs {
            match output {
                RequestOutput::Started { id, cached_tokens } => {
                    let client = self.expecting(id);
                    assert!(!std::mem::replace(&mut client.started, true), "{id} starts once");
                    assert!(
                        (cached_tokens as usize) < client.request.prompt.len(),
                        "a token of the prompt is computed"
                    );
                }
                RequestOutput::Token { id, token, .. } => {
                    let client = self.expecting(id);
                    assert!(client.started, "{id} starts before its first token");
                    assert_eq!(client.expected.get(client.received), Some(&token), "{id} gets what it gets alone");
                    client.received += 1;
                }
                RequestOutput::Finished { id, reason } => {
                    let client = self.expecting(id);
                    client.ended = true;
                    assert_eq!((reason, client.received), (client.reason, client.expected.len()));
                    self.seen.finished += 1;
                    self.seen.stopped += usize::from(reason == FinishReason::Stop);
                }
                RequestOutput::Failed { id, reason } => self.fail(id, reason),
            }
        }
    }

    fn expecting(&mut self, id: SeqId) -> &mut Client {
        let client = self.clients.get_mut(&id).expect("outputs are of a request");
        assert!(!client.ended, "nothing follows the end of {id}");
        client
    }

    fn fail(&mut self, id: SeqId, reason: Failure) {
        let (now, stranded) = (self.now, self.stranded_since);
        let block_size = self.config.block_size;
        let context = self.config.context_length;
        let timeout = self.config.recovery_timeout.as_micros() as u64;
        let client = self.expecting(id);
        client.ended = true;
        match reason {
            Failure::Deadline => {
                assert!(client.request.deadline.is_some_and(|deadline| deadline <= now));
                self.seen.deadlines += 1;
            }
            Failure::RecoveryTimeout => {
                let since = stranded.expect("there is no working group").max(client.submitted);
                assert!(since + timeout <= now);
                self.seen.timeouts += 1;
            }
            Failure::TooManyBlocks { needed, total: reported } => {
                assert!(client.outgrown && needed > reported);
                assert_eq!(needed, client.most_blocks(context, block_size));
                self.seen.outgrown += 1;
            }
        }
    }

    /// Runs until every request has ended, then checks that nothing is left.
    pub fn drain(&mut self) {
        self.advance(0);
        let work: usize = self.live().map(|(_, client)| client.request.prompt.len() + client.expected.len()).sum();
        // Each step brings the oldest request on by a token at least.
        let mut steps_left = work + self.num_live() + 1;
        while self.num_live() > 0 {
            assert!(steps_left > 0, "requests are answered in a bounded number of steps");
            while self.plan() {}
            assert!(self.complete(1), "there is always something to do or to wait for");
            steps_left -= 1;
        }
        while self.complete(1) {}
        let stats = self.scheduler.stats();
        assert_eq!((stats.running, stats.waiting, stats.blocks_used, stats.steps_in_flight), (0, 0, 0, 0));
        assert_eq!(self.scheduler.next_plan(), None);
        assert_eq!(self.scheduler.fail_expired(Micros::MAX), [], "no request is left that could fail");
        self.seen.preemptions = stats.preemptions;
        self.seen.hits = stats.prefix_hit_tokens;
    }
}

/// What a request gets that nothing happens to.
fn alone(request: &Request, context_length: u32) -> (Vec<u32>, FinishReason) {
    let mut tokens = request.prompt.clone();
    let most = (tokens.len() + request.max_tokens as usize).min(context_length as usize);
    while tokens.len() < most {
        let token = next_token(&tokens, &request.sampling);
        if request.stop_token_ids.contains(&token) {
            return (tokens.split_off(request.prompt.len()), FinishReason::Stop);
        }
        tokens.push(token);
    }
    (tokens.split_off(request.prompt.len()), FinishReason::Length)
}
