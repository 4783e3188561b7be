//! Bounds of single fields, read from the schema. For each bound there is a value on it and a value beyond it, in an
//! object that has all fields.

use serde_json::{Map, Value, json};

use super::judges::join;

/// Bound of one field.
pub struct Bound {
    /// Path of the field, e.g. `spec.env[0].name`.
    pub field: String,
    pub on: Value,
    pub beyond: Value,
}

/// Returns every bound below `schema`. `sample` is a value of the schema that has all fields.
pub fn list_bounds(schema: &Value, field: &str, sample: &Value) -> Vec<Bound> {
    let mut all: Vec<_> = list_own_bounds(schema, sample)
        .into_iter()
        .map(|(on, beyond)| Bound { field: field.to_owned(), on, beyond })
        .collect();
    for (name, below) in schema["properties"].as_object().unwrap_or(&Map::new()) {
        all.extend(list_bounds(below, &join(field, name), &sample[name]));
    }
    if schema["items"].is_object() {
        all.extend(list_bounds(&schema["items"], &format!("{field}[0]"), &sample[0]));
    }
    all
}

/// Returns pairs of a value on a bound and a value beyond it.
fn list_own_bounds(schema: &Value, sample: &Value) -> Vec<(Value, Value)> {
    let mut pairs = Vec::new();
    let bound = |name: &str| schema[name].as_f64().map(|bound| bound as i64);
    for (name, step) in [("minimum", -1), ("maximum", 1)] {
        pairs.extend(bound(name).map(|bound| (json!(bound), json!(bound + step))));
    }
    let text = |length: i64| json!("a".repeat(usize::try_from(length).unwrap_or_default()));
    for (name, step) in [("minLength", -1), ("maxLength", 1)] {
        pairs.extend(bound(name).map(|bound| (text(bound), text(bound + step))));
    }
    let list = |length: i64| {
        // The entries differ, because a list may accept each entry only once.
        let entry = |index: i64| {
            let mut entry = sample[0].clone();
            match &mut entry {
                Value::String(text) => text.push_str(&index.to_string()),
                entry => entry["name"] = json!(format!("a{index}")),
            }
            entry
        };
        (0..length).map(entry).collect::<Value>()
    };
    pairs.extend(bound("maxItems").map(|bound| (list(bound), list(bound + 1))));
    let mapping = |length: i64| Value::Object((0..length).map(|index| (format!("k{index}"), json!("v"))).collect());
    pairs.extend(bound("maxProperties").map(|bound| (mapping(bound), mapping(bound + 1))));
    let choices = schema["enum"].as_array().into_iter().flatten();
    pairs.extend(choices.filter(|choice| choice.is_string()).map(|choice| (choice.clone(), json!("Another"))));
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    for name in required {
        let mut without = sample.clone();
        without.as_object_mut().and_then(|fields| fields.remove(name));
        pairs.push((sample.clone(), without));
    }
    pairs
}

/// Returns `object` with another value of `field`.
pub fn replace_field(object: &Value, field: &str, value: &Value) -> Value {
    let mut object = object.clone();
    let pointer = format!("/{}", field.replace(['.', '['], "/").replace(']', ""));
    *object.pointer_mut(&pointer).unwrap_or_else(|| panic!("the whole object has no {field}")) = value.clone();
    object
}

/// Returns the fields of a schema that have no description, and the numbers, texts and lists that have no upper bound.
pub fn list_incomplete_fields(schema: &Value, field: &str, must_be_bounded: bool) -> Vec<String> {
    let mut all = Vec::new();
    if schema["description"].as_str().is_none_or(str::is_empty) {
        all.push(format!("{field} has no description"));
    }
    let bounds: &[&str] = match schema["type"].as_str() {
        Some("integer") => &["minimum", "maximum"],
        Some("string") if schema["enum"].is_null() => &["maxLength"],
        Some("array") => &["maxItems"],
        _ => &[],
    };
    if must_be_bounded {
        let missing = bounds.iter().filter(|bound| schema[**bound].is_null());
        all.extend(missing.map(|bound| format!("{field} has no {bound}")));
    }
    for (name, below) in schema["properties"].as_object().unwrap_or(&Map::new()) {
        all.extend(list_incomplete_fields(below, &join(field, name), must_be_bounded));
    }
    if schema["items"].is_object() {
        all.extend(list_incomplete_fields(&schema["items"], &format!("{field}[]"), must_be_bounded));
    }
    all
}
