//! The open requests of the head, and the grammars of their answers.

use std::collections::BTreeMap;

use lockstep_api::{Event, FinishReason, Guide, ServeError};
use lockstep_schedule::plan::{SeqId, TokenMask};
use lockstep_schedule::{Failure, RequestOutput, SubmitError};

use super::driver::Output;

struct Client {
    request_id: String,
    /// Grammar of the answer. It has advanced by every token that the client was sent.
    guide: Option<Box<Guide>>,
}

/// Open requests by their sequence.
#[derive(Default)]
pub(super) struct Clients {
    open: BTreeMap<SeqId, Client>,
}

impl Clients {
    pub(super) fn insert(&mut self, id: SeqId, request_id: String, guide: Option<Box<Guide>>) {
        self.open.insert(id, Client { request_id, guide });
    }

    /// Returns the tokens that the grammar of a sequence allows next, or `None` if all tokens are allowed.
    ///
    /// # Errors
    /// Fails if the grammar allows no token.
    pub(super) fn allowed_tokens(&mut self, id: SeqId) -> Result<Option<TokenMask>, ServeError> {
        let Some(guide) = self.open.get_mut(&id).and_then(|client| client.guide.as_mut()) else { return Ok(None) };
        guide.allowed().map_err(|reason| ServeError::Invalid(format!("the grammar cannot go on: {reason}")))
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Sends an output of the schedule to its client.
    ///
    /// Returns the sequence if the caller must cancel it in the schedule: the grammar is complete, or a token breaks the
    /// grammar. The request is then no longer open.
    pub(super) fn deliver(&mut self, output: RequestOutput, outputs: &mut Vec<Output>) -> Option<SeqId> {
        let (id, event) = output_event(output);
        let client = self.open.get_mut(&id)?;
        let grammar_is_complete = match (&event, &mut client.guide) {
            (Event::Token { id, .. }, Some(guide)) => guide.advance(*id),
            _ => Ok(false),
        };
        if let Event::Failed(error) = &event {
            tracing::warn!(request_id = client.request_id, %error, "a request failed");
        }
        if event.is_last() {
            self.end(id, event, outputs);
            return None;
        }
        outputs.push(Output::Event { id, event });
        match grammar_is_complete {
            Ok(false) => return None,
            Ok(true) => self.end(id, Event::Finished(FinishReason::Stop), outputs),
            Err(reason) => {
                self.fail(id, ServeError::Internal(format!("the ranks left the grammar: {reason}")), outputs);
            }
        }
        Some(id)
    }

    /// Removes a request that nobody waits for, and logs the reason. Returns false if the request is not open.
    pub(super) fn cancel(&mut self, id: SeqId, reason: &str) -> bool {
        let cancelled = self.open.remove(&id);
        if let Some(client) = &cancelled {
            tracing::info!(request_id = client.request_id, reason, "cancelled a request");
        }
        cancelled.is_some()
    }

    /// Ends one request with an error.
    pub(super) fn fail(&mut self, id: SeqId, error: ServeError, outputs: &mut Vec<Output>) {
        if let Some(client) = self.open.get(&id) {
            tracing::error!(request_id = client.request_id, %error, "a request failed");
            self.end(id, Event::Failed(error), outputs);
        }
    }

    /// Removes a request and sends its last event.
    fn end(&mut self, id: SeqId, last: Event, outputs: &mut Vec<Output>) {
        if self.open.remove(&id).is_some() {
            outputs.push(Output::Event { id, event: last });
        }
    }

    /// Ends all requests as cancelled. Returns their sequences, which the caller must cancel.
    pub(super) fn cancel_all(&mut self, outputs: &mut Vec<Output>) -> Vec<SeqId> {
        let all: Vec<SeqId> = std::mem::take(&mut self.open).into_keys().collect();
        outputs.extend(all.iter().map(|id| Output::Event { id: *id, event: Event::Cancelled }));
        all
    }
}

/// Returns the sequence of an output, and the event that its client receives.
fn output_event(output: RequestOutput) -> (SeqId, Event) {
    match output {
        RequestOutput::Started { id, cached_tokens } => (id, Event::Started { cached_tokens }),
        RequestOutput::Prompt { id, tokens } => (id, Event::Prompt { tokens }),
        RequestOutput::Token { id, token, logprobs } => (id, Event::Token { id: token, logprobs }),
        RequestOutput::Finished { id, reason } => (id, Event::Finished(reason)),
        RequestOutput::Failed { id, reason } => (id, Event::Failed(failure_error(reason))),
    }
}

/// Returns the error of a request that failed in the schedule.
fn failure_error(failure: Failure) -> ServeError {
    match failure {
        Failure::Deadline => ServeError::Deadline,
        Failure::RecoveryTimeout => ServeError::unavailable(failure.to_string()),
        Failure::TooManyBlocks { .. } => ServeError::Invalid(failure.to_string()),
    }
}

/// Returns the error of a request that the schedule refused.
pub(super) fn refusal_error(error: SubmitError) -> ServeError {
    match error {
        SubmitError::QueueFull { limit } => ServeError::Full { limit, retry_after_s: 1 },
        SubmitError::DuplicateId { .. } => ServeError::Internal(error.to_string()),
        _ => ServeError::Invalid(error.to_string()),
    }
}
