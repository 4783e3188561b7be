//! Objects of requests and answers, as JSON Schema. Bounds come from the modules that enforce them.

use serde_json::{Map, Value, json};

use super::reference;
use crate::http::completions::DEFAULT_MAX_TOKENS;
use crate::http::fields::known::{At, OBEYED};
use crate::session::bounds::{
    MAX_BIAS, MAX_CHOICES, MAX_LOGPROBS, MAX_PENALTY, MAX_REPETITION_PENALTY, MAX_STOP_TOKEN_IDS, MAX_STOPS,
    MAX_TEMPERATURE, MAX_TOOLS,
};

/// Returns all schemas by their names.
pub(super) fn all() -> Map<String, Value> {
    let schemas = [
        ("ChatRequest", chat_request()),
        ("CompletionRequest", completion_request()),
        ("Invocation", json!({"anyOf": [reference("ChatRequest"), reference("CompletionRequest")]})),
        ("TokenizeRequest", tokenize_request()),
        ("DetokenizeRequest", detokenize_request()),
        ("Message", message()),
        ("ToolCall", tool_call()),
        ("ChatAnswer", chat_answer()),
        ("ChatChunk", chat_chunk()),
        ("CompletionAnswer", completion_answer()),
        ("Usage", usage()),
        ("Tokens", tokens()),
        ("Text", object(&["prompt"], vec![("prompt", text(), "The text.")])),
        ("ModelList", model_list()),
        ("Model", model()),
        ("Health", health()),
        ("Load", load()),
        ("Version", object(&["version"], vec![("version", text(), "The version.")])),
        ("GroupState", group_state()),
        ("Error", error()),
        ("Anything", json!({"type": "object"})),
    ];
    schemas.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect()
}

/// Returns an example of a request.
pub(super) fn example(schema: &str, model: &str) -> Value {
    match schema {
        "CompletionRequest" => json!({"model": model, "prompt": "The head", "max_tokens": 16}),
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

/// Returns an object with the fields that an endpoint obeys. `known` describes most of them more closely than the table of
/// fields does.
fn request(at: At, required: &[&str], known: Vec<Field>) -> Value {
    let obeyed = OBEYED.iter().filter(|(_, here, ..)| *here == At::Both || *here == at);
    let fields = obeyed.map(|(name, _, _, effect)| {
        let known = known.iter().find(|(known, ..)| known == name);
        known.cloned().unwrap_or_else(|| (*name, json!({}), *effect))
    });
    object(required, fields.collect())
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

/// Fields that both endpoints of answers take.
fn shared_fields() -> Vec<Field> {
    let mut fields = vec![
        ("model", json!({"type": "string", "example": "default"}), "Name of the served model, or `default`."),
        (
            "stream",
            json!({"type": "boolean", "default": false, "example": false}),
            "Whether the answer comes as events.",
        ),
        (
            "stream_options",
            object(
                &[],
                vec![
                    ("include_usage", json!({"type": "boolean", "default": false}), "A last event has the usage."),
                    (
                        "continuous_usage_stats",
                        json!({"type": "boolean", "default": false}),
                        "Each event has the usage so far, if `include_usage` is set.",
                    ),
                ],
            ),
            "Only with `stream`.",
        ),
        (
            "n",
            json!({"type": "integer", "minimum": 1, "maximum": MAX_CHOICES, "default": 1, "example": 2}),
            "Number of answers, over all prompts together.",
        ),
    ];
    fields.extend(sampling_fields());
    fields.extend(limit_fields());
    fields.extend(form_fields());
    fields
}

fn sampling_fields() -> Vec<Field> {
    let penalty =
        json!({"type": "number", "minimum": -MAX_PENALTY, "maximum": MAX_PENALTY, "default": 0, "example": 0.5});
    vec![
        (
            "temperature",
            json!({"type": "number", "minimum": 0, "maximum": MAX_TEMPERATURE, "example": 0.7}),
            "Divides the logits. 0 chooses the most likely token. Without it the model's own default, else 1.",
        ),
        (
            "top_p",
            json!({"type": "number", "exclusiveMinimum": 0, "maximum": 1, "example": 0.9}),
            "Keeps the most likely tokens that together have this part of the probability.",
        ),
        (
            "top_k",
            json!({"type": "integer", "minimum": -1, "example": 40}),
            "Keeps this number of the most likely tokens. 0 and -1 keep all.",
        ),
        (
            "min_p",
            json!({"type": "number", "minimum": 0, "maximum": 1, "example": 0.1}),
            "Keeps the tokens that are at least this many times as likely as the most likely token.",
        ),
        (
            "repetition_penalty",
            json!({"type": "number", "exclusiveMinimum": 0, "maximum": MAX_REPETITION_PENALTY, "example": 1.1}),
            "Divides a positive logit of a token that prompt or answer contain, and multiplies a negative one.",
        ),
        ("presence_penalty", penalty.clone(), "Is subtracted from the logit of each token that the answer contains."),
        ("frequency_penalty", penalty, "Is subtracted once for each time that the answer contains the token."),
        (
            "logit_bias",
            json!({
                "type": "object", "example": {"5": -1},
                "additionalProperties": {"type": "number", "minimum": -MAX_BIAS, "maximum": MAX_BIAS},
            }),
            "Numbers by token ids, which are added to the logits of these tokens.",
        ),
        ("seed", json!({"type": "integer", "example": 1}), "Makes the choice of tokens repeatable."),
    ]
}

fn limit_fields() -> Vec<Field> {
    vec![
        ("max_tokens", json!({"type": "integer", "minimum": 1, "example": 16}), "Most tokens of the answer."),
        (
            "max_completion_tokens",
            json!({"type": "integer", "minimum": 1, "example": 16}),
            "Most tokens of the answer. Wins over `max_tokens`.",
        ),
        (
            "min_tokens",
            json!({"type": "integer", "minimum": 0, "default": 0, "example": 1}),
            "Number of first tokens within which nothing ends the answer.",
        ),
        (
            "stop",
            json!({"example": ["\n\n"], "anyOf": [text(), {"type": "array", "items": text(), "maxItems": MAX_STOPS}]}),
            "Strings that end the answer and are not part of it.",
        ),
        (
            "stop_token_ids",
            json!({"type": "array", "items": whole_number(), "maxItems": MAX_STOP_TOKEN_IDS, "example": [1]}),
            "Tokens that end the answer, beside the model's own end tokens.",
        ),
        (
            "ignore_eos",
            json!({"type": "boolean", "default": false, "example": true}),
            "Whether the model's own end tokens do not end the answer.",
        ),
    ]
}

fn form_fields() -> Vec<Field> {
    vec![
        (
            "response_format",
            json!({
                "type": "object", "required": ["type"], "example": {"type": "text"},
                "properties": {
                    "type": {"type": "string", "enum": ["text", "json_object", "json_schema", "regex", "structural_tag"], "description": "Kind of the form."},
                    "json_schema": object(&["schema"], vec![
                        ("name", text(), "Name of the schema."),
                        ("schema", json!({"type": "object"}), "The schema of the answer's JSON."),
                    ]),
                },
            }),
            "Form of the answer. The ranks never choose a token that the form does not allow.",
        ),
        (
            "structured_outputs",
            json!({
                "type": "object", "example": {"choice": ["yes", "no"]},
                "properties": {
                    "json": {"description": "A JSON schema."},
                    "regex": {"type": "string", "description": "A regular expression."},
                    "choice": {"type": "array", "items": text(), "description": "Texts, of which the answer is one."},
                    "grammar": {"type": "string", "description": "A grammar in Lark's notation."},
                    "json_object": {"type": "boolean", "description": "Any JSON object."},
                },
            }),
            "Form of the answer, as vLLM spells it.",
        ),
    ]
}

fn chat_request() -> Value {
    request(At::Chat, &["messages"], chat_fields())
}

fn chat_fields() -> Vec<Field> {
    let mut fields = vec![
        ("messages", json!({"type": "array", "items": reference("Message"), "minItems": 1}), "The conversation."),
        (
            "logprobs",
            json!({"type": "boolean", "default": false, "example": true}),
            "Whether the log-probabilities are told.",
        ),
        (
            "top_logprobs",
            json!({"type": "integer", "minimum": 0, "maximum": MAX_LOGPROBS}),
            "Number of most likely tokens to tell at each place. Only with `logprobs`.",
        ),
        (
            "tools",
            json!({"type": "array", "items": tool(), "maxItems": MAX_TOOLS, "example": []}),
            "Tools that the model may call.",
        ),
        (
            "tool_choice",
            json!({"example": "auto", "anyOf": [
                {"type": "string", "enum": ["none", "auto", "required"]},
                {"type": "object", "description": "`{\"type\": \"function\", \"function\": {\"name\": …}}`"},
            ]}),
            "Whether the model must call a tool, and which one.",
        ),
        (
            "parallel_tool_calls",
            json!({"type": "boolean", "default": true, "example": true}),
            "Whether a required call may be several.",
        ),
        (
            "chat_template_kwargs",
            json!({"type": "object", "example": {"enable_thinking": false}}),
            "Variables of the chat template.",
        ),
    ];
    fields.extend(shared_fields());
    fields
}

fn completion_request() -> Value {
    request(At::Completions, &["prompt"], completion_fields())
}

fn completion_fields() -> Vec<Field> {
    let prompt = json!({"anyOf": [text(), list(whole_number()), list(text()), list(list(whole_number()))]});
    let mut fields = vec![
        ("prompt", prompt, "A text, token ids, or a list of either."),
        (
            "logprobs",
            json!({"type": "integer", "minimum": 0, "maximum": MAX_LOGPROBS, "example": 1}),
            "Number of most likely tokens to tell at each place.",
        ),
    ];
    fields.extend(shared_fields());
    for (name, schema, _) in &mut fields {
        if *name == "max_tokens" {
            schema["default"] = json!(DEFAULT_MAX_TOKENS);
        }
    }
    fields
}

fn tokenize_request() -> Value {
    object(
        &[],
        vec![
            ("model", text(), "Name of the served model, or `default`."),
            ("prompt", text(), "The text."),
            ("messages", list(reference("Message")), "A conversation in its place."),
            ("tools", list(tool()), "Tools that the conversation shows."),
            ("chat_template_kwargs", json!({"type": "object"}), "Variables of the chat template."),
            ("add_special_tokens", json!({"type": "boolean"}), "Whether the prompt gets special tokens (true)."),
            ("return_token_strs", json!({"type": "boolean"}), "Whether the tokens' texts are told too (false)."),
        ],
    )
}

fn detokenize_request() -> Value {
    object(
        &["tokens"],
        vec![
            ("model", text(), "Name of the served model, or `default`."),
            ("tokens", list(whole_number()), "The token ids."),
        ],
    )
}

fn tokens() -> Value {
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

fn load() -> Value {
    object(
        &["server_load", "running", "waiting"],
        vec![
            ("server_load", whole_number(), "Requests that the head has not finished."),
            ("running", whole_number(), "Those that run."),
            ("waiting", whole_number(), "Those that wait."),
        ],
    )
}

fn message() -> Value {
    object(
        &["role"],
        vec![
            ("role", text(), "`system`, `developer`, `user`, `assistant` or `tool`, as the chat template knows them."),
            (
                "content",
                json!({"anyOf": [text(), {"type": "null"}, list(object(&["type", "text"], vec![
                    ("type", json!({"const": "text"}), "Kind of the part."),
                    ("text", text(), "The text."),
                ]))]}),
                "The text, or its parts.",
            ),
            ("name", text(), "Name of the speaker, for templates that show it."),
            ("reasoning_content", text(), "Earlier reasoning of the assistant, for templates that show it."),
            ("tool_calls", list(reference("ToolCall")), "Earlier calls of the assistant."),
            ("tool_call_id", text(), "Call whose result a message of the role `tool` has."),
        ],
    )
}

fn tool() -> Value {
    let function = object(
        &["name"],
        vec![
            ("name", text(), "Name of the function."),
            ("description", text(), "What the function does, for the model."),
            ("parameters", json!({"type": "object"}), "JSON schema of the arguments."),
        ],
    );
    object(
        &["type", "function"],
        vec![("type", json!({"const": "function"}), "Kind of the tool."), ("function", function, "The function.")],
    )
}

fn tool_call() -> Value {
    let function = object(
        &["name"],
        vec![("name", text(), "Name of the function."), ("arguments", text(), "The arguments, as JSON in a string.")],
    );
    object(
        &["function"],
        vec![
            ("id", text(), "Id of the call."),
            ("type", json!({"const": "function"}), "Kind of the call."),
            ("function", function, "The called function."),
        ],
    )
}

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

fn chat_answer() -> Value {
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

fn chat_chunk() -> Value {
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

fn completion_answer() -> Value {
    let usage = json!({"anyOf": [reference("Usage"), {"type": "null"}]});
    let fields = vec![
        ("text", text(), "The continuation, or in a stream more of it."),
        ("prompt_token_ids", list(whole_number()), "Tokens of the prompt, for `return_token_ids`."),
    ];
    answer("text_completion", usage, fields)
}

fn usage() -> Value {
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

fn model() -> Value {
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

fn model_list() -> Value {
    object(
        &["object", "data"],
        vec![
            ("object", json!({"const": "list"}), "Kind of the object."),
            ("data", list(reference("Model")), "The models."),
        ],
    )
}

fn health() -> Value {
    object(
        &["status"],
        vec![
            ("status", json!({"enum": ["ok", "hung"]}), "State of the head's task."),
            ("message", text(), "The reason, if the task hangs."),
        ],
    )
}

fn group_state() -> Value {
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

fn error() -> Value {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_the_requests_is_obeyed() {
        for (at, fields) in [(At::Chat, chat_fields()), (At::Completions, completion_fields())] {
            for (name, ..) in fields {
                let rule = OBEYED.iter().find(|(known, ..)| *known == name);
                assert!(rule.is_some_and(|(_, here, ..)| *here == At::Both || *here == at), "{name}");
            }
        }
        let known = |at: At| OBEYED.iter().filter(|(_, here, ..)| *here == At::Both || *here == at).count();
        assert_eq!(chat_request()["properties"].as_object().map(Map::len), Some(known(At::Chat)));
        assert_eq!(completion_request()["properties"].as_object().map(Map::len), Some(known(At::Completions)));
    }
}
