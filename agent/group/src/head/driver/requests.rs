//! The driver's half that faces the clients: it takes their requests, and sends them the schedule's outputs.

use std::time::Duration;

use lockstep_api::{InFlight, ServeError, Submission};
use lockstep_schedule::plan::SeqId;
use lockstep_schedule::{Request, RequestOutput};

use super::{CANARY, Driver, Output};
use crate::head::clients;

/// Time for which the head still takes requests after the operator asked for a drain. The status is not `accepting`
/// from the start of the drain on. Until every Kubernetes node's proxy has learned that, proxies still send clients
/// here.
const DRAIN_NOTICE: Duration = Duration::from_secs(5);

impl Driver {
    /// Begins the drain that the operator asks for.
    pub(super) fn drain_for_operator(&mut self, reason: &str) {
        if self.drain_reason.is_none() {
            self.takes_requests_until = Some(self.now + DRAIN_NOTICE);
        }
        self.begin_drain(if reason.is_empty() { "the operator asked for it" } else { reason });
        self.publish_status();
        let stats = self.scheduler.stats();
        self.outputs.push(Output::Draining(InFlight { running: stats.running as u32, waiting: stats.waiting as u32 }));
    }

    /// Queues a request, or says why the head refuses it.
    pub(super) fn submit_request(&mut self, submission: Submission) {
        let submitted = self.queue_request(submission);
        self.outputs.push(Output::Submitted(submitted));
    }

    fn queue_request(&mut self, submission: Submission) -> Result<SeqId, ServeError> {
        let unavailable = |reason: &str| Err(ServeError::unavailable(reason));
        let still_takes_requests = self.takes_requests_until.is_some_and(|until| self.now < until);
        if let Some(reason) = self.drain_reason.as_ref().filter(|_| !still_takes_requests) {
            return unavailable(&format!("the head takes no more requests: {reason}"));
        }
        if self.has_recovery_timed_out() {
            return unavailable("the group has not recovered in time");
        }
        let now = self.now_micros();
        let id = self.next_id;
        // The schedule would refuse a request that could outgrow its blocks. Cut the limit instead, so that the answer
        // ends early.
        let max_sequence_tokens = self.scheduler.max_sequence_tokens();
        let max_answer_tokens = max_sequence_tokens.saturating_sub(submission.prompt.len() as u32);
        let request = Request {
            id,
            prompt: submission.prompt,
            priority: submission.priority,
            cache_salt: submission.cache_salt,
            sampling: submission.sampling,
            max_tokens: submission.max_tokens.min(max_answer_tokens.max(1)),
            stop_token_ids: submission.stop_token_ids,
            deadline: submission.deadline.map(|deadline| now + deadline.as_micros() as u64),
            needs_head: submission.guide.is_some(),
            prompt_logprobs: submission.prompt_logprobs,
        };
        self.scheduler.submit(request, now).map_err(clients::refusal_error)?;
        self.next_id += 1;
        self.requests += 1;
        tracing::debug!(request_id = submission.request_id, sequence = id, "took a request");
        self.clients.insert(id, submission.request_id, submission.guide);
        Ok(id)
    }

    /// Sends outputs of the schedule to their clients. Cancels a sequence whose grammar has ended.
    pub(super) fn deliver_outputs(&mut self, outputs: Vec<RequestOutput>) {
        for output in outputs {
            if let RequestOutput::Token { id, .. }
            | RequestOutput::Finished { id, .. }
            | RequestOutput::Failed { id, .. } = output
            {
                self.suspects.clear(id);
            }
            self.tokens_generated += u64::from(matches!(output, RequestOutput::Token { id, .. } if id != CANARY));
            if let Some(id) = self.clients.deliver(output, &mut self.outputs) {
                self.cancel_sequence(id);
            }
        }
    }
}
