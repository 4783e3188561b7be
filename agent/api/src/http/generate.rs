//! Responses to completions and chats: one JSON object, or a stream of server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::{HeaderValue, header};
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures::future::try_join_all;
use futures::stream::{self, BoxStream, SelectAll};
use futures::{Stream, StreamExt};
use serde_json::{Map, Value, json};

use super::error::ApiError;
use crate::access::AnswerTally;
use crate::service::ServeError;
use crate::session::{
    Answer, Api, CallDelta, Delta, Finish, GeneratedToken, RequestError, ScoredToken, StopReason, Usage,
};

/// Time for which a stream waits for its first event before the response begins, and time between two comments on a
/// stream without other events. A failure within this time is a status, which clients retry. The comments keep proxies
/// and clients from giving up on a request that waits.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(5);
pub(super) const WAITING: &str = "waiting";

/// Most answers to one request, all prompts together. Each answer is a request of its own to the head.
const MAX_ANSWERS: usize = 64;

/// Checks the number of answers to several prompts: `each` to each of `count` prompts, which are called `prompts`.
///
/// # Errors
/// There are too many. The error names `of_each`, the field that asks for more than one answer to each prompt, or else
/// `field`, which has the prompts.
pub(super) fn check_answers(
    (of_each, each): (&str, usize),
    (field, count, prompts): (&str, usize, &str),
) -> Result<(), ApiError> {
    if count <= 1 || count.saturating_mul(each) <= MAX_ANSWERS {
        return Ok(());
    }
    let reason = format!("{each} answers to {count} {prompts}, more than {MAX_ANSWERS}: send several requests");
    Err(ApiError::field(if each > 1 { of_each } else { field }, reason))
}

/// Options of a streamed response.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Streaming {
    /// Set if the last chunk has the usage.
    pub include_usage: bool,
    /// Set if each chunk has the usage so far.
    pub continuous_usage: bool,
}

/// Format of one endpoint's choices, as JSON.
pub(crate) trait ChoiceFormat: Send + 'static {
    /// Beginning of a response's id.
    const ID_PREFIX: &str;
    /// `object` of a whole response.
    const OBJECT: &str;
    /// `object` of a chunk.
    const CHUNK_OBJECT: &str;

    /// Returns the choice of a whole answer.
    fn choice(&self, index: usize, answer: WholeAnswer) -> Value;

    /// Returns the fields of a whole response beside those of every response.
    fn response_fields(&self, _answers: &[WholeAnswer]) -> Map<String, Value> {
        Map::new()
    }

    /// Returns the choice of the chunk before the chunk of an answer's first token, if there is such a chunk.
    fn first_chunk(&self, index: usize) -> Option<Value>;

    /// Returns the choice of the chunk for `delta`, or `None` if the chunk would tell the client nothing.
    fn chunk(&mut self, index: usize, delta: Delta, finish_reason: Option<&'static str>) -> Option<Value>;

    /// Returns the answers that become choices, in their order.
    fn select(&self, answers: Vec<WholeAnswer>) -> Vec<WholeAnswer> {
        answers
    }

    /// Returns true if the response has the prompt's tokens.
    fn shows_prompt_token_ids(&self) -> bool {
        false
    }
}

/// A whole answer.
#[derive(Debug, Default)]
pub(crate) struct WholeAnswer {
    /// Tokens of the prompt with log-probabilities, from the second one on, if the client asked for them.
    pub prompt: Vec<ScoredToken>,
    pub text: String,
    pub reasoning: String,
    /// One entry for each call, with all of its arguments.
    pub calls: Vec<CallDelta>,
    pub tokens: Vec<GeneratedToken>,
    pub finish_reason: &'static str,
    pub stop_reason: Option<StopReason>,
    pub stop_token: Option<u32>,
    pub usage: Usage,
}

/// Returns a stream of the growing answers if the client asked for one. Otherwise waits for the whole answers.
///
/// # Errors
/// Fails if an answer could not be finished.
pub(crate) async fn respond<F: ChoiceFormat>(
    api: &Api,
    id: &str,
    answers: Vec<Answer>,
    streaming: Option<Streaming>,
    format: F,
) -> Result<Response, ApiError> {
    let id = format!("{}-{id}", F::ID_PREFIX);
    let envelope = Envelope {
        id,
        created: unix_seconds(),
        model: api.model().name.clone(),
        system_fingerprint: system_fingerprint(api),
    };
    let prompt = answers.first().map(|answer| answer.prompt().clone()).filter(|_| format.shows_prompt_token_ids());
    if let Some(streaming) = streaming {
        return stream_response(answers, Chunks { envelope, format, streaming, prompt }).await;
    }
    let answers = try_join_all(answers.into_iter().map(gather_answer)).await?;
    let tally = AnswerTally::default();
    answers.iter().enumerate().for_each(|(index, answer)| tally.set_usage(index, answer.usage));
    let usage = sum_usage(answers.iter().map(|answer| answer.usage));
    let fields = format.response_fields(&answers);
    let choices =
        format.select(answers).into_iter().enumerate().map(|(index, answer)| format.choice(index, answer)).collect();
    let mut body = envelope.body(F::OBJECT, choices);
    body["usage"] = usage;
    if let Some(prompt) = prompt {
        body["prompt_token_ids"] = json!(prompt[..]);
    }
    for (name, value) in fields {
        body[name] = value;
    }
    Ok((Extension(tally), Json(body)).into_response())
}

/// The fields that all chunks of a response share.
struct Envelope {
    id: String,
    /// Seconds since 1970.
    created: u64,
    model: String,
    system_fingerprint: String,
}

impl Envelope {
    fn body(&self, object: &str, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model,
            "system_fingerprint": self.system_fingerprint, "choices": choices,
        })
    }
}

/// Waits for the end of an answer.
///
/// # Errors
/// Fails if the answer could not be finished.
async fn gather_answer(mut answer: Answer) -> Result<WholeAnswer, ApiError> {
    let mut whole = WholeAnswer::default();
    while let Some(delta) = answer.next().await {
        let delta = delta?;
        whole.prompt.extend(delta.prompt);
        whole.text.push_str(&delta.text);
        whole.reasoning.push_str(&delta.reasoning);
        for call in delta.calls {
            match whole.calls.last_mut().filter(|last| last.index == call.index) {
                Some(last) => last.arguments.push_str(&call.arguments),
                None => whole.calls.push(call),
            }
        }
        whole.tokens.extend(delta.tokens);
        if let Some(finish) = delta.finish {
            whole.finish_reason = finish_reason(finish)?;
            (whole.stop_reason, whole.stop_token) = (delta.stop_reason, delta.stop_token);
        }
    }
    whole.usage = answer.usage();
    Ok(whole)
}

/// Returns OpenAI's finish reason of an answer.
///
/// # Errors
/// Fails if a drain ended the answer, because OpenAI's API has no word for that.
pub(super) fn finish_reason(finish: Finish) -> Result<&'static str, RequestError> {
    match finish {
        Finish::Stop => Ok("stop"),
        Finish::ToolCalls => Ok("tool_calls"),
        Finish::Length => Ok("length"),
        Finish::Cancelled => Err(ServeError::unavailable("the server is shutting down").into()),
    }
}

fn sum_usage(usages: impl IntoIterator<Item = Usage>) -> Value {
    let sum: Usage = usages.into_iter().sum();
    json!({
        "prompt_tokens": sum.prompt_tokens,
        "completion_tokens": sum.completion_tokens,
        "total_tokens": sum.prompt_tokens + sum.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": sum.cached_tokens},
    })
}

/// Returns the text by which clients see whether another server answers: the program's version and the number of ranks.
fn system_fingerprint(api: &Api) -> String {
    format!("lockstep-{}-{}", env!("CARGO_PKG_VERSION"), api.status().borrow().world_size)
}

/// Returns the stop that the client asked for, as JSON.
pub(crate) fn stop_reason(reason: Option<&StopReason>) -> Value {
    match reason {
        None => Value::Null,
        Some(StopReason::Text(text)) => json!(text),
        Some(StopReason::Token(id)) => json!(id),
    }
}

/// Returns the ids of an answer's tokens, with the token that ended it.
pub(crate) fn token_ids(tokens: &[GeneratedToken], stop_token: Option<u32>) -> Vec<u32> {
    tokens.iter().map(|token| token.id).chain(stop_token).collect()
}

/// Returns the time in seconds since 1970.
pub(super) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Next delta of one of several answers.
struct AnswerStep {
    index: usize,
    delta: Result<Delta, RequestError>,
    usage: Usage,
}

/// Writes the chunks of a response.
struct Chunks<F> {
    envelope: Envelope,
    format: F,
    streaming: Streaming,
    /// Tokens of the prompt, for the first chunk.
    prompt: Option<Arc<[u32]>>,
}

impl<F: ChoiceFormat> Chunks<F> {
    /// Returns a chunk. Only the last one has the `usage`, unless the client wants it in each.
    fn chunk(&mut self, choices: Vec<Value>, usages: &[Usage]) -> Value {
        let is_last = choices.is_empty();
        let mut body = self.envelope.body(F::CHUNK_OBJECT, choices);
        if self.streaming.include_usage {
            let is_told = is_last || self.streaming.continuous_usage;
            body["usage"] = if is_told { sum_usage(usages.iter().copied()) } else { Value::Null };
        }
        if let Some(prompt) = self.prompt.take() {
            body["prompt_token_ids"] = json!(prompt[..]);
        }
        body
    }
}

/// Returns a stream of the answers as they grow. The response begins with the first event, or after [`KEEP_ALIVE`]. After
/// a later failure, the stream ends with the error and without `[DONE]`.
///
/// # Errors
/// Fails if an answer fails before the response begins.
async fn stream_response<F: ChoiceFormat>(answers: Vec<Answer>, chunks: Chunks<F>) -> Result<Response, ApiError> {
    let usages = vec![Usage::default(); answers.len()];
    let has_begun = vec![false; answers.len()];
    let steps = stream::select_all(answers.into_iter().enumerate().map(|(index, answer)| answer_steps(index, answer)));
    let tally = AnswerTally::default();
    let mut answers = AnswerStream {
        steps,
        chunks,
        usages,
        has_begun,
        ready: VecDeque::new(),
        stage: Stage::Text,
        tally: tally.clone(),
    };
    let first = match tokio::time::timeout(KEEP_ALIVE, answers.next()).await {
        Ok(Some(data)) => SseEvent::default().data(data?),
        Ok(None) | Err(_) => SseEvent::default().comment(WAITING),
    };
    let rest = stream::unfold(answers, |mut answers| async move {
        let data = match answers.next().await? {
            Ok(data) => data,
            Err(error) => {
                let data = error.json().to_string();
                answers.tally.fail(error.message);
                data
            }
        };
        Some((SseEvent::default().data(data), answers))
    });
    let events = stream::iter([first]).chain(rest);
    Ok(sse_response(events, SseEvent::default().comment(WAITING), tally))
}

/// Returns a response of server-sent events. The server sends `waiting` while there are no others.
pub(super) fn sse_response(
    events: impl Stream<Item = SseEvent> + Send + 'static,
    waiting: SseEvent,
    tally: AnswerTally,
) -> Response {
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE).event(waiting);
    let mut response = Sse::new(events.map(Ok::<_, Infallible>)).keep_alive(keep_alive).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response.extensions_mut().insert(tally);
    response
}

fn answer_steps(index: usize, answer: Answer) -> BoxStream<'static, AnswerStep> {
    let next = move |mut answer: Answer| async move {
        let delta = answer.next().await?;
        let usage = answer.usage();
        Some((AnswerStep { index, delta, usage }, answer))
    };
    stream::unfold(answer, next).boxed()
}

/// State of a streamed response.
struct AnswerStream<F> {
    steps: SelectAll<BoxStream<'static, AnswerStep>>,
    chunks: Chunks<F>,
    usages: Vec<Usage>,
    /// Set for each answer whose first token has come.
    has_begun: Vec<bool>,
    /// Chunks that come next.
    ready: VecDeque<Value>,
    stage: Stage,
    tally: AnswerTally,
}

/// Part of the stream that comes next.
enum Stage {
    Text,
    Done,
    Failed(ApiError),
    End,
}

impl<F: ChoiceFormat> AnswerStream<F> {
    /// Waits for the data of the next event. Returns `None` after the end. Cancel safe.
    ///
    /// # Errors
    /// Returns the failure of an answer. Nothing follows an error.
    async fn next(&mut self) -> Option<Result<String, ApiError>> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                return Some(Ok(chunk.to_string()));
            }
            match &self.stage {
                Stage::Text => match self.steps.next().await {
                    Some(step) => {
                        if let Err(error) = self.add_step(step) {
                            self.stage = Stage::Failed(error);
                            self.steps.clear();
                        }
                    }
                    None => {
                        self.stage = Stage::Done;
                        if self.chunks.streaming.include_usage {
                            self.ready.push_back(self.chunks.chunk(vec![], &self.usages));
                        }
                    }
                },
                Stage::Done => {
                    self.stage = Stage::End;
                    return Some(Ok("[DONE]".to_owned()));
                }
                Stage::Failed(error) => {
                    let error = error.clone();
                    self.stage = Stage::End;
                    return Some(Err(error));
                }
                Stage::End => return None,
            }
        }
    }

    /// Adds the chunks of one step to those that come next. The chunk before an answer's first token comes together with
    /// that token, so that a client may take it for the first token.
    ///
    /// # Errors
    /// Returns the failure of the answer. It comes after the chunks.
    fn add_step(&mut self, step: AnswerStep) -> Result<(), ApiError> {
        let AnswerStep { index, delta, usage } = step;
        self.usages[index] = usage;
        self.tally.set_usage(index, usage);
        let delta = delta?;
        let finish = delta.finish.map(finish_reason).transpose();
        let finish_reason = finish.as_ref().copied().unwrap_or_default();
        let begins = !delta.tokens.is_empty() || finish_reason.is_some();
        if begins && !std::mem::replace(&mut self.has_begun[index], true) {
            let first = self.chunks.format.first_chunk(index);
            self.ready.extend(first.map(|choice| self.chunks.chunk(vec![choice], &self.usages)));
        }
        let choice = self.chunks.format.chunk(index, delta, finish_reason);
        self.ready.extend(choice.map(|choice| self.chunks.chunk(vec![choice], &self.usages)));
        finish?;
        Ok(())
    }
}
