//! What the ranks sampled, told to the sequences that still want it.

use super::planning::name_full_blocks;
use super::{Flight, Group, Scheduler};
use crate::plan::{Sampled, SeqId, StepOutput};
use crate::request::{CompleteError, FinishReason, RequestOutput};

impl Scheduler {
    /// Takes the result of the oldest step in flight, which lasted `step_micros` on the ranks. Results of older epochs
    /// are ignored, and so is whatever was sampled for a sequence that has ended since.
    ///
    /// # Errors
    /// The result is not the one that is due. Nothing changed; the caller should give up the epoch.
    pub fn complete_step(&mut self, output: StepOutput, step_micros: u64) -> Result<Vec<RequestOutput>, CompleteError> {
        if output.epoch > self.epoch {
            return Err(CompleteError::FutureEpoch { got: output.epoch, current: self.epoch });
        }
        let Some(group) = self.group.as_mut().filter(|_| output.epoch == self.epoch) else { return Ok(Vec::new()) };
        let flight = take_flight(group, &output)?;
        self.stranded_since = None;
        self.budget.observe(flight.tokens, step_micros);
        let mut outputs = Vec::new();
        let mut sampled = output.sampled.into_iter();
        for (id, sample) in flight.entries {
            self.report_start(id, &mut outputs);
            if sample && let Some(sampled) = sampled.next() {
                self.take_token(sampled, &mut outputs);
            }
        }
        Ok(outputs)
    }

    /// Tells that a sequence's first step ended.
    fn report_start(&mut self, id: SeqId, outputs: &mut Vec<RequestOutput>) {
        if let Some(arrival) = self.by_id.get(&id)
            && let Some(sequence) = self.sequences.get_mut(arrival)
            && !sequence.started
        {
            sequence.started = true;
            outputs.push(RequestOutput::Started { id, cached_tokens: sequence.cached_tokens.unwrap_or(0) });
        }
    }

    /// Appends a token to its sequence, be it running or preempted meanwhile, or ends the sequence.
    fn take_token(&mut self, sampled: Sampled, outputs: &mut Vec<RequestOutput>) {
        let Sampled { seq: id, token, logprobs } = sampled;
        let Some(&arrival) = self.by_id.get(&id) else { return };
        let Some(sequence) = self.sequences.get_mut(&arrival) else { return };
        sequence.pending -= 1;
        if sequence.request.stop_token_ids.contains(&token) {
            self.remove(arrival);
            outputs.push(RequestOutput::Finished { id, reason: FinishReason::Stop });
            return;
        }
        sequence.tokens.push(token);
        outputs.push(RequestOutput::Token { id, token, logprobs });
        if let Some(group) = &mut self.group {
            name_full_blocks(&self.config, group, sequence);
        }
        if sequence.tokens.len() == sequence.max_len {
            self.remove(arrival);
            outputs.push(RequestOutput::Finished { id, reason: FinishReason::Length });
        }
    }
}

/// The step in flight that this is the result of.
fn take_flight(group: &mut Group, output: &StepOutput) -> Result<Flight, CompleteError> {
    let Some(flight) = group.in_flight.pop_front() else {
        return Err(CompleteError::NothingInFlight { got: output.step });
    };
    let error = if flight.step != output.step {
        CompleteError::OutOfOrder { got: output.step, expected: flight.step }
    } else {
        let expected = flight.entries.iter().filter(|(_, sample)| *sample).map(|(id, _)| *id);
        if expected.clone().eq(output.sampled.iter().map(|sampled| sampled.seq)) {
            return Ok(flight);
        }
        let got = output.sampled.iter().map(|sampled| sampled.seq).collect();
        CompleteError::OtherSequences { step: output.step, got, expected: expected.collect() }
    };
    group.in_flight.push_front(flight);
    Err(error)
}
