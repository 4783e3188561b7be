//! The object `message`, and the blocks of its content.

use serde_json::{Map, Value, json};

use super::super::blocks::{AnswerEnd, BlockKind};
use crate::session::{Finish, Usage};

/// Name under which Anthropic's documents put a call's input that is no JSON, e.g. because the answer was cut off.
const INVALID_JSON: &str = "INVALID_JSON";

/// Returns a message with its content. `end` is missing while the answer grows.
pub(super) fn message(id: &str, model: &str, content: &[Value], usage: Usage, end: Option<&AnswerEnd>) -> Value {
    let mut message = json!({
        "id": id, "type": "message", "role": "assistant", "model": model, "content": content,
        "stop_reason": null, "stop_sequence": null, "usage": usage_to_json(usage),
    });
    if let Some(end) = end {
        message["stop_reason"] = json!(stop_reason(end));
        message["stop_sequence"] = json!(end.stop_string);
    }
    message
}

pub(super) fn stop_reason(end: &AnswerEnd) -> &'static str {
    match end.finish {
        Finish::Length => "max_tokens",
        Finish::ToolCalls => "tool_use",
        Finish::Stop | Finish::Cancelled if end.stop_string.is_some() => "stop_sequence",
        Finish::Stop | Finish::Cancelled => "end_turn",
    }
}

/// Returns the usage. Anthropic counts tokens that came from the cache beside the others.
pub(super) fn usage_to_json(usage: Usage) -> Value {
    json!({
        "input_tokens": usage.prompt_tokens.saturating_sub(usage.cached_tokens),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    })
}

/// A block of the content, as it grows.
#[derive(Debug)]
pub(super) struct Block {
    pub kind: BlockKind,
    /// The text, or a call's input as JSON.
    pub text: String,
}

impl Block {
    /// Returns the block. The signature of thinking is the message's id: nothing checks it, but clients want one.
    pub(super) fn json(&self, signature: &str) -> Value {
        match &self.kind {
            BlockKind::Reasoning => json!({"type": "thinking", "thinking": self.text, "signature": signature}),
            BlockKind::Text => json!({"type": "text", "text": self.text, "citations": null}),
            BlockKind::Call { id, name } => {
                json!({"type": "tool_use", "id": id, "name": name, "input": self.input()})
            }
        }
    }

    /// Returns a call's input, which must be an object.
    fn input(&self) -> Map<String, Value> {
        if self.text.trim().is_empty() {
            return Map::new();
        }
        serde_json::from_str(&self.text)
            .unwrap_or_else(|_| Map::from_iter([(INVALID_JSON.to_owned(), json!(self.text))]))
    }
}
