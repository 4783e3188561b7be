//! What completions and chat share: answers gathered whole, or told as server-sent events.

use std::convert::Infallible;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::{HeaderValue, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, BoxStream, SelectAll};
use futures::{Stream, StreamExt};
use serde_json::{Value, json};

use super::error::ApiError;
use crate::service::ServeError;
use crate::session::{Answer, CallDelta, Delta, Finish, RequestError, TokenOut, Usage};

/// A comment this often keeps proxies and clients from giving up on a request that waits.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// A whole answer.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    pub text: String,
    pub reasoning: String,
    /// Whole ones.
    pub calls: Vec<CallDelta>,
    pub tokens: Vec<TokenOut>,
    pub finish: &'static str,
    pub usage: Usage,
}

/// # Errors
/// The answer could not be finished.
pub(crate) async fn gather(mut answer: Answer) -> Result<Gathered, ApiError> {
    let mut gathered = Gathered::default();
    while let Some(delta) = answer.next().await {
        let delta = delta?;
        gathered.text.push_str(&delta.text);
        gathered.reasoning.push_str(&delta.reasoning);
        for call in delta.calls {
            match gathered.calls.last_mut().filter(|last| last.index == call.index) {
                Some(last) => last.arguments.push_str(&call.arguments),
                None => gathered.calls.push(call),
            }
        }
        gathered.tokens.extend(delta.tokens);
        if let Some(finish) = delta.finish {
            gathered.finish = finish_reason(finish)?;
        }
    }
    gathered.usage = answer.usage();
    Ok(gathered)
}

/// # Errors
/// A drain ended the answer: OpenAI's API has no word for it.
pub(crate) fn finish_reason(finish: Finish) -> Result<&'static str, RequestError> {
    match finish {
        Finish::Stop => Ok("stop"),
        Finish::ToolCalls => Ok("tool_calls"),
        Finish::Length => Ok("length"),
        Finish::Cancelled => Err(RequestError::Serve(ServeError::Unavailable {
            reason: "the server is shutting down".into(),
            retry_after_s: 5,
        })),
    }
}

pub(crate) fn usage(usages: impl IntoIterator<Item = Usage>) -> Value {
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

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// What is new in one of several answers.
struct Step {
    index: usize,
    delta: Result<Delta, RequestError>,
    usage: Usage,
}

/// How an API words its chunks.
pub(crate) trait Chunks: Send + 'static {
    /// What comes before the first text of an answer.
    fn prelude(&mut self, index: usize) -> Option<Value>;

    /// Nothing where there is nothing to tell.
    fn chunk(&mut self, index: usize, delta: Delta, finish: Option<&'static str>) -> Option<Value>;

    /// What comes after the last text.
    fn postlude(&mut self, usages: &[Usage]) -> Option<Value>;
}

/// Tells the answers as they grow. A stream that breaks ends with an error and without `[DONE]`.
pub(crate) fn stream_response(answers: Vec<Answer>, chunks: impl Chunks) -> Response {
    let usages = vec![Usage::default(); answers.len()];
    let steps = stream::select_all(answers.into_iter().enumerate().map(|(index, answer)| steps(index, answer)));
    let events = events(Telling { steps, chunks, usages, stage: Stage::Prelude(0) });
    let events = events.map(|data| Ok::<_, Infallible>(Event::default().data(data)));
    let mut response =
        Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE).text("waiting")).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

fn steps(index: usize, answer: Answer) -> BoxStream<'static, Step> {
    let next = move |mut answer: Answer| async move {
        let delta = answer.next().await?;
        let usage = answer.usage();
        Some((Step { index, delta, usage }, answer))
    };
    stream::unfold(answer, next).boxed()
}

struct Telling<C> {
    steps: SelectAll<BoxStream<'static, Step>>,
    chunks: C,
    usages: Vec<Usage>,
    stage: Stage,
}

enum Stage {
    /// Of the answer of that index.
    Prelude(usize),
    Text,
    Done,
    End,
}

fn events(telling: Telling<impl Chunks>) -> impl Stream<Item = String> + Send {
    stream::unfold(telling, |mut telling| async move {
        let event = telling.next().await?;
        Some((event, telling))
    })
}

impl<C: Chunks> Telling<C> {
    async fn next(&mut self) -> Option<String> {
        loop {
            match self.stage {
                Stage::Prelude(index) if index == self.usages.len() => self.stage = Stage::Text,
                Stage::Prelude(index) => {
                    self.stage = Stage::Prelude(index + 1);
                    if let Some(chunk) = self.chunks.prelude(index) {
                        return Some(chunk.to_string());
                    }
                }
                Stage::Text => match self.steps.next().await {
                    Some(step) => match self.text(step) {
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
                        if let Some(chunk) = self.chunks.postlude(&self.usages) {
                            return Some(chunk.to_string());
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

    fn text(&mut self, step: Step) -> Result<Option<Value>, ApiError> {
        self.usages[step.index] = step.usage;
        let delta = step.delta?;
        let finish = delta.finish.map(finish_reason).transpose()?;
        Ok(self.chunks.chunk(step.index, delta, finish))
    }
}
