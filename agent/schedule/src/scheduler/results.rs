//! The result of one step: its tokens go to their sequences.

use super::planning::cache_full_blocks;
use super::{EpochState, InFlightEntry, InFlightStep, Scheduler};
use crate::plan::{PromptToken, Sampled, SeqId, StepOutput};
use crate::request::{CompleteError, FinishReason, RequestOutput};

impl Scheduler {
    /// Takes the result of the oldest step in flight, which lasted `step_micros` on the ranks. It ignores results of
    /// older epochs, and tokens of sequences that have ended since the plan.
    ///
    /// # Errors
    /// The result is not the one that is due. Nothing has changed, and the caller should end the epoch.
    pub fn complete_step(&mut self, output: StepOutput, step_micros: u64) -> Result<Vec<RequestOutput>, CompleteError> {
        if output.epoch > self.epoch {
            return Err(CompleteError::FutureEpoch { got: output.epoch, current: self.epoch });
        }
        let Some(epoch_state) = self.epoch_state.as_mut().filter(|_| output.epoch == self.epoch) else {
            return Ok(Vec::new());
        };
        let completed = pop_in_flight_step(epoch_state, &output)?;
        self.recovering_since = None;
        self.token_budget.observe_step(completed.num_tokens, step_micros);
        let mut outputs = Vec::new();
        let (mut sampled, mut prompts) = (output.sampled.into_iter(), output.prompts.into_iter());
        for entry in completed.entries {
            self.report_start(entry.seq, &mut outputs);
            if entry.num_targets > 0
                && let Some(prompt) = prompts.next()
            {
                self.report_prompt(&entry, prompt.tokens, &mut outputs);
            }
            if entry.sample
                && let Some(sampled) = sampled.next()
            {
                self.append_token(sampled, &mut outputs);
            }
        }
        Ok(outputs)
    }

    /// Reports once, after the first step of a sequence, that the sequence has started.
    fn report_start(&mut self, id: SeqId, outputs: &mut Vec<RequestOutput>) {
        if let Some(key) = self.by_id.get(&id)
            && let Some(sequence) = self.sequences.get_mut(key)
            && !sequence.started
        {
            sequence.started = true;
            let cached_tokens = sequence.num_cached_tokens.unwrap_or(0);
            outputs.push(RequestOutput::Started { id, cached_tokens });
        }
    }

    /// Reports tokens of a prompt with their log-probabilities, without those that the client has been sent. A sequence
    /// that was preempted within its prompt computes tokens again whose first result was still in flight.
    fn report_prompt(&mut self, entry: &InFlightEntry, mut tokens: Vec<PromptToken>, outputs: &mut Vec<RequestOutput>) {
        let Some(key) = self.by_id.get(&entry.seq) else { return };
        let Some(sequence) = self.sequences.get_mut(key) else { return };
        debug_assert!(entry.num_reported_before <= sequence.num_reported, "no token of a prompt is left out");
        let num_sent = sequence.num_reported.saturating_sub(entry.num_reported_before).min(tokens.len());
        tokens.drain(..num_sent);
        if !tokens.is_empty() {
            sequence.num_reported += tokens.len();
            outputs.push(RequestOutput::Prompt { id: entry.seq, tokens });
        }
    }

    /// Appends a token to its sequence. Finishes the sequence at a stop token or at its maximum length. The sequence
    /// may have been preempted since the plan.
    fn append_token(&mut self, sampled: Sampled, outputs: &mut Vec<RequestOutput>) {
        let Sampled { seq: id, token, logprobs } = sampled;
        let Some(&key) = self.by_id.get(&id) else { return };
        let Some(sequence) = self.sequences.get_mut(&key) else { return };
        sequence.num_in_flight -= 1;
        if sequence.request.max_tokens == 0 {
            self.remove_sequence(key);
            outputs.push(RequestOutput::Finished { id, reason: FinishReason::Length });
            return;
        }
        if sequence.request.stop_token_ids.contains(&token) {
            self.remove_sequence(key);
            outputs.push(RequestOutput::Finished { id, reason: FinishReason::StopToken(token) });
            return;
        }
        sequence.tokens.push(token);
        outputs.push(RequestOutput::Token { id, token, logprobs });
        if let Some(epoch_state) = &mut self.epoch_state {
            cache_full_blocks(&self.config, epoch_state, sequence);
        }
        if sequence.tokens.len() == sequence.max_len {
            self.remove_sequence(key);
            outputs.push(RequestOutput::Finished { id, reason: FinishReason::Length });
        }
    }
}

/// Removes and returns the oldest step in flight, if `output` is its result.
fn pop_in_flight_step(epoch_state: &mut EpochState, output: &StepOutput) -> Result<InFlightStep, CompleteError> {
    let Some(oldest) = epoch_state.in_flight.pop_front() else {
        return Err(CompleteError::NothingInFlight { got: output.step });
    };
    let error = if oldest.step != output.step {
        CompleteError::OutOfOrder { got: output.step, expected: oldest.step }
    } else {
        let expected = oldest.entries.iter().filter(|entry| entry.sample).map(|entry| entry.seq);
        let got = output.sampled.iter().map(|sampled| sampled.seq);
        let expected_prompts =
            oldest.entries.iter().filter(|entry| entry.num_targets > 0).map(|entry| (entry.seq, entry.num_targets));
        let got_prompts = output.prompts.iter().map(|prompt| (prompt.seq, prompt.tokens.len()));
        if !expected.clone().eq(got.clone()) {
            CompleteError::OtherSequences { step: output.step, got: got.collect(), expected: expected.collect() }
        } else if !expected_prompts.clone().eq(got_prompts.clone()) {
            let (got, expected) = (got_prompts.collect(), expected_prompts.collect());
            CompleteError::OtherPrompts { step: output.step, got, expected }
        } else {
            return Ok(oldest);
        }
    };
    epoch_state.in_flight.push_front(oldest);
    Err(error)
}
