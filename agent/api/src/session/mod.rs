//! Requests on the client side, the same for gRPC and HTTP: a client's input becomes a checked [`Submission`], and the
//! head's events become text.
//!
//! The module knows neither wire formats nor the head's inner parts. gRPC and HTTP are thin layers over it.

mod answer;
mod beams;
mod error;
mod request;
mod sampling;
mod tools;
mod unknown;
mod whole;

use std::sync::Arc;
use std::time::Instant;

use lockstep_proto::names::DEFAULT_MODEL;
use lockstep_proto::v1::{ClusterStatus, ModelInfo};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

pub use answer::{Answer, Delta, Finish};
pub(crate) use answer::{CallDelta, GeneratedToken, ScoredToken, StopReason, Usage};
pub(crate) use beams::{BeamsInput, EarlyStopping};
pub use error::RequestError;
pub use request::{GenerateInput, PromptInput};
pub(crate) use request::{LimitsInput, MAX_CHOICES, OutputInput, Truncation};
pub(crate) use sampling::{ALL_LOGPROBS, MAX_LOGPROBS, SamplingInput};
pub(crate) use tools::{ToolChoice, ToolsInput};
pub(crate) use unknown::UnknownFields;

/// Bounds of fields, for the description of the endpoint.
pub(crate) mod bounds {
    pub(crate) use super::request::{MAX_CHOICES, MAX_STOP_TOKEN_IDS, MAX_STOPS};
    pub(crate) use super::sampling::{MAX_BIAS, MAX_LOGPROBS, MAX_PENALTY, MAX_REPETITION_PENALTY, MAX_TEMPERATURE};
    pub(crate) use super::tools::MAX_TOOLS;
}

use error::{check_vocabulary, text_error};

use crate::block_feed::BlockFeed;
use crate::guard::{BodyBudget, ClientAccess};
use crate::metrics::Metrics;
use crate::model::{EngineFacts, Text};
use crate::service::{Inference, ServeError};
use crate::text::Conversation;

/// Longest request id that a client may choose, in bytes. A longer id is replaced.
const MAX_REQUEST_ID: usize = 128;

/// Everything that the client APIs need. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    inference: Inference,
    model: Arc<ModelInfo>,
    /// Names that the model is called by, beside its own.
    other_names: Arc<[String]>,
    text: Text,
    engine: Arc<EngineFacts>,
    metrics: Metrics,
    unknown_fields: Arc<UnknownFields>,
    access: ClientAccess,
    /// Changes of the prefix cache, if clients may see them.
    block_feed: Option<BlockFeed>,
    /// Memory of the bodies of requests, of HTTP and gRPC.
    bodies: BodyBudget,
    /// Turn of the requests that report the log-probabilities of the whole vocabulary.
    whole_turn: Arc<Semaphore>,
    /// Moment since which the model is served, in seconds since 1970.
    created: u64,
}

impl Api {
    /// Makes the APIs of one model, which clients call by `model.name`.
    pub fn new(inference: Inference, model: ModelInfo, text: Text, metrics: Metrics) -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let (other_names, unknown_fields, access) = (Arc::default(), Arc::default(), ClientAccess::default());
        let (model, created, engine) = (Arc::new(model), since.as_secs(), Arc::default());
        Self {
            inference,
            model,
            other_names,
            text,
            engine,
            metrics,
            unknown_fields,
            access,
            block_feed: None,
            bodies: BodyBudget::default(),
            whole_turn: Arc::new(Semaphore::new(1)),
            created,
        }
    }

    /// Serves only under these conditions.
    #[must_use]
    pub fn with_access(self, access: ClientAccess) -> Self {
        Self { access, ..self }
    }

    pub(crate) fn access(&self) -> &ClientAccess {
        &self.access
    }

    /// Lets clients call the model by more names.
    #[must_use]
    pub fn with_names(self, other_names: Vec<String>) -> Self {
        Self { other_names: other_names.into(), ..self }
    }

    /// Gives the facts and files that routers ask for.
    #[must_use]
    pub fn with_engine(self, engine: EngineFacts) -> Self {
        Self { engine: Arc::new(engine), ..self }
    }

    /// Lets clients see the changes of the prefix cache, which have the tokens of all prompts.
    #[must_use]
    pub fn with_block_feed(self, block_feed: Option<BlockFeed>) -> Self {
        Self { block_feed, ..self }
    }

    pub(crate) fn block_feed(&self) -> Option<&BlockFeed> {
        self.block_feed.as_ref()
    }

    /// Returns the most memory that large bodies of requests had at a time since the last call.
    pub fn take_body_peak(&self) -> usize {
        self.bodies.take_peak()
    }

    pub(crate) fn bodies(&self) -> &BodyBudget {
        &self.bodies
    }

    /// Returns the names that clients may call the model by, its own first.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.model.name).chain(&*self.other_names).map(String::as_str)
    }

    /// Makes HTTP requests fail if `strict` is set and they have a field that nobody knows. Otherwise such a field is left
    /// out of account.
    #[must_use]
    pub fn with_strict_fields(self, strict: bool) -> Self {
        Self { unknown_fields: Arc::new(UnknownFields::new(strict)), ..self }
    }

    pub(crate) fn unknown_fields(&self) -> &UnknownFields {
        &self.unknown_fields
    }

    /// Checks a request and queues it. Returns the answer of each choice.
    ///
    /// # Errors
    /// Names the wrong field, or gives the head's reason for refusing the request.
    pub async fn generate(&self, input: GenerateInput) -> Result<Vec<Answer>, RequestError> {
        self.generate_batch(vec![input]).await
    }

    /// Checks and queues the prompts of one request. Returns the answers in the order of the prompts and their choices.
    ///
    /// # Errors
    /// Names the wrong field, or gives the head's reason for refusing the request. A request with more answers than the
    /// queue holds is refused as such: trying again would not help.
    pub async fn generate_batch(&self, inputs: Vec<GenerateInput>) -> Result<Vec<Answer>, RequestError> {
        let count = inputs.iter().map(|input| input.choices.unwrap_or(1) as usize).sum();
        let field = match &inputs[..] {
            [] | [_] => "n",
            [GenerateInput { prompt: PromptInput::Chat(_), .. }, ..] => "messages",
            _ => "prompt",
        };
        let mut answers = Vec::with_capacity(count);
        for input in inputs {
            let request_id = input.request_id.clone();
            let more = self.generate_one(input).await.map_err(|error| match error {
                RequestError::Serve(ServeError::Full { limit, .. }) if count > limit => {
                    RequestError::Batch { field, answers: count, limit }
                }
                error => error,
            });
            if let Err(error) = &more {
                self.metrics.count_outcome(error.outcome());
                tracing::debug!(request_id, %error, "request refused");
            }
            answers.extend(more?);
        }
        Ok(answers)
    }

    async fn generate_one(&self, input: GenerateInput) -> Result<Vec<Answer>, RequestError> {
        let arrival = Instant::now();
        match input.deadline {
            None => self.start(input, arrival).await,
            Some(deadline) => tokio::time::timeout(deadline, self.start(input, arrival))
                .await
                .unwrap_or(Err(RequestError::Serve(ServeError::Deadline))),
        }
    }

    async fn start(&self, input: GenerateInput, arrival: Instant) -> Result<Vec<Answer>, RequestError> {
        self.check_model(&input.model)?;
        let prepared = request::prepare(&self.text, input).await?;
        let beams = match prepared.beams {
            Some(beams) => beams::search(&self.inference, &prepared, beams).await?,
            None => Vec::new(),
        };
        let mut beams = beams.into_iter();
        let mut answers = Vec::with_capacity(prepared.choices as usize);
        for submission in prepared.submissions() {
            let (tokenizer, metrics) = (self.text.tokenizer().clone(), self.metrics.clone());
            let state = answer::AnswerState::new(&prepared, &submission, arrival, tokenizer, metrics);
            let prompt_tokens = submission.prompt.len();
            let events = match beams.next() {
                Some(events) => events,
                None if submission.sampling.logprobs.is_some_and(|count| count > MAX_LOGPROBS) => {
                    whole::submit(&self.inference, &self.whole_turn, submission).await?
                }
                None => self.inference.submit(submission).await?,
            };
            self.metrics.count_prompt(prompt_tokens);
            answers.push(state.with_events(events));
        }
        Ok(answers)
    }

    /// Returns the number of tokens of a request's prompt, which may be longer than the context.
    ///
    /// # Errors
    /// Names the wrong field.
    pub(crate) async fn count_prompt(&self, input: GenerateInput) -> Result<usize, RequestError> {
        self.check_model(&input.model)?;
        request::count_prompt(&self.text, input).await
    }

    /// Checks that the client asks for the served model.
    ///
    /// # Errors
    /// The name is neither empty, nor `default`, nor one of the served model.
    pub fn check_model(&self, name: &str) -> Result<(), RequestError> {
        if name.is_empty() || name == DEFAULT_MODEL || self.names().any(|own| own == name) {
            return Ok(());
        }
        Err(RequestError::UnknownModel { asked: name.chars().take(100).collect(), served: self.model.name.clone() })
    }

    /// Returns the token ids of a text. `field` is the name of the text on the wire.
    ///
    /// # Errors
    /// The model is unknown, or the text is too long.
    pub async fn tokenize(
        &self,
        field: &'static str,
        model: &str,
        text: String,
        special: bool,
    ) -> Result<Vec<u32>, RequestError> {
        self.check_model(model)?;
        self.text.encode(text, special).await.map_err(|error| text_error(field, error))
    }

    /// Returns the token ids of the prompt that the chat template makes of a conversation.
    ///
    /// # Errors
    /// The model is unknown, or its template refuses the conversation.
    pub(crate) async fn tokenize_chat(
        &self,
        model: &str,
        conversation: Conversation,
    ) -> Result<Vec<u32>, RequestError> {
        self.check_model(model)?;
        let rendered = self.text.encode_chat(conversation).await;
        rendered.map(|rendered| rendered.ids).map_err(|error| text_error("messages", error))
    }

    /// Returns the text of token ids. `field` is their name on the wire.
    ///
    /// # Errors
    /// The model is unknown, or an id is not in its vocabulary.
    pub fn detokenize(
        &self,
        field: &'static str,
        model: &str,
        ids: &[u32],
        skip_special: bool,
    ) -> Result<String, RequestError> {
        self.check_model(model)?;
        check_vocabulary(field, ids, self.text.vocab_size)?;
        Ok(self.text.tokenizer().decode(ids, skip_special))
    }

    pub fn model(&self) -> &ModelInfo {
        &self.model
    }

    /// Returns the moment since which the model is served, in seconds since 1970.
    pub fn created(&self) -> u64 {
        self.created
    }

    pub fn text(&self) -> &Text {
        &self.text
    }

    pub(crate) fn engine(&self) -> &Arc<EngineFacts> {
        &self.engine
    }

    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Returns for how long the head's task has been hung, or `None` if the task is healthy.
    pub fn hung_for(&self) -> Option<std::time::Duration> {
        self.inference.hung_for()
    }

    /// Returns a token that is cancelled when the head begins to drain. The watch for it ends at `shutdown`.
    pub(crate) fn draining(&self, shutdown: &CancellationToken) -> CancellationToken {
        let (draining, mut status, shutdown) = (CancellationToken::new(), self.status(), shutdown.clone());
        let token = draining.clone();
        tokio::spawn(async move {
            tokio::select! {
                drains = status.wait_for(|status| status.draining) => if drains.is_ok() { draining.cancel() },
                () = shutdown.cancelled() => {}
            }
        });
        token
    }

    /// Returns the group's status, now and as it changes.
    pub fn status(&self) -> watch::Receiver<ClusterStatus> {
        self.inference.status()
    }
}

/// Returns the client's own id of a request if it is fit for logs and headers, else a new id.
pub fn request_id(given: Option<&[u8]>) -> String {
    let legible =
        |id: &&[u8]| (1..=MAX_REQUEST_ID).contains(&id.len()) && id.iter().all(|byte| byte.is_ascii_graphic());
    match given.filter(legible) {
        Some(id) => String::from_utf8_lossy(id).into_owned(),
        None => uuid::Uuid::new_v4().to_string(),
    }
}
