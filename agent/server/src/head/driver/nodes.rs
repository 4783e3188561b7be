//! What nodes say, and what the group's life means for the schedule and for requests.

use std::time::{Duration, Instant};

use lockstep_api::ServeError;
use lockstep_proto::node::{self as pb, from_head, from_node};
use lockstep_schedule::Request;
use lockstep_schedule::plan::SamplingParams;
use tonic::Status;

use super::{CANARY, Driver, Inputs, MAX_FRUITLESS};
use crate::head::admission;
use crate::head::control::{NodeEvent, NodeStream};
use crate::head::group::Action;
use crate::head::member::Member;
use crate::wire;

impl Driver {
    pub(super) fn node_event(&mut self, event: NodeEvent) {
        let now = Instant::now();
        match event {
            NodeEvent::Hello { hello, peer, local, stream } => self.hello(*hello, (peer, local), stream, now),
            NodeEvent::Closed { node, connection, reason } => {
                if self.inputs.group.connection(node) == Some(connection) {
                    tracing::warn!(node, reason, "a node's control stream ended");
                }
                // What goes to the node ends with what comes from it.
                if let Some(stream) = self.streams.get_mut(node) {
                    stream.take_if(|stream| stream.connection == connection);
                }
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

    pub(super) fn hello(
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

    pub(super) fn message(&mut self, node: usize, message: from_node::Message, now: Instant) {
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
            M::Leaving(leaving) => {
                tracing::info!(node, reason = leaving.reason, "a node asks to leave");
                group.leaving(node, &leaving.reason, now);
                Vec::new()
            }
            M::Hello(_) | M::Answer(_) => group.evict(node, "said Hello twice", now),
        };
        self.dirty = true;
        self.act(actions);
    }

    pub(super) fn step_done(&mut self, node: usize, done: pb::StepDone, now: Instant) {
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
        if node != group.reporting_node() {
            return;
        }
        let micros = done.micros;
        let completed = wire::output_from_wire(done).map_err(|error| error.to_string()).and_then(|output| {
            let sampled = !output.sampled.is_empty();
            let outputs = self.inputs.scheduler.complete_step(output, micros).map_err(|error| error.to_string())?;
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

    pub(super) fn prove(&mut self) {
        self.suspects.clear();
        self.fruitless = 0;
        if !self.proved {
            self.inputs.group.proved();
            (self.proved, self.opened, self.lost_at, self.dirty) = (true, true, None, true);
            tracing::info!(epoch = self.inputs.group.epoch(), "the group serves");
            self.pulse();
            self.publish();
        }
    }

    pub(super) fn act(&mut self, actions: Vec<Action>) {
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
                Action::Lost { reason } => {
                    tracing::warn!(
                        epoch = self.inputs.group.epoch(),
                        reason,
                        "lost the epoch: running requests wait for the next"
                    );
                    self.lost(&reason, true);
                }
                Action::Ended { reason } => {
                    tracing::info!(
                        epoch = self.inputs.group.epoch(),
                        reason,
                        "ended the epoch between two steps: running requests wait for the next"
                    );
                    self.lost(&reason, false);
                }
                Action::Formed { epoch, num_blocks } => self.formed(epoch, num_blocks),
            }
        }
        self.publish();
    }

    pub(super) fn formed(&mut self, epoch: u64, num_blocks: u32) {
        let now = self.now();
        tracing::info!(epoch, num_blocks, "all ranks have joined");
        self.last_sent = None;
        let scheduler = &mut self.inputs.scheduler;
        scheduler.start_epoch(epoch, num_blocks, now);
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

    /// The epoch is over; `fault` where something went wrong in it.
    fn lost(&mut self, reason: &str, fault: bool) {
        let now = self.now();
        self.inputs.scheduler.cancel(CANARY);
        self.inputs.scheduler.end_epoch(now);
        self.lost_at = self.lost_at.or(Some(Instant::now()));
        if fault && !self.proved {
            self.fruitless += 1;
        }
        self.proved = false;
        self.pulse();
        if self.fruitless >= MAX_FRUITLESS {
            self.fruitless = 0;
            for id in std::mem::take(&mut self.suspects) {
                self.inputs.scheduler.cancel(id);
                let what = format!("the group failed {MAX_FRUITLESS} times while it computed this request: {reason}");
                self.clients.fail(id, ServeError::Internal(what));
            }
        }
    }

    pub(super) fn send(&mut self, node: usize, message: from_head::Message) {
        let delivered = self.streams[node].as_ref().is_some_and(|stream| stream.send(message));
        if !delivered {
            let actions = self.inputs.group.evict(node, "it reads nothing from its control stream", Instant::now());
            self.act(actions);
        }
    }
}
