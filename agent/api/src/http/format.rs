//! The form that a client wants its answer to have: OpenAI's `response_format`, vLLM's `structured_outputs` and
//! `guided_*`.

use serde_json::{Map, Value};

use super::error::ApiError;
use super::fields::{Fields, FromField};
use crate::grammar::Grammar;

const RESPONSE_FORMAT: &str = "response_format";
const STRUCTURED_OUTPUTS: &str = "structured_outputs";

/// Kinds of vLLM's `structured_outputs`, each also a field of its own.
const GUIDED: [(&str, &str); 5] = [
    ("json", "guided_json"),
    ("regex", "guided_regex"),
    ("choice", "guided_choice"),
    ("grammar", "guided_grammar"),
    ("json_object", "guided_json_object"),
];

/// The one form that is asked for, with the field that asks.
///
/// # Errors
/// Names a field that is malformed, or the second one that asks.
pub(crate) fn grammar(fields: &mut Fields) -> Result<Option<(&'static str, Grammar)>, ApiError> {
    let mut asked = Vec::new();
    if let Some(format) = fields.take(RESPONSE_FORMAT)? {
        asked.extend(response_format(format)?.map(|grammar| (RESPONSE_FORMAT, grammar)));
    }
    for (kind, field) in GUIDED {
        if let Some(value) = fields.take_any(field) {
            asked.extend(guided(field, kind, value)?.map(|grammar| (field, grammar)));
        }
    }
    if let Some(kinds) = fields.take::<Map<String, Value>>(STRUCTURED_OUTPUTS)? {
        for (kind, value) in kinds.into_iter().filter(|(_, value)| !value.is_null()) {
            let path = format!("{STRUCTURED_OUTPUTS}.{kind}");
            asked.extend(guided(&path, &kind, value)?.map(|grammar| (STRUCTURED_OUTPUTS, grammar)));
        }
    }
    match asked.get(1) {
        Some((second, _)) => Err(ApiError::field(*second, "an answer has one form: ask for one")),
        None => Ok(asked.pop()),
    }
}

fn response_format(mut format: Map<String, Value>) -> Result<Option<Grammar>, ApiError> {
    let wrong = |field: &str, reason: &str| Err(ApiError::field(format!("{RESPONSE_FORMAT}{field}"), reason));
    match format.get("type").and_then(Value::as_str) {
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some(Grammar::JsonObject)),
        Some("json_schema") => {
            let Some(Value::Object(mut wrapped)) = format.remove("json_schema") else {
                return wrong(".json_schema", "expected an object with name and schema");
            };
            match wrapped.remove("schema") {
                Some(schema) => Ok(Some(Grammar::JsonSchema(schema))),
                None => wrong(".json_schema.schema", "missing: send the schema"),
            }
        }
        _ => wrong(".type", "expected \"text\", \"json_object\" or \"json_schema\""),
    }
}

/// None where it asks for nothing.
fn guided(path: &str, kind: &str, value: Value) -> Result<Option<Grammar>, ApiError> {
    let wrong = |expected: &str| Err(ApiError::field(path, format!("expected {expected}")));
    let grammar = match (kind, value) {
        // A schema may come as text.
        ("json", Value::String(text)) => match serde_json::from_str(&text) {
            Ok(schema) => Grammar::JsonSchema(schema),
            Err(error) => return Err(ApiError::field(path, format!("the schema is not JSON: {error}"))),
        },
        ("json", schema) => Grammar::JsonSchema(schema),
        ("regex", Value::String(regex)) => Grammar::Regex(regex),
        ("regex", _) => return wrong("a regular expression as a string"),
        ("choice", Value::Array(texts)) => match texts.into_iter().map(String::from_field).collect() {
            Some(texts) => Grammar::Choice(texts),
            None => return wrong("a list of strings"),
        },
        ("choice", _) => return wrong("a list of strings"),
        ("grammar", Value::String(grammar)) => Grammar::Lark(grammar),
        ("grammar", _) => return wrong("a grammar as a string"),
        ("json_object", Value::Bool(false)) => return Ok(None),
        ("json_object", Value::Bool(true)) => Grammar::JsonObject,
        ("json_object", _) => return wrong("true or false"),
        // They choose how the form is kept elsewhere; here there is one way.
        ("disable_any_whitespace" | "disable_fallback" | "disable_additional_properties", Value::Bool(false)) => {
            return Ok(None);
        }
        _ => return Err(ApiError::field(path, "no such kind: json, regex, choice, grammar or json_object")),
    };
    Ok(Some(grammar))
}
