//! An answer as a sequence of blocks: reasoning, text and calls. One block is open at a time. `/v1/responses` and
//! `/v1/messages` tell answers in this form.
//!
//! A whole response is the last state of the writer of a streamed one, so both have the same blocks.

use std::collections::VecDeque;

use axum::http::StatusCode;
use axum::response::sse::Event as SseEvent;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures::stream;
use serde_json::Value;

use super::error::ApiError;
use super::generate::{KEEP_ALIVE, finish_reason, sse_response};
use crate::access::AnswerTally;
use crate::session::{Answer, CallDelta, Delta, Finish, GeneratedToken, Usage};

/// Kind of a block, with the data that its beginning carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BlockKind {
    Reasoning,
    Text,
    Call { id: String, name: String },
}

/// Step of an answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum BlockStep {
    Begin(BlockKind),
    /// More of the open block. `tokens` are the tokens of a text.
    More {
        text: String,
        tokens: Vec<GeneratedToken>,
    },
    /// End of the open block. `complete` is false if the end of the answer cut the block off.
    End {
        complete: bool,
    },
}

/// End of an answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct AnswerEnd {
    pub finish: Finish,
    pub stop_string: Option<String>,
    pub usage: Usage,
}

/// Writer of one answer. Each event is an object whose `type` is also the event's name.
pub(super) trait BlockWriter: Send + 'static {
    /// Event that keeps proxies from giving up on a request that waits.
    fn waiting() -> SseEvent;

    /// Begins the answer. `usage` has the tokens of the prompt.
    fn begin(&mut self, usage: Usage) -> Vec<Value>;

    fn step(&mut self, step: BlockStep) -> Vec<Value>;

    fn end(&mut self, end: AnswerEnd) -> Vec<Value>;

    /// Ends the answer with an error.
    fn fail(&mut self, error: &ApiError) -> Vec<Value>;

    /// Returns the whole response. It is called after the end.
    fn whole(self) -> Value;
}

/// Kind of the open block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OpenBlock {
    Reasoning,
    Text,
    Call(usize),
}

/// Divides an answer into blocks.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    open: Option<OpenBlock>,
    /// Tokens whose text has not come yet.
    tokens: Vec<GeneratedToken>,
    steps: Vec<BlockStep>,
}

impl Blocks {
    /// Takes more of the answer. Returns its steps.
    ///
    /// A delta does not tell the order of its parts. The part that continues the open block comes first.
    pub(super) fn push(&mut self, delta: Delta) -> Vec<BlockStep> {
        self.tokens.extend(delta.tokens);
        let has_other_parts = !delta.reasoning.is_empty() || !delta.calls.is_empty();
        let (begun, continued): (Vec<_>, Vec<_>) = delta.calls.into_iter().partition(|call| call.begin.is_some());
        continued.into_iter().for_each(|call| self.add_call(call));
        if self.open == Some(OpenBlock::Text) {
            self.add_text(delta.text);
            self.add_reasoning(delta.reasoning);
        } else {
            self.add_reasoning(delta.reasoning);
            self.add_text(delta.text);
        }
        begun.into_iter().for_each(|call| self.add_call(call));
        if has_other_parts {
            self.tokens.clear();
        }
        if let Some(finish) = delta.finish {
            self.close(finish != Finish::Length);
        }
        std::mem::take(&mut self.steps)
    }

    fn add_reasoning(&mut self, text: String) {
        if !text.is_empty() {
            self.open(OpenBlock::Reasoning, BlockKind::Reasoning);
            self.steps.push(BlockStep::More { text, tokens: Vec::new() });
        }
    }

    fn add_text(&mut self, text: String) {
        if !text.is_empty() {
            self.open(OpenBlock::Text, BlockKind::Text);
            let tokens = std::mem::take(&mut self.tokens);
            self.steps.push(BlockStep::More { text, tokens });
        }
    }

    fn add_call(&mut self, call: CallDelta) {
        if let Some((id, name)) = call.begin {
            self.open(OpenBlock::Call(call.index), BlockKind::Call { id, name });
        }
        if !call.arguments.is_empty() && self.open == Some(OpenBlock::Call(call.index)) {
            self.steps.push(BlockStep::More { text: call.arguments, tokens: Vec::new() });
        }
    }

    /// Opens a block, unless it is open.
    fn open(&mut self, block: OpenBlock, kind: BlockKind) {
        if self.open != Some(block) {
            self.close(true);
            self.open = Some(block);
            self.steps.push(BlockStep::Begin(kind));
        }
    }

    fn close(&mut self, complete: bool) {
        if self.open.take().is_some() {
            self.steps.push(BlockStep::End { complete });
        }
    }
}

/// Returns a stream of the growing answer if `streaming`. Otherwise waits for the whole answer.
///
/// An answer that fails before its first token has the status of its error, even if a stream was asked for, unless it
/// waited for so long that the stream had to begin.
///
/// # Errors
/// Fails if the answer could not be finished.
pub(super) async fn respond<W: BlockWriter>(
    answers: Vec<Answer>,
    streaming: bool,
    writer: W,
) -> Result<Response, ApiError> {
    let missing = || ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "the head took the request without an answer");
    let mut answer = answers.into_iter().next().ok_or_else(missing)?;
    if !streaming {
        let tally = AnswerTally::default();
        let body = gather(answer, writer, &tally).await?;
        return Ok((Extension(tally), Json(body)).into_response());
    }
    let first = match tokio::time::timeout(KEEP_ALIVE, answer.next()).await {
        Ok(Some(delta)) => Some(delta?),
        Ok(None) | Err(_) => None,
    };
    let blocks = BlockStream {
        answer,
        first,
        blocks: Blocks::default(),
        writer,
        stage: Stage::First,
        events: VecDeque::new(),
        tally: AnswerTally::default(),
    };
    let tally = blocks.tally.clone();
    let events = stream::unfold(blocks, |mut blocks| async move {
        let event = blocks.next().await?;
        let name = event["type"].as_str().unwrap_or_default().to_owned();
        Some((SseEvent::default().event(name).data(event.to_string()), blocks))
    });
    Ok(sse_response(events, W::waiting(), tally))
}

/// Waits for the end of the answer, and returns the whole response.
async fn gather<W: BlockWriter>(mut answer: Answer, mut writer: W, tally: &AnswerTally) -> Result<Value, ApiError> {
    let mut blocks = Blocks::default();
    writer.begin(answer.usage());
    while let Some(delta) = answer.next().await {
        write_delta(&mut blocks, &mut writer, delta?, answer.usage())?;
    }
    tally.set_usage(0, answer.usage());
    Ok(writer.whole())
}

/// Writes the events of one delta.
///
/// # Errors
/// Fails if a drain ended the answer.
fn write_delta(
    blocks: &mut Blocks,
    writer: &mut impl BlockWriter,
    mut delta: Delta,
    usage: Usage,
) -> Result<Vec<Value>, ApiError> {
    let finish = delta.finish;
    if let Some(finish) = finish {
        finish_reason(finish)?;
    }
    let stop_string = delta.stop_string.take();
    let steps = blocks.push(delta);
    let mut events: Vec<Value> = steps.into_iter().flat_map(|step| writer.step(step)).collect();
    if let Some(finish) = finish {
        events.extend(writer.end(AnswerEnd { finish, stop_string, usage }));
    }
    Ok(events)
}

/// State of a streamed answer.
struct BlockStream<W> {
    answer: Answer,
    /// The first delta, if it has already come.
    first: Option<Delta>,
    blocks: Blocks,
    writer: W,
    stage: Stage,
    /// Events that are not sent yet.
    events: VecDeque<Value>,
    tally: AnswerTally,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// No delta has been written.
    First,
    Growing,
    Ended,
}

impl<W: BlockWriter> BlockStream<W> {
    async fn next(&mut self) -> Option<Value> {
        while self.events.is_empty() && self.stage != Stage::Ended {
            let delta = match self.first.take() {
                Some(delta) => Some(Ok(delta)),
                None => self.answer.next().await,
            };
            if self.stage == Stage::First {
                self.stage = Stage::Growing;
                self.events.extend(self.writer.begin(self.answer.usage()));
            }
            let Some(delta) = delta else {
                self.stage = Stage::Ended;
                break;
            };
            self.tally.set_usage(0, self.answer.usage());
            let written = delta
                .map_err(ApiError::from)
                .and_then(|delta| write_delta(&mut self.blocks, &mut self.writer, delta, self.answer.usage()));
            match written {
                Ok(events) => self.events.extend(events),
                Err(error) => {
                    self.stage = Stage::Ended;
                    self.events.extend(self.writer.fail(&error));
                    self.tally.fail(error.message);
                }
            }
        }
        self.events.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(index: usize, begin: Option<&str>, arguments: &str) -> CallDelta {
        let begin = begin.map(|name| (format!("c{index}"), name.to_owned()));
        CallDelta { index, begin, arguments: arguments.to_owned() }
    }

    fn delta(reasoning: &str, text: &str, calls: Vec<CallDelta>) -> Delta {
        let token = GeneratedToken { id: 1, logprobs: None };
        Delta { reasoning: reasoning.into(), text: text.into(), calls, tokens: vec![token], ..Delta::default() }
    }

    /// Returns the steps of an answer, each in a few characters.
    fn steps(deltas: Vec<Delta>, finish: Finish) -> String {
        let mut blocks = Blocks::default();
        let last = Delta { finish: Some(finish), ..Delta::default() };
        let steps = deltas.into_iter().chain([last]).flat_map(|delta| blocks.push(delta)).collect::<Vec<_>>();
        let spell = |step: &BlockStep| match step {
            BlockStep::Begin(BlockKind::Reasoning) => "R".to_owned(),
            BlockStep::Begin(BlockKind::Text) => "T".to_owned(),
            BlockStep::Begin(BlockKind::Call { id, name }) => format!("{id}={name}"),
            BlockStep::More { text, tokens } => format!("{text}{}", "'".repeat(tokens.len())),
            BlockStep::End { complete } => if *complete { "." } else { "~" }.to_owned(),
        };
        steps.iter().map(spell).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn an_answer_is_a_sequence_of_blocks() {
        let none = Vec::new;
        let cases = [
            (vec![], Finish::Stop, ""),
            (vec![delta("", "a", none()), delta("", "b", none())], Finish::Stop, "T a' b' ."),
            (
                vec![delta("r", "", none()), delta("", "", none()), delta("", "a", none())],
                Finish::Length,
                "R r . T a'' ~",
            ),
            (vec![delta("r", "a", none())], Finish::Stop, "R r . T a' ."),
            (vec![delta("", "a", none()), delta("r", "b", none())], Finish::Stop, "T a' b' . R r ."),
            (
                vec![delta("", "a", vec![call(0, Some("f"), "{")]), delta("", "b", vec![call(0, None, "}")])],
                Finish::ToolCalls,
                "T a' . c0=f { } . T b' .",
            ),
            (
                vec![delta("", "", vec![call(0, Some("f"), "{}"), call(1, Some("g"), "")])],
                Finish::ToolCalls,
                "c0=f {} . c1=g .",
            ),
        ];
        for (deltas, finish, expected) in cases {
            assert_eq!(steps(deltas.clone(), finish), expected, "{deltas:?}");
        }
    }
}
