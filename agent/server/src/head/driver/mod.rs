//! The one task that owns the group and the schedule: events in, plans out.

mod nodes;
mod requests;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use lockstep_proto::node::{self as pb, from_head};
use lockstep_proto::v1::ClusterStatus;
use lockstep_schedule::Scheduler;
use lockstep_schedule::plan::SeqId;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::clients::Clients;
use super::control::{NodeEvent, NodeStream};
use super::group::Group;
use super::status;
use crate::clock;
use crate::metrics::Metrics;
use crate::service::Command;
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
