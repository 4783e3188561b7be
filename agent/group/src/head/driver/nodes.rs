//! The driver's half that faces the nodes: it processes their messages, and carries out the group's actions.

use std::net::IpAddr;
use std::time::Duration;

use lockstep_api::ServeError;
use lockstep_proto::node::{self as pb, from_head, from_node};
use lockstep_schedule::Request;
use lockstep_schedule::plan::SamplingParams;

use super::{CANARY, Driver, Output, StreamEnd};
use crate::head::admission;
use crate::head::group::Action;
use crate::head::member::Member;
use crate::wire;

impl Driver {
    /// Attaches the process that said Hello, or refuses it with the reason.
    pub(super) fn admit_node(&mut self, hello: pb::Hello, connection: u64, (peer, local): (IpAddr, IpAddr)) {
        let node = hello.node as usize;
        let unix_micros = self.unix_micros_at_start.saturating_add(self.now_micros());
        let group = &mut self.group;
        if let Err(reason) = admission::check_hello(&hello, group.config(), group.slots().get(node), unix_micros) {
            tracing::warn!(node, %peer, reason, "refused a node");
            return self.outputs.push(Output::Close { connection, end: StreamEnd::Refused(reason) });
        }
        // The older one goes first: a stream is silent until it has its assignment.
        let reason = format!("a newer process or connection (pid {}) took the place", hello.pid);
        let actions = group.evict(node, &reason, self.now);
        self.apply_actions(actions);
        tracing::info!(node, %peer, pid = hello.pid, host = hello.host, "a node joined");
        self.streams[node] = Some(connection);
        let assignment = self.group.attach(Member::new(hello, connection, peer, local, self.now));
        self.apply_actions(vec![assignment]);
    }

    /// Detaches the node whose control stream ended.
    pub(super) fn close_stream(&mut self, node: usize, connection: u64, reason: &str) {
        if self.group.connection(node) == Some(connection) {
            tracing::warn!(node, reason, "a node's control stream ended");
        }
        if let Some(stream) = self.streams.get_mut(node) {
            stream.take_if(|stream| *stream == connection);
        }
        let actions = self.group.detach(node, connection, reason, self.now);
        self.apply_actions(actions);
    }

    /// Ends the stream of a node that may dial again.
    pub(super) fn disconnect(&mut self, node: usize, reason: &str) {
        let actions = self.group.disconnect(node, reason, self.now);
        self.apply_actions(actions);
    }

    pub(super) fn receive_message(&mut self, node: usize, message: from_node::Message) {
        use from_node::Message as M;
        let (group, now) = (&mut self.group, self.now);
        let actions = match message {
            M::Heartbeat(heartbeat) => return group.record_heartbeat(node, &heartbeat, now),
            M::StepDone(done) => return self.complete_step(node, done),
            M::Progress(progress) => {
                group.record_load_progress(node, &progress);
                Vec::new()
            }
            M::Loaded(loaded) => group.node_loaded(node, loaded, now),
            M::Formed(formed) => group.node_formed(node, formed.epoch),
            M::Fault(fault) => {
                tracing::warn!(
                    node,
                    rank = fault.rank,
                    epoch = fault.epoch,
                    fatal = fault.fatal,
                    reason = fault.message,
                    "a rank cannot go on"
                );
                if fault.model_is_unusable && !self.has_served {
                    self.unusable = Some(format!("rank {}: {}", fault.rank, fault.message));
                }
                let actions = group.node_faulted(node, &fault, now);
                self.fail_at_fault(&fault);
                actions
            }
            M::Leaving(leaving) => {
                tracing::info!(node, reason = leaving.reason, "a node asks to leave");
                group.request_departure(node, &leaving.reason, now);
                Vec::new()
            }
            M::Hello(_) | M::Answer(_) => group.evict(node, "it sent a second Hello or Answer", now),
        };
        self.dirty = true;
        self.apply_actions(actions);
    }

    /// Notes that all ranks of a node have finished a step. If this is the reporting node, gives the sampled tokens to
    /// the schedule.
    fn complete_step(&mut self, node: usize, done: pb::StepDone) {
        let group = &mut self.group;
        if done.epoch != group.epoch() || !group.is_formed() {
            return;
        }
        group.record_step(node, done.step, done.micros, self.now);
        let local_world_size = group.config().local_world_size;
        let first_rank = node as u32 * local_world_size;
        self.outputs.push(Output::StepTimes {
            ranks: first_rank..first_rank + local_world_size,
            step: Duration::from_micros(done.micros),
            fan_out: Duration::from_nanos(done.fan_out_nanos),
        });
        if node == group.reporting_node() {
            self.apply_results(node, done);
        }
    }

    /// Gives the results of a step to the schedule and the new tokens to their clients. A malformed result is a fault
    /// of the node. This fault names rank 0, because a result does not say which rank sent it.
    fn apply_results(&mut self, node: usize, done: pb::StepDone) {
        let micros = done.micros;
        let completed = wire::output_from_wire(done).map_err(|error| error.to_string()).and_then(|output| {
            let has_sampled = !output.sampled.is_empty();
            let outputs = self.scheduler.complete_step(output, micros).map_err(|error| error.to_string())?;
            Ok((has_sampled, outputs))
        });
        match completed {
            Ok((has_sampled, outputs)) => {
                if has_sampled {
                    self.mark_serving();
                }
                self.deliver_outputs(outputs);
                let in_flight = self.scheduler.stats().steps_in_flight > 0;
                // Restart the timer for hung steps: a step that is still in flight began after the finished one.
                self.group.set_in_flight(false, self.now);
                self.group.set_in_flight(in_flight, self.now);
            }
            Err(reason) => {
                let fault = pb::Fault { epoch: self.group.epoch(), rank: 0, message: reason, ..Default::default() };
                let actions = self.group.node_faulted(node, &fault, self.now);
                self.apply_actions(actions);
            }
        }
    }

    /// Notes that the ranks of this epoch have generated a token: the group serves.
    fn mark_serving(&mut self) {
        if self.serving_since.is_none() {
            self.group.mark_serving();
            self.serving_since = Some(self.now);
            (self.has_served, self.lost_at, self.dirty) = (true, None, true);
            tracing::info!(epoch = self.group.epoch(), "the group serves");
            self.send_pulse();
            self.publish_status();
        }
    }

    /// Ends the stream of a node, unless a newer connection has taken its place.
    fn end_stream(&mut self, node: usize, connection: u64, end: StreamEnd) {
        if self.streams[node].take_if(|stream| *stream == connection).is_some() {
            self.outputs.push(Output::Close { connection, end });
        }
    }

    /// Carries out the group's actions in order.
    pub(super) fn apply_actions(&mut self, actions: Vec<Action>) {
        for action in actions {
            self.dirty = true;
            match action {
                Action::Send { node, message } => self.send_to_node(node, message),
                Action::Evict { node, connection, reason } => {
                    tracing::warn!(node, reason, "evicted a node");
                    self.end_stream(node, connection, StreamEnd::Evicted(reason));
                }
                Action::Disconnect { node, connection, reason } => {
                    tracing::warn!(node, reason, "closed a node's control stream: the node may dial again");
                    self.end_stream(node, connection, StreamEnd::MayReturn(reason));
                }
                Action::FailEpoch { reason } => {
                    tracing::warn!(
                        epoch = self.group.epoch(),
                        reason,
                        "lost the epoch: running requests wait for the next"
                    );
                    self.end_epoch(&reason, true);
                }
                Action::EndEpoch { reason } => {
                    tracing::info!(
                        epoch = self.group.epoch(),
                        reason,
                        "ended the epoch between two steps: running requests wait for the next"
                    );
                    self.end_epoch(&reason, false);
                }
                Action::StartEpoch { epoch, num_blocks } => self.start_epoch(epoch, num_blocks),
                Action::ReportFormError { reason } => tracing::error!(reason, "cannot form the group"),
            }
        }
        self.publish_status();
    }

    /// Tells the schedule that an epoch has begun, with `num_blocks` empty blocks in its KV cache. If no request waits,
    /// submits the canary, so that an idle group also proves that it serves.
    fn start_epoch(&mut self, epoch: u64, num_blocks: u32) {
        let now = self.now_micros();
        tracing::info!(epoch, num_blocks, "all ranks have joined");
        self.last_sent = None;
        let scheduler = &mut self.scheduler;
        scheduler.start_epoch(epoch, num_blocks, now);
        if !scheduler.has_work() {
            let sampling = SamplingParams::default();
            let canary = Request {
                id: CANARY,
                prompt: vec![0],
                priority: 0,
                cache_salt: String::new(),
                sampling,
                max_tokens: 1,
                stop_token_ids: Vec::new(),
                deadline: None,
                needs_head: false,
                prompt_logprobs: None,
            };
            if let Err(error) = scheduler.submit(canary, now) {
                tracing::error!(%error, "cannot test the group with a canary request");
            }
        }
    }

    /// Puts running sequences back into the queue because the epoch is over. `failed` is true if a failure ended the
    /// epoch.
    fn end_epoch(&mut self, reason: &str, failed: bool) {
        let now = self.now_micros();
        self.scheduler.cancel(CANARY);
        self.scheduler.end_epoch(now);
        self.lost_at.get_or_insert(self.now);
        self.serving_since = None;
        self.send_pulse();
        if !failed {
            return self.suspects.end_epoch();
        }
        let verdict = self.suspects.fail_epoch();
        for id in verdict.hold {
            tracing::warn!(sequence = id, "holds a request back: epochs failed while the ranks computed it");
            self.scheduler.hold(id);
        }
        for (id, failures) in verdict.guilty {
            self.scheduler.cancel(id);
            let text = format!("the group failed {failures} times while it computed this request: {reason}");
            self.clients.fail(id, ServeError::Internal(text), &mut self.outputs);
        }
    }

    /// Ends the request that a fault is about. The others go on.
    fn fail_at_fault(&mut self, fault: &pb::Fault) {
        if let Some(id) = fault.seq.filter(|id| *id != CANARY && fault.epoch == self.group.epoch()) {
            let text = format!("the model failed at this request: rank {}: {}", fault.rank, fault.message);
            self.clients.fail(id, ServeError::Internal(text), &mut self.outputs);
            self.cancel_sequence(id);
        }
    }

    /// Sends a message to a node. A node without a stream has lost its place.
    pub(super) fn send_to_node(&mut self, node: usize, message: from_head::Message) {
        match self.streams[node] {
            Some(connection) => self.outputs.push(Output::Send { node, connection, message }),
            None => self.disconnect(node, "it has no control stream"),
        }
    }
}
