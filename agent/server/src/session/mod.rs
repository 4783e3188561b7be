//! A request's way through the client side, the same for gRPC and HTTP: what the client asked for becomes a checked
//! [`Submission`]; the head's events become text.
//!
//! Wire formats stay out of here, and so does the head: the two APIs are thin over this.

mod answer;
mod request;
mod sampling;
mod tools;

use std::sync::Arc;
use std::time::Instant;

use lockstep_proto::names::DEFAULT_MODEL;
use lockstep_proto::v1::{ClusterStatus, ModelInfo};
use tokio::sync::watch;

pub use answer::{Answer, CallDelta, Delta, Finish, TokenOut, Usage};
pub use request::{GenerateInput, LimitsInput, PromptInput};
pub use sampling::{MAX_LOGPROBS, SamplingInput};
pub use tools::{ToolChoice, ToolsInput};

use crate::metrics::{Metrics, Outcome};
use crate::service::{Inference, ServeError};
use crate::text::{Text, TextError};

/// Longest request id taken from a client; longer ones are replaced.
const MAX_REQUEST_ID: usize = 128;

/// Why a request was refused or could not go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// A field is out of its bounds: INVALID_ARGUMENT, 400. `field` is the field's name on the wire.
    #[error("{field}: {reason}")]
    Field { field: &'static str, reason: String },
    /// NOT_FOUND, 404.
    #[error("no model is called {asked:?} here: this endpoint serves {served:?}, also called {DEFAULT_MODEL:?}")]
    UnknownModel { asked: String, served: String },
    #[error(transparent)]
    Serve(#[from] ServeError),
}

impl RequestError {
    pub(crate) fn field(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Field { field, reason: reason.into() }
    }

    /// How the request counts in the metrics.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Field { .. } | Self::UnknownModel { .. } | Self::Serve(ServeError::Invalid(_)) => Outcome::Invalid,
            Self::Serve(ServeError::Full { .. }) => Outcome::Full,
            Self::Serve(ServeError::Unavailable { .. }) => Outcome::Unavailable,
            Self::Serve(ServeError::Deadline) => Outcome::Deadline,
            Self::Serve(ServeError::Internal(_)) => Outcome::Internal,
        }
    }
}

/// Everything that the client APIs need; cheap to clone.
#[derive(Clone)]
pub struct Api {
    inference: Inference,
    model: Arc<ModelInfo>,
    text: Text,
    metrics: Metrics,
    /// When the model began to be served, in seconds since 1970.
    created: u64,
}

impl Api {
    /// `model.name` is what clients call it.
    pub fn new(inference: Inference, model: ModelInfo, text: Text, metrics: Metrics) -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self { inference, model: Arc::new(model), text, metrics, created: since.as_secs() }
    }

    /// Checks a request and queues it; gives the answer of each choice.
    ///
    /// # Errors
    /// Names the field that is wrong, or says why the head refuses.
    pub async fn generate(&self, input: GenerateInput) -> Result<Vec<Answer>, RequestError> {
        let arrival = Instant::now();
        let request_id = input.request_id.clone();
        let answer = match input.deadline {
            None => self.start(input, arrival).await,
            Some(deadline) => tokio::time::timeout(deadline, self.start(input, arrival))
                .await
                .unwrap_or(Err(RequestError::Serve(ServeError::Deadline))),
        };
        if let Err(error) = &answer {
            self.metrics.count_outcome(error.outcome());
            tracing::info!(request_id, %error, "request refused");
        }
        answer
    }

    async fn start(&self, input: GenerateInput, arrival: Instant) -> Result<Vec<Answer>, RequestError> {
        self.check_model(&input.model)?;
        let prepared = request::prepare(&self.text, input).await?;
        let mut answers = Vec::with_capacity(prepared.choices as usize);
        for submission in prepared.submissions() {
            let (tokenizer, metrics) = (self.text.tokenizer().clone(), self.metrics.clone());
            let start = answer::Start::new(&prepared, &submission, arrival, tokenizer, metrics);
            let prompt_tokens = submission.prompt.len();
            let events = self.inference.submit(submission).await?;
            self.metrics.count_prompt(prompt_tokens);
            answers.push(start.answer(events));
        }
        Ok(answers)
    }

    /// # Errors
    /// The name is neither empty, nor `default`, nor the served model's.
    pub fn check_model(&self, name: &str) -> Result<(), RequestError> {
        if name.is_empty() || name == DEFAULT_MODEL || name == self.model.name {
            return Ok(());
        }
        Err(RequestError::UnknownModel { asked: name.chars().take(100).collect(), served: self.model.name.clone() })
    }

    /// Token ids of a text.
    ///
    /// # Errors
    /// The model is unknown, or the text too long.
    pub async fn tokenize(&self, model: &str, text: String, special: bool) -> Result<Vec<u32>, RequestError> {
        self.check_model(model)?;
        self.text.encode(text, special).await.map_err(|error| text_error("text", error))
    }

    /// Text of token ids.
    ///
    /// # Errors
    /// The model is unknown, or an id is out of its vocabulary.
    pub fn detokenize(&self, model: &str, ids: &[u32], skip_special: bool) -> Result<String, RequestError> {
        self.check_model(model)?;
        request::check_vocabulary("token_ids", ids, self.text.vocab_size)?;
        Ok(self.text.tokenizer().decode(ids, skip_special))
    }

    pub fn model(&self) -> &ModelInfo {
        &self.model
    }

    /// When the model began to be served, in seconds since 1970.
    pub fn created(&self) -> u64 {
        self.created
    }

    pub fn text(&self) -> &Text {
        &self.text
    }

    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// How long the head's task has been hung; `None`: it lives.
    pub fn hung_for(&self) -> Option<std::time::Duration> {
        self.inference.hung_for()
    }

    /// The group's state, now and as it changes.
    pub fn status(&self) -> watch::Receiver<ClusterStatus> {
        self.inference.status()
    }
}

/// The client's own id of a request where it can stand in a log and a header, else a new one.
pub fn request_id(given: Option<&[u8]>) -> String {
    let legible =
        |id: &&[u8]| (1..=MAX_REQUEST_ID).contains(&id.len()) && id.iter().all(|byte| byte.is_ascii_graphic());
    match given.filter(legible) {
        Some(id) => String::from_utf8_lossy(id).into_owned(),
        None => uuid::Uuid::new_v4().to_string(),
    }
}

/// A text that cannot be a prompt is the client's mistake; what else goes wrong with text is not.
pub(crate) fn text_error(field: &'static str, error: TextError) -> RequestError {
    match error {
        TextError::TemplateRefused(_) | TextError::NoTemplate | TextError::TooLong { .. } | TextError::Encode(_) => {
            RequestError::field(field, error.to_string())
        }
        TextError::Tokenizer(_) | TextError::TokenizerConfig(_) | TextError::TemplateSyntax(_) => {
            RequestError::Serve(ServeError::Internal(error.to_string()))
        }
    }
}
