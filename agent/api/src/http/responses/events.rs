//! Events of a streamed response.

use axum::response::sse::Event as SseEvent;
use serde_json::{Value, json};

use super::super::blocks::{AnswerEnd, BlockKind, BlockStep, BlockWriter};
use super::super::chat::logprobs_to_json;
use super::super::error::ApiError;
use super::answer::{Item, ResponseObject, ResponseState};
use crate::model::Text;
use crate::session::{Finish, GeneratedToken, Usage};

/// Writer of a response.
pub(super) struct ResponseWriter {
    response: ResponseObject,
    text: Text,
    /// Items that have ended.
    output: Vec<Value>,
    /// The item that grows.
    item: Option<Item>,
    /// Number of events so far.
    sequence: u64,
    end: Option<AnswerEnd>,
}

impl ResponseWriter {
    pub(super) fn new(response: ResponseObject, text: Text) -> Self {
        Self { response, text, output: Vec::new(), item: None, sequence: 0, end: None }
    }

    /// Gives an event its name and its number.
    fn event(&mut self, name: &str, mut event: Value) -> Value {
        event["type"] = json!(format!("response.{name}"));
        event["sequence_number"] = json!(self.sequence);
        self.sequence += 1;
        event
    }

    fn state_event(&mut self, name: &str, state: ResponseState<'_>) -> Value {
        let response = self.response.json(state, &self.output);
        self.event(name, json!({"response": response}))
    }

    fn begin_item(&mut self, kind: BlockKind) -> Vec<Value> {
        let item = self.response.begin_item(self.output.len(), kind);
        let added = self.event("output_item.added", json!({"output_index": item.index, "item": item.begun()}));
        let mut events = vec![added];
        if let Some(name) = part_name(&item) {
            let mut part = place(&item);
            part["part"] = item.part();
            events.push(self.event(&format!("{name}.added"), part));
        }
        self.item = Some(item);
        events
    }

    fn grow_item(&mut self, delta: &str, tokens: &[GeneratedToken]) -> Vec<Value> {
        let Some(mut item) = self.item.take() else { return Vec::new() };
        item.text.push_str(delta);
        let mut event = place(&item);
        event["delta"] = json!(delta);
        if item.kind == BlockKind::Text {
            let logprobs = if self.response.shape.logprobs {
                logprobs_to_json(&self.text, tokens, self.response.shape.by_id)
            } else {
                vec![]
            };
            event["logprobs"] = json!(logprobs);
            item.logprobs.extend(logprobs);
        }
        let event = self.event(&format!("{}.delta", text_name(&item)), event);
        self.item = Some(item);
        vec![event]
    }

    fn end_item(&mut self, complete: bool) -> Vec<Value> {
        let Some(item) = self.item.take() else { return Vec::new() };
        let mut done = place(&item);
        match &item.kind {
            BlockKind::Call { name, .. } => {
                done["name"] = json!(name);
                done["arguments"] = json!(item.text);
            }
            BlockKind::Text => {
                done["text"] = json!(item.text);
                done["logprobs"] = json!(item.logprobs);
            }
            BlockKind::Reasoning => done["text"] = json!(item.text),
        }
        let mut events = vec![self.event(&format!("{}.done", text_name(&item)), done)];
        if let Some(name) = part_name(&item) {
            let mut part = place(&item);
            part["part"] = item.part();
            events.push(self.event(&format!("{name}.done"), part));
        }
        let ended = item.ended(complete);
        events.push(self.event("output_item.done", json!({"output_index": item.index, "item": ended})));
        self.output.push(ended);
        events
    }
}

/// Returns the name of the events about the item's text.
fn text_name(item: &Item) -> &'static str {
    match item.kind {
        BlockKind::Reasoning if item.summary => "reasoning_summary_text",
        BlockKind::Reasoning => "reasoning_text",
        BlockKind::Text => "output_text",
        BlockKind::Call { .. } => "function_call_arguments",
    }
}

/// Returns the name of the events about the item's part, if it has one.
fn part_name(item: &Item) -> Option<&'static str> {
    match item.kind {
        BlockKind::Reasoning if item.summary => Some("reasoning_summary_part"),
        BlockKind::Reasoning | BlockKind::Text => Some("content_part"),
        BlockKind::Call { .. } => None,
    }
}

/// Returns an event that says where in the output something happens.
fn place(item: &Item) -> Value {
    let mut event = json!({"item_id": item.id, "output_index": item.index});
    match item.kind {
        BlockKind::Reasoning if item.summary => event["summary_index"] = json!(0),
        BlockKind::Reasoning | BlockKind::Text => event["content_index"] = json!(0),
        BlockKind::Call { .. } => {}
    }
    event
}

impl BlockWriter for ResponseWriter {
    fn waiting() -> SseEvent {
        SseEvent::default().comment("waiting")
    }

    fn begin(&mut self, _usage: Usage) -> Vec<Value> {
        ["created", "in_progress"].map(|name| self.state_event(name, ResponseState::InProgress)).into()
    }

    fn step(&mut self, step: BlockStep) -> Vec<Value> {
        match step {
            BlockStep::Begin(kind) => self.begin_item(kind),
            BlockStep::More { text, tokens } => self.grow_item(&text, &tokens),
            BlockStep::End { complete } => self.end_item(complete),
        }
    }

    fn end(&mut self, end: AnswerEnd) -> Vec<Value> {
        let name = if end.finish == Finish::Length { "incomplete" } else { "completed" };
        let event = self.state_event(name, ResponseState::Ended(&end));
        self.end = Some(end);
        vec![event]
    }

    fn fail(&mut self, error: &ApiError) -> Vec<Value> {
        let mut events = self.end_item(false);
        events.push(self.state_event("failed", ResponseState::Failed(error)));
        events
    }

    fn whole(self) -> Value {
        let state = self.end.as_ref().map_or(ResponseState::InProgress, ResponseState::Ended);
        self.response.json(state, &self.output)
    }
}
