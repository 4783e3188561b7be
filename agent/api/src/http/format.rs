//! Form of the answer, as a client asks for it: OpenAI's `response_format`, vLLM's `structured_outputs` and `guided_*`.

use serde_json::{Map, Value};

use super::error::ApiError;
use super::fields::known::Scope;
use super::fields::{Fields, FromField};
use crate::grammar::Grammar;

const RESPONSE_FORMAT: &str = "response_format";
const STRUCTURED_OUTPUTS: &str = "structured_outputs";

/// Kinds of vLLM's `structured_outputs`, each with the older field of the same meaning.
const GUIDED: [(&str, &str); 5] = [
    ("json", "guided_json"),
    ("regex", "guided_regex"),
    ("choice", "guided_choice"),
    ("grammar", "guided_grammar"),
    ("json_object", "guided_json_object"),
];

/// Takes the form that the client asks for, with the name of the field that asks.
///
/// # Errors
/// Names a malformed field, or the second field that asks for a form.
pub(crate) fn take_grammar(fields: &mut Fields) -> Result<Option<(&'static str, Grammar)>, ApiError> {
    let mut asked = Vec::new();
    if let Some(format) = fields.take_field(RESPONSE_FORMAT)? {
        asked.extend(read_response_format(fields, format)?.map(|grammar| (RESPONSE_FORMAT, grammar)));
    }
    for (kind, field) in GUIDED {
        if let Some(value) = fields.take_value(field) {
            asked.extend(read_guided(field, kind, value)?.map(|grammar| (field, grammar)));
        }
    }
    if let Some(kinds) = fields.take_field(STRUCTURED_OUTPUTS)? {
        let mut kinds = fields.open(Scope::StructuredOutputs, STRUCTURED_OUTPUTS, kinds);
        for (kind, _) in GUIDED {
            if let Some(value) = kinds.take_value(kind) {
                let path = kinds.path_of(kind);
                asked.extend(read_guided(&path, kind, value)?.map(|grammar| (STRUCTURED_OUTPUTS, grammar)));
            }
        }
        fields.close(kinds);
    }
    match asked.get(1) {
        Some((second, _)) => Err(ApiError::field(*second, "an answer has one form: ask for one")),
        None => Ok(asked.pop()),
    }
}

fn read_response_format(fields: &mut Fields, format: Map<String, Value>) -> Result<Option<Grammar>, ApiError> {
    let mut format = fields.open(Scope::ResponseFormat, RESPONSE_FORMAT, format);
    let grammar = match format.take_value("type").as_ref().and_then(Value::as_str) {
        Some("text") => None,
        Some("json_object") => Some(Grammar::JsonObject),
        Some("json_schema") => Some(Grammar::JsonSchema(take_wrapped_schema(&mut format)?)),
        _ => return Err(format.fault("type", "expected \"text\", \"json_object\" or \"json_schema\"")),
    };
    fields.close(format);
    Ok(grammar)
}

/// Takes the schema of OpenAI's `json_schema`.
fn take_wrapped_schema(format: &mut Fields) -> Result<Value, ApiError> {
    const NAME: &str = "json_schema";
    let Some(Value::Object(wrapped)) = format.take_value(NAME) else {
        return Err(format.fault(NAME, "expected an object with name and schema"));
    };
    let mut wrapped = format.open(Scope::JsonSchema, format.path_of(NAME), wrapped);
    let Some(schema) = wrapped.take_value("schema") else {
        return Err(wrapped.fault("schema", "missing: send the schema"));
    };
    format.close(wrapped);
    Ok(schema)
}

/// Returns the grammar of one kind, or `None` if the value asks for nothing.
fn read_guided(path: &str, kind: &str, value: Value) -> Result<Option<Grammar>, ApiError> {
    let wrong = |expected: &str| Err(ApiError::field(path, format!("expected {expected}")));
    let grammar = match (kind, value) {
        // A schema may be JSON in a string.
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
        _ => return Err(ApiError::field(path, "no such kind: json, regex, choice, grammar or json_object")),
    };
    Ok(Some(grammar))
}
