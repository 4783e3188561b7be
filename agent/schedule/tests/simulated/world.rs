//! A simulated head with its clients and its group. Every event is checked as it happens.

use std::collections::{BTreeMap, HashMap, VecDeque};

use lockstep_schedule::plan::{PlanTokens, PromptToken, SamplingParams, SeqId, StepOutput, StepPlan};
use lockstep_schedule::{
    BlockEvent, Failure, FinishReason, Micros, Request, RequestOutput, Scheduler, SchedulerConfig, SubmitError,
};

use crate::rank::{Rank, next_token, score_prompt};

/// Fewest tokens that decodes leave to prefills, however small the budget.
const MIN_PREFILL_TOKENS: usize = 16;

/// State of one client's request.
struct Client {
    request: Request,
    /// Tokens that the request gets if it runs alone.
    expected: Vec<u32>,
    reason: FinishReason,
    /// Numbers of the prompt's tokens that the client has yet to receive.
    expected_prompt: VecDeque<PromptToken>,
    /// Tokens that the client has received.
    num_received: usize,
    started: bool,
    submitted: Micros,
    ended: bool,
    /// Tokens that steps in flight sample for the request.
    num_in_flight: usize,
    /// Last step that samples for the request.
    last_sampling_step: u64,
    /// Set once a group has formed that is too small for the request.
    too_large: bool,
}

impl Client {
    fn max_num_blocks(&self, context_length: u32, block_size: u32) -> u32 {
        let max_len = (self.request.prompt.len() as u32 + self.request.max_tokens.max(1)).min(context_length);
        (max_len - 1).div_ceil(block_size)
    }
}

/// Number of events of each kind, so that a test can check that they occur.
#[derive(Debug, Default, Clone, Copy)]
pub struct EventCounts {
    pub finished: usize,
    pub stopped: usize,
    pub cancelled: usize,
    pub deadlines: usize,
    pub timeouts: usize,
    pub too_large: usize,
    pub refused_full: usize,
    pub losses: usize,
    pub steps: usize,
    pub last_sampled: usize,
    pub chunks: usize,
    /// Steps that were planned while others were in flight, and that wait for none of them.
    pub overlaps: usize,
    pub preemptions: u64,
    pub hits: u64,
    /// Tokens of prompts whose log-probabilities were computed, and those that clients received.
    pub targets: usize,
    pub prompt_tokens: usize,
}

pub struct World {
    pub config: SchedulerConfig,
    pub scheduler: Scheduler,
    pub counts: EventCounts,
    pub now: Micros,
    epoch: u64,
    rank: Option<Rank>,
    /// Results that the head has yet to receive, oldest first.
    results: VecDeque<StepOutput>,
    /// Results of epochs that have ended.
    stale: VecDeque<StepOutput>,
    /// All clients in the order of arrival, including those whose requests have ended.
    clients: BTreeMap<SeqId, Client>,
    recovering_since: Option<Micros>,
    /// Blocks that a router believes to be cached: their parents and their tokens, by hash.
    reported: HashMap<u64, (Option<u64>, Vec<u32>)>,
}

impl World {
    pub fn new(config: SchedulerConfig) -> Self {
        Self {
            scheduler: Scheduler::new(config.clone()),
            config,
            counts: EventCounts::default(),
            now: 0,
            epoch: 0,
            rank: None,
            results: VecDeque::new(),
            stale: VecDeque::new(),
            clients: BTreeMap::new(),
            recovering_since: Some(0),
            reported: HashMap::new(),
        }
    }

    /// Follows the reports about the prefix cache as a router does, and checks that they make sense. Returns the number of
    /// blocks that the router knows.
    pub fn follow_block_events(&mut self) -> usize {
        for event in self.scheduler.take_block_events() {
            assert!(self.config.block_events && self.config.prefix_caching, "nobody asked for {event:?}");
            match event {
                BlockEvent::Cleared => self.reported.clear(),
                BlockEvent::Removed { hash } => {
                    assert!(self.reported.remove(&hash).is_some(), "the router knows what is removed");
                }
                BlockEvent::Stored(block) => {
                    assert_eq!(block.tokens.len(), self.config.block_size as usize);
                    let known = self.reported.insert(block.hash, (block.parent, block.tokens));
                    assert_eq!(known, None, "a block is stored once");
                }
            }
        }
        let stats = self.scheduler.stats();
        assert!(self.reported.len() <= (stats.blocks_cached + stats.blocks_used) as usize);
        self.reported.len()
    }

    /// Returns how many blocks a router would expect to find for a prompt.
    pub fn count_reported(&self, prompt: &[u32]) -> usize {
        let mut parent = None;
        let find = |tokens: &[u32]| {
            let block = self.reported.iter().find(|(_, block)| block.0 == parent && block.1 == tokens)?;
            parent = Some(*block.0);
            parent
        };
        prompt.chunks_exact(self.config.block_size as usize).map_while(find).count()
    }

    fn next_id(&self) -> SeqId {
        self.clients.last_key_value().map_or(1, |(id, _)| id + 1)
    }

    /// Makes a request with a new id and default parameters.
    pub fn request(&self, prompt: Vec<u32>, max_tokens: u32) -> Request {
        Request {
            id: self.next_id(),
            prompt,
            priority: 0,
            cache_salt: String::new(),
            sampling: SamplingParams { seed: 7, ..SamplingParams::default() },
            max_tokens,
            stop_token_ids: Vec::new(),
            deadline: None,
            needs_head: false,
            prompt_logprobs: None,
        }
    }

    pub fn submit(&mut self, request: Request) -> Result<SeqId, SubmitError> {
        let id = request.id;
        let result = self.scheduler.submit(request.clone(), self.now);
        if let Err(refused) = result {
            self.counts.refused_full += usize::from(matches!(refused, SubmitError::QueueFull { .. }));
            return Err(refused);
        }
        let (expected, reason) = expected_answer(&request, self.config.context_length);
        let prompt = request.prompt_logprobs.map(|_| score_prompt(&request.prompt));
        let client = Client {
            request,
            expected,
            reason,
            expected_prompt: prompt.unwrap_or_default().into(),
            num_received: 0,
            started: false,
            submitted: self.now,
            ended: false,
            num_in_flight: 0,
            last_sampling_step: 0,
            too_large: false,
        };
        self.clients.insert(id, client);
        Ok(id)
    }

    /// Cancels one of the live requests, if there is any; `index` selects it.
    pub fn cancel_nth(&mut self, index: usize) {
        let live: Vec<SeqId> = self.live().map(|(&id, _)| id).collect();
        if let Some(&id) = live.get(index % live.len().max(1)) {
            self.cancel(id);
        }
    }

    pub fn cancel(&mut self, id: SeqId) {
        self.scheduler.cancel(id);
        self.clients.get_mut(&id).expect("a client cancels its own request").ended = true;
        self.counts.cancelled += 1;
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

    pub fn form_group(&mut self, num_blocks: u32) {
        self.leave_group();
        self.epoch += 1;
        for client in self.clients.values_mut() {
            client.too_large |= client.max_num_blocks(self.config.context_length, self.config.block_size) > num_blocks;
        }
        self.rank = Some(Rank::new(self.epoch, num_blocks, self.config.block_size));
        self.scheduler.start_epoch(self.epoch, num_blocks, self.now);
    }

    pub fn lose_group(&mut self) {
        self.leave_group();
        self.scheduler.end_epoch(self.now);
        assert_eq!(self.scheduler.next_plan(), None, "no plan without a group");
    }

    fn leave_group(&mut self) {
        if self.rank.take().is_some() {
            self.counts.losses += 1;
            self.recovering_since.get_or_insert(self.now);
        }
        self.stale.extend(self.results.drain(..));
        for client in self.clients.values_mut() {
            client.num_in_flight = 0;
        }
    }

    /// Asks for a plan and runs it. The result waits for [`Self::deliver_result`].
    pub fn run_step(&mut self) -> Option<StepPlan> {
        let budget = self.scheduler.stats().token_budget;
        let plan = self.scheduler.next_plan()?;
        self.check_plan(&plan, budget);
        let rank = self.rank.as_mut().expect("plans are made for a group");
        let result = rank.execute(&plan);
        let stats = self.scheduler.stats();
        assert_eq!(
            stats.blocks_used as usize,
            rank.num_used_blocks(),
            "the head counts the blocks that ranks refer to"
        );
        assert_eq!(stats.running, rank.num_sequences());
        assert!(stats.running <= self.config.max_num_seqs);
        for sampled in &result.sampled {
            let client = self.clients.get_mut(&sampled.seq).expect("the request exists");
            client.num_in_flight += 1;
            client.last_sampling_step = plan.step;
        }
        self.follow_block_events();
        self.results.push_back(result);
        assert!(self.results.len() <= self.config.max_steps_in_flight);
        self.counts.steps += 1;
        Some(plan)
    }

    fn check_plan(&mut self, plan: &StepPlan, budget: usize) {
        let num_single = plan.entries.iter().filter(|entry| entry.tokens.len() == 1).count();
        assert!(plan.num_tokens() <= self.config.max_num_batched_tokens);
        assert!(plan.num_tokens() <= budget.max(num_single + MIN_PREFILL_TOKENS), "the plan keeps to the budget");
        for entry in &plan.entries {
            let client = &self.clients[&entry.seq];
            assert!(!client.ended, "{} has ended but is planned", entry.seq);
            let computed = entry.position as usize + entry.tokens.len();
            let max_len = client.request.prompt.len() + client.request.max_tokens.max(1) as usize;
            assert!(
                computed < max_len.min(self.config.context_length as usize),
                "no step computes a token that the request does not ask for"
            );
            if client.request.needs_head {
                assert!(matches!(entry.tokens, PlanTokens::Given(_)), "{} waits for its token", entry.seq);
                assert_eq!(client.num_in_flight, 0);
            }
            self.counts.targets += entry.prompt_targets.as_ref().map_or(0, |targets| targets.tokens.len());
            self.counts.last_sampled += usize::from(entry.tokens == PlanTokens::LastSampled);
            self.counts.chunks += usize::from(!entry.sample);
        }
        self.check_overlap(plan);
        // The oldest request has an entry in every step, or waits for its own result. So no request starves. With
        // priorities, a later request may have gone before it.
        let equal = self.live().all(|(_, client)| client.request.priority == 0);
        if let Some((id, client)) = self.live().find(|(_, client)| !client.too_large && equal) {
            let planned = plan.entries.iter().any(|entry| entry.seq == *id);
            assert!(planned || client.num_in_flight > 0, "the oldest request, {id}, is passed over");
        }
    }

    /// Checks that a step waits for a step in flight only if there is nothing else to do, and that the tokens in flight
    /// are bounded.
    fn check_overlap(&mut self, plan: &StepPlan) {
        let stages = self.config.pipeline_stages;
        let waits = |client: &Client| client.num_in_flight > 0 && client.last_sampling_step + stages as u64 > plan.step;
        let waiting = plan.entries.iter().filter(|entry| waits(&self.clients[&entry.seq])).count();
        assert!(waiting == 0 || waiting == plan.entries.len(), "a step waits although it need not: {plan:?}");
        self.counts.overlaps += usize::from(waiting == 0 && !self.results.is_empty());
        let max_in_flight = (self.config.max_steps_in_flight + 1).saturating_sub(stages).max(1);
        for entry in plan.entries.iter().filter(|entry| entry.tokens == PlanTokens::LastSampled) {
            assert!(self.clients[&entry.seq].num_in_flight < max_in_flight, "{} runs too far ahead", entry.seq);
        }
    }

    /// Delivers the oldest result to the scheduler. Returns false if there is none.
    pub fn deliver_result(&mut self, micros: u64) -> bool {
        let Some(result) = self.results.pop_front() else { return false };
        for sampled in &result.sampled {
            self.clients.get_mut(&sampled.seq).expect("the request exists").num_in_flight -= 1;
        }
        self.now += micros;
        self.recovering_since = None;
        let outputs = self.scheduler.complete_step(result, micros).expect("results come in order");
        self.receive(outputs);
        self.follow_block_events();
        true
    }

    /// Delivers a late result of an earlier epoch.
    pub fn deliver_stale_result(&mut self) {
        if let Some(result) = self.stale.pop_front() {
            assert_eq!(self.scheduler.complete_step(result, 1), Ok(Vec::new()));
        }
    }

    /// Lets time pass.
    pub fn advance_time(&mut self, micros: u64) {
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
                let recovery = self.recovering_since.map(|since| since.max(client.submitted) + timeout);
                let too_large = client.too_large.then_some(0);
                [too_large, client.request.deadline, recovery].into_iter().flatten().min()
            })
            .min()
    }

    fn receive(&mut self, outputs: Vec<RequestOutput>) {
        for output in outputs {
            match output {
                RequestOutput::Started { id, cached_tokens } => {
                    let client = self.live_client(id);
                    assert!(!std::mem::replace(&mut client.started, true), "{id} starts once");
                    assert!(
                        (cached_tokens as usize) < client.request.prompt.len(),
                        "at least one token of the prompt is computed"
                    );
                }
                RequestOutput::Prompt { id, tokens } => {
                    self.counts.prompt_tokens += tokens.len();
                    let client = self.live_client(id);
                    assert!(client.started, "{id} starts before the tokens of its prompt");
                    for token in tokens {
                        assert_eq!(
                            client.expected_prompt.pop_front(),
                            Some(token),
                            "{id} misses no token of its prompt"
                        );
                    }
                }
                RequestOutput::Token { id, token, .. } => {
                    let client = self.live_client(id);
                    assert!(client.started, "{id} starts before its first token");
                    assert!(client.expected_prompt.is_empty(), "the prompt of {id} comes before its first token");
                    assert_eq!(
                        client.expected.get(client.num_received),
                        Some(&token),
                        "{id} gets the tokens that it gets alone"
                    );
                    client.num_received += 1;
                }
                RequestOutput::Finished { id, reason } => {
                    let client = self.live_client(id);
                    client.ended = true;
                    assert!(client.expected_prompt.is_empty(), "the prompt of {id} comes before its end");
                    assert_eq!((reason, client.num_received), (client.reason, client.expected.len()));
                    self.counts.finished += 1;
                    self.counts.stopped += usize::from(matches!(reason, FinishReason::StopToken(_)));
                }
                RequestOutput::Failed { id, reason } => self.check_failure(id, reason),
            }
        }
    }

    fn live_client(&mut self, id: SeqId) -> &mut Client {
        let client = self.clients.get_mut(&id).expect("every output belongs to a request");
        assert!(!client.ended, "nothing follows the end of {id}");
        client
    }

    fn check_failure(&mut self, id: SeqId, reason: Failure) {
        let (now, recovering_since) = (self.now, self.recovering_since);
        let block_size = self.config.block_size;
        let context = self.config.context_length;
        let timeout = self.config.recovery_timeout.as_micros() as u64;
        let client = self.live_client(id);
        client.ended = true;
        match reason {
            Failure::Deadline => {
                assert!(client.request.deadline.is_some_and(|deadline| deadline <= now));
                self.counts.deadlines += 1;
            }
            Failure::RecoveryTimeout => {
                let since = recovering_since.expect("there is no working group").max(client.submitted);
                assert!(since + timeout <= now);
                self.counts.timeouts += 1;
            }
            Failure::TooManyBlocks { needed, total: reported } => {
                assert!(client.too_large && needed > reported);
                assert_eq!(needed, client.max_num_blocks(context, block_size));
                self.counts.too_large += 1;
            }
        }
    }

    /// Runs until every request has ended, and then checks that nothing remains.
    pub fn drain(&mut self) {
        self.advance_time(0);
        let num_tokens: usize =
            self.live().map(|(_, client)| client.request.prompt.len() + client.expected.len()).sum();
        // Each step computes at least one token of the oldest request.
        let mut max_steps = num_tokens + self.num_live() + 1;
        while self.num_live() > 0 {
            assert!(max_steps > 0, "requests are answered in a bounded number of steps");
            while self.run_step().is_some() {}
            assert!(self.deliver_result(1), "there is always a step to run or a result to wait for");
            max_steps -= 1;
        }
        while self.deliver_result(1) {}
        let stats = self.scheduler.stats();
        assert_eq!((stats.running, stats.waiting, stats.blocks_used, stats.steps_in_flight), (0, 0, 0, 0));
        assert_eq!(self.scheduler.next_plan(), None);
        assert_eq!(self.scheduler.fail_expired(Micros::MAX), [], "no request remains that could fail");
        self.counts.preemptions = stats.preemptions;
        self.counts.hits = stats.prefix_hit_tokens;
    }
}

/// Returns the answer of a request that runs alone.
fn expected_answer(request: &Request, context_length: u32) -> (Vec<u32>, FinishReason) {
    let mut tokens = request.prompt.clone();
    let max_len = (tokens.len() + request.max_tokens as usize).min(context_length as usize);
    while tokens.len() < max_len {
        let token = next_token(&tokens, &request.sampling);
        if request.stop_token_ids.contains(&token) {
            return (tokens.split_off(request.prompt.len()), FinishReason::StopToken(token));
        }
        tokens.push(token);
    }
    (tokens.split_off(request.prompt.len()), FinishReason::Length)
}
