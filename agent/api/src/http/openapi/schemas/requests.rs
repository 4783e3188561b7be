//! Objects of requests. Bounds come from the modules that enforce them, and names from the table of fields.

use serde_json::{Value, json};

use super::{Field, list, object, reference, text, whole_number};
use crate::http::completions::DEFAULT_MAX_TOKENS;
use crate::http::fields::known::{At, OBEYED};
use crate::session::bounds::{
    MAX_BIAS, MAX_CHOICES, MAX_LOGPROBS, MAX_PENALTY, MAX_REPETITION_PENALTY, MAX_STOP_TOKEN_IDS, MAX_STOPS,
    MAX_TEMPERATURE, MAX_TOOLS,
};

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

pub(super) fn sampling_fields() -> Vec<Field> {
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
        (
            "seed",
            json!({"type": "integer", "example": 1}),
            "Makes the choice of tokens repeatable. A signed number of 64 bits.",
        ),
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

pub(super) fn chat_request() -> Value {
    request(At::Chat, &["messages"], chat_fields())
}

pub(super) fn chat_batch_request() -> Value {
    let mut fields = chat_fields();
    let conversations = json!({"type": "array", "items": messages(), "minItems": 1});
    fields[0] = ("messages", conversations, "The conversations.");
    request(At::Chat, &["messages"], fields)
}

fn messages() -> Value {
    json!({"type": "array", "items": reference("Message"), "minItems": 1})
}

fn chat_fields() -> Vec<Field> {
    let mut fields = vec![
        ("messages", messages(), "The conversation."),
        (
            "logprobs",
            json!({"type": "boolean", "default": false, "example": true}),
            "Whether the log-probabilities are told.",
        ),
        (
            "top_logprobs",
            json!({"type": "integer", "minimum": -1, "maximum": MAX_LOGPROBS}),
            "Number of most likely tokens to tell at each place; -1: all. Only with `logprobs`.",
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

pub(super) fn completion_request() -> Value {
    request(At::Completions, &["prompt"], completion_fields())
}

fn completion_fields() -> Vec<Field> {
    let prompt = json!({"anyOf": [text(), list(whole_number()), list(text()), list(list(whole_number()))]});
    let mut fields = vec![
        ("prompt", prompt, "A text, token ids, or a list of either."),
        (
            "logprobs",
            json!({"type": "integer", "minimum": -1, "maximum": MAX_LOGPROBS, "example": 1}),
            "Number of most likely tokens to tell at each place; -1: all.",
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

pub(super) fn tokenize_request() -> Value {
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

pub(super) fn detokenize_request() -> Value {
    object(
        &["tokens"],
        vec![
            ("model", text(), "Name of the served model, or `default`."),
            ("tokens", list(whole_number()), "The token ids."),
        ],
    )
}

pub(super) fn message() -> Value {
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

pub(super) fn tool_call() -> Value {
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

#[cfg(test)]
mod tests {
    use serde_json::Map;

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
