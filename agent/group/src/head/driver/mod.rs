//! The driver: it owns the group and the schedule. Inputs go in, and messages for nodes and events for clients come out.

mod nodes;
mod requests;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use lockstep_api::{Event, InFlight, ServeError, Submission};
use lockstep_proto::node::{self as pb, from_head, from_node};
use lockstep_proto::v1::{ClusterStatus, ModelInfo};
use lockstep_schedule::plan::{SeqId, StepPlan};
use lockstep_schedule::{BlockEvent, Scheduler};

use super::clients::Clients;
use super::group::{GroupConfig, HeadGroup};
use super::status;
use super::suspects::Suspects;
use crate::wire;

/// Time between two pulses while nothing changes. A pulse tells each node if its epoch serves.
const PULSE_INTERVAL: Duration = Duration::from_millis(500);
/// Time between a node's request to depart and its release. If Kubernetes stops the whole pod, the head receives its
/// own signal within this time. The head then finishes its requests before it releases the node.
const DEPARTURE_PAUSE: Duration = Duration::from_millis(500);
/// Sequence that tests an idle group: it generates one token on all ranks.
const CANARY: SeqId = 0;

/// Something that happened, for the driver to act on.
#[derive(Debug)]
pub enum Input {
    /// A node said Hello on a new control stream, and proved the group's key if there is one. `peer` is the address that the
    /// stream comes from, and `local` the head's address that the node dialed.
    Hello { hello: Box<pb::Hello>, connection: u64, peer: IpAddr, local: IpAddr },
    /// A node sent another message.
    Message { node: usize, connection: u64, message: from_node::Message },
    /// A control stream ended.
    Closed { node: usize, connection: u64, reason: String },
    /// A message could not be queued for a node.
    Unsent { node: usize, connection: u64, reason: &'static str },
    /// A client submits a request. [`Output::Submitted`] has the answer.
    Submit(Box<Submission>),
    /// The client of an open request is gone, or no event reaches it.
    ClientLost { id: SeqId, reason: &'static str },
    /// The operator asks for a drain. [`Output::Draining`] has the answer.
    Drain { reason: String },
    /// This process was told to stop: finish the open requests, then end.
    Stop,
    /// Time has passed. A tick comes about every 50 ms. It looks for silent nodes, stalled steps and passed deadlines, and
    /// renews the status.
    Tick,
}

/// A task for the driver's shell. The shell carries out outputs in their order.
#[derive(Debug)]
pub enum Output {
    /// Queue a message for a node. If that fails, the next input is [`Input::Unsent`], except after a pulse.
    Send { node: usize, connection: u64, message: from_head::Message },
    /// End a control stream after the messages that are queued.
    Close { connection: u64, end: StreamEnd },
    /// The decision about the submitted request. Its events follow.
    Submitted(Result<SeqId, ServeError>),
    /// The drain has begun, with this many unfinished requests.
    Draining(InFlight),
    /// Send an event to the client of a request. `Finished`, `Cancelled` or `Failed` is the last one.
    Event { id: SeqId, event: Event },
    /// Publish a new status.
    Status(Box<ClusterStatus>),
    /// Count a step in the metrics of these ranks.
    StepTimes { ranks: std::ops::Range<u32>, step: Duration, fan_out: Duration },
    /// Count preempted sequences in the metrics.
    Preempted(u64),
    /// Publish what the prefix cache has gained and lost.
    Blocks(Vec<BlockEvent>),
    /// End this process. It is the last output. An error says why the model can never be served.
    End(Result<(), String>),
}

/// Why the head ends a control stream, and what the node must do then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamEnd {
    /// The node's settings do not fit the group. Its process ends.
    Refused(String),
    /// The node is broken, or another process has its place. Its process ends.
    Evicted(String),
    /// The node may dial again, with its weights.
    MayReturn(String),
    /// The node was told to drain.
    Released,
}

/// Settings of the driver.
#[derive(Debug)]
pub struct DriverConfig {
    pub group: GroupConfig,
    pub model: ModelInfo,
    /// Time without a serving epoch after which the head refuses requests.
    pub recovery_timeout: Duration,
    /// Time after which a head that was told to stop cancels the open requests.
    pub drain_timeout: Duration,
    /// Set if another head may follow this one, so that nodes wait for it. A head in a terminal has no successor.
    pub has_successor: bool,
    /// Time of the head's start, in microseconds since 1970 by the clock of its machine.
    pub unix_micros: u64,
}

/// The head's state.
pub struct Driver {
    recovery_timeout: Duration,
    drain_timeout: Duration,
    has_successor: bool,
    model: ModelInfo,
    group: HeadGroup,
    scheduler: Scheduler,
    clients: Clients,
    /// Control streams, by ordinal of the node.
    streams: Vec<Option<u64>>,
    next_id: SeqId,
    started_at: Instant,
    unix_micros_at_start: u64,
    /// Time of the current input.
    now: Instant,
    /// Outputs of the current input so far.
    outputs: Vec<Output>,
    /// Time at which the ranks generated the first token of the current epoch. A draining head may still serve, so this is
    /// not yet the status's `ready`.
    serving_since: Option<Instant>,
    /// Set once the group has served for the first time.
    has_served: bool,
    /// Fault of the model that a rank found before the group served. The head then ends.
    unusable: Option<String>,
    /// Time at which an epoch first ended since an epoch last served. `None` while an epoch serves.
    lost_at: Option<Instant>,
    /// Requests that may be the cause of failed epochs.
    suspects: Suspects,
    /// Time at which this process was told to stop.
    stopping_since: Option<Instant>,
    /// Reason why the head drains. `None` until a drain begins. A drain never ends.
    drain_reason: Option<String>,
    /// Time until which a draining head still takes requests, because clients cannot know of the drain yet.
    takes_requests_until: Option<Instant>,
    /// Last step that the head sent in this epoch.
    last_sent: Option<u64>,
    last_pulse_at: Instant,
    requests: u64,
    tokens_generated: u64,
    preemptions: u64,
    /// Set while the status may differ from the last one.
    dirty: bool,
    /// Status that was published last.
    status: ClusterStatus,
}

impl Driver {
    pub fn new(config: DriverConfig, scheduler: Scheduler, now: Instant) -> Self {
        let DriverConfig { group, model, recovery_timeout, drain_timeout, has_successor, unix_micros } = config;
        let group = HeadGroup::new(group);
        let status = status::initial_status(&group, &model);
        Self {
            recovery_timeout,
            drain_timeout,
            has_successor,
            streams: vec![None; group.config().nodes],
            model,
            group,
            scheduler,
            clients: Clients::default(),
            next_id: CANARY + 1,
            started_at: now,
            unix_micros_at_start: unix_micros,
            now,
            outputs: Vec::new(),
            serving_since: None,
            has_served: false,
            unusable: None,
            lost_at: None,
            suspects: Suspects::default(),
            stopping_since: None,
            drain_reason: None,
            takes_requests_until: None,
            last_sent: None,
            last_pulse_at: now,
            requests: 0,
            tokens_generated: 0,
            preemptions: 0,
            dirty: true,
            status,
        }
    }

    /// Returns the status that was published last.
    pub fn status(&self) -> &ClusterStatus {
        &self.status
    }

    /// Acts on one input at the time `now`. Times never go back from one input to the next.
    pub fn handle(&mut self, input: Input, now: Instant) -> Vec<Output> {
        self.now = now;
        match input {
            Input::Hello { hello, connection, peer, local } => self.admit_node(*hello, connection, (peer, local)),
            Input::Message { node, connection, message } => {
                if self.group.connection(node) == Some(connection) {
                    self.receive_message(node, message);
                }
            }
            Input::Closed { node, connection, reason } => self.close_stream(node, connection, &reason),
            Input::Unsent { node, connection, reason } => {
                if self.group.connection(node) == Some(connection) {
                    self.disconnect(node, reason);
                }
            }
            Input::Submit(submission) => self.submit_request(*submission),
            Input::ClientLost { id, reason } => {
                if self.clients.cancel(id, reason) {
                    self.cancel_sequence(id);
                }
            }
            Input::Drain { reason } => self.drain_for_operator(&reason),
            Input::Stop => self.stop(),
            Input::Tick => self.tick(),
        }
        self.go_on();
        std::mem::take(&mut self.outputs)
    }

    /// Does everything that has become possible with the last input.
    fn go_on(&mut self) {
        self.try_suspects();
        self.send_plans();
        let changes = self.scheduler.take_block_events();
        if !changes.is_empty() {
            self.outputs.push(Output::Blocks(changes));
        }
        self.release_departing_nodes();
        if let Some(unusable) = self.unusable.take() {
            self.shut_down(Err(unusable));
        } else if self.is_drained() {
            self.shut_down(Ok(()));
        }
    }

    /// Returns the schedule's clock: the time since the driver started, in microseconds.
    fn now_micros(&self) -> u64 {
        self.now.duration_since(self.started_at).as_micros() as u64
    }

    fn stop(&mut self) {
        self.stopping_since.get_or_insert(self.now);
        self.begin_drain("it was told to stop");
        self.takes_requests_until = None;
    }

    /// Begins to drain, unless the head drains already.
    fn begin_drain(&mut self, reason: &str) {
        if self.drain_reason.is_none() {
            tracing::info!(open = self.clients.len(), reason, "the head drains: it finishes its requests");
            (self.drain_reason, self.dirty) = (Some(reason.to_owned()), true);
        }
    }

    /// Returns a node that the head may release now, because the node asked to depart [`DEPARTURE_PAUSE`] ago. A
    /// draining head releases no node before it has finished its requests.
    fn releasable_node(&self) -> Option<usize> {
        let is_finishing = self.drain_reason.is_some() && self.clients.len() > 0;
        if is_finishing { None } else { self.group.departing_node(self.now, DEPARTURE_PAUSE) }
    }

    /// Releases the nodes that asked to depart, once no step is in flight on any rank.
    fn release_departing_nodes(&mut self) {
        while let Some(node) = self.releasable_node()
            && self.group.has_finished_step(self.last_sent)
        {
            let actions = self.group.release(node);
            self.apply_actions(actions);
            // The node has been told to drain. The head ignores whatever else arrives on its stream.
            if let Some(connection) = self.streams[node].take() {
                self.outputs.push(Output::Close { connection, end: StreamEnd::Released });
            }
        }
    }

    /// Lets the next request go on that was held back, if the group serves.
    fn try_suspects(&mut self) {
        if let Some(since) = self.serving_since
            && let Some(id) = self.suspects.next_trial(self.now.duration_since(since))
        {
            tracing::info!(sequence = id, "tries a request again that was held back");
            self.scheduler.release(id);
        }
    }

    /// Ends a sequence whose request is no longer open.
    fn cancel_sequence(&mut self, id: SeqId) {
        self.scheduler.cancel(id);
        self.suspects.clear(id);
    }

    /// Sends each plan of the schedule to all nodes, until the schedule has no further plan. Sends nothing while a node
    /// waits for its release, so that the ranks can finish the steps in flight.
    fn send_plans(&mut self) {
        while self.group.is_formed() && self.releasable_node().is_none() {
            let Some(mut plan) = self.scheduler.next_plan() else { return };
            self.apply_grammars(&mut plan);
            let admitted = plan.admit.iter().map(|admission| admission.seq).filter(|id| *id != CANARY);
            admitted.for_each(|id| self.suspects.admit(id));
            self.group.set_in_flight(true, self.now);
            self.last_sent = Some(plan.step);
            let wire = wire::plan_to_wire(&plan);
            for node in 0..self.streams.len() {
                self.send_to_node(node, from_head::Message::Plan(wire.clone()));
            }
        }
    }

    /// Attaches to each entry of the plan the tokens that its grammar allows. If a grammar allows no token, its request
    /// fails here, and the schedule drops the entry's result.
    fn apply_grammars(&mut self, plan: &mut StepPlan) {
        for entry in plan.entries.iter_mut().filter(|entry| entry.sample) {
            match self.clients.allowed_tokens(entry.seq) {
                Ok(allowed) => entry.allowed = allowed,
                Err(error) => {
                    self.clients.fail(entry.seq, error, &mut self.outputs);
                    self.cancel_sequence(entry.seq);
                }
            }
        }
    }

    fn tick(&mut self) {
        if self.now.duration_since(self.last_pulse_at) > PULSE_INTERVAL {
            self.send_pulse();
        }
        let had_suspects = self.group.has_suspects();
        let actions = self.group.tick(self.now);
        self.apply_actions(actions);
        if self.group.has_suspects() != had_suspects {
            let nodes: Vec<usize> = self.group.suspects().collect();
            if had_suspects {
                tracing::info!("no node's heartbeat is late any longer");
            } else {
                tracing::warn!(?nodes, "heartbeats are late: a step waits for these nodes, for up to 3 s");
            }
            self.send_pulse();
        }
        let expired = self.scheduler.fail_expired(self.now_micros());
        self.deliver_outputs(expired);
        let preemptions = self.scheduler.stats().preemptions;
        let before = std::mem::replace(&mut self.preemptions, preemptions);
        if preemptions > before {
            self.outputs.push(Output::Preempted(preemptions - before));
        }
        self.dirty = true;
        self.publish_status();
    }

    /// Returns true if no epoch has served for longer than the recovery timeout.
    fn has_recovery_timed_out(&self) -> bool {
        self.lost_at.is_some_and(|at| self.now.duration_since(at) > self.recovery_timeout)
    }

    /// Returns true if the head expects to answer a new request. The group has served before, the head does not drain,
    /// and the recovery timeout has not passed.
    fn is_accepting(&self) -> bool {
        self.has_served && self.drain_reason.is_none() && !self.has_recovery_timed_out()
    }

    /// Returns true if the epoch serves and every node speaks.
    fn is_ready(&self) -> bool {
        self.serving_since.is_some() && !self.group.has_suspects()
    }

    /// Publishes the status if it has changed.
    fn publish_status(&mut self) {
        if !std::mem::take(&mut self.dirty) {
            return;
        }
        let facts = status::HeadFacts {
            ready: self.is_ready() && self.drain_reason.is_none(),
            accepting: self.is_accepting(),
            draining: self.drain_reason.as_deref(),
            model: &self.model,
            stats: self.scheduler.stats(),
            requests: self.requests,
            tokens_generated: self.tokens_generated,
        };
        let status = status::cluster_status(&self.group, facts);
        if status != self.status {
            self.status = status.clone();
            self.outputs.push(Output::Status(Box::new(status)));
        }
    }

    /// Tells every node if the current epoch serves.
    fn send_pulse(&mut self) {
        self.last_pulse_at = self.now;
        let pulse = pb::Pulse { epoch: self.group.epoch(), serving: self.is_ready() };
        self.send_to_all(&from_head::Message::Pulse(pulse));
    }

    /// Sends a message to every node that has a stream.
    fn send_to_all(&mut self, message: &from_head::Message) {
        for (node, stream) in self.streams.iter().enumerate() {
            if let Some(connection) = *stream {
                self.outputs.push(Output::Send { node, connection, message: message.clone() });
            }
        }
    }

    /// Returns true if this process was told to stop and no request is open, or the drain timeout has passed.
    fn is_drained(&self) -> bool {
        let Some(since) = self.stopping_since else { return false };
        self.clients.len() == 0 || self.now.duration_since(since) > self.drain_timeout
    }

    /// Cancels the requests that are still open, tells every node that the head ends, and ends with `outcome`.
    fn shut_down(&mut self, outcome: Result<(), String>) {
        for id in self.clients.cancel_all(&mut self.outputs) {
            self.cancel_sequence(id);
        }
        let drain = pb::Drain { reason: "the head is shutting down".into(), head_ends: self.has_successor };
        self.send_to_all(&from_head::Message::Drain(drain));
        tracing::info!("drained");
        self.outputs.push(Output::End(outcome));
    }
}
