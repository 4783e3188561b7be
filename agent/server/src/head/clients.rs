//! The open requests of the head, and the channels back to their clients.

use std::collections::HashMap;

use lockstep_api::{Event, FinishReason, Guide, ServeError};
use lockstep_schedule::plan::{SeqId, TokenMask};
use lockstep_schedule::{Failure, RequestOutput, SubmitError};
use tokio::sync::mpsc::{OwnedPermit, Sender, error::TrySendError};

struct Client {
    request_id: String,
    events: Sender<Event>,
    /// Room for the last event, which thus reaches even a client that lets events wait. `None` if the client is gone.
    last_event: Option<OwnedPermit<Event>>,
    /// Grammar of the answer. It has advanced by every token that the client was sent.
    guide: Option<Box<Guide>>,
}

/// Open requests by their sequence.
#[derive(Default)]
pub(super) struct Clients {
    open: HashMap<SeqId, Client>,
}

impl Client {
    /// Sends the last event.
    fn end(self, event: Event) {
        if let Some(room) = self.last_event {
            room.send(event);
        }
    }
}

impl Clients {
    pub(super) fn insert(&mut self, id: SeqId, request_id: String, events: Sender<Event>, guide: Option<Box<Guide>>) {
        let last_event = events.clone().try_reserve_owned().ok();
        self.open.insert(id, Client { request_id, events, last_event, guide });
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
        if is_last {
            self.end(id, event);
            return None;
        }
        let delivered = client.events.try_send(event);
        match grammar_is_complete {
            _ if matches!(delivered, Err(TrySendError::Full(_))) => {
                tracing::info!(request_id = client.request_id, "ended a request: its client reads too slowly");
                self.end(id, Event::Failed(ServeError::SlowReader));
            }
            _ if delivered.is_err() => self.cancel(id, "its client went away"),
            Ok(false) => return None,
            Ok(true) => self.end(id, Event::Finished(FinishReason::Stop)),
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
        if let Some(client) = self.open.get(&id) {
            tracing::error!(request_id = client.request_id, %error, "a request failed");
            self.end(id, Event::Failed(error));
        }
    }

    /// Removes a request and sends its last event.
    fn end(&mut self, id: SeqId, last: Event) {
        if let Some(client) = self.open.remove(&id) {
            client.end(last);
        }
    }

    /// Ends all requests as cancelled. Returns their sequences, which the caller must cancel.
    pub(super) fn cancel_all(&mut self) -> Vec<SeqId> {
        let all = self.open.drain();
        all.map(|(id, client)| {
            client.end(Event::Cancelled);
            id
        })
        .collect()
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

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[test]
    fn a_slow_reader_is_told_so() {
        let token = || RequestOutput::Token { id: 1, token: 7, logprobs: None };
        let open = |places| {
            let (events, stream) = mpsc::channel(places);
            let mut clients = Clients::default();
            clients.insert(1, "r".into(), events, None);
            (clients, stream)
        };
        let (mut clients, mut stream) = open(3);
        assert_eq!([clients.deliver(token()), clients.deliver(token())], [None, None]);
        assert_eq!((clients.deliver(token()), clients.len()), (Some(1), 0), "the third has no room");
        let told: Vec<Event> = std::iter::from_fn(|| stream.try_recv().ok()).collect();
        assert_eq!((told.len(), told.last()), (3, Some(&Event::Failed(ServeError::SlowReader))));

        let (mut clients, mut stream) = open(2);
        assert_eq!(clients.deliver(token()), None);
        assert_eq!(clients.deliver(RequestOutput::Finished { id: 1, reason: FinishReason::Stop }), None);
        let told: Vec<Event> = std::iter::from_fn(|| stream.try_recv().ok()).collect();
        assert_eq!(told.last(), Some(&Event::Finished(FinishReason::Stop)), "the last event has its own room");

        let (mut clients, stream) = open(2);
        drop(stream);
        assert_eq!((clients.deliver(token()), clients.len()), (Some(1), 0));
    }
}
