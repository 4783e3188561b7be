//! The object `response`, and the items of its output.

use serde_json::{Value, json};

use super::super::blocks::{AnswerEnd, BlockKind};
use super::super::error::ApiError;
use super::super::generate::unix_seconds;
use super::request::Shape;
use crate::session::{Finish, Usage};

/// The response without its output.
pub(super) struct ResponseObject {
    /// Id of the request. The ids of the response and of its items end with it.
    request_id: String,
    /// Seconds since 1970.
    created: u64,
    model: String,
    pub shape: Shape,
}

/// State of a response.
pub(super) enum ResponseState<'a> {
    InProgress,
    Ended(&'a AnswerEnd),
    Failed(&'a ApiError),
}

impl ResponseObject {
    pub(super) fn new(request_id: &str, model: String, shape: Shape) -> Self {
        Self { request_id: request_id.to_owned(), created: unix_seconds(), model, shape }
    }

    /// Returns the item that is the answer's block with that index.
    pub(super) fn begin_item(&self, index: usize, kind: BlockKind) -> Item {
        let prefix = match kind {
            BlockKind::Reasoning => "rs",
            BlockKind::Text => "msg",
            BlockKind::Call { .. } => "fc",
        };
        let id = format!("{prefix}_{}_{index}", self.request_id);
        Item { id, index, kind, summary: self.shape.summary, text: String::new(), logprobs: Vec::new() }
    }

    /// Returns the response with its output so far.
    pub(super) fn json(&self, state: ResponseState<'_>, output: &[Value]) -> Value {
        let mut response = json!({
            "id": format!("resp_{}", self.request_id), "object": "response", "created_at": self.created,
            "status": "in_progress", "completed_at": null, "error": null, "incomplete_details": null,
            "model": self.model, "output": output, "usage": null, "background": false, "store": false,
            "previous_response_id": null, "truncation": "disabled", "service_tier": "default", "max_tool_calls": null,
        });
        for (name, value) in &self.shape.repeated {
            response[name] = value.clone();
        }
        match state {
            ResponseState::InProgress => {}
            ResponseState::Ended(end) => {
                let cut = end.finish == Finish::Length;
                response["status"] = json!(if cut { "incomplete" } else { "completed" });
                if cut {
                    response["incomplete_details"] = json!({"reason": "max_output_tokens"});
                } else {
                    response["completed_at"] = json!(unix_seconds());
                }
                response["usage"] = usage_to_json(end.usage);
            }
            ResponseState::Failed(error) => {
                response["status"] = json!("failed");
                response["error"] = json!({"code": "server_error", "message": error.message});
            }
        }
        response
    }
}

fn usage_to_json(usage: Usage) -> Value {
    json!({
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    })
}

/// An item of the output, as it grows.
pub(super) struct Item {
    pub id: String,
    /// Place of the item in the output.
    pub index: usize,
    pub kind: BlockKind,
    /// Set if reasoning is told as a summary.
    pub summary: bool,
    pub text: String,
    pub logprobs: Vec<Value>,
}

impl Item {
    /// Returns the item as it begins.
    pub(super) fn begun(&self) -> Value {
        self.json("in_progress", vec![])
    }

    /// Returns the whole item.
    pub(super) fn ended(&self, complete: bool) -> Value {
        self.json(if complete { "completed" } else { "incomplete" }, vec![self.part()])
    }

    fn json(&self, status: &str, parts: Vec<Value>) -> Value {
        match &self.kind {
            BlockKind::Reasoning => {
                let (summary, content) = if self.summary { (parts, vec![]) } else { (vec![], parts) };
                json!({"id": self.id, "type": "reasoning", "status": status, "summary": summary, "content": content})
            }
            BlockKind::Text => {
                json!({"id": self.id, "type": "message", "status": status, "role": "assistant", "content": parts})
            }
            BlockKind::Call { id, name } => json!({
                "id": self.id, "type": "function_call", "status": status, "call_id": id, "name": name,
                "arguments": self.text,
            }),
        }
    }

    /// Returns the item's one part. A call has none.
    pub(super) fn part(&self) -> Value {
        match &self.kind {
            BlockKind::Reasoning if self.summary => json!({"type": "summary_text", "text": self.text}),
            BlockKind::Reasoning => json!({"type": "reasoning_text", "text": self.text}),
            BlockKind::Text => {
                json!({"type": "output_text", "text": self.text, "annotations": [], "logprobs": self.logprobs})
            }
            BlockKind::Call { .. } => Value::Null,
        }
    }
}
