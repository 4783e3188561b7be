//! The node's reports to the head: load progress, loaded models, joined epochs, finished steps and faults.

use std::time::Duration;

use lockstep_proto::node::{self as pb, from_node};
use lockstep_proto::v1::Phase;

use super::Node;
use super::open_stream::Outbound;
use super::rank::{RankEvent, RankEventKind};
use super::serve_stream::HEAD_SILENCE;
use crate::unusable::UnusableModel;
use crate::wire;

/// Pause before the process ends, so that its last message still reaches the head.
const LAST_MESSAGE_PAUSE: Duration = Duration::from_millis(200);

impl Node {
    /// Notes an event of a local rank. Returns the message to send to the head, if the event needs one.
    pub(super) fn report_rank_event(&mut self, event: RankEvent) -> Option<from_node::Message> {
        let rank = self.assignment.first_rank + event.local_rank as u32;
        match event.kind {
            RankEventKind::Progress { loaded, total } => {
                self.health.set_load_progress(event.local_rank, loaded, total);
                let (phase, bytes_loaded, bytes_total) = (Phase::Loading.into(), loaded, total);
                Some(from_node::Message::Progress(pb::Progress { rank, phase, bytes_loaded, bytes_total }))
            }
            RankEventKind::Loaded { loaded } => {
                self.loaded[event.local_rank] = Some(loaded);
                self.loaded_message()
            }
            RankEventKind::LoadFailed { reason, model_is_unusable } => {
                let fault = pb::Fault { model_is_unusable, ..self.fatal_fault(event.local_rank, reason) };
                Some(from_node::Message::Fault(fault))
            }
            RankEventKind::Panicked { reason } => {
                Some(from_node::Message::Fault(self.fatal_fault(event.local_rank, reason)))
            }
            RankEventKind::Formed { epoch } if epoch == self.last_epoch => {
                self.num_joined += 1;
                if self.num_joined < self.ranks.len() {
                    return None;
                }
                self.health.set_joined(epoch);
                Some(from_node::Message::Formed(pb::Formed { epoch }))
            }
            RankEventKind::Formed { .. } => None,
            RankEventKind::StepDone { output, .. } if output.epoch != self.last_epoch => None,
            RankEventKind::StepDone { output, micros, fan_out_nanos } => {
                let is_reporter = rank == wire::reporting_rank(&self.assignment);
                let (epoch, step) = (output.epoch, output.step);
                let mut done = pb::StepDone { epoch, step, micros, fan_out_nanos, ..Default::default() };
                if is_reporter {
                    done.sampled = wire::sampled_to_wire(output.sampled);
                    done.prompts = wire::logprobs_to_wire(output.prompts);
                }
                self.step_results.add(done, self.ranks.len()).map(from_node::Message::StepDone)
            }
            RankEventKind::Fault { epoch, reason, seq } => {
                tracing::warn!(rank, epoch, reason, "cannot go on in this epoch");
                Some(from_node::Message::Fault(pb::Fault { epoch, rank, message: reason, seq, ..Default::default() }))
            }
        }
    }

    /// Returns the fault that the head receives before this process ends.
    pub(super) fn fatal_fault(&self, local_rank: usize, message: String) -> pb::Fault {
        let rank = self.assignment.first_rank + local_rank as u32;
        pb::Fault { epoch: self.last_epoch, rank, message, fatal: true, model_is_unusable: false, seq: None }
    }

    /// Returns Loaded once every local rank has loaded. The number of blocks is the smallest of all local ranks.
    pub(super) fn loaded_message(&self) -> Option<from_node::Message> {
        let mut reports = self.loaded.iter().map(Option::as_ref);
        let mut merged = reports.next()??.clone();
        for report in reports {
            let report = report?;
            merged.num_blocks = merged.num_blocks.min(report.num_blocks);
            merged.bytes_read += report.bytes_read;
        }
        merged.model.clone_from(&self.model_digest);
        self.health.set_loaded();
        tracing::info!(blocks = merged.num_blocks, bytes = merged.bytes_read, "loaded");
        Some(from_node::Message::Loaded(merged))
    }
}

/// Sends a message to the head.
///
/// # Errors
/// Fails after a fatal fault was sent, because this process must then end.
pub(super) async fn send_to_head(outbound: &Outbound, message: from_node::Message) -> anyhow::Result<()> {
    let fatal_fault = match &message {
        from_node::Message::Fault(fault) if fault.fatal => Some(fault.clone()),
        _ => None,
    };
    // An error means that the stream has closed, or that the head reads nothing. The loop in `serve_stream` notices both.
    let message = pb::FromNode { message: Some(message) };
    tokio::time::timeout(HEAD_SILENCE, outbound.send(message)).await.ok();
    let Some(fault) = fatal_fault else { return Ok(()) };
    tokio::time::sleep(LAST_MESSAGE_PAUSE).await;
    let reason = format!("rank {}: {}", fault.rank, fault.message);
    Err(if fault.model_is_unusable { UnusableModel(reason).into() } else { anyhow::Error::msg(reason) })
}
