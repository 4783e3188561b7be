//! The driver: the one task that owns the group and the schedule. Events go in, and plans come out.

mod nodes;
mod requests;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use lockstep_api::{Command, Liveness, Metrics};
use lockstep_proto::node::{self as pb, from_head};
use lockstep_proto::v1::{ClusterStatus, ModelInfo};
use lockstep_schedule::Scheduler;
use lockstep_schedule::plan::{SeqId, StepPlan};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::clients::Clients;
use super::control::{NodeEvent, NodeStream};
use super::group::HeadGroup;
use super::status;
use crate::clock;
use crate::wire;

/// Time between two ticks. A tick looks for silent nodes, hung steps, passed deadlines and disconnected clients, and
/// publishes the status.
const TICK: Duration = Duration::from_millis(50);
/// Time between two pulses while nothing changes. A pulse tells a node whether its ranks serve.
const PULSE_INTERVAL: Duration = Duration::from_millis(500);
/// Time between a node's request to depart and its release. If the whole pod is stopped, the head receives its own
/// signal within this time, and it then finishes its requests before it releases the node.
const DEPARTURE_PAUSE: Duration = Duration::from_millis(500);
/// Sequence that tests an idle group: it generates one token on all ranks.
const CANARY: SeqId = 0;
/// Number of epochs in a row that may fail before they generate a token. After that, the head blames the sequences that
/// ran in them.
const MAX_FAILED_ROUNDS: u32 = 5;

/// Parts that the driver is made from.
pub(super) struct Inputs {
    pub group: HeadGroup,
    pub scheduler: Scheduler,
    pub model: ModelInfo,
    pub recovery_timeout: Duration,
    pub drain_timeout: Duration,
    pub commands: mpsc::Receiver<Command>,
    pub nodes: mpsc::Receiver<NodeEvent>,
    pub status: watch::Sender<ClusterStatus>,
    pub metrics: Metrics,
    /// Sign of life that the driver gives at each tick.
    pub alive: Liveness,
    /// Signal to finish the open requests and then to end.
    pub drain: CancellationToken,
}

/// State of the driver.
pub(super) struct Driver {
    inputs: Inputs,
    /// Control streams, by ordinal of the node.
    streams: Vec<Option<NodeStream>>,
    clients: Clients,
    next_id: SeqId,
    started_at: Instant,
    /// Set once the ranks have generated a token in the current epoch.
    serving: bool,
    /// Set once the group has served for the first time.
    has_served: bool,
    /// Time since which no epoch has served.
    lost_at: Option<Instant>,
    /// Sequences that the ranks were sent since the last token.
    suspect_sequences: HashSet<SeqId>,
    /// Epochs in a row that failed before they generated a token.
    failed_rounds: u32,
    /// Time at which this process was told to stop.
    stopping_since: Option<Instant>,
    /// Reason why the head takes no more requests.
    closed_reason: Option<String>,
    /// Time until which a draining head still takes requests from clients that cannot know of the drain yet.
    accepts_until: Option<Instant>,
    /// Last step that the head sent in this epoch.
    last_sent: Option<u64>,
    last_pulse_at: Instant,
    requests: u64,
    tokens_generated: u64,
    preemptions: u64,
    /// Set while the status may have changed since it was published.
    dirty: bool,
}

impl Driver {
    pub(super) fn new(inputs: Inputs) -> Self {
        let nodes = inputs.group.config().nodes;
        Self {
            inputs,
            streams: (0..nodes).map(|_| None).collect(),
            clients: Clients::default(),
            next_id: CANARY + 1,
            started_at: Instant::now(),
            serving: false,
            has_served: false,
            lost_at: None,
            suspect_sequences: HashSet::new(),
            failed_rounds: 0,
            stopping_since: None,
            closed_reason: None,
            accepts_until: None,
            last_sent: None,
            last_pulse_at: Instant::now(),
            requests: 0,
            tokens_generated: 0,
            preemptions: 0,
            dirty: true,
        }
    }

    /// Runs until the head has drained. Every node has been told to end by then.
    pub(super) async fn run(mut self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let drain = self.inputs.drain.clone();
        loop {
            tokio::select! {
                Some(event) = self.inputs.nodes.recv() => self.receive_node_event(event),
                Some(command) = self.inputs.commands.recv() => self.run_command(command),
                _ = tick.tick() => self.tick(),
                () = drain.cancelled(), if self.stopping_since.is_none() => {
                    self.stopping_since = Some(Instant::now());
                    self.stop_accepting("it was told to stop");
                    self.accepts_until = None;
                }
            }
            self.send_plans();
            self.release_departing_nodes();
            if self.is_drained() {
                return self.shut_down();
            }
        }
    }

    /// Returns the schedule's clock: the time since the driver started, in microseconds.
    fn now_micros(&self) -> u64 {
        self.started_at.elapsed().as_micros() as u64
    }

    /// Takes no more requests from now on.
    fn stop_accepting(&mut self, reason: &str) {
        if self.closed_reason.is_none() {
            tracing::info!(open = self.clients.len(), reason, "draining: no more requests are taken");
            (self.closed_reason, self.dirty) = (Some(reason.to_owned()), true);
        }
    }

    /// Returns a node that asked to depart and that the head may release now. A draining head finishes its requests
    /// before it releases a node.
    fn releasable_node(&self) -> Option<usize> {
        let is_finishing = self.closed_reason.is_some() && self.clients.len() > 0;
        if is_finishing { None } else { self.inputs.group.departing_node(Instant::now(), DEPARTURE_PAUSE) }
    }

    /// Releases the nodes that asked to depart, once no step is in flight on any rank.
    fn release_departing_nodes(&mut self) {
        while let Some(node) = self.releasable_node()
            && self.inputs.group.has_finished_step(self.last_sent)
        {
            let actions = self.inputs.group.release(node);
            self.apply_actions(actions);
            // The node has been told to drain. The head ignores whatever else arrives on its stream.
            self.streams[node] = None;
        }
    }

    /// Sends every plan that the schedule has to every node. Sends none while a node waits for its release, so that the
    /// steps in flight come to an end.
    fn send_plans(&mut self) {
        while self.inputs.group.is_formed() && self.releasable_node().is_none() {
            let Some(mut plan) = self.inputs.scheduler.next_plan() else { return };
            self.apply_grammars(&mut plan);
            self.suspect_sequences.extend(plan.admit.iter().map(|admission| admission.seq).filter(|id| *id != CANARY));
            self.inputs.group.set_in_flight(true, Instant::now());
            self.last_sent = Some(plan.step);
            let wire = wire::plan_to_wire(&plan, clock::monotonic_nanos());
            for node in 0..self.streams.len() {
                self.send_to_node(node, from_head::Message::Plan(wire.clone()));
            }
        }
    }

    /// Attaches to each entry of the plan the tokens that its grammar allows. A request whose grammar allows none ends
    /// here, and the head drops the result of its last entry.
    fn apply_grammars(&mut self, plan: &mut StepPlan) {
        for entry in plan.entries.iter_mut().filter(|entry| entry.sample) {
            match self.clients.allowed_tokens(entry.seq) {
                Ok(allowed) => entry.allowed = allowed,
                Err(error) => {
                    self.clients.fail(entry.seq, error);
                    self.inputs.scheduler.cancel(entry.seq);
                }
            }
        }
    }

    fn tick(&mut self) {
        self.inputs.alive.renew();
        if self.last_pulse_at.elapsed() > PULSE_INTERVAL {
            self.send_pulse();
        }
        let actions = self.inputs.group.tick(Instant::now());
        self.apply_actions(actions);
        for id in self.clients.remove_disconnected() {
            self.inputs.scheduler.cancel(id);
        }
        let now = self.now_micros();
        let expired = self.inputs.scheduler.fail_expired(now);
        self.deliver_outputs(expired);
        let preemptions = self.inputs.scheduler.stats().preemptions;
        (std::mem::replace(&mut self.preemptions, preemptions)..preemptions)
            .for_each(|_| self.inputs.metrics.count_preemption());
        self.dirty = true;
        self.publish_status();
    }

    /// Returns true if no epoch has served for longer than the recovery timeout.
    fn has_recovery_timed_out(&self) -> bool {
        self.lost_at.is_some_and(|at| at.elapsed() > self.inputs.recovery_timeout)
    }

    /// Returns true if the head expects to answer a new request. The group has served before, the head does not drain,
    /// and the recovery timeout has not passed.
    fn is_accepting(&self) -> bool {
        self.has_served && self.closed_reason.is_none() && !self.has_recovery_timed_out()
    }

    /// Publishes the status if it has changed.
    fn publish_status(&mut self) {
        if !std::mem::take(&mut self.dirty) {
            return;
        }
        let facts = status::HeadFacts {
            ready: self.serving && self.closed_reason.is_none(),
            accepting: self.is_accepting(),
            draining: self.closed_reason.as_deref(),
            model: &self.inputs.model,
            stats: self.inputs.scheduler.stats(),
            requests: self.requests,
            tokens_generated: self.tokens_generated,
        };
        let new = status::cluster_status(&self.inputs.group, facts);
        self.inputs.status.send_if_modified(|old| {
            let changed = *old != new;
            *old = new;
            changed
        });
    }

    /// Tells every node whether its ranks serve.
    fn send_pulse(&mut self) {
        self.last_pulse_at = Instant::now();
        let pulse = pb::Pulse { epoch: self.inputs.group.epoch(), serving: self.serving };
        for stream in self.streams.iter().flatten() {
            // The head finds a node that reads nothing by the plans that it sends, and by the node's heartbeats.
            stream.send(from_head::Message::Pulse(pulse));
        }
    }

    /// Returns true if this process was told to stop and no request is open, or the drain timeout has passed.
    fn is_drained(&self) -> bool {
        let Some(since) = self.stopping_since else { return false };
        self.clients.len() == 0 || since.elapsed() > self.inputs.drain_timeout
    }

    /// Cancels the requests that are still open, and tells every node to end.
    fn shut_down(&mut self) {
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
