//! The seam between the client APIs (HTTP, gRPC, the terminal) and the head: requests in token ids, events out.
//!
//! Text stops on the client side of this seam: tokenizer, templates and stop strings live there. Dropping an
//! [`EventStream`] cancels its request.

use std::time::Duration;

use lockstep_proto::v1::ClusterStatus;
use lockstep_schedule::plan::{SamplingParams, TokenLogprobs};
use tokio::sync::{mpsc, oneshot, watch};

/// Events that may wait for a slow client before its request is ended: more than a context has tokens is never needed.
pub const EVENT_BACKLOG: usize = 4096;

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
}

/// What becomes of a request. `Finished` or `Failed` is the last event.
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
    Failed(ServeError),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token.
    Stop,
    /// `max_tokens` or the context's end.
    Length,
    /// Cancelled by the client or by a drain's deadline.
    Cancelled,
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
}

/// Events of one request; dropping it cancels the request.
pub type EventStream = mpsc::Receiver<Event>;

/// A client's way to the head; cheap to clone.
#[derive(Clone)]
pub struct Inference {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<ClusterStatus>,
}

impl Inference {
    pub fn new(commands: mpsc::Sender<Command>, status: watch::Receiver<ClusterStatus>) -> Self {
        Self { commands, status }
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
