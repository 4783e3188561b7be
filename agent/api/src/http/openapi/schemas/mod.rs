//! Objects of requests and answers, as JSON Schema.

mod answers;
mod blocks;
mod requests;

use serde_json::{Map, Value, json};

use super::reference;

/// Returns all schemas by their names.
pub(super) fn all() -> Map<String, Value> {
    let schemas = [
        ("ChatRequest", requests::chat_request()),
        ("ChatBatchRequest", requests::chat_batch_request()),
        ("CompletionRequest", requests::completion_request()),
        ("Invocation", json!({"anyOf": [reference("ChatRequest"), reference("CompletionRequest")]})),
        ("TokenizeRequest", requests::tokenize_request()),
        ("DetokenizeRequest", requests::detokenize_request()),
        ("Message", requests::message()),
        ("ToolCall", requests::tool_call()),
        ("ChatAnswer", answers::chat_answer()),
        ("ChatChunk", answers::chat_chunk()),
        ("CompletionAnswer", answers::completion_answer()),
        ("ResponseRequest", blocks::response_request()),
        ("Response", blocks::response()),
        ("ResponseTokens", blocks::response_tokens()),
        ("MessagesRequest", blocks::messages_request()),
        ("MessageAnswer", blocks::message_answer()),
        ("MessageTokens", object(&["input_tokens"], vec![("input_tokens", whole_number(), "Tokens of the prompt.")])),
        ("MessageError", blocks::message_error()),
        ("Event", object(&["type"], vec![("type", text(), "Name of the event, which has other fields as well.")])),
        ("Usage", answers::usage()),
        ("Tokens", answers::tokens()),
        ("Text", object(&["prompt"], vec![("prompt", text(), "The text.")])),
        ("ModelList", answers::model_list()),
        ("Model", answers::model()),
        ("Health", answers::health()),
        ("Load", answers::load()),
        ("Version", object(&["version"], vec![("version", text(), "The version.")])),
        ("GroupState", answers::group_state()),
        ("Error", answers::error()),
        ("Anything", json!({"type": "object"})),
    ];
    schemas.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect()
}

/// Returns an example of a request.
pub(super) fn example(schema: &str, model: &str) -> Value {
    match schema {
        "ChatBatchRequest" => json!({
            "model": model, "max_tokens": 16,
            "messages": [[{"role": "user", "content": "Who leads?"}], [{"role": "user", "content": "Who follows?"}]],
        }),
        "CompletionRequest" => json!({"model": model, "prompt": "The head", "max_tokens": 16}),
        "ResponseRequest" => json!({"model": model, "max_output_tokens": 64, "input": "What does the head do?"}),
        "TokenizeRequest" => json!({"prompt": "The head"}),
        "DetokenizeRequest" => json!({"tokens": [5, 6]}),
        _ => json!({
            "model": model, "max_tokens": 64,
            "messages": [{"role": "user", "content": "What does the head do?"}],
        }),
    }
}

/// A field: its name, its schema without the description, and the description. The schema's example is a value that
/// every model takes.
type Field = (&'static str, Value, &'static str);

fn object(required: &[&str], fields: Vec<Field>) -> Value {
    let properties: Map<String, Value> = fields
        .into_iter()
        .map(|(name, mut schema, description)| {
            schema["description"] = json!(description);
            (name.to_owned(), schema)
        })
        .collect();
    json!({"type": "object", "required": required, "properties": properties})
}

fn text() -> Value {
    json!({"type": "string"})
}

fn whole_number() -> Value {
    json!({"type": "integer", "minimum": 0})
}

fn list(items: Value) -> Value {
    json!({"type": "array", "items": items})
}
