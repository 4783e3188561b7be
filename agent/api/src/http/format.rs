//! Form of the answer, as a client asks for it: OpenAI's `response_format`, vLLM's `structured_outputs` and `guided_*`, and
//! the fields of llama.cpp, SGLang and mistral.rs.

use serde_json::{Map, Value};

use super::error::ApiError;
use super::fields::known::Scope;
use super::fields::{Fields, FromField};
use crate::grammar::{Grammar, relax, tags};

const RESPONSE_FORMAT: &str = "response_format";
const STRUCTURED_OUTPUTS: &str = "structured_outputs";
const GRAMMAR: &str = "grammar";

/// Kind of form, each with other fields of the same meaning.
const KINDS: [(&str, &[&str]); 6] = [
    ("json", &["guided_json", "json_schema"]),
    ("regex", &["guided_regex", "regex"]),
    ("choice", &["guided_choice"]),
    ("grammar", &["guided_grammar", "ebnf"]),
    ("json_object", &["guided_json_object"]),
    ("structural_tag", &["structural_tag"]),
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
    for (kind, names) in KINDS {
        for name in names {
            if let Some(value) = fields.take_value(name) {
                asked.extend(read_kind(fields, name, kind, value)?.map(|grammar| (*name, grammar)));
            }
        }
    }
    if let Some(value) = fields.take_value(GRAMMAR) {
        asked.extend(read_grammar_field(fields, value)?.map(|grammar| (GRAMMAR, grammar)));
    }
    if let Some(kinds) = fields.take_field(STRUCTURED_OUTPUTS)? {
        let mut kinds = fields.open(Scope::StructuredOutputs, STRUCTURED_OUTPUTS, kinds);
        for (kind, _) in KINDS {
            if let Some(value) = kinds.take_value(kind) {
                let path = kinds.path_of(kind);
                asked.extend(read_kind(&mut kinds, &path, kind, value)?.map(|grammar| (STRUCTURED_OUTPUTS, grammar)));
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
    let whole = Value::Object(format.clone());
    let mut format = fields.open(Scope::ResponseFormat, RESPONSE_FORMAT, format);
    let kind = format.take_value("type");
    let grammar = match kind.as_ref().and_then(Value::as_str) {
        Some("text") => None,
        // llama.cpp takes a schema here, and TGI a value.
        Some("json_object" | "json") => match format.take_value("schema").or(format.take_value("value")) {
            Some(schema) => Some(json_schema(&mut format, &format!("{RESPONSE_FORMAT}.schema"), schema)),
            None => Some(Grammar::JsonObject),
        },
        Some("json_schema") => Some(take_wrapped_schema(&mut format)?),
        Some("regex") => {
            let path = format.path_of("value");
            let value = format.take_value("value").unwrap_or_default();
            read_kind(&mut format, &path, "regex", value)?
        }
        Some("structural_tag") => {
            ["structures", "triggers", "format"].iter().for_each(|name| drop(format.take_value(name)));
            read_kind(&mut format, RESPONSE_FORMAT, "structural_tag", whole)?
        }
        _ => {
            let expected = "expected \"text\", \"json_object\", \"json_schema\", \"regex\" or \"structural_tag\"";
            return Err(format.fault("type", expected));
        }
    };
    fields.close(format);
    Ok(grammar)
}

/// Takes the schema of OpenAI's `json_schema`. Some clients leave the wrapper out.
fn take_wrapped_schema(format: &mut Fields) -> Result<Grammar, ApiError> {
    const NAME: &str = "json_schema";
    if let Some(schema) = format.take_value("schema") {
        return Ok(json_schema(format, "response_format.schema", schema));
    }
    let Some(Value::Object(wrapped)) = format.take_value(NAME) else {
        return Err(format.fault(NAME, "expected an object with name and schema"));
    };
    let mut wrapped = format.open(Scope::JsonSchema, format.path_of(NAME), wrapped);
    let Some(schema) = wrapped.take_value("schema") else {
        return Err(wrapped.fault("schema", "missing: send the schema"));
    };
    let path = wrapped.path_of("schema");
    let grammar = json_schema(&mut wrapped, &path, schema);
    format.close(wrapped);
    Ok(grammar)
}

/// Reads llama.cpp's `grammar`, which is a text, or that of mistral.rs, which is an object with a type and a value.
fn read_grammar_field(fields: &mut Fields, value: Value) -> Result<Option<Grammar>, ApiError> {
    let Value::Object(object) = value else { return read_kind(fields, GRAMMAR, "grammar", value) };
    let mut object = fields.open(Scope::Grammar, GRAMMAR, object);
    let (kind, value) = (object.take_value("type"), object.take_value("value"));
    let kind = match kind.as_ref().and_then(Value::as_str) {
        Some("json_schema") => "json",
        Some("lark") => "grammar",
        Some("regex") => "regex",
        Some("llguidance") => "llguidance",
        _ => return Err(object.fault("type", "expected \"regex\", \"lark\", \"json_schema\" or \"llguidance\"")),
    };
    let Some(value) = value else { return Err(object.fault("value", "missing: send the grammar")) };
    let grammar = read_kind(&mut object, "grammar.value", kind, value)?;
    fields.close(object);
    Ok(grammar)
}

/// Returns the grammar of one kind, or `None` if the value asks for nothing.
fn read_kind(fields: &mut Fields, path: &str, kind: &str, value: Value) -> Result<Option<Grammar>, ApiError> {
    let wrong = |expected: &str| Err(ApiError::field(path, format!("expected {expected}")));
    if value == "" {
        return Ok(None);
    }
    let grammar = match (kind, value) {
        ("json", schema) => json_schema(fields, path, read_json(path, "the schema", schema)?),
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
        ("structural_tag", tag) => {
            let tag = read_json(path, "the tag", tag)?;
            Grammar::Lark(tags::to_lark(&tag).map_err(|reason| ApiError::field(path, reason))?)
        }
        (_, grammar) => Grammar::Llguidance(read_json(path, "the grammar", grammar)?),
    };
    Ok(Some(grammar))
}

/// Returns the value, which may be JSON in a string.
fn read_json(path: &str, name: &str, value: Value) -> Result<Value, ApiError> {
    let Value::String(text) = value else { return Ok(value) };
    serde_json::from_str(&text).map_err(|error| ApiError::field(path, format!("{name} is not JSON: {error}")))
}

/// Returns the grammar of a schema. Names what no grammar can enforce in it.
pub(super) fn json_schema(fields: &mut Fields, path: &str, mut schema: Value) -> Grammar {
    relax_schema(fields, path, &mut schema);
    Grammar::JsonSchema(schema)
}

/// Lets a schema be enforced as far as it can be, and names the rest.
pub(crate) fn relax_schema(fields: &mut Fields, path: &str, schema: &mut Value) {
    if fields.is_strict() {
        return;
    }
    for place in relax(schema) {
        fields.ignore(&format!("{path}."), &place);
    }
}
