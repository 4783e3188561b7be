//! Values that are written without quotes, converted to the types of a tool's schema.

use serde_json::{Map, Number, Value};

use super::python;

/// Most schemas to search for the types of one parameter. Without this bound, the search of a schema that refers to
/// itself would never end.
const MAX_SCHEMAS: usize = 64;

/// Converts `text` to the value of the parameter `key`. `parameters` is the schema of all parameters. The value has the
/// first type in the schema that fits the text. It is a string if no type fits or the schema names none. The texts
/// `null` and `none` become null if the schema allows null or does not allow a string.
pub(crate) fn parse_value(text: &str, key: &str, parameters: &Value) -> Value {
    let schemas = alternatives(&parameters["properties"][key], parameters);
    parse_as_any(text, &schema_types(&schemas))
}

/// Converts `text` to the first of the types that fits.
fn parse_as_any(text: &str, kinds: &[&str]) -> Value {
    let is_null = matches!(text.trim().to_ascii_lowercase().as_str(), "null" | "none");
    let takes_text = kinds.is_empty() || kinds.contains(&"string");
    if is_null && (kinds.contains(&"null") || !takes_text) {
        return Value::Null;
    }
    kinds.iter().find_map(|kind| parse_as(text, kind)).unwrap_or_else(|| text.into())
}

/// A value whose parts have tags of their own: the text of a tag, and the tags in it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Node {
    pub text: String,
    pub children: Vec<(String, Node)>,
}

/// Tag around each value of a list.
const ITEM: &str = "item";

/// Converts a node to the value of the parameter `key`, as [`parse_value`] does with a text.
pub(crate) fn parse_node(node: &Node, key: &str, parameters: &Value) -> Value {
    node_value(node, &alternatives(&parameters["properties"][key], parameters), parameters)
}

/// Converts a node to a value by any of `schemas`.
fn node_value(node: &Node, schemas: &[&Value], root: &Value) -> Value {
    let kinds = schema_types(schemas);
    if node.children.is_empty() {
        return leaf_value(&node.text, &kinds);
    }
    let inner = |fields: &[&str], child: &Node| {
        let found = schemas.iter().filter_map(|schema| fields.iter().try_fold(*schema, |at, field| at.get(field)));
        let found: Vec<&Value> = found.flat_map(|schema| alternatives(schema, root)).take(MAX_SCHEMAS).collect();
        node_value(child, &found, root)
    };
    if is_list(node, &kinds) {
        return node.children.iter().map(|(_, child)| inner(&["items"], child)).collect();
    }
    let is_named = |key: &str| schemas.iter().any(|schema| schema["properties"].get(key).is_some());
    let member = |(key, child): &(String, Node)| match is_named(key) {
        true => (key.clone(), inner(&["properties", key], child)),
        false => (key.clone(), inner(&["additionalProperties"], child)),
    };
    Value::Object(node.children.iter().map(member).collect())
}

/// Converts the text of a tag without tags in it. An empty list and an empty object have no text.
fn leaf_value(text: &str, kinds: &[&str]) -> Value {
    let is_empty = text.trim().is_empty() && !kinds.contains(&"string");
    match kinds.iter().find(|kind| is_empty && ["array", "object"].contains(kind)) {
        Some(&"array") => Value::Array(Vec::new()),
        Some(_) => Value::Object(Map::new()),
        None => parse_as_any(text, kinds),
    }
}

/// Returns true if a node is a list: the types allow a list and no object, or they allow both or neither and each tag is
/// that of a list's value.
fn is_list(node: &Node, kinds: &[&str]) -> bool {
    match (kinds.contains(&"array"), kinds.contains(&"object")) {
        (true, false) => true,
        (false, true) => false,
        _ => node.children.iter().all(|(key, _)| key == ITEM),
    }
}

/// Returns the types that schemas allow, each once, in their order.
fn schema_types<'a>(schemas: &[&'a Value]) -> Vec<&'a str> {
    let mut kinds = Vec::new();
    let mut add = |kind: &'a str| {
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    };
    for schema in schemas {
        match &schema["type"] {
            Value::String(kind) => add(kind),
            Value::Array(several) => several.iter().filter_map(Value::as_str).for_each(&mut add),
            _ => {
                let values = schema["enum"].as_array().into_iter().flatten().chain(schema.get("const"));
                values.for_each(|value| add(kind_of(value)));
            }
        }
    }
    kinds
}

/// Returns a schema and the schemas that it combines or refers to, in its order. A schema may refer to itself.
fn alternatives<'a>(schema: &'a Value, root: &'a Value) -> Vec<&'a Value> {
    let (mut all, mut pending) = (Vec::new(), vec![schema]);
    while let Some(schema) = pending.pop().filter(|_| all.len() < MAX_SCHEMAS) {
        all.push(schema);
        let alternatives = ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|several| schema[several].as_array());
        let referred = schema["$ref"].as_str().and_then(|place| root.pointer(place.strip_prefix('#')?));
        // `pop` takes from the end, so the first of the new schemas must be last.
        let first = pending.len();
        pending.extend(alternatives.flatten().chain(referred));
        pending[first..].reverse();
    }
    all
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

    fn node(text: &str, children: &[(&str, Node)]) -> Node {
        let children = children.iter().map(|(key, child)| ((*key).to_owned(), child.clone())).collect();
        Node { text: text.into(), children }
    }

    #[test]
    fn the_schema_says_what_a_tag_is() {
        let leaf = |text: &str| node(text, &[]);
        let items = node("\n", &[("item", leaf("1")), ("item", leaf("x"))]);
        let lists = node("", &[("item", items.clone()), ("item", leaf(""))]);
        let members = node("", &[("k", leaf("1")), ("l", leaf("true"))]);
        let list_of = |kind: &str| json!({"type": "array", "items": {"type": kind}});
        let cases = [
            (list_of("integer"), &items, json!([1, "x"])),
            (
                json!({"type": "array", "items": {"anyOf": [{"$ref": "#/$defs/size"}, {"type": "string"}]}}),
                &items,
                json!([1, "x"]),
            ),
            (json!({"type": "array", "items": list_of("string")}), &lists, json!([["1", "x"], []])),
            (json!({}), &items, json!(["1", "x"])),
            (json!({"type": "object", "properties": {"item": {"type": "integer"}}}), &items, json!({"item": "x"})),
            (
                json!({"type": "object", "properties": {"k": {"type": "integer"}}}),
                &members,
                json!({"k": 1, "l": "true"}),
            ),
            (
                json!({"type": "object", "additionalProperties": {"type": ["boolean", "integer"]}}),
                &members,
                json!({"k": 1, "l": true}),
            ),
            (
                json!({"anyOf": [{"type": "null"}, {"properties": {"l": {"type": "boolean"}}}]}),
                &members,
                json!({"k": "1", "l": true}),
            ),
            (json!({"type": "array"}), &members, json!(["1", "true"])),
            (list_of("integer"), &leaf("[1, 2]"), json!([1, 2])),
            (list_of("integer"), &leaf(" "), json!([])),
            (json!({"type": "object"}), &leaf(""), json!({})),
            (json!({"type": "string"}), &leaf(" "), json!(" ")),
            (json!({"type": "integer"}), &leaf(""), json!("")),
        ];
        for (schema, node, expected) in cases {
            let parameters = json!({"properties": {"key": schema}, "$defs": {"size": {"type": "integer"}}});
            assert_eq!(parse_node(node, "key", &parameters), expected, "{node:?} by {schema}");
        }
    }

    #[test]
    fn a_schema_that_refers_to_itself_comes_to_an_end() {
        let itself = json!({"$ref": "#/properties/key"});
        let parameters = json!({"properties": {"key": {"anyOf": vec![itself; 1000]}}});
        assert_eq!(parse_value("5", "key", &parameters), json!("5"));
        let list = json!({"type": "array", "items": {"anyOf": vec![json!({"$ref": "#/properties/key"}); 100]}});
        let deep = (0..64).fold(node("5", &[]), |inner, _| node("", &[("item", inner)]));
        let value = parse_node(&deep, "key", &json!({"properties": {"key": list}}));
        assert_eq!(value.to_string(), format!("{}\"5\"{}", "[".repeat(64), "]".repeat(64)));
    }
}
