//! The requests that the head has taken, and the way back to their clients.

use std::collections::HashMap;

use lockstep_schedule::plan::SeqId;
use lockstep_schedule::{Failure, FinishReason as Ended, Output, Refused};
use tokio::sync::mpsc;

use crate::service::{Event, FinishReason, ServeError};

/// What a client is told to wait before it tries again, in seconds: about what a group needs to form again.
pub const RETRY_AFTER_S: u32 = 5;

struct Client {
    request_id: String,
    events: mpsc::Sender<Event>,
}

/// Open requests by their sequence.
#[derive(Default)]
pub struct Clients {
    open: HashMap<SeqId, Client>,
}

impl Clients {
    pub fn insert(&mut self, id: SeqId, request_id: String, events: mpsc::Sender<Event>) {
        self.open.insert(id, Client { request_id, events });
    }

    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Passes on what the schedule says. True: the client is gone or reads nothing, and its sequence must end.
    pub fn deliver(&mut self, output: Output) -> Option<SeqId> {
        let (id, event) = translate(output);
        let last = matches!(event, Event::Finished(_) | Event::Failed(_));
        let client = self.open.get(&id)?;
        if let Event::Failed(error) = &event {
            tracing::warn!(request_id = client.request_id, %error, "a request failed");
        }
        let delivered = client.events.try_send(event).is_ok();
        if last {
            self.open.remove(&id);
            return None;
        }
        (!delivered).then_some(id)
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

fn translate(output: Output) -> (SeqId, Event) {
    match output {
        Output::Started { id, cached_tokens } => (id, Event::Started { cached_tokens }),
        Output::Token { id, token, logprobs } => (id, Event::Token { id: token, logprobs }),
        Output::Finished { id, reason: Ended::Stop } => (id, Event::Finished(FinishReason::Stop)),
        Output::Finished { id, reason: Ended::Length } => (id, Event::Finished(FinishReason::Length)),
        Output::Failed { id, reason } => (id, Event::Failed(failure(reason))),
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
pub fn refusal(refused: Refused) -> ServeError {
    match refused {
        Refused::Full { limit } => ServeError::Full { limit, retry_after_s: 1 },
        Refused::Duplicate { .. } => ServeError::Internal(refused.to_string()),
        _ => ServeError::Invalid(refused.to_string()),
    }
}
