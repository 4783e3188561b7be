//! Values that are written without quotes, converted to the types of a tool's schema.

use serde_json::{Number, Value};

use super::python;

/// Most schemas to search for the types of one parameter. Without this bound, the search of a schema that refers to
/// itself would never end.
const MAX_SCHEMAS: usize = 64;

/// Converts `text` to the value of the parameter `key`. `parameters` is the schema of all parameters. The value has the
/// first type in the schema that fits the text. It is a string if no type fits or the schema names none. The texts
/// `null` and `none` become null if the schema allows null or does not allow a string.
pub(crate) fn parse_value(text: &str, key: &str, parameters: &Value) -> Value {
    let kinds = schema_types(&parameters["properties"][key], parameters);
    let is_null = matches!(text.trim().to_ascii_lowercase().as_str(), "null" | "none");
    let takes_text = kinds.is_empty() || kinds.contains(&"string");
    if is_null && (kinds.contains(&"null") || !takes_text) {
        return Value::Null;
    }
    kinds.into_iter().find_map(|kind| parse_as(text, kind)).unwrap_or_else(|| text.into())
}

/// Returns the types that a schema allows, each once, in the schema's order. A schema may refer to itself.
fn schema_types<'a>(schema: &'a Value, root: &'a Value) -> Vec<&'a str> {
    let (mut kinds, mut pending) = (Vec::new(), vec![schema]);
    let mut add = |kind: &'a str| {
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    };
    for _ in 0..MAX_SCHEMAS {
        let Some(schema) = pending.pop() else { break };
        match &schema["type"] {
            Value::String(kind) => add(kind),
            Value::Array(several) => several.iter().filter_map(Value::as_str).for_each(&mut add),
            _ => {
                let values = schema["enum"].as_array().into_iter().flatten().chain(schema.get("const"));
                values.for_each(|value| add(kind_of(value)));
            }
        }
        let alternatives = ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|several| schema[several].as_array());
        let referred = schema["$ref"].as_str().and_then(|place| root.pointer(place.strip_prefix('#')?));
        // `pop` takes from the end, so the first of the new schemas must be last.
        let first = pending.len();
        pending.extend(alternatives.flatten().chain(referred));
        pending[first..].reverse();
    }
    kinds
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Converts the text to a value of the type `kind`. Returns `None` if the text is no such value.
fn parse_as(text: &str, kind: &str) -> Option<Value> {
    let literal = || serde_json::from_str::<Value>(text).ok().or_else(|| python::literal(text));
    match kind {
        "integer" => parse_integer(text.trim()),
        "number" => parse_integer(text.trim()).or_else(|| parse_fraction(text.trim())),
        "boolean" => match text.trim().to_ascii_lowercase().as_str() {
            "true" => Some(true.into()),
            "false" => Some(false.into()),
            _ => None,
        },
        "array" => literal().filter(Value::is_array),
        "object" => literal().filter(Value::is_object),
        "null" => None,
        _ => Some(text.into()),
    }
}

fn parse_integer(text: &str) -> Option<Value> {
    text.parse::<i64>().map(Value::from).or_else(|_| text.parse::<u64>().map(Value::from)).ok()
}

fn parse_fraction(text: &str) -> Option<Value> {
    Number::from_f64(text.parse().ok()?).map(Value::Number)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_schema_says_what_a_text_is() {
        let cases = [
            (json!({"type": "string"}), "5", json!("5")),
            (json!({"type": "string"}), "null", json!("null")),
            (json!({"type": "string"}), " two\n lines ", json!(" two\n lines ")),
            (json!({"type": "integer"}), " -5 ", json!(-5)),
            (json!({"type": "integer"}), "18446744073709551615", json!(u64::MAX)),
            (json!({"type": "integer"}), "5.5", json!("5.5")),
            (json!({"type": "integer"}), "five", json!("five")),
            (json!({"type": "integer"}), "None", json!(null)),
            (json!({"type": "number"}), "5", json!(5)),
            (json!({"type": "number"}), "-2.5e3", json!(-2500.0)),
            (json!({"type": "number"}), "NaN", json!("NaN")),
            (json!({"type": "boolean"}), "True", json!(true)),
            (json!({"type": "boolean"}), "false", json!(false)),
            (json!({"type": "boolean"}), "1", json!("1")),
            (json!({"type": "array"}), "[1, \"a\", null]", json!([1, "a", null])),
            (json!({"type": "array"}), "['a', True]", json!(["a", true])),
            (json!({"type": "array"}), "{}", json!("{}")),
            (json!({"type": "object"}), "\n{\"b\": {\"a\": 1.5}}", json!({"b": {"a": 1.5}})),
            (json!({"type": "object"}), "{'k': None}", json!({"k": null})),
            (json!({"type": "object"}), "{\"cut", json!("{\"cut")),
            (json!({"type": "date"}), "5", json!("5")),
            (json!({}), "5", json!("5")),
            (json!({"type": ["string", "null"]}), "null", json!(null)),
            (json!({"type": ["integer", "string"]}), "5", json!(5)),
            (json!({"type": ["integer", "string"]}), "five", json!("five")),
            (json!({"anyOf": [{"type": "string"}, {"type": "integer"}]}), "5", json!("5")),
            (json!({"oneOf": [{"type": "null"}, {"$ref": "#/$defs/size"}]}), "7", json!(7)),
            (json!({"enum": [1, 2]}), "2", json!(2)),
            (json!({"enum": ["1", "2"]}), "2", json!("2")),
            (json!({"const": true}), "true", json!(true)),
            (json!({"$ref": "#/properties/key"}), "5", json!("5")),
            (json!(true), "5", json!("5")),
        ];
        for (schema, text, expected) in cases {
            let parameters = json!({"properties": {"key": schema}, "$defs": {"size": {"type": "integer"}}});
            assert_eq!(parse_value(text, "key", &parameters), expected, "{text} by {schema}");
        }
        assert_eq!(parse_value("5", "other", &json!({"properties": {"key": {"type": "integer"}}})), json!("5"));
        assert_eq!(parse_value("5", "key", &json!(null)), json!("5"));
    }

    #[test]
    fn a_schema_that_refers_to_itself_comes_to_an_end() {
        let itself = json!({"$ref": "#/properties/key"});
        let parameters = json!({"properties": {"key": {"anyOf": vec![itself; 1000]}}});
        assert_eq!(parse_value("5", "key", &parameters), json!("5"));
    }
}
