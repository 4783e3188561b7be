//! Links between the stages of a pipeline: activations go from each stage to the next, tokens from the last to the
//! first.
//!
//! Every rank talks to the ranks with the same tensor rank in the other stages. All stages run the same plans in the
//! same order, so each stage knows which messages come. The first stage reads a step's tokens when a later plan needs
//! them. It leaves at most 16 KiB of them unread, which every transport buffers. So the last stage never waits in a
//! send for a first stage that waits in a send itself.

use std::collections::VecDeque;

use candle_core::{Device, Tensor};
use lockstep_collectives::{Communicator, RankGroup, Slice, SliceMut};
use lockstep_schedule::plan::{PlanTokens, Sampled, SeqId, StepPlan};

use super::sequences::Sequences;
use crate::EngineError;

/// Most tokens that may be on their way to the first stage when it sends activations: 16 KiB, which any socket buffers.
const MAX_PENDING_TOKENS: usize = 4096;

/// One rank's end of the pipeline that it belongs to.
pub struct PipelineLink {
    group: RankGroup,
    /// Communicator of the pipeline; `None` if there is one stage, and then nothing here does anything.
    communicator: Option<Box<dyn Communicator>>,
    /// Steps whose tokens the first stage has not read yet, with the sequences of the tokens. Empty on other stages.
    pending: VecDeque<(u64, Vec<SeqId>)>,
}

impl PipelineLink {
    /// Creates the link of a rank whose place in the pipeline is `group`.
    ///
    /// # Errors
    /// [`EngineError::Usage`] if the communicator is missing or belongs to another group.
    pub fn new(group: RankGroup, communicator: Option<Box<dyn Communicator>>) -> Result<Self, EngineError> {
        let given = communicator.as_ref().map_or_else(RankGroup::solo, |communicator| communicator.group());
        if given != group {
            return Err(EngineError::Usage(format!("a pipeline communicator of {given:?} was given to {group:?}")));
        }
        Ok(Self { group, communicator, pending: VecDeque::new() })
    }

    /// Receives the stream `shape` from the previous stage.
    pub fn receive(&mut self, shape: [usize; 2]) -> Result<Tensor, EngineError> {
        let mut values = vec![0f32; shape[0] * shape[1]];
        if let Some(communicator) = &mut self.communicator {
            communicator.recv(self.group.rank() - 1, SliceMut::F32(&mut values))?;
        }
        Ok(Tensor::from_vec(values, (shape[0], shape[1]), &Device::Cpu)?)
    }

    /// Sends the stream to the next stage.
    pub fn send(&mut self, stream: &[f32]) -> Result<(), EngineError> {
        if let Some(communicator) = &mut self.communicator {
            communicator.send(self.group.rank() + 1, Slice::F32(stream))?;
        }
        Ok(())
    }

    /// Sends the tokens that the last stage sampled in one step to the first stage.
    pub fn send_tokens(&mut self, sampled: &[Sampled]) -> Result<(), EngineError> {
        let tokens: Vec<u32> = sampled.iter().map(|sampled| sampled.token).collect();
        if let Some(communicator) = &mut self.communicator {
            communicator.send(0, Slice::U32(&tokens))?;
        }
        Ok(())
    }

    /// Records that the plan was executed. The first stage remembers that the tokens of the plan will come.
    pub fn record_step(&mut self, plan: &StepPlan) {
        let seqs: Vec<SeqId> = plan.entries.iter().filter(|entry| entry.sample).map(|entry| entry.seq).collect();
        if self.communicator.is_some() && self.group.rank() == 0 && !seqs.is_empty() {
            self.pending.push_back((plan.step, seqs));
        }
    }

    /// Reads tokens on the first stage before a step: those that the plan asks for without giving their ids, all before
    /// them, and so many more that at most [`MAX_PENDING_TOKENS`] are still to come.
    pub fn fetch_tokens(&mut self, plan: &StepPlan, sequences: &mut Sequences) -> Result<(), EngineError> {
        let entries = plan.entries.iter().filter(|entry| entry.tokens == PlanTokens::LastSampled);
        let last = entries.filter_map(|entry| sequences.get(entry.seq)?.last_sampled).map(|last| last.step).max();
        let needed = |(step, _): &(u64, _)| Some(*step) <= last;
        while self.pending.front().is_some_and(needed) || self.num_pending() > MAX_PENDING_TOKENS {
            self.read_tokens(sequences)?;
        }
        Ok(())
    }

    fn num_pending(&self) -> usize {
        self.pending.iter().map(|(_, seqs)| seqs.len()).sum()
    }

    /// Reads the tokens of the oldest pending step.
    fn read_tokens(&mut self, sequences: &mut Sequences) -> Result<(), EngineError> {
        let (Some((step, seqs)), Some(communicator)) = (self.pending.pop_front(), &mut self.communicator) else {
            return Ok(());
        };
        let mut tokens = vec![0; seqs.len()];
        communicator.recv(self.group.world_size() - 1, SliceMut::U32(&mut tokens))?;
        for (seq, token) in seqs.into_iter().zip(tokens) {
            sequences.record_sampled(seq, step, token);
        }
        Ok(())
    }
}
