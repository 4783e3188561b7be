//! The one task that owns the group and the schedule: events in, plans out.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use lockstep_proto::node::{self as pb, from_head, from_node};
use lockstep_proto::v1::ClusterStatus;
use lockstep_schedule::plan::{SamplingParams, SeqId};
use lockstep_schedule::{Request, Scheduler};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::clients::{self, Clients};
use super::control::{NodeEvent, NodeStream};
use super::group::{Action, Group};
use super::member::Member;
use super::{admission, status};
use crate::clock;
use crate::metrics::Metrics;
use crate::service::{Command, Event, ServeError, Submission};
use crate::wire;

/// How often silence, hangs, deadlines and clients that went away are looked for, and the status is told at most.
const TICK: Duration = Duration::from_millis(50);
/// The sequence that proves an idle group: one token through all ranks.
const CANARY: SeqId = 0;
/// Epochs in a row that may end before a token came through; then what was running in them is to blame.
const MAX_FRUITLESS: u32 = 5;

/// What the driver is given.
pub struct Inputs {
    pub group: Group,
    pub scheduler: Scheduler,
    pub model_name: String,
    pub recovery_timeout: Duration,
    pub drain_timeout: Duration,
    pub commands: mpsc::Receiver<Command>,
    pub nodes: mpsc::Receiver<NodeEvent>,
    pub status: watch::Sender<ClusterStatus>,
    pub metrics: Metrics,
    /// Finish what runs, then end.
    pub drain: CancellationToken,
}

/// The driver's state.
pub struct Driver {
    inputs: Inputs,
    streams: Vec<Option<NodeStream>>,
    clients: Clients,
    next_id: SeqId,
    began: Instant,
    /// A token came through the current epoch.
    proved: bool,
    /// The group was ready once.
    opened: bool,
    lost_at: Option<Instant>,
    /// Sequences that the ranks have been told of since the last token.
    suspects: HashSet<SeqId>,
    fruitless: u32,
    draining: Option<Instant>,
    preemptions: u64,
    dirty: bool,
}

impl Driver {
    pub fn new(inputs: Inputs) -> Self {
        let nodes = inputs.group.config().nodes;
        Self {
            inputs,
            streams: (0..nodes).map(|_| None).collect(),
            clients: Clients::default(),
            next_id: CANARY + 1,
            began: Instant::now(),
            proved: false,
            opened: false,
            lost_at: None,
            suspects: HashSet::new(),
            fruitless: 0,
            draining: None,
            preemptions: 0,
            dirty: true,
        }
    }

    /// Runs until it has drained. Every node has then been told to end.
    pub async fn run(mut self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let drain = self.inputs.drain.clone();
        loop {
            tokio::select! {
                Some(event) = self.inputs.nodes.recv() => self.node_event(event),
                Some(command) = self.inputs.commands.recv() => self.command(command),
                _ = tick.tick() => self.tick(),
                () = drain.cancelled(), if self.draining.is_none() => {
                    tracing::info!(open = self.clients.len(), "draining");
                    (self.draining, self.dirty) = (Some(Instant::now()), true);
                }
            }
            self.send_plans();
            if self.drained() {
                return self.end();
            }
        }
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }

    fn command(&mut self, command: Command) {
        let Command::Submit { submission, events, accepted } = command;
        let answer = self.submit(submission, events);
        self.reply(accepted, answer);
    }

    fn reply(&mut self, accepted: oneshot::Sender<Result<(), ServeError>>, answer: Result<(), ServeError>) {
        // A client that did not wait for the answer has dropped its events too: the next tick cancels it.
        accepted.send(answer).ok();
    }

    fn submit(&mut self, submission: Submission, events: mpsc::Sender<Event>) -> Result<(), ServeError> {
        let unavailable = |reason: &str| {
            Err(ServeError::Unavailable { reason: reason.into(), retry_after_s: clients::RETRY_AFTER_S })
        };
        if self.draining.is_some() {
            return unavailable("the head is shutting down");
        }
        if self.lost_at.is_some_and(|at| at.elapsed() > self.inputs.recovery_timeout) {
            return unavailable("the group has not recovered in time");
        }
        let now = self.now();
        let id = self.next_id;
        // What the blocks cannot hold would be refused; the answer ends there instead.
        let room = self.inputs.scheduler.max_sequence_tokens().saturating_sub(submission.prompt.len() as u32);
        let request = Request {
            id,
            prompt: submission.prompt,
            sampling: submission.sampling,
            max_tokens: submission.max_tokens.min(room.max(1)),
            stop_token_ids: submission.stop_token_ids,
            deadline: submission.deadline.map(|deadline| now + deadline.as_micros() as u64),
            needs_head: false,
        };
        self.inputs.scheduler.submit(request, now).map_err(clients::refusal)?;
        self.next_id += 1;
        tracing::debug!(request_id = submission.request_id, sequence = id, "took a request");
        self.clients.insert(id, submission.request_id, events);
        Ok(())
    }

    fn node_event(&mut self, event: NodeEvent) {
        let now = Instant::now();
        match event {
            NodeEvent::Hello { hello, peer, local, stream } => self.hello(*hello, (peer, local), stream, now),
            NodeEvent::Closed { node, connection, reason } => {
                tracing::warn!(node, reason, "a node's control stream ended");
                let actions = self.inputs.group.detach(node, connection, &reason, now);
                self.act(actions);
            }
            NodeEvent::Message { node, connection, message } => {
                if self.inputs.group.connection(node) == Some(connection) {
                    self.message(node, message, now);
                }
            }
        }
    }

    fn hello(
        &mut self,
        hello: pb::Hello,
        (peer, local): (std::net::IpAddr, std::net::IpAddr),
        stream: NodeStream,
        now: Instant,
    ) {
        let node = hello.node as usize;
        let group = &mut self.inputs.group;
        if let Err(reason) = admission::judge(&hello, group.config(), group.places().get(node)) {
            tracing::warn!(node, %peer, reason, "refused a node");
            return stream.end(Status::failed_precondition(reason));
        }
        tracing::info!(node, %peer, pid = hello.pid, host = hello.host, "a node joined");
        let member = Member::new(hello, stream.connection, peer, local, now);
        let actions = group.attach(member, now);
        let older = self.streams[node].replace(stream);
        for action in &actions {
            if let (Action::Evict { reason, .. }, Some(older)) = (action, &older) {
                older.end(Status::aborted(format!("evicted: {reason}")));
            }
        }
        let others = actions.into_iter().filter(|action| !matches!(action, Action::Evict { .. }));
        self.act(others.collect());
    }

    fn message(&mut self, node: usize, message: from_node::Message, now: Instant) {
        use from_node::Message as M;
        let group = &mut self.inputs.group;
        let actions = match message {
            M::Heartbeat(heartbeat) => {
                group.heartbeat(node, &heartbeat, now);
                return;
            }
            M::StepDone(done) => return self.step_done(node, done, now),
            M::Progress(progress) => {
                group.progress(node, &progress);
                Vec::new()
            }
            M::Loaded(loaded) => group.loaded(node, loaded, now),
            M::Formed(formed) => group.formed(node, formed.epoch),
            M::Fault(fault) => {
                tracing::warn!(
                    node,
                    rank = fault.rank,
                    epoch = fault.epoch,
                    fatal = fault.fatal,
                    reason = fault.message,
                    "a rank cannot go on"
                );
                group.fault(node, &fault, now)
            }
            M::Leaving(leaving) => group.evict(node, &format!("leaves: {}", leaving.reason), now),
            M::Hello(_) | M::Answer(_) => group.evict(node, "said Hello twice", now),
        };
        self.dirty = true;
        self.act(actions);
    }

    fn step_done(&mut self, node: usize, done: pb::StepDone, now: Instant) {
        let Inputs { group, metrics, .. } = &mut self.inputs;
        if done.epoch != group.epoch() || !group.is_formed() {
            return;
        }
        group.step_done(node, done.step, done.micros, now);
        let local = group.config().local_world_size;
        for rank in node as u32 * local..(node as u32 + 1) * local {
            metrics.observe_step(rank, Duration::from_micros(done.micros));
        }
        if done.fan_out_nanos > 0 {
            metrics.observe_fanout(Duration::from_nanos(done.fan_out_nanos));
        }
        if node != 0 {
            return;
        }
        let micros = done.micros;
        let completed = wire::output_from_wire(done).map_err(|error| error.to_string()).and_then(|output| {
            let sampled = !output.sampled.is_empty();
            let at = self.now();
            let outputs = self.inputs.scheduler.complete(output, micros, at).map_err(|error| error.to_string())?;
            Ok((sampled, outputs))
        });
        match completed {
            Ok((sampled, outputs)) => {
                if sampled {
                    self.prove();
                }
                self.deliver(outputs);
                let in_flight = self.inputs.scheduler.stats().steps_in_flight > 0;
                // What is in flight now is a younger step: its own second begins.
                self.inputs.group.busy(false, now);
                self.inputs.group.busy(in_flight, now);
            }
            Err(reason) => {
                let fault =
                    pb::Fault { epoch: self.inputs.group.epoch(), rank: 0, message: reason, ..Default::default() };
                let actions = self.inputs.group.fault(node, &fault, now);
                self.act(actions);
            }
        }
    }

    fn prove(&mut self) {
        self.suspects.clear();
        self.fruitless = 0;
        if !self.proved {
            self.inputs.group.proved();
            (self.proved, self.opened, self.lost_at, self.dirty) = (true, true, None, true);
            tracing::info!(epoch = self.inputs.group.epoch(), "the group serves");
            self.publish();
        }
    }

    fn deliver(&mut self, outputs: Vec<lockstep_schedule::Output>) {
        for output in outputs {
            if let Some(id) = self.clients.deliver(output) {
                self.clients.remove(id, "its client reads nothing or went away");
                self.inputs.scheduler.cancel(id);
            }
        }
    }

    fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            self.dirty = true;
            match action {
                Action::Send { node, message } => self.send(node, message),
                Action::Evict { node, connection, reason } => {
                    tracing::warn!(node, reason, "evicted a node");
                    let matching = self.streams[node].take_if(|stream| stream.connection == connection);
                    if let Some(stream) = matching {
                        stream.end(Status::aborted(format!("evicted: {reason}")));
                    }
                }
                Action::Lost { reason } => self.lost(&reason),
                Action::Formed { epoch, num_blocks } => self.formed(epoch, num_blocks),
            }
        }
        self.publish();
    }

    fn formed(&mut self, epoch: u64, num_blocks: u32) {
        let now = self.now();
        tracing::info!(epoch, num_blocks, "all ranks have joined");
        let scheduler = &mut self.inputs.scheduler;
        scheduler.group_formed(epoch, num_blocks, now);
        let stats = scheduler.stats();
        if stats.running + stats.waiting == 0 {
            let sampling = SamplingParams::default();
            let canary = Request {
                id: CANARY,
                prompt: vec![0],
                sampling,
                max_tokens: 1,
                stop_token_ids: Vec::new(),
                deadline: None,
                needs_head: false,
            };
            if let Err(error) = scheduler.submit(canary, now) {
                tracing::error!(%error, "cannot prove the group");
            }
        }
    }

    fn lost(&mut self, reason: &str) {
        tracing::warn!(epoch = self.inputs.group.epoch(), reason, "lost the epoch: running requests wait for the next");
        let now = self.now();
        self.inputs.scheduler.cancel(CANARY);
        self.inputs.scheduler.group_lost(now);
        self.lost_at = self.lost_at.or(Some(Instant::now()));
        if !self.proved {
            self.fruitless += 1;
        }
        self.proved = false;
        if self.fruitless >= MAX_FRUITLESS {
            self.fruitless = 0;
            for id in std::mem::take(&mut self.suspects) {
                self.inputs.scheduler.cancel(id);
                let what = format!("the group failed {MAX_FRUITLESS} times while it computed this request: {reason}");
                self.clients.fail(id, ServeError::Internal(what));
            }
        }
    }

    fn send(&mut self, node: usize, message: from_head::Message) {
        let delivered = self.streams[node].as_ref().is_some_and(|stream| stream.send(message));
        if !delivered {
            let actions = self.inputs.group.evict(node, "it reads nothing from its control stream", Instant::now());
            self.act(actions);
        }
    }

    fn send_plans(&mut self) {
        while self.inputs.group.is_formed() {
            let now = self.now();
            let Some(plan) = self.inputs.scheduler.next_plan(now) else { return };
            self.suspects.extend(plan.admit.iter().map(|(id, _)| *id).filter(|id| *id != CANARY));
            self.inputs.group.busy(true, Instant::now());
            let wire = wire::plan_to_wire(&plan, clock::monotonic_nanos());
            for node in 0..self.streams.len() {
                self.send(node, from_head::Message::Plan(wire.clone()));
            }
        }
    }

    fn tick(&mut self) {
        let actions = self.inputs.group.tick(Instant::now());
        self.act(actions);
        for id in self.clients.take_gone() {
            self.inputs.scheduler.cancel(id);
        }
        let now = self.now();
        let expired = self.inputs.scheduler.expire(now);
        self.deliver(expired);
        let preemptions = self.inputs.scheduler.stats().preemptions;
        (std::mem::replace(&mut self.preemptions, preemptions)..preemptions)
            .for_each(|_| self.inputs.metrics.count_preemption());
        self.dirty = true;
        self.publish();
    }

    /// The head expects to answer: it was ready once, and has not been without a group for too long.
    fn accepting(&self) -> bool {
        let hopeless = self.lost_at.is_some_and(|at| at.elapsed() > self.inputs.recovery_timeout);
        self.opened && self.draining.is_none() && !hopeless
    }

    fn publish(&mut self) {
        if !std::mem::take(&mut self.dirty) {
            return;
        }
        let facts = status::Facts {
            ready: self.proved && self.draining.is_none(),
            accepting: self.accepting(),
            draining: self.draining.is_some(),
            model_name: &self.inputs.model_name,
            stats: self.inputs.scheduler.stats(),
        };
        let new = status::of(&self.inputs.group, facts);
        self.inputs.status.send_if_modified(|old| {
            let changed = *old != new;
            *old = new;
            changed
        });
    }

    fn drained(&self) -> bool {
        let Some(since) = self.draining else { return false };
        self.clients.len() == 0 || since.elapsed() > self.inputs.drain_timeout
    }

    fn end(&mut self) {
        for id in self.clients.cancel_all() {
            self.inputs.scheduler.cancel(id);
        }
        let drain = pb::Drain { reason: "the head is shutting down".into() };
        for stream in self.streams.iter().flatten() {
            stream.send(from_head::Message::Drain(drain.clone()));
        }
        tracing::info!("drained");
    }
}
