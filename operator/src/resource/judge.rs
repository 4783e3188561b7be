//! Judges an object by the CRD: first the structure (types, bounds, enums, unknown fields), then the CEL rules if the
//! structure holds. Pure. The result names every violation, not only the first.

use kube::core::cel::{Validator, apply_defaults};
use serde_json::{Map, Value};

/// Deepest nesting that the walk follows. The schema is far shallower. Only overlays could be deeper, and the walk does
/// not enter overlays.
const MAX_DEPTH: usize = 32;

/// Largest edit distance at which a message proposes a known name for an unknown name.
const MAX_TYPO_DISTANCE: usize = 2;

/// Fields beside `spec` that every manifest may have.
const ROOT_FIELDS: &[&str] = &["apiVersion", "kind", "metadata", "status"];

/// Fields that `metadata` may have, including those that a server fills in (`kubectl get -o yaml` prints them).
const METADATA_FIELDS: &[&str] = &[
    "name",
    "namespace",
    "labels",
    "annotations",
    "generateName",
    "finalizers",
    "ownerReferences",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// One violation of the schema or of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field, e.g. `spec.model.source`. Empty for the whole object.
    pub path: String,
    /// Message that names the fault and the remedy.
    pub message: String,
}

/// Judges `object` by `schema`, the CRD's `openAPIV3Schema`. If `old` is given, `object` is judged as an update of
/// `old`. Returns `object` with the defaults filled in.
///
/// # Errors
/// Returns every violation. The CEL rules are evaluated only if the structure holds.
pub fn judge(schema: &Value, object: &Value, old: Option<&Value>) -> Result<Value, Vec<Violation>> {
    let mut walk = Walk::default();
    walk.check_root(schema, object);
    if !walk.violations.is_empty() {
        return Err(walk.violations);
    }
    let object = apply_defaults(schema, &drop_defaulted_nulls(schema, object));
    match Validator::new().validate(schema, &object, old) {
        Ok(()) => Ok(object),
        Err(errors) => Err(errors
            .into_iter()
            .map(|error| Violation {
                path: error.field_path.trim_start_matches('.').to_owned(),
                message: error.message,
            })
            .collect()),
    }
}

/// Removes `null` from each field that has a default, so that the default applies, as in a Kubernetes cluster.
fn drop_defaulted_nulls(schema: &Value, value: &Value) -> Value {
    let (Some(fields), Some(properties)) = (value.as_object(), schema["properties"].as_object()) else {
        return value.clone();
    };
    let kept = fields.iter().filter_map(|(name, value)| match properties.get(name) {
        Some(schema) if value.is_null() && !schema["default"].is_null() => None,
        Some(schema) => Some((name.clone(), drop_defaulted_nulls(schema, value))),
        None => Some((name.clone(), value.clone())),
    });
    Value::Object(kept.collect())
}

#[derive(Default)]
struct Walk {
    violations: Vec<Violation>,
}

impl Walk {
    fn report(&mut self, path: &str, message: impl Into<String>) {
        self.violations.push(Violation { path: path.to_owned(), message: message.into() });
    }

    fn check_root(&mut self, schema: &Value, object: &Value) {
        let Some(fields) = object.as_object() else {
            return self.report("", "is not a mapping; a manifest has apiVersion, kind, metadata and spec");
        };
        self.check_metadata(&object["metadata"]);
        let beside: Map<String, Value> =
            fields.iter().filter(|(name, _)| !ROOT_FIELDS.contains(&name.as_str())).map(clone_entry).collect();
        self.check_fields("", schema, &beside, ROOT_FIELDS, 0);
    }

    fn check_metadata(&mut self, metadata: &Value) {
        let Some(fields) = metadata.as_object() else {
            return self.report("metadata", "is missing; give it a `name`");
        };
        for unknown in fields.keys().filter(|name| !METADATA_FIELDS.contains(&name.as_str())) {
            self.report_unknown("metadata", unknown, METADATA_FIELDS.iter().copied());
        }
        match &metadata["name"] {
            Value::String(name) if !name.is_empty() => {}
            Value::Null => self.report("metadata.name", "is missing; give the cluster a name"),
            _ => self.report("metadata.name", "must be text that is not empty"),
        }
        for name in ["labels", "annotations"] {
            let flat = match &metadata[name] {
                Value::Null => true,
                Value::Object(entries) => entries.values().all(Value::is_string),
                _ => false,
            };
            if !flat {
                self.report(
                    &format!("metadata.{name}"),
                    "must map names to text; put numbers and true/false in quotes",
                );
            }
        }
    }

    fn report_unknown<'a>(&mut self, path: &str, name: &str, known: impl Iterator<Item = &'a str> + Clone) {
        let message = match nearest(name, known.clone()) {
            Some(near) => format!("no such field; did you mean `{near}`?"),
            None => format!("no such field; the fields are {}", known.collect::<Vec<_>>().join(", ")),
        };
        self.report(&join(path, name), message);
    }

    fn check_fields(&mut self, path: &str, schema: &Value, fields: &Map<String, Value>, also: &[&str], depth: usize) {
        let empty = Map::new();
        let properties = schema["properties"].as_object().unwrap_or(&empty);
        for (name, value) in fields {
            match properties.get(name) {
                Some(schema) => self.check_value(&join(path, name), schema, value, depth + 1),
                None => {
                    self.report_unknown(path, name, properties.keys().map(String::as_str).chain(also.iter().copied()))
                }
            }
        }
        for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !fields.contains_key(required) {
                let description = properties.get(required).and_then(|schema| schema["description"].as_str());
                self.report(
                    &join(path, required),
                    format!("is missing: {}", first_sentence(description.unwrap_or(""))),
                );
            }
        }
    }

    fn check_value(&mut self, path: &str, schema: &Value, value: &Value, depth: usize) {
        if depth > MAX_DEPTH {
            return self.report(path, format!("is nested deeper than {MAX_DEPTH} levels"));
        }
        if value.is_null() {
            if schema["nullable"] != true && schema["default"].is_null() {
                self.report(path, "has no value; give one or remove the field");
            }
            return;
        }
        match (schema["type"].as_str().unwrap_or("object"), value) {
            ("object", Value::Object(fields)) => {
                if schema["maxProperties"].as_u64().is_some_and(|most| fields.len() as u64 > most) {
                    let most = &schema["maxProperties"];
                    self.report(path, format!("has {} entries; at most {most} are allowed", fields.len()));
                }
                if schema["additionalProperties"].is_object() {
                    for (name, value) in fields {
                        self.check_value(&join(path, name), &schema["additionalProperties"], value, depth + 1);
                    }
                } else if schema["x-kubernetes-preserve-unknown-fields"] != true {
                    self.check_fields(path, schema, fields, &[], depth);
                }
            }
            ("array", Value::Array(items)) => {
                if schema["maxItems"].as_u64().is_some_and(|most| items.len() as u64 > most) {
                    self.report(
                        path,
                        format!("has {} entries; at most {} are allowed", items.len(), schema["maxItems"]),
                    );
                }
                for (index, item) in items.iter().enumerate() {
                    self.check_value(&format!("{path}[{index}]"), &schema["items"], item, depth + 1);
                }
            }
            ("boolean", Value::Bool(_)) => {}
            ("string", Value::String(text)) => self.check_text(path, schema, text),
            ("integer", Value::Number(number)) if number.is_i64() || number.is_u64() => {
                self.check_integer(path, schema, number.as_i64().unwrap_or(i64::MAX));
            }
            (wanted, value) => {
                self.report(path, format!("must be {}, not {}", name_kind(wanted), show_kind(value)));
            }
        }
    }

    fn check_text(&mut self, path: &str, schema: &Value, text: &str) {
        if let Some(choices) = schema["enum"].as_array() {
            let choices = choices.iter().filter_map(Value::as_str);
            if !choices.clone().any(|choice| choice == text) {
                let proposal = nearest(text, choices.clone()).map(|near| format!("; did you mean {near}?"));
                let all = choices.collect::<Vec<_>>().join(", ");
                self.report(path, format!("is {text:?}; the values are {all}{}", proposal.unwrap_or_default()));
            }
        }
        let length = text.chars().count() as u64;
        if schema["minLength"].as_u64().is_some_and(|least| length < least) {
            let least = &schema["minLength"];
            self.report(path, format!("is {text:?}: too short, it needs at least {least} characters"));
        }
        if schema["maxLength"].as_u64().is_some_and(|most| length > most) {
            self.report(path, format!("has {length} characters; at most {} are allowed", schema["maxLength"]));
        }
    }

    fn check_integer(&mut self, path: &str, schema: &Value, number: i64) {
        let bound = |name: &str| schema[name].as_f64().map(|bound| bound as i64);
        let (least, most) = (bound("minimum").unwrap_or(i64::MIN), bound("maximum").unwrap_or(i64::MAX));
        if !(least..=most).contains(&number) {
            self.report(path, format!("is {number}; give a number from {least} to {most}"));
        }
    }
}

fn clone_entry((name, value): (&String, &Value)) -> (String, Value) {
    (name.clone(), value.clone())
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Returns the first sentence of a description, in lower case and without its full stop.
fn first_sentence(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.split_once(". ") {
        Some((first, _)) => first.to_lowercase(),
        None => text.trim_end_matches('.').to_lowercase(),
    }
}

/// Names a type of JSON Schema in plain words.
fn name_kind(kind: &str) -> &str {
    match kind {
        "integer" => "a whole number",
        "string" => "text",
        "object" => "a mapping",
        "array" => "a list",
        "boolean" => "true or false",
        other => other,
    }
}

/// Describes a value in a message: its type, or the value itself if it is short.
fn show_kind(value: &Value) -> String {
    match value {
        Value::Object(_) => "a mapping".into(),
        Value::Array(_) => "a list".into(),
        Value::String(text) => format!("the text {text:?}"),
        other => other.to_string(),
    }
}

/// Returns the known name that a user who wrote `typed` probably meant.
fn nearest<'a>(typed: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |name: &str| name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    let typed = plain(typed);
    let distances = known.map(|name| (distance(&typed, &plain(name)), name));
    let (least, name) = distances.min_by_key(|(distance, _)| *distance)?;
    (least <= MAX_TYPO_DISTANCE.min(typed.len() / 2)).then_some(name)
}

/// Returns the Levenshtein distance between two texts.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let next = (diagonal + usize::from(x != *y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = row[j + 1];
            row[j + 1] = next;
        }
    }
    row[b.len()]
}
