//! The one task that owns the group and the schedule: events in, plans out.

mod nodes;
mod requests;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use lockstep_api::{Alive, Command, Metrics};
use lockstep_proto::node::{self as pb, from_head};
use lockstep_proto::v1::{ClusterStatus, ModelInfo};
use lockstep_schedule::Scheduler;
use lockstep_schedule::plan::{SeqId, StepPlan};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::clients::Clients;
use super::control::{NodeEvent, NodeStream};
use super::group::Group;
use super::status;
use crate::clock;
use crate::wire;

/// How often silence, hangs, deadlines and clients that went away are looked for, and the status is told at most.
const TICK: Duration = Duration::from_millis(50);
/// How often nodes are told whether they serve, where nothing changes.
const PULSE: Duration = Duration::from_millis(500);
/// A node that asks to go is let go this long after: where the head is told to stop as well, as all of a pod is, it
/// finishes its requests first.
const LEAVE_PAUSE: Duration = Duration::from_millis(500);
/// The sequence that proves an idle group: one token through all ranks.
const CANARY: SeqId = 0;
/// Epochs in a row that may end before a token came through; then what was running in them is to blame.
const MAX_FRUITLESS: u32 = 5;

/// What the driver is given.
pub struct Inputs {
    pub group: Group,
    pub scheduler: Scheduler,
    pub model: ModelInfo,
    pub recovery_timeout: Duration,
    pub drain_timeout: Duration,
    pub commands: mpsc::Receiver<Command>,
    pub nodes: mpsc::Receiver<NodeEvent>,
    pub status: watch::Sender<ClusterStatus>,
    pub metrics: Metrics,
    /// Signed at each tick.
    pub alive: Alive,
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
    /// The process is to end, since then.
    draining: Option<Instant>,
    /// Why no more requests are taken.
    closed: Option<String>,
    /// Until then requests are taken all the same: of clients who cannot know yet.
    lingers_until: Option<Instant>,
    /// The last step that the nodes were sent in this epoch.
    last_sent: Option<u64>,
    pulsed_at: Instant,
    requests: u64,
    tokens_generated: u64,
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
            closed: None,
            lingers_until: None,
            last_sent: None,
            pulsed_at: Instant::now(),
            requests: 0,
            tokens_generated: 0,
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
                    self.draining = Some(Instant::now());
                    self.close("it was told to stop");
                    self.lingers_until = None;
                }
            }
            self.send_plans();
            self.let_go();
            if self.drained() {
                return self.end();
            }
        }
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }

    /// Takes no more requests from now on.
    fn close(&mut self, reason: &str) {
        if self.closed.is_none() {
            tracing::info!(open = self.clients.len(), reason, "draining: no more requests are taken");
            (self.closed, self.dirty) = (Some(reason.to_owned()), true);
        }
    }

    /// Whether a node may go now: it has asked, and no request waits for the drain that this head is in.
    fn someone_goes(&self) -> bool {
        let finishing = self.closed.is_some() && self.clients.len() > 0;
        !finishing && self.inputs.group.leaver(Instant::now(), LEAVE_PAUSE).is_some()
    }

    /// Lets nodes go that asked to, once no step is in flight anywhere.
    fn let_go(&mut self) {
        while self.someone_goes() && self.inputs.group.is_at_boundary(self.last_sent) {
            let Some(node) = self.inputs.group.leaver(Instant::now(), LEAVE_PAUSE) else { return };
            let actions = self.inputs.group.let_go(node);
            self.act(actions);
            // Its Drain is under way; what the stream still brings is nobody's any more.
            self.streams[node] = None;
        }
    }

    fn send_plans(&mut self) {
        while self.inputs.group.is_formed() && !self.someone_goes() {
            let Some(mut plan) = self.inputs.scheduler.next_plan() else { return };
            self.guide(&mut plan);
            self.suspects.extend(plan.admit.iter().map(|admission| admission.seq).filter(|id| *id != CANARY));
            self.inputs.group.busy(true, Instant::now());
            self.last_sent = Some(plan.step);
            let wire = wire::plan_to_wire(&plan, clock::monotonic_nanos());
            for node in 0..self.streams.len() {
                self.send(node, from_head::Message::Plan(wire.clone()));
            }
        }
    }

    /// Says what may be sampled where a grammar does. A request whose grammar cannot go on ends; what its last entry
    /// brings is nobody's.
    fn guide(&mut self, plan: &mut StepPlan) {
        for entry in plan.entries.iter_mut().filter(|entry| entry.sample) {
            match self.clients.allowed(entry.seq) {
                Ok(allowed) => entry.allowed = allowed,
                Err(error) => {
                    self.clients.fail(entry.seq, error);
                    self.inputs.scheduler.cancel(entry.seq);
                }
            }
        }
    }

    fn tick(&mut self) {
        self.inputs.alive.sign();
        if self.pulsed_at.elapsed() > PULSE {
            self.pulse();
        }
        let actions = self.inputs.group.tick(Instant::now());
        self.act(actions);
        for id in self.clients.take_gone() {
            self.inputs.scheduler.cancel(id);
        }
        let now = self.now();
        let expired = self.inputs.scheduler.fail_expired(now);
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
        self.opened && self.closed.is_none() && !hopeless
    }

    fn publish(&mut self) {
        if !std::mem::take(&mut self.dirty) {
            return;
        }
        let facts = status::Facts {
            ready: self.proved && self.closed.is_none(),
            accepting: self.accepting(),
            draining: self.closed.as_deref(),
            model: &self.inputs.model,
            stats: self.inputs.scheduler.stats(),
            requests: self.requests,
            tokens_generated: self.tokens_generated,
        };
        let new = status::of(&self.inputs.group, facts);
        self.inputs.status.send_if_modified(|old| {
            let changed = *old != new;
            *old = new;
            changed
        });
    }

    /// Tells every node whether it serves.
    fn pulse(&mut self) {
        self.pulsed_at = Instant::now();
        let pulse = pb::Pulse { epoch: self.inputs.group.epoch(), serving: self.proved };
        for stream in self.streams.iter().flatten() {
            // A node that does not read is judged where plans are sent to it, and by its heartbeats.
            stream.send(from_head::Message::Pulse(pulse));
        }
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
