//! The seam between the client APIs (HTTP, gRPC, the terminal) and the head: requests in token ids, events out.
//!
//! Text stops on the client side of this seam: tokenizer, templates and stop strings live there. Dropping an
//! [`EventStream`] cancels its request.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lockstep_proto::v1::ClusterStatus;
pub use lockstep_schedule::FinishReason;
use lockstep_schedule::plan::{SamplingParams, TokenLogprobs};
use tokio::sync::{mpsc, oneshot, watch};

use crate::grammar::Guide;

/// Events that may wait for a slow client before its request is ended: more than a context has tokens is never needed.
pub(crate) const EVENT_BACKLOG: usize = 4096;

/// The head's task turns twenty times a second; one that has not for this long will not again.
const HUNG: Duration = Duration::from_secs(15);

/// A sign of life of one task, for others to look at.
#[derive(Debug, Clone)]
pub struct Alive(Arc<Mutex<Instant>>);

impl Default for Alive {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
}

impl Alive {
    /// The task turned.
    pub fn sign(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Time since it last turned.
    pub fn silent_for(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

/// A validated request: everything is in range for the served model.
#[derive(Debug, Clone)]
pub struct Submission {
    /// Shown in logs.
    pub request_id: String,
    /// At least one token; with `max_tokens` at most the context.
    pub prompt: Vec<u32>,
    pub sampling: SamplingParams,
    /// At least 1.
    pub max_tokens: u32,
    /// The answer ends at one of these, the model's own end tokens included unless the client said to ignore them.
    pub stop_token_ids: Vec<u32>,
    /// Time that the client gives the whole request.
    pub deadline: Option<Duration>,
    /// What may be answered; the model's end tokens then are among [`Self::stop_token_ids`].
    pub guide: Option<Box<Guide>>,
}

/// Event of a request. `Finished`, `Cancelled` or `Failed` is the last one.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The prompt's computation began; sent once, also where the request is preempted later.
    Started {
        cached_tokens: u32,
    },
    /// One more token. A stop token is not reported.
    Token {
        id: u32,
        logprobs: Option<TokenLogprobs>,
    },
    Finished(FinishReason),
    /// The head ended the request because its time to drain was over.
    Cancelled,
    Failed(ServeError),
}

/// Why a request was refused or could not go on; each maps to one gRPC code and one HTTP status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServeError {
    /// The client's mistake: INVALID_ARGUMENT, 400.
    #[error("{0}")]
    Invalid(String),
    /// The queue is full: RESOURCE_EXHAUSTED, 429 with Retry-After.
    #[error("the queue is full ({limit} requests wait): try again in {retry_after_s} s")]
    Full { limit: usize, retry_after_s: u32 },
    /// The group cannot serve in time, or drains: UNAVAILABLE, 503 with Retry-After.
    #[error("{reason}: try again in {retry_after_s} s")]
    Unavailable { reason: String, retry_after_s: u32 },
    /// The request's own deadline passed: DEADLINE_EXCEEDED, 504.
    #[error("the request's deadline passed")]
    Deadline,
    /// A defect: INTERNAL, 500.
    #[error("{0}")]
    Internal(String),
}

/// What the head takes from the client APIs.
#[derive(Debug)]
pub enum Command {
    /// Answered at once: refused, or the stream's events follow.
    Submit { submission: Submission, events: mpsc::Sender<Event>, accepted: oneshot::Sender<Result<(), ServeError>> },
    /// Take no more requests; those that are there are finished. Answered at once with what is left.
    Drain { reason: String, answer: oneshot::Sender<InFlight> },
}

/// Requests that a draining head still has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InFlight {
    pub running: u32,
    pub waiting: u32,
}

/// Events of one request; dropping it cancels the request.
pub type EventStream = mpsc::Receiver<Event>;

/// A client's way to the head; cheap to clone.
#[derive(Clone)]
pub struct Inference {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<ClusterStatus>,
    alive: Alive,
}

impl Inference {
    /// `alive` is what the head's task signs on each of its turns.
    pub fn new(commands: mpsc::Sender<Command>, status: watch::Receiver<ClusterStatus>, alive: Alive) -> Self {
        Self { commands, status, alive }
    }

    /// How long the head's task has not turned, where that is too long for a living one.
    pub fn hung_for(&self) -> Option<Duration> {
        Some(self.alive.silent_for()).filter(|silent| *silent > HUNG)
    }

    /// Queues a request.
    ///
    /// # Errors
    /// Whatever the head refuses it for; `Unavailable` once the head is gone.
    pub async fn submit(&self, submission: Submission) -> Result<EventStream, ServeError> {
        let gone = || ServeError::Unavailable { reason: "the head is shutting down".into(), retry_after_s: 5 };
        let (events, stream) = mpsc::channel(EVENT_BACKLOG);
        let (accepted, answer) = oneshot::channel();
        self.commands.send(Command::Submit { submission, events, accepted }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())??;
        Ok(stream)
    }

    /// The group's state now; `borrow().ready` is what `/ready` says, `accepting` what `/accepting` says.
    pub fn status(&self) -> watch::Receiver<ClusterStatus> {
        self.status.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_that_does_not_turn_is_hung() {
        let alive = Alive::default();
        let (commands, _inbox) = mpsc::channel(1);
        let (_status, watched) = watch::channel(ClusterStatus::default());
        let inference = Inference::new(commands, watched, alive.clone());
        assert_eq!(inference.hung_for(), None);
        *alive.0.lock().unwrap() -= 2 * HUNG;
        assert!(inference.hung_for().is_some_and(|hung| hung > HUNG));
        alive.sign();
        assert_eq!(inference.hung_for(), None);
    }
}
