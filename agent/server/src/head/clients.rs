//! The open requests of the head, and the channels back to their clients.

use std::collections::HashMap;

use lockstep_api::{Event, FinishReason, Guide, ServeError};
use lockstep_schedule::plan::{SeqId, TokenMask};
use lockstep_schedule::{Failure, RequestOutput, SubmitError};
use tokio::sync::mpsc;

struct Client {
    request_id: String,
    events: mpsc::Sender<Event>,
    /// Grammar of the answer. It has advanced by every token that the client was sent.
    guide: Option<Box<Guide>>,
}

/// Open requests by their sequence.
#[derive(Default)]
pub(super) struct Clients {
    open: HashMap<SeqId, Client>,
}

impl Clients {
    pub(super) fn insert(
        &mut self,
        id: SeqId,
        request_id: String,
        events: mpsc::Sender<Event>,
        guide: Option<Box<Guide>>,
    ) {
        self.open.insert(id, Client { request_id, events, guide });
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
    /// Returns the sequence if the caller must cancel it in the schedule: the client is gone or does not read, the
    /// grammar is complete, or a token breaks the grammar. In these cases the request is no longer open when this
    /// returns.
    pub(super) fn deliver(&mut self, output: RequestOutput) -> Option<SeqId> {
        let (id, event) = output_event(output);
        let is_last = matches!(event, Event::Finished(_) | Event::Cancelled | Event::Failed(_));
        let client = self.open.get_mut(&id)?;
        let grammar_is_complete = match (&event, &mut client.guide) {
            (Event::Token { id, .. }, Some(guide)) => guide.advance(*id),
            _ => Ok(false),
        };
        if let Event::Failed(error) = &event {
            tracing::warn!(request_id = client.request_id, %error, "a request failed");
        }
        let is_delivered = client.events.try_send(event).is_ok();
        if is_last {
            self.open.remove(&id);
            return None;
        }
        match grammar_is_complete {
            _ if !is_delivered => self.cancel(id, "its client reads nothing or went away"),
            Ok(false) => return None,
            Ok(true) => {
                client.events.try_send(Event::Finished(FinishReason::Stop)).ok();
                self.open.remove(&id);
            }
            Err(reason) => {
                self.fail(id, ServeError::Internal(format!("the ranks left the grammar: {reason}")));
            }
        }
        Some(id)
    }

    /// Removes the requests of clients that went away. Returns their sequences, which the caller must cancel.
    pub(super) fn remove_disconnected(&mut self) -> Vec<SeqId> {
        let disconnected = self.open.iter().filter(|(_, client)| client.events.is_closed());
        let disconnected: Vec<SeqId> = disconnected.map(|(id, _)| *id).collect();
        for id in &disconnected {
            self.cancel(*id, "its client went away");
        }
        disconnected
    }

    /// Removes a request and logs the reason.
    fn cancel(&mut self, id: SeqId, why: &str) {
        if let Some(client) = self.open.remove(&id) {
            tracing::info!(request_id = client.request_id, why, "cancelled a request");
        }
    }

    /// Ends one request with an error.
    pub(super) fn fail(&mut self, id: SeqId, error: ServeError) {
        if let Some(client) = self.open.remove(&id) {
            tracing::error!(request_id = client.request_id, %error, "a request failed");
            client.events.try_send(Event::Failed(error)).ok();
        }
    }

    /// Ends all requests as cancelled. Returns their sequences, which the caller must cancel.
    pub(super) fn cancel_all(&mut self) -> Vec<SeqId> {
        let all = self.open.drain();
        all.map(|(id, client)| {
            client.events.try_send(Event::Cancelled).ok();
            id
        })
        .collect()
    }
}

/// Returns the sequence of an output, and the event that its client receives.
fn output_event(output: RequestOutput) -> (SeqId, Event) {
    match output {
        RequestOutput::Started { id, cached_tokens } => (id, Event::Started { cached_tokens }),
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
