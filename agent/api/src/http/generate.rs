//! Responses to completions and chats: one JSON object, or a stream of server-sent events.

use std::convert::Infallible;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::http::{HeaderValue, header};
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::future::try_join_all;
use futures::stream::{self, BoxStream, SelectAll};
use futures::{Stream, StreamExt};
use serde_json::{Value, json};

use super::error::ApiError;
use crate::service::ServeError;
use crate::session::{Answer, Api, CallDelta, Delta, Finish, GeneratedToken, RequestError, Usage};

/// Time between two comments on a stream without other events. The comments keep proxies and clients from giving up on
/// a request that waits.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Options of a streamed response.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Streaming {
    /// Set if the last chunk has the usage.
    pub include_usage: bool,
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

    /// Returns the choice of the chunk before an answer's first text, if there is such a chunk.
    fn first_chunk(&self, index: usize) -> Option<Value>;

    /// Returns the choice of the chunk for `delta`, or `None` if the chunk would tell the client nothing.
    fn chunk(&mut self, index: usize, delta: Delta, finish_reason: Option<&'static str>) -> Option<Value>;
}

/// A whole answer.
#[derive(Debug, Default)]
pub(crate) struct WholeAnswer {
    pub text: String,
    pub reasoning: String,
    /// One entry for each call, with all of its arguments.
    pub calls: Vec<CallDelta>,
    pub tokens: Vec<GeneratedToken>,
    pub finish_reason: &'static str,
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
    let envelope = Envelope { id, created: unix_seconds(), model: api.model().name.clone() };
    if let Some(Streaming { include_usage }) = streaming {
        return Ok(stream_response(answers, Chunks { envelope, format, include_usage }));
    }
    let answers = try_join_all(answers.into_iter().map(gather_answer)).await?;
    let usage = sum_usage(answers.iter().map(|answer| answer.usage));
    let choices = answers.into_iter().enumerate().map(|(index, answer)| format.choice(index, answer)).collect();
    let mut body = envelope.body(F::OBJECT, choices);
    body["usage"] = usage;
    Ok(Json(body).into_response())
}

/// The fields that all chunks of a response share.
struct Envelope {
    id: String,
    /// Seconds since 1970.
    created: u64,
    model: String,
}

impl Envelope {
    fn body(&self, object: &str, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model, "choices": choices,
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
        }
    }
    whole.usage = answer.usage();
    Ok(whole)
}

/// Returns OpenAI's finish reason of an answer.
///
/// # Errors
/// Fails if a drain ended the answer, because OpenAI's API has no word for that.
fn finish_reason(finish: Finish) -> Result<&'static str, RequestError> {
    match finish {
        Finish::Stop => Ok("stop"),
        Finish::ToolCalls => Ok("tool_calls"),
        Finish::Length => Ok("length"),
        Finish::Cancelled => Err(ServeError::unavailable("the server is shutting down").into()),
    }
}

fn sum_usage(usages: impl IntoIterator<Item = Usage>) -> Value {
    let mut sum = Usage::default();
    for usage in usages {
        sum.prompt_tokens += usage.prompt_tokens;
        sum.completion_tokens += usage.completion_tokens;
        sum.cached_tokens += usage.cached_tokens;
    }
    json!({
        "prompt_tokens": sum.prompt_tokens,
        "completion_tokens": sum.completion_tokens,
        "total_tokens": sum.prompt_tokens + sum.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": sum.cached_tokens},
    })
}

/// Returns the time in seconds since 1970.
fn unix_seconds() -> u64 {
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
    include_usage: bool,
}

impl<F: ChoiceFormat> Chunks<F> {
    fn chunk(&self, choices: Vec<Value>, usage: Value) -> Value {
        let mut body = self.envelope.body(F::CHUNK_OBJECT, choices);
        if self.include_usage {
            body["usage"] = usage;
        }
        body
    }
}

/// Returns a stream of the answers as they grow. After a failure, the stream ends with the error and without `[DONE]`.
fn stream_response<F: ChoiceFormat>(answers: Vec<Answer>, chunks: Chunks<F>) -> Response {
    let usages = vec![Usage::default(); answers.len()];
    let steps = stream::select_all(answers.into_iter().enumerate().map(|(index, answer)| answer_steps(index, answer)));
    let events = events(AnswerStream { steps, chunks, usages, stage: Stage::First(0) });
    let events = events.map(|data| Ok::<_, Infallible>(SseEvent::default().data(data)));
    let mut response =
        Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE).text("waiting")).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
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
    stage: Stage,
}

/// Part of the stream that comes next.
enum Stage {
    /// The first chunk of the answer with that index.
    First(usize),
    Text,
    Done,
    End,
}

fn events(answers: AnswerStream<impl ChoiceFormat>) -> impl Stream<Item = String> + Send {
    stream::unfold(answers, |mut answers| async move {
        let event = answers.next().await?;
        Some((event, answers))
    })
}

impl<F: ChoiceFormat> AnswerStream<F> {
    async fn next(&mut self) -> Option<String> {
        loop {
            match self.stage {
                Stage::First(index) if index == self.usages.len() => self.stage = Stage::Text,
                Stage::First(index) => {
                    self.stage = Stage::First(index + 1);
                    if let Some(choice) = self.chunks.format.first_chunk(index) {
                        return Some(self.chunks.chunk(vec![choice], Value::Null).to_string());
                    }
                }
                Stage::Text => match self.steps.next().await {
                    Some(step) => match self.text_chunk(step) {
                        Ok(Some(chunk)) => return Some(chunk.to_string()),
                        Ok(None) => {}
                        Err(error) => {
                            self.stage = Stage::End;
                            self.steps.clear();
                            return Some(error.json().to_string());
                        }
                    },
                    None => {
                        self.stage = Stage::Done;
                        if self.chunks.include_usage {
                            let usage = sum_usage(self.usages.iter().copied());
                            return Some(self.chunks.chunk(vec![], usage).to_string());
                        }
                    }
                },
                Stage::Done => {
                    self.stage = Stage::End;
                    return Some("[DONE]".to_owned());
                }
                Stage::End => return None,
            }
        }
    }

    fn text_chunk(&mut self, step: AnswerStep) -> Result<Option<Value>, ApiError> {
        self.usages[step.index] = step.usage;
        let delta = step.delta?;
        let finish_reason = delta.finish.map(finish_reason).transpose()?;
        let choice = self.chunks.format.chunk(step.index, delta, finish_reason);
        Ok(choice.map(|choice| self.chunks.chunk(vec![choice], Value::Null)))
    }
}
