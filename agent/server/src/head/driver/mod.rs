//! The driver: the one task that owns the group and the schedule. Events go in, and plans come out.

mod nodes;
mod requests;

use std::time::{Duration, Instant};

use lockstep_api::{BlockFeed, Command, Liveness, Metrics};
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
use super::suspects::Suspects;
use crate::clock;
use crate::unusable::UnusableModel;
use crate::wire;

/// Time between two ticks. A tick looks for silent nodes, hung steps, passed deadlines and disconnected clients, and
/// publishes the status.
const TICK: Duration = Duration::from_millis(50);
/// Time between two pulses while nothing changes. A pulse tells each node if its epoch serves.
const PULSE_INTERVAL: Duration = Duration::from_millis(500);
/// Time between a node's request to depart and its release. If Kubernetes stops the whole pod, the head receives its
/// own signal within this time. The head then finishes its requests before it releases the node.
const DEPARTURE_PAUSE: Duration = Duration::from_millis(500);
/// Sequence that tests an idle group: it generates one token on all ranks.
const CANARY: SeqId = 0;

/// Parts that the driver is made from.
pub(super) struct DriverParts {
    pub group: HeadGroup,
    pub scheduler: Scheduler,
    pub model: ModelInfo,
    pub recovery_timeout: Duration,
    pub drain_timeout: Duration,
    pub commands: mpsc::Receiver<Command>,
    pub nodes: mpsc::Receiver<NodeEvent>,
    pub status: watch::Sender<ClusterStatus>,
    pub metrics: Metrics,
    /// Publisher of the prefix cache's changes, if anybody may see them.
    pub block_feed: Option<BlockFeed>,
    /// Sign of life that the driver gives at each tick.
    pub alive: Liveness,
    /// Signal to finish the open requests and then to end.
    pub drain: CancellationToken,
    /// Set if another head may follow this one, so that nodes wait for it. A head in a terminal has no successor.
    pub has_successor: bool,
}

/// State of the driver.
pub(super) struct Driver {
    parts: DriverParts,
    /// Control streams, by ordinal of the node.
    streams: Vec<Option<NodeStream>>,
    clients: Clients,
    next_id: SeqId,
    started_at: Instant,
    /// Set once the ranks have generated a token in the current epoch. A draining head may still serve, so this is not
    /// yet the status's `ready`.
    serving: bool,
    /// Set once the group has served for the first time.
    has_served: bool,
    /// Fault of the model that a rank found before the group served. The head then ends.
    unusable: Option<UnusableModel>,
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
    /// Set while the status may differ from the published one.
    dirty: bool,
}

impl Driver {
    pub(super) fn new(parts: DriverParts) -> Self {
        let nodes = parts.group.config().nodes;
        Self {
            parts,
            streams: (0..nodes).map(|_| None).collect(),
            clients: Clients::default(),
            next_id: CANARY + 1,
            started_at: Instant::now(),
            serving: false,
            has_served: false,
            unusable: None,
            lost_at: None,
            suspects: Suspects::default(),
            stopping_since: None,
            drain_reason: None,
            takes_requests_until: None,
            last_sent: None,
            last_pulse_at: Instant::now(),
            requests: 0,
            tokens_generated: 0,
            preemptions: 0,
            dirty: true,
        }
    }

    /// Runs until the head has drained. Every node has been told by then.
    ///
    /// # Errors
    /// Fails at once if a rank finds that the model can never be served.
    pub(super) async fn run(mut self) -> Result<(), UnusableModel> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let drain = self.parts.drain.clone();
        loop {
            tokio::select! {
                Some(event) = self.parts.nodes.recv() => self.receive_node_event(event),
                Some(command) = self.parts.commands.recv() => self.run_command(command),
                _ = tick.tick() => self.tick(),
                () = drain.cancelled(), if self.stopping_since.is_none() => {
                    self.stopping_since = Some(Instant::now());
                    self.begin_drain("it was told to stop");
                    self.takes_requests_until = None;
                }
            }
            self.try_suspects();
            self.send_plans();
            if let Some(feed) = &self.parts.block_feed {
                feed.publish(self.parts.scheduler.take_block_events());
            }
            self.release_departing_nodes();
            if let Some(unusable) = self.unusable.take() {
                self.shut_down();
                return Err(unusable);
            }
            if self.is_drained() {
                self.shut_down();
                return Ok(());
            }
        }
    }

    /// Returns the schedule's clock: the time since the driver started, in microseconds.
    fn now_micros(&self) -> u64 {
        self.started_at.elapsed().as_micros() as u64
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
        if is_finishing { None } else { self.parts.group.departing_node(Instant::now(), DEPARTURE_PAUSE) }
    }

    /// Releases the nodes that asked to depart, once no step is in flight on any rank.
    fn release_departing_nodes(&mut self) {
        while let Some(node) = self.releasable_node()
            && self.parts.group.has_finished_step(self.last_sent)
        {
            let actions = self.parts.group.release(node);
            self.apply_actions(actions);
            // The node has been told to drain. The head ignores whatever else arrives on its stream.
            self.streams[node] = None;
        }
    }

    /// Lets the next request go on that was held back, if the group serves.
    fn try_suspects(&mut self) {
        if self.serving
            && let Some(id) = self.suspects.next_trial()
        {
            tracing::info!(sequence = id, "tries a request again that was held back");
            self.parts.scheduler.release(id);
        }
    }

    /// Ends a sequence whose request is no longer open.
    fn cancel_sequence(&mut self, id: SeqId) {
        self.parts.scheduler.cancel(id);
        self.suspects.clear(id);
    }

    /// Sends each plan of the schedule to all nodes, until the schedule has no further plan. Sends nothing while a node
    /// waits for its release, so that the ranks can finish the steps in flight.
    fn send_plans(&mut self) {
        while self.parts.group.is_formed() && self.releasable_node().is_none() {
            let Some(mut plan) = self.parts.scheduler.next_plan() else { return };
            self.apply_grammars(&mut plan);
            let admitted = plan.admit.iter().map(|admission| admission.seq).filter(|id| *id != CANARY);
            admitted.for_each(|id| self.suspects.admit(id));
            self.parts.group.set_in_flight(true, Instant::now());
            self.last_sent = Some(plan.step);
            let wire = wire::plan_to_wire(&plan, clock::monotonic_nanos());
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
                    self.clients.fail(entry.seq, error);
                    self.cancel_sequence(entry.seq);
                }
            }
        }
    }

    fn tick(&mut self) {
        self.parts.alive.renew();
        if self.last_pulse_at.elapsed() > PULSE_INTERVAL {
            self.send_pulse();
        }
        let had_suspects = self.parts.group.has_suspects();
        let actions = self.parts.group.tick(Instant::now());
        self.apply_actions(actions);
        if self.parts.group.has_suspects() != had_suspects {
            let nodes: Vec<usize> = self.parts.group.suspects().collect();
            if had_suspects {
                tracing::info!("no node's heartbeat is late any longer");
            } else {
                tracing::warn!(?nodes, "heartbeats are late: a step waits for these nodes, for up to 3 s");
            }
            self.send_pulse();
        }
        for id in self.clients.remove_disconnected() {
            self.cancel_sequence(id);
        }
        let now = self.now_micros();
        let expired = self.parts.scheduler.fail_expired(now);
        self.deliver_outputs(expired);
        let preemptions = self.parts.scheduler.stats().preemptions;
        (std::mem::replace(&mut self.preemptions, preemptions)..preemptions)
            .for_each(|_| self.parts.metrics.count_preemption());
        self.dirty = true;
        self.publish_status();
    }

    /// Returns true if no epoch has served for longer than the recovery timeout.
    fn has_recovery_timed_out(&self) -> bool {
        self.lost_at.is_some_and(|at| at.elapsed() > self.parts.recovery_timeout)
    }

    /// Returns true if the head expects to answer a new request. The group has served before, the head does not drain,
    /// and the recovery timeout has not passed.
    fn is_accepting(&self) -> bool {
        self.has_served && self.drain_reason.is_none() && !self.has_recovery_timed_out()
    }

    /// Returns true if the epoch serves and every node speaks.
    fn is_ready(&self) -> bool {
        self.serving && !self.parts.group.has_suspects()
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
            model: &self.parts.model,
            stats: self.parts.scheduler.stats(),
            requests: self.requests,
            tokens_generated: self.tokens_generated,
        };
        let new = status::cluster_status(&self.parts.group, facts);
        self.parts.status.send_if_modified(|old| {
            let changed = *old != new;
            *old = new;
            changed
        });
    }

    /// Tells every node if the current epoch serves.
    fn send_pulse(&mut self) {
        self.last_pulse_at = Instant::now();
        let pulse = pb::Pulse { epoch: self.parts.group.epoch(), serving: self.is_ready() };
        for stream in self.streams.iter().flatten() {
            // A full queue is no fault here. The stream of a node that reads nothing ends when the next plan does not fit.
            stream.send(from_head::Message::Pulse(pulse)).ok();
        }
    }

    /// Returns true if this process was told to stop and no request is open, or the drain timeout has passed.
    fn is_drained(&self) -> bool {
        let Some(since) = self.stopping_since else { return false };
        self.clients.len() == 0 || since.elapsed() > self.parts.drain_timeout
    }

    /// Cancels the requests that are still open, and tells every node that the head ends.
    fn shut_down(&mut self) {
        for id in self.clients.cancel_all() {
            self.cancel_sequence(id);
        }
        let drain = pb::Drain { reason: "the head is shutting down".into(), head_ends: self.parts.has_successor };
        for stream in self.streams.iter().flatten() {
            stream.send(from_head::Message::Drain(drain.clone())).ok();
        }
        tracing::info!("drained");
    }
}
