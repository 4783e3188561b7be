//! The requests that the head has taken, and the way back to their clients.

use std::collections::HashMap;

use lockstep_api::{Event, FinishReason, Guide, ServeError};
use lockstep_schedule::plan::{SeqId, TokenMask};
use lockstep_schedule::{Failure, FinishReason as Ended, RequestOutput, SubmitError};
use tokio::sync::mpsc;

/// What a client is told to wait before it tries again, in seconds: about what a group needs to form again.
pub const RETRY_AFTER_S: u32 = 5;

struct Client {
    request_id: String,
    events: mpsc::Sender<Event>,
    /// What may be answered; it has taken every token that was given out.
    guide: Option<Box<Guide>>,
}

/// Open requests by their sequence.
#[derive(Default)]
pub struct Clients {
    open: HashMap<SeqId, Client>,
}

impl Clients {
    pub fn insert(&mut self, id: SeqId, request_id: String, events: mpsc::Sender<Event>, guide: Option<Box<Guide>>) {
        self.open.insert(id, Client { request_id, events, guide });
    }

    /// The tokens that may come next; none where all may.
    ///
    /// # Errors
    /// The request's grammar cannot go on.
    pub fn allowed(&mut self, id: SeqId) -> Result<Option<TokenMask>, ServeError> {
        let Some(guide) = self.open.get_mut(&id).and_then(|client| client.guide.as_mut()) else { return Ok(None) };
        guide.allowed().map_err(|reason| ServeError::Invalid(format!("the grammar cannot go on: {reason}")))
    }

    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Passes on what the schedule says. A sequence that must end for it is returned: its client is gone or reads
    /// nothing, or its grammar is complete; then it is no client's any more.
    pub fn deliver(&mut self, output: RequestOutput) -> Option<SeqId> {
        let (id, event) = translate(output);
        let last = matches!(event, Event::Finished(_) | Event::Failed(_));
        let client = self.open.get_mut(&id)?;
        let advanced = match (&event, &mut client.guide) {
            (Event::Token { id, .. }, Some(guide)) => guide.advance(*id),
            _ => Ok(false),
        };
        if let Event::Failed(error) = &event {
            tracing::warn!(request_id = client.request_id, %error, "a request failed");
        }
        let delivered = client.events.try_send(event).is_ok();
        if last {
            self.open.remove(&id);
            return None;
        }
        match advanced {
            _ if !delivered => self.remove(id, "its client reads nothing or went away"),
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

    /// Requests whose clients went away: they are forgotten here, and the caller cancels their sequences.
    pub fn take_gone(&mut self) -> Vec<SeqId> {
        let gone = self.open.iter().filter(|(_, client)| client.events.is_closed());
        let gone: Vec<SeqId> = gone.map(|(id, _)| *id).collect();
        for id in &gone {
            self.remove(*id, "its client went away");
        }
        gone
    }

    pub fn remove(&mut self, id: SeqId, why: &str) {
        if let Some(client) = self.open.remove(&id) {
            tracing::info!(request_id = client.request_id, why, "cancelled a request");
        }
    }

    /// Ends one request with an error.
    pub fn fail(&mut self, id: SeqId, error: ServeError) {
        if let Some(client) = self.open.remove(&id) {
            tracing::error!(request_id = client.request_id, %error, "a request failed");
            client.events.try_send(Event::Failed(error)).ok();
        }
    }

    /// Ends all requests.
    pub fn cancel_all(&mut self) -> Vec<SeqId> {
        let all = self.open.drain();
        all.map(|(id, client)| {
            client.events.try_send(Event::Finished(FinishReason::Cancelled)).ok();
            id
        })
        .collect()
    }
}

fn translate(output: RequestOutput) -> (SeqId, Event) {
    match output {
        RequestOutput::Started { id, cached_tokens } => (id, Event::Started { cached_tokens }),
        RequestOutput::Token { id, token, logprobs } => (id, Event::Token { id: token, logprobs }),
        RequestOutput::Finished { id, reason: Ended::Stop } => (id, Event::Finished(FinishReason::Stop)),
        RequestOutput::Finished { id, reason: Ended::Length } => (id, Event::Finished(FinishReason::Length)),
        RequestOutput::Failed { id, reason } => (id, Event::Failed(failure(reason))),
    }
}

fn failure(reason: Failure) -> ServeError {
    match reason {
        Failure::Deadline => ServeError::Deadline,
        Failure::RecoveryTimeout => {
            ServeError::Unavailable { reason: reason.to_string(), retry_after_s: RETRY_AFTER_S }
        }
        Failure::TooManyBlocks { .. } => ServeError::Invalid(reason.to_string()),
    }
}

/// What a client hears of a refusal.
pub fn refusal(refused: SubmitError) -> ServeError {
    match refused {
        SubmitError::QueueFull { limit } => ServeError::Full { limit, retry_after_s: 1 },
        SubmitError::DuplicateId { .. } => ServeError::Internal(refused.to_string()),
        _ => ServeError::Invalid(refused.to_string()),
    }
}
