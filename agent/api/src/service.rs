//! The interface between the client APIs (HTTP, gRPC, the terminal) and the head: requests go in as token ids, and
//! events come out.
//!
//! Text, tokenizer, templates and stop strings stay on the client side of this interface. Dropping an [`EventStream`]
//! cancels its request.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lockstep_proto::v1::ClusterStatus;
pub use lockstep_schedule::FinishReason;
use lockstep_schedule::plan::{PromptToken, SamplingParams, TokenLogprobs};
use tokio::sync::{mpsc, oneshot, watch};

use crate::grammar::Guide;

/// Most events that may wait for a slow client. The head ends the request of a client that lets more wait.
pub(crate) const EVENT_BACKLOG: usize = 4096;

/// Time without a sign of life after which the head's task counts as hung. A healthy task gives twenty a second.
const HUNG_AFTER: Duration = Duration::from_secs(15);
/// Time after which a client should try again, in seconds: about the time that a group needs to form again.
const RETRY_AFTER_S: u32 = 5;

/// Time of the last sign of life of a task. The task renews it, and other tasks read it.
#[derive(Debug, Clone)]
pub struct Liveness(Arc<Mutex<Instant>>);

impl Default for Liveness {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
}

impl Liveness {
    /// Records that the task runs.
    pub fn renew(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Returns the time since the last sign of life.
    pub fn silent_for(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

/// A validated request. Every field is in range for the served model.
#[derive(Debug, Clone)]
pub struct Submission {
    /// Name of the request in logs.
    pub request_id: String,
    /// Token ids, at least one. Prompt and `max_tokens` together fit the context.
    pub prompt: Vec<u32>,
    /// Place in the queue: a lower number comes first.
    pub priority: i32,
    /// Only requests with the same salt share blocks of the prefix cache.
    pub cache_salt: String,
    pub sampling: SamplingParams,
    /// Most tokens of the answer. With 0, the answer ends once the prompt is computed.
    pub max_tokens: u32,
    /// Tokens that end the answer. The model's own end tokens are among them unless the client asked to ignore those.
    pub stop_token_ids: Vec<u32>,
    /// Time that the client gives the whole request.
    pub deadline: Option<Duration>,
    /// Grammar of the answer. With a grammar, the model's end tokens are among [`Self::stop_token_ids`].
    pub guide: Option<Box<Guide>>,
    /// Number of likeliest tokens to report beside each token of the prompt, with all log-probabilities. `None` reports
    /// none.
    pub prompt_logprobs: Option<u32>,
}

/// Event of a request, from the head to the client APIs. `Finished`, `Cancelled` or `Failed` is the last event.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The ranks have finished the first step of the request. The head sends this event once, even if it preempts the
    /// request later.
    Started {
        cached_tokens: u32,
    },
    /// The next tokens of the prompt, from the second one on, with their log-probabilities. All come before the first
    /// token of the answer.
    Prompt {
        tokens: Vec<PromptToken>,
    },
    /// The next token of the answer. A stop token ends the answer and has no event.
    Token {
        id: u32,
        logprobs: Option<TokenLogprobs>,
    },
    Finished(FinishReason),
    /// The head ended the request because the head's drain timeout passed.
    Cancelled,
    Failed(ServeError),
}

impl Event {
    /// Returns true if no event of the request follows this one.
    pub fn is_last(&self) -> bool {
        matches!(self, Self::Finished(_) | Self::Cancelled | Self::Failed(_))
    }
}

/// Reason why the head refused or ended a request. Each variant maps to one gRPC code and one HTTP status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServeError {
    /// A mistake of the client: INVALID_ARGUMENT, 400.
    #[error("{0}")]
    Invalid(String),
    /// The queue is full: RESOURCE_EXHAUSTED, 429 with Retry-After.
    #[error("the queue is full ({limit} requests wait): try again in {retry_after_s} s")]
    Full { limit: usize, retry_after_s: u32 },
    /// The group cannot serve in time, or the head drains: UNAVAILABLE, 503 with Retry-After.
    #[error("{reason}: try again in {retry_after_s} s")]
    Unavailable { reason: String, retry_after_s: u32 },
    /// The client let too many events wait: RESOURCE_EXHAUSTED, 408.
    #[error(
        "the answer was ended because it was read too slowly: {EVENT_BACKLOG} tokens waited for the client; read faster, \
         or ask for a whole response instead of a stream"
    )]
    SlowReader,
    /// The request's own deadline passed: DEADLINE_EXCEEDED, 504.
    #[error("the request's deadline passed")]
    Deadline,
    /// A defect: INTERNAL, 500.
    #[error("{0}")]
    Internal(String),
}

impl ServeError {
    /// Returns an error that gives `reason` and asks the client to try again after [`RETRY_AFTER_S`].
    pub fn unavailable(reason: impl Into<String>) -> Self {
        Self::Unavailable { reason: reason.into(), retry_after_s: RETRY_AFTER_S }
    }

    /// Returns the error for a head whose task has ended.
    pub(crate) fn head_gone() -> Self {
        Self::unavailable("the head is shutting down")
    }
}

/// A message from the client APIs, or from the operator, to the head's task.
#[derive(Debug)]
pub enum Command {
    /// Queue a request. The head sends its decision to `accepted` at once, and the request's events to `events`.
    Submit {
        submission: Box<Submission>,
        events: mpsc::Sender<Event>,
        accepted: oneshot::Sender<Result<(), ServeError>>,
    },
    /// Begin to drain. The head's status is not `accepting` from now on, but the head still takes requests for a few
    /// seconds. After that it refuses new ones and finishes the others. The head sends the number of unfinished
    /// requests to `answer` at once.
    Drain { reason: String, answer: oneshot::Sender<InFlight> },
}

/// Requests that a head has accepted and not finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InFlight {
    pub running: u32,
    pub waiting: u32,
}

/// Events of one request. Dropping the stream cancels the request.
pub type EventStream = mpsc::Receiver<Event>;

/// A client's way to the head. Cheap to clone.
#[derive(Clone)]
pub struct Inference {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<ClusterStatus>,
    liveness: Liveness,
}

impl Inference {
    /// Makes the interface from its channels. The head's task renews `liveness` at each tick.
    pub fn new(commands: mpsc::Sender<Command>, status: watch::Receiver<ClusterStatus>, liveness: Liveness) -> Self {
        Self { commands, status, liveness }
    }

    /// Returns for how long the head's task has shown no sign of life, if that is too long for a healthy task.
    pub fn hung_for(&self) -> Option<Duration> {
        Some(self.liveness.silent_for()).filter(|silent| *silent > HUNG_AFTER)
    }

    /// Queues a request.
    ///
    /// # Errors
    /// Returns the head's reason for refusing the request, or `Unavailable` if the head's task has ended.
    pub async fn submit(&self, submission: Submission) -> Result<EventStream, ServeError> {
        // One place more, for the event that ends the request of a slow client.
        let (events, stream) = mpsc::channel(EVENT_BACKLOG + 1);
        let (accepted, answer) = oneshot::channel();
        self.commands
            .send(Command::Submit { submission: Box::new(submission), events, accepted })
            .await
            .map_err(|_| ServeError::head_gone())?;
        answer.await.map_err(|_| ServeError::head_gone())??;
        Ok(stream)
    }

    /// Returns the group's status, now and as it changes.
    pub fn status(&self) -> watch::Receiver<ClusterStatus> {
        self.status.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_without_a_sign_of_life_is_hung() {
        let liveness = Liveness::default();
        let (commands, _inbox) = mpsc::channel(1);
        let (_status, watched) = watch::channel(ClusterStatus::default());
        let inference = Inference::new(commands, watched, liveness.clone());
        assert_eq!(inference.hung_for(), None);
        *liveness.0.lock().unwrap() -= 2 * HUNG_AFTER;
        assert!(inference.hung_for().is_some_and(|hung| hung > HUNG_AFTER));
        liveness.renew();
        assert_eq!(inference.hung_for(), None);
    }
}
