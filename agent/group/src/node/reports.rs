//! Reports to the head: load progress, loaded models, joined epochs, finished steps and faults of the ranks.

use lockstep_proto::node::{self as pb, from_node};
use lockstep_proto::v1::Phase;
use lockstep_schedule::plan::{SeqId, StepOutput};

use super::session::{Milestone, Output, Session};
use crate::wire;

/// Event of a rank.
#[derive(Debug)]
pub struct RankEvent {
    pub local_rank: usize,
    pub kind: RankEventKind,
}

#[derive(Debug)]
pub enum RankEventKind {
    /// Bytes of weights that the rank has loaded, and of all its weights.
    Progress {
        loaded: u64,
        total: u64,
    },
    Loaded {
        loaded: pb::Loaded,
    },
    /// `model_is_unusable`: the model's files or the size of the KV cache are at fault, so no other try succeeds.
    LoadFailed {
        reason: String,
        model_is_unusable: bool,
    },
    Formed {
        epoch: u64,
    },
    StepDone {
        output: StepOutput,
        micros: u64,
        fan_out_nanos: u64,
    },
    /// The rank cannot go on in this epoch. `seq` is the sequence that the fault is about.
    Fault {
        epoch: u64,
        reason: String,
        seq: Option<SeqId>,
    },
    Panicked {
        reason: String,
    },
}

impl Session {
    /// Reports an event of a local rank to the head, if the event needs a report.
    pub(super) fn report_rank_event(&mut self, event: RankEvent) {
        let RankEvent { local_rank, kind } = event;
        let rank = self.assignment.first_rank + local_rank as u32;
        match kind {
            RankEventKind::Progress { loaded, total } => {
                self.report_progress(local_rank, Phase::Loading, loaded, total)
            }
            RankEventKind::Loaded { loaded } => {
                self.loaded[local_rank] = Some(loaded);
                self.report_loaded();
            }
            RankEventKind::LoadFailed { reason, model_is_unusable } => {
                self.fail_for_good(local_rank, reason, model_is_unusable);
            }
            RankEventKind::Panicked { reason } => self.fail_for_good(local_rank, reason, false),
            RankEventKind::Formed { epoch } if epoch == self.last_epoch => {
                self.num_joined += 1;
                if self.num_joined == self.loaded.len() {
                    self.outputs.push(Output::Reached(Milestone::Joined { epoch }));
                    self.send(from_node::Message::Formed(pb::Formed { epoch }));
                }
            }
            RankEventKind::StepDone { output, micros, fan_out_nanos } if output.epoch == self.last_epoch => {
                self.report_step(rank, output, micros, fan_out_nanos);
            }
            RankEventKind::Formed { .. } | RankEventKind::StepDone { .. } => {}
            RankEventKind::Fault { epoch, reason, seq } => {
                tracing::warn!(rank, epoch, reason, "cannot go on in this epoch");
                let fault = pb::Fault { epoch, rank, message: reason, seq, ..Default::default() };
                self.send(from_node::Message::Fault(fault));
            }
        }
    }

    pub(super) fn report_progress(&mut self, local_rank: usize, phase: Phase, bytes_loaded: u64, bytes_total: u64) {
        let rank = self.assignment.first_rank + local_rank as u32;
        self.outputs.push(Output::Reached(Milestone::LoadProgress { local_rank, bytes_loaded, bytes_total }));
        let progress = pb::Progress { rank, phase: phase.into(), bytes_loaded, bytes_total };
        self.send(from_node::Message::Progress(progress));
    }

    /// Reports a step once all local ranks have finished it.
    fn report_step(&mut self, rank: u32, output: StepOutput, micros: u64, fan_out_nanos: u64) {
        let (epoch, step) = (output.epoch, output.step);
        let mut done = pb::StepDone { epoch, step, micros, fan_out_nanos, ..Default::default() };
        if rank == wire::reporting_rank(&self.assignment) {
            done.sampled = wire::sampled_to_wire(output.sampled);
            done.prompts = wire::logprobs_to_wire(output.prompts);
        }
        if let Some(done) = self.step_results.add(done, self.loaded.len()) {
            self.send(from_node::Message::StepDone(done));
        }
    }

    /// Reports that the node has loaded, once every local rank has and the files are known to be the head's. The number of
    /// blocks is the smallest of all local ranks.
    pub(super) fn report_loaded(&mut self) {
        if self.is_opening {
            return;
        }
        let Some(reports) = self.loaded.iter().map(Option::as_ref).collect::<Option<Vec<_>>>() else { return };
        let loaded = pb::Loaded {
            model: self.model_digest.clone(),
            num_blocks: reports.iter().map(|report| report.num_blocks).min().unwrap_or_default(),
            bytes_read: reports.iter().map(|report| report.bytes_read).sum(),
        };
        tracing::info!(blocks = loaded.num_blocks, bytes = loaded.bytes_read, "loaded");
        self.outputs.push(Output::Reached(Milestone::Loaded));
        self.send(from_node::Message::Loaded(loaded));
    }
}
