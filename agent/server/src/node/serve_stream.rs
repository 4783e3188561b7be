//! The node's work while it has a stream to the head: it carries out the head's messages, and reports the ranks'
//! events.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_proto::node::{self as pb, from_head, from_node};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::model::{ModelOpener, OpenEvent};
use super::open_stream::{ControlStream, OpenStreamError};
use super::rank::RankCommand;
use super::report::send_to_head;
use super::ring_ports::FormSpec;
use super::{Node, NodeEnd, health, load};
use crate::config::RingSetup;
use crate::wire;

/// Time within which the head must answer a node that asks to leave. After this time, the node ends without an answer.
/// The time is shorter than the 30 s after which Kubernetes kills a worker's pod.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(25);
/// Time between two iterations of the node's loop while nothing happens.
const IDLE_INTERVAL: Duration = Duration::from_millis(500);
/// Time without a message of the head after which the node dials again. The head sends a pulse twice a second.
pub(super) const HEAD_SILENCE: Duration = Duration::from_secs(3);

/// Reason why a control stream is over.
pub(super) enum StreamEnd {
    /// The node must end.
    NodeEnded(NodeEnd),
    /// The stream broke. The node dials again.
    Broken(String),
}

impl Node {
    /// Carries out the head's messages until the stream ends.
    pub(super) async fn serve_stream(
        &mut self,
        stream: ControlStream,
        stop: &CancellationToken,
    ) -> anyhow::Result<StreamEnd> {
        let ControlStream { mut inbound, outbound, assignment } = stream;
        self.outbound.send_replace(Some(outbound.clone()));
        self.accept_assignment(assignment, &outbound).await?;
        let mut leave_deadline: Option<tokio::time::Instant> = None;
        let mut idle = tokio::time::interval(IDLE_INTERVAL);
        idle.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut head = HeadSilence::new(Instant::now());
        let stream_end = loop {
            self.health.extend_loop_deadline(health::LOOP_TIMEOUT);
            // Without a leave deadline, the last branch below is off, and any time will do.
            let deadline = leave_deadline.unwrap_or_else(|| tokio::time::Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                message = inbound.message() => {
                    head.record_message(Instant::now());
                    if let Some(end) = self.receive_next(message, leave_deadline.is_some())? {
                        break end;
                    }
                }
                Some(event) = self.events.recv() => {
                    if let Some(message) = self.report_rank_event(event) {
                        send_to_head(&outbound, message).await?;
                    }
                }
                event = next_open_event(&mut self.opener) => self.receive_open_event(event, &outbound).await?,
                _ = idle.tick() => {
                    if head.is_over(Instant::now()) {
                        break StreamEnd::Broken("no word from the head for 3 s".into());
                    }
                }
                () = stop.cancelled(), if leave_deadline.is_none() => {
                    self.health.set_leaving();
                    let leaving = pb::Leaving { reason: "its process was told to stop".into() };
                    send_to_head(&outbound, from_node::Message::Leaving(leaving)).await?;
                    leave_deadline = Some(tokio::time::Instant::now() + LEAVE_TIMEOUT);
                }
                () = tokio::time::sleep_until(deadline), if leave_deadline.is_some() => {
                    break StreamEnd::NodeEnded(NodeEnd::Stopped);
                }
            }
        };
        self.outbound.send_replace(None);
        self.abort_epochs(self.last_epoch, "the stream to the head broke");
        Ok(stream_end)
    }

    /// Carries out the next message of the stream, or decides what the end of the stream means. Returns a value if the
    /// stream is over.
    fn receive_next(
        &mut self,
        message: Result<Option<pb::FromHead>, Status>,
        is_leaving: bool,
    ) -> anyhow::Result<Option<StreamEnd>> {
        match message {
            Ok(Some(pb::FromHead { message: Some(message) })) => self.receive_message(message, is_leaving),
            Ok(Some(_)) => Ok(None),
            _ if is_leaving => Ok(Some(StreamEnd::NodeEnded(NodeEnd::Stopped))),
            Ok(None) => Ok(Some(StreamEnd::Broken("the head hung up".into()))),
            Err(status) => match OpenStreamError::from_status(&status) {
                OpenStreamError::Refused(reason) => anyhow::bail!("the head ended this node: {reason}"),
                OpenStreamError::Unreachable(reason) => Ok(Some(StreamEnd::Broken(reason))),
            },
        }
    }

    /// Carries out a message of the head. Returns a value if the stream is over.
    fn receive_message(&mut self, message: from_head::Message, is_leaving: bool) -> anyhow::Result<Option<StreamEnd>> {
        match message {
            from_head::Message::Plan(wire) => {
                let sent_nanos = wire.sent_nanos;
                let plan = Arc::new(wire::plan_from_wire(wire)?);
                for rank in &self.ranks {
                    rank.send_command(RankCommand::Step { plan: plan.clone(), sent_nanos })?;
                }
            }
            from_head::Message::Form(form) => {
                self.join_epoch(&form)?;
                self.greet_neighbour()?;
            }
            from_head::Message::Abort(abort) => {
                tracing::warn!(epoch = abort.epoch, reason = abort.reason, "the epoch is over");
                self.abort_epochs(abort.epoch, &abort.reason);
            }
            from_head::Message::Pulse(pulse) => self.health.set_pulse(pulse),
            from_head::Message::Drain(drain) => {
                let outlives_head = drain.head_ends && !is_leaving && self.outlives_head();
                tracing::info!(reason = drain.reason, outlives_head, "drained");
                return Ok(Some(match outlives_head {
                    true => StreamEnd::Broken("the head has ended".into()),
                    false => StreamEnd::NodeEnded(NodeEnd::Drained),
                }));
            }
            from_head::Message::Assignment(_) | from_head::Message::Challenge(_) => {
                anyhow::bail!("the head sent a second assignment or challenge")
            }
        }
        Ok(None)
    }

    /// Returns true if this node waits for the next head when its own one ends. The ranks of a ring and the processes of a
    /// parent on this machine belong to one head.
    fn outlives_head(&self) -> bool {
        matches!(self.config.ring, RingSetup::Auto { .. }) && !self.config.common.follow_parent
    }

    /// Tells every local rank to join an epoch. Aborts all earlier epochs.
    fn join_epoch(&mut self, form: &pb::Form) -> anyhow::Result<()> {
        self.abort_epochs(form.epoch.saturating_sub(1), "a newer epoch forms");
        self.last_epoch = form.epoch;
        let spec = FormSpec {
            epoch: form.epoch,
            cluster_id: self.assignment.cluster_id.clone(),
            first_rank: self.assignment.first_rank as usize,
            addresses: form.addresses.clone(),
            stages: self.assignment.pipeline_parallel_size as usize,
            backend: form.backend.clone(),
            num_blocks: form.num_blocks,
            timeout: Duration::from_millis(form.timeout_ms.into()),
            spin: load::num_cores() >= self.ranks_on_machine(),
        };
        self.ranks.iter().try_for_each(|rank| rank.send_command(RankCommand::Form(spec.clone())))
    }
}

/// Watch over the time without a message of the head.
#[derive(Debug)]
struct HeadSilence {
    heard_at: Instant,
    /// Time of the last look.
    looked_at: Instant,
}

impl HeadSilence {
    fn new(now: Instant) -> Self {
        Self { heard_at: now, looked_at: now }
    }

    fn record_message(&mut self, now: Instant) {
        (self.heard_at, self.looked_at) = (now, now);
    }

    /// Returns true if the head has been silent for [`HEAD_SILENCE`]. The time in which this process itself was paused or
    /// starved does not count, for the head may have spoken in it.
    fn is_over(&mut self, now: Instant) -> bool {
        let gap = now.duration_since(self.looked_at);
        self.looked_at = now;
        if gap > 2 * IDLE_INTERVAL {
            self.heard_at = (self.heard_at + gap).min(now);
        }
        now.duration_since(self.heard_at) > HEAD_SILENCE
    }
}

/// Waits for the next event of the model's opener. Waits for ever if no model is being opened.
async fn next_open_event(opener: &mut Option<ModelOpener>) -> OpenEvent {
    match opener {
        Some(opener) => opener.next_event().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_is_silent_only_while_this_process_runs() {
        let mut now = Instant::now();
        let mut head = HeadSilence::new(now);
        let mut run = |head: &mut HeadSilence, ticks: u32| {
            (0..ticks).any(|_| {
                now += IDLE_INTERVAL;
                head.is_over(now)
            })
        };
        assert!(!run(&mut head, 6));
        assert!(run(&mut head, 1));

        let mut now = Instant::now();
        let mut head = HeadSilence::new(now);
        for _ in 0..5 {
            now += Duration::from_secs(20);
            assert!(!head.is_over(now), "the process was paused");
        }
        now += IDLE_INTERVAL;
        head.record_message(now);
        assert!(!head.is_over(now + HEAD_SILENCE));
    }
}
