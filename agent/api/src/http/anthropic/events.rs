//! Events of a streamed message.

use axum::response::sse::Event as SseEvent;
use serde_json::{Value, json};

use super::super::blocks::{AnswerEnd, BlockKind, BlockStep, BlockWriter};
use super::super::error::ApiError;
use super::answer::{Block, message, stop_reason, usage_to_json};
use super::error::error_to_json;
use crate::session::Usage;

const PING: &str = "ping";

/// Writer of a message.
pub(super) struct MessageWriter {
    id: String,
    model: String,
    /// Blocks that have ended.
    content: Vec<Value>,
    /// The block that grows.
    block: Option<Block>,
    end: Option<AnswerEnd>,
}

impl MessageWriter {
    pub(super) fn new(request_id: &str, model: String) -> Self {
        Self { id: format!("msg_{request_id}"), model, content: Vec::new(), block: None, end: None }
    }

    fn begin_block(&mut self, kind: BlockKind) -> Value {
        let block = Block { kind, text: String::new() };
        let start =
            json!({"type": "content_block_start", "index": self.content.len(), "content_block": block.json("")});
        self.block = Some(block);
        start
    }

    fn grow_block(&mut self, text: &str) -> Vec<Value> {
        let Some(block) = &mut self.block else { return Vec::new() };
        block.text.push_str(text);
        let delta = match block.kind {
            BlockKind::Reasoning => json!({"type": "thinking_delta", "thinking": text}),
            BlockKind::Text => json!({"type": "text_delta", "text": text}),
            BlockKind::Call { .. } => json!({"type": "input_json_delta", "partial_json": text}),
        };
        vec![self.delta(delta)]
    }

    fn end_block(&mut self) -> Vec<Value> {
        let Some(block) = self.block.take() else { return Vec::new() };
        let mut events = Vec::new();
        if block.kind == BlockKind::Reasoning {
            events.push(self.delta(json!({"type": "signature_delta", "signature": self.id})));
        }
        events.push(json!({"type": "content_block_stop", "index": self.content.len()}));
        self.content.push(block.json(&self.id));
        events
    }

    fn delta(&self, delta: Value) -> Value {
        json!({"type": "content_block_delta", "index": self.content.len(), "delta": delta})
    }
}

impl BlockWriter for MessageWriter {
    fn waiting() -> SseEvent {
        SseEvent::default().event(PING).data(json!({"type": PING}).to_string())
    }

    fn begin(&mut self, usage: Usage) -> Vec<Value> {
        let message = message(&self.id, &self.model, &[], usage, None);
        vec![json!({"type": "message_start", "message": message}), json!({"type": PING})]
    }

    fn step(&mut self, step: BlockStep) -> Vec<Value> {
        match step {
            BlockStep::Begin(kind) => vec![self.begin_block(kind)],
            BlockStep::More { text, .. } => self.grow_block(&text),
            BlockStep::End { .. } => self.end_block(),
        }
    }

    fn end(&mut self, end: AnswerEnd) -> Vec<Value> {
        let delta = json!({"stop_reason": stop_reason(&end), "stop_sequence": end.stop_string});
        let events = vec![
            json!({"type": "message_delta", "delta": delta, "usage": usage_to_json(end.usage)}),
            json!({"type": "message_stop"}),
        ];
        self.end = Some(end);
        events
    }

    fn fail(&mut self, error: &ApiError) -> Vec<Value> {
        vec![error_to_json(error)]
    }

    fn whole(self) -> Value {
        let usage = self.end.as_ref().map(|end| end.usage).unwrap_or_default();
        message(&self.id, &self.model, &self.content, usage, self.end.as_ref())
    }
}
