//! What passes between the stages of a pipeline: activations from each stage to the next, tokens from the last to the
//! first.
//!
//! Every rank talks to those of its own tensor rank in the other stages. All stages run the same plans in the same order,
//! so each knows what comes without being told. The first stage reads a step's tokens when a later plan needs them, and
//! leaves no more than a few KiB of them unread, which every transport buffers: so the last stage never waits in a send
//! for a first stage that waits in a send itself.

use std::collections::VecDeque;

use candle_core::{Device, Tensor};
use lockstep_collectives::{Communicator, RankGroup, Slice, SliceMut};
use lockstep_schedule::plan::{PlanTokens, Sampled, SeqId, StepPlan};

use super::sequences::Sequences;
use crate::EngineError;

/// Tokens that may be on their way to the first stage when it sends activations: 16 KiB, which any socket buffers.
const MOST_OWED: usize = 4096;

/// One rank's end of its column.
pub struct Column {
    place: RankGroup,
    /// `None` where there is one stage: then nothing here does anything.
    communicator: Option<Box<dyn Communicator>>,
    /// On the first stage: the steps whose tokens it has not read yet, with the sequences that they are for.
    owed: VecDeque<(u64, Vec<SeqId>)>,
}

impl Column {
    /// # Errors
    /// [`EngineError::Usage`] where the communicator is another's, or missing.
    pub fn new(place: RankGroup, communicator: Option<Box<dyn Communicator>>) -> Result<Self, EngineError> {
        let given = communicator.as_ref().map_or_else(RankGroup::solo, |communicator| communicator.group());
        if given != place {
            return Err(EngineError::Usage(format!("a pipeline communicator of {given:?} was given to {place:?}")));
        }
        Ok(Self { place, communicator, owed: VecDeque::new() })
    }

    /// The stream `shape` from the stage before.
    pub fn receive(&mut self, shape: [usize; 2]) -> Result<Tensor, EngineError> {
        let mut values = vec![0f32; shape[0] * shape[1]];
        if let Some(communicator) = &mut self.communicator {
            communicator.recv(self.place.rank() - 1, SliceMut::F32(&mut values))?;
        }
        Ok(Tensor::from_vec(values, (shape[0], shape[1]), &Device::Cpu)?)
    }

    /// The stream to the stage after.
    pub fn send(&mut self, stream: &[f32]) -> Result<(), EngineError> {
        if let Some(communicator) = &mut self.communicator {
            communicator.send(self.place.rank() + 1, Slice::F32(stream))?;
        }
        Ok(())
    }

    /// From the last stage to the first: what it sampled in one step.
    pub fn send_tokens(&mut self, sampled: &[Sampled]) -> Result<(), EngineError> {
        let tokens: Vec<u32> = sampled.iter().map(|sampled| sampled.token).collect();
        if let Some(communicator) = &mut self.communicator {
            communicator.send(0, Slice::U32(&tokens))?;
        }
        Ok(())
    }

    /// The plan is done here: the first stage has its tokens to come.
    pub fn done(&mut self, plan: &StepPlan) {
        let seqs: Vec<SeqId> = plan.entries.iter().filter(|entry| entry.sample).map(|entry| entry.seq).collect();
        if self.communicator.is_some() && self.place.rank() == 0 && !seqs.is_empty() {
            self.owed.push_back((plan.step, seqs));
        }
    }

    /// On the first stage, before a step: reads the tokens that the plan names without giving them and all before, and
    /// so many more that few are still to come.
    pub fn fetch_tokens(&mut self, plan: &StepPlan, sequences: &mut Sequences) -> Result<(), EngineError> {
        let asked = plan.entries.iter().filter(|entry| entry.tokens == PlanTokens::LastSampled);
        let last = asked.filter_map(|entry| sequences.get(entry.seq)?.last_sampled).map(|last| last.step).max();
        let needed = |(step, _): &(u64, _)| Some(*step) <= last;
        while self.owed.front().is_some_and(needed) || self.num_owed() > MOST_OWED {
            self.read_tokens(sequences)?;
        }
        Ok(())
    }

    fn num_owed(&self) -> usize {
        self.owed.iter().map(|(_, seqs)| seqs.len()).sum()
    }

    /// Reads the tokens of the oldest step that they have not been read of.
    fn read_tokens(&mut self, sequences: &mut Sequences) -> Result<(), EngineError> {
        let (Some((step, seqs)), Some(communicator)) = (self.owed.pop_front(), &mut self.communicator) else {
            return Ok(());
        };
        let mut tokens = vec![0; seqs.len()];
        communicator.recv(self.place.world_size() - 1, SliceMut::U32(&mut tokens))?;
        for (seq, token) in seqs.into_iter().zip(tokens) {
            sequences.learn(seq, step, token);
        }
        Ok(())
    }
}
