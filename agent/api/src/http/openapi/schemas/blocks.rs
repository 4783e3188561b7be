//! Objects of `/v1/responses` and `/v1/messages`.

use serde_json::{Value, json};

use super::{Field, list, object, text, whole_number};

fn any(name: &'static str, description: &'static str) -> Field {
    (name, json!({}), description)
}

fn flag() -> Value {
    json!({"type": "boolean"})
}

fn most_tokens() -> Value {
    json!({"type": "integer", "minimum": 1})
}

/// Returns a request: the fields of the endpoint, and those that all endpoints choose tokens by.
fn request(required: &[&str], mut fields: Vec<Field>) -> Value {
    fields.push(("model", text(), "Name of the served model, or `default`."));
    fields.push(("stream", flag(), "Whether the answer comes as events."));
    fields.push(("chat_template_kwargs", json!({"type": "object"}), "Variables of the chat template."));
    fields.extend(super::requests::sampling_fields());
    object(required, fields)
}

pub(super) fn response_request() -> Value {
    let items = json!({"anyOf": [text(), {"type": "array", "items": {"type": "object"}}]});
    let reasoning = object(
        &[],
        vec![
            ("effort", text(), "Variable `reasoning_effort` of the chat template. `none` switches reasoning off."),
            ("summary", text(), "If set, the reasoning is told as its own summary."),
        ],
    );
    let format = object(&[], vec![("format", json!({"type": "object"}), "`text`, `json_object` or `json_schema`.")]);
    request(
        &["input"],
        vec![
            ("input", items, "A text, or the items of the conversation."),
            ("instructions", text(), "The first system message."),
            ("max_output_tokens", most_tokens(), "Most tokens of the answer."),
            ("tools", list(json!({"type": "object"})), "Functions that the answer may call."),
            any("tool_choice", "`none`, `auto`, `required`, a function, or the allowed tools."),
            ("parallel_tool_calls", flag(), "Whether the answer may have several calls."),
            ("text", format, "Form of the answer."),
            ("reasoning", reasoning, "Wishes about the reasoning."),
            ("include", list(text()), "`message.output_text.logprobs` asks for log-probabilities."),
            ("top_logprobs", whole_number(), "Number of likeliest tokens to report."),
            ("metadata", json!({"type": "object"}), "Comes back in the response."),
        ],
    )
}

pub(super) fn response() -> Value {
    let or_null = |kind: &str| json!({"type": [kind, "null"]});
    object(
        &["id", "object", "created_at", "status", "model", "output", "usage"],
        vec![
            ("id", text(), "Id of the response, which is not stored."),
            ("object", json!({"const": "response"}), "Kind of the object."),
            ("created_at", whole_number(), "Seconds since 1970."),
            ("completed_at", or_null("integer"), "Seconds since 1970, if the answer is complete."),
            ("status", text(), "`completed`, `incomplete`, and in a stream also `in_progress` or `failed`."),
            ("error", or_null("object"), "The error of a failed response."),
            ("incomplete_details", or_null("object"), "Why the response is incomplete."),
            ("model", text(), "Name of the served model."),
            ("output", list(json!({"type": "object"})), "Reasoning, messages and calls, in their order."),
            ("usage", or_null("object"), "Numbers of tokens."),
            any("background", "Always false."),
            any("store", "Always false: nothing is stored."),
            any("previous_response_id", "Always null."),
            any("truncation", "Always `disabled`."),
            any("service_tier", "Always `default`."),
            any("max_tool_calls", "Always null."),
            any("instructions", "As in the request."),
            any("reasoning", "As in the request."),
            any("tools", "As in the request."),
            any("tool_choice", "As in the request."),
            any("parallel_tool_calls", "As in the request."),
            any("top_logprobs", "As in the request."),
            any("max_output_tokens", "As in the request."),
            any("temperature", "As in the request, or the model's default."),
            any("top_p", "As in the request, or the model's default."),
            any("text", "As in the request."),
            any("metadata", "As in the request."),
            any("user", "As in the request."),
            any("safety_identifier", "As in the request."),
            any("prompt_cache_key", "As in the request."),
        ],
    )
}

pub(super) fn response_tokens() -> Value {
    object(
        &["object", "input_tokens"],
        vec![
            ("object", json!({"const": "response.input_tokens"}), "Kind of the object."),
            ("input_tokens", whole_number(), "Tokens of the prompt."),
        ],
    )
}

pub(super) fn messages_request() -> Value {
    let texts = json!({"anyOf": [text(), {"type": "array", "items": {"type": "object"}}]});
    let message = object(
        &["role", "content"],
        vec![("role", text(), "`user` or `assistant`."), ("content", texts.clone(), "A text, or blocks.")],
    );
    request(
        &["messages"],
        vec![
            ("messages", list(message), "The conversation. The last message is the user's."),
            ("system", texts, "The system prompt."),
            ("max_tokens", most_tokens(), "Most tokens of the answer."),
            ("stop_sequences", list(text()), "Strings that end the answer and are not part of it."),
            ("tools", list(json!({"type": "object"})), "Tools with `input_schema`."),
            ("tool_choice", json!({"type": "object"}), "`auto`, `any`, `tool` or `none`, as `type`."),
            ("thinking", json!({"type": "object"}), "`enabled`, `disabled` or `adaptive`, as `type`."),
            ("output_config", json!({"type": "object"}), "Form of the answer, and effort."),
            ("metadata", json!({"type": "object"}), "Has no effect."),
        ],
    )
}

pub(super) fn message_answer() -> Value {
    object(
        &["id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"],
        vec![
            ("id", text(), "Id of the message."),
            ("type", json!({"const": "message"}), "Kind of the object."),
            ("role", json!({"const": "assistant"}), "The speaker."),
            ("model", text(), "Name of the served model."),
            ("content", list(json!({"type": "object"})), "Thinking, texts and calls, in their order."),
            ("stop_reason", text(), "`end_turn`, `stop_sequence`, `max_tokens` or `tool_use`."),
            ("stop_sequence", json!({"type": ["string", "null"]}), "The stop string that ended the answer."),
            ("usage", json!({"type": "object"}), "Numbers of tokens."),
        ],
    )
}

pub(super) fn message_error() -> Value {
    let inner = object(
        &["type", "message"],
        vec![("type", text(), "Kind of the error."), ("message", text(), "The fault and the remedy.")],
    );
    object(
        &["type", "error"],
        vec![
            ("type", json!({"const": "error"}), "Kind of the object."),
            ("error", inner, "The error."),
            ("request_id", text(), "Id of the request."),
        ],
    )
}
