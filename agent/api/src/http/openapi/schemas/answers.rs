//! Objects of answers.

use serde_json::{Value, json};

use super::{Field, list, object, reference, text, whole_number};

/// Returns an answer with choices, which have `fields` beside those of every choice.
fn answer(kind: &'static str, usage: Value, fields: Vec<Field>) -> Value {
    let mut choice = vec![
        ("index", whole_number(), "Number of the choice."),
        ("logprobs", json!({"type": ["object", "null"]}), "Log-probabilities, if the client asked for them."),
        (
            "finish_reason",
            json!({"enum": ["stop", "length", "tool_calls", null]}),
            "Why the answer ended. Null in a stream before the end.",
        ),
        (
            "stop_reason",
            json!({"type": ["string", "integer", "null"]}),
            "The request's stop string or stop token that ended the answer.",
        ),
        ("token_ids", list(whole_number()), "Tokens of the answer with its stop token, for `return_token_ids`."),
    ];
    choice.extend(fields);
    object(
        &["id", "object", "created", "model", "choices"],
        vec![
            ("id", text(), "Id of the answer."),
            ("object", json!({"const": kind}), "Kind of the object."),
            ("created", whole_number(), "Seconds since 1970."),
            ("model", text(), "Name of the served model."),
            ("system_fingerprint", text(), "The server's version and its number of ranks."),
            ("prompt_token_ids", list(whole_number()), "Tokens of a chat's prompt, for `return_token_ids`."),
            ("choices", list(object(&["index"], choice)), "The answers."),
            ("usage", usage, "Numbers of tokens."),
        ],
    )
}

pub(super) fn chat_answer() -> Value {
    let message = object(
        &["role", "content"],
        vec![
            ("role", json!({"const": "assistant"}), "The speaker."),
            ("content", json!({"type": ["string", "null"]}), "The text. Null if the answer only calls tools."),
            ("refusal", json!({"type": "null"}), "Always null."),
            ("reasoning_content", text(), "The reasoning before the text, if there is any."),
            ("tool_calls", list(reference("ToolCall")), "Calls of tools, if there are any."),
        ],
    );
    answer("chat.completion", reference("Usage"), vec![("message", message, "The answer.")])
}

pub(super) fn chat_chunk() -> Value {
    let delta = object(
        &[],
        vec![
            ("role", json!({"const": "assistant"}), "The speaker, once."),
            ("content", text(), "More of the text. Empty in a chunk that only ends the answer."),
            ("reasoning_content", text(), "More of the reasoning."),
            ("tool_calls", list(json!({"type": "object"})), "Parts of calls, with their `index`."),
        ],
    );
    let usage = json!({"anyOf": [reference("Usage"), {"type": "null"}]});
    answer("chat.completion.chunk", usage, vec![("delta", delta, "What the chunk adds.")])
}

pub(super) fn completion_answer() -> Value {
    let usage = json!({"anyOf": [reference("Usage"), {"type": "null"}]});
    let fields = vec![
        ("text", text(), "The continuation, or in a stream more of it."),
        ("prompt_token_ids", list(whole_number()), "Tokens of the prompt, for `return_token_ids`."),
    ];
    answer("text_completion", usage, fields)
}

pub(super) fn usage() -> Value {
    let details = object(&[], vec![("cached_tokens", whole_number(), "Tokens of the prompt that were cached.")]);
    object(
        &["prompt_tokens", "completion_tokens", "total_tokens"],
        vec![
            ("prompt_tokens", whole_number(), "Tokens of the prompt."),
            ("completion_tokens", whole_number(), "Tokens of the answer."),
            ("total_tokens", whole_number(), "Their sum."),
            ("prompt_tokens_details", details, "More about the prompt."),
        ],
    )
}

pub(super) fn tokens() -> Value {
    object(
        &["count", "max_model_len", "tokens"],
        vec![
            ("count", whole_number(), "Number of tokens."),
            ("max_model_len", whole_number(), "Tokens of context."),
            ("tokens", list(whole_number()), "The token ids."),
            (
                "token_strs",
                json!({"anyOf": [list(text()), {"type": "null"}]}),
                "Their texts, if the client asked for them.",
            ),
        ],
    )
}

pub(super) fn load() -> Value {
    object(
        &["server_load", "running", "waiting"],
        vec![
            ("server_load", whole_number(), "Requests that the head has not finished."),
            ("running", whole_number(), "Those that run."),
            ("waiting", whole_number(), "Those that wait."),
        ],
    )
}

pub(super) fn model() -> Value {
    object(
        &["id", "object", "created", "owned_by"],
        vec![
            ("id", text(), "Name of the model."),
            ("object", json!({"const": "model"}), "Kind of the object."),
            ("created", whole_number(), "Seconds since 1970 at which the head began to serve it."),
            ("owned_by", text(), "The server."),
            ("root", text(), "Source of the model."),
            ("max_model_len", whole_number(), "Tokens of context."),
        ],
    )
}

pub(super) fn model_list() -> Value {
    object(
        &["object", "data"],
        vec![
            ("object", json!({"const": "list"}), "Kind of the object."),
            ("data", list(reference("Model")), "The models."),
        ],
    )
}

pub(super) fn health() -> Value {
    object(
        &["status"],
        vec![
            ("status", json!({"enum": ["ok", "hung"]}), "State of the head's task."),
            ("message", text(), "The reason, if the task hangs."),
        ],
    )
}

pub(super) fn group_state() -> Value {
    let rank = object(
        &["rank", "node", "phase"],
        vec![
            ("rank", whole_number(), "Number of the rank."),
            ("node", whole_number(), "Ordinal of its node."),
            ("phase", text(), "`pending`, `downloading`, `loading`, `forming`, `warmup`, `serving` or `lost`."),
            ("loaded", text(), "Part of the weights that is loaded."),
            ("restarts", whole_number(), "Number of times that the group has lost this rank."),
            ("message", text(), "Reason why the rank does not serve."),
        ],
    );
    object(
        &["ready", "accepting", "epoch", "pending", "ranks"],
        vec![
            ("ready", json!({"type": "boolean"}), "Whether every rank of the epoch serves."),
            ("accepting", json!({"type": "boolean"}), "Whether the head expects to answer a new request."),
            ("epoch", whole_number(), "Number of the current epoch."),
            ("pending", list(text()), "Reasons why the group is not ready."),
            ("ranks", list(rank), "The ranks."),
        ],
    )
}

pub(super) fn error() -> Value {
    let inner = object(
        &["message", "type", "param", "code"],
        vec![
            ("message", text(), "The fault and the remedy."),
            ("type", text(), "Kind of the error."),
            ("param", json!({"type": ["string", "null"]}), "Field at fault."),
            ("code", json!({"type": ["string", "null"]}), "Word for programs."),
        ],
    );
    object(&["error"], vec![("error", inner, "The error.")])
}
