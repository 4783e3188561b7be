//! Judges an object by the CRD: structure first (types, bounds, enums, unknown fields), then, where that holds, the
//! CEL rules. Pure; the answer names every violation, not only the first.

use kube::core::cel::{Validator, apply_defaults};
use serde_json::{Map, Value};

/// Deepest nesting that is walked; the schema is far shallower, so only overlays could be deeper, and those are not
/// walked.
const MAX_DEPTH: usize = 32;

/// Largest edit distance at which a known name is offered for an unknown one.
const MAX_TYPO: usize = 2;

/// Fields beside `spec` that every manifest may have.
const AT_ROOT: &[&str] = &["apiVersion", "kind", "metadata", "status"];

/// What `metadata` may hold, the fields that a server fills in included (`kubectl get -o yaml` prints them).
const OF_METADATA: &[&str] = &[
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

/// One thing wrong with an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The field, e.g. `spec.model.source`; empty: the whole object.
    pub path: String,
    /// What is wrong with it and what to do.
    pub message: String,
}

/// Judges `object`, as the successor of `old` where there is one, by `schema`, the CRD's `openAPIV3Schema`. Returns it
/// with the defaults filled in.
///
/// # Errors
/// Every violation, by field. CEL rules are asked only where the structure holds.
pub fn judge(schema: &Value, object: &Value, old: Option<&Value>) -> Result<Value, Vec<Violation>> {
    let mut walk = Walk::default();
    walk.root(schema, object);
    if !walk.found.is_empty() {
        return Err(walk.found);
    }
    let object = apply_defaults(schema, &without_nulls(schema, object));
    match Validator::new().validate(schema, &object, old) {
        Ok(()) => Ok(object),
        Err(errors) => Err(errors
            .into_iter()
            .map(|error| Violation {
                path: error.field_path.trim_start_matches('.').to_owned(),
                // A rule about one field starts with what it must be; a rule about several names them.
                message: error.message,
            })
            .collect()),
    }
}

/// `null` in a field that cannot be null but has a default means the default, as in a cluster.
fn without_nulls(schema: &Value, value: &Value) -> Value {
    let (Some(fields), Some(properties)) = (value.as_object(), schema["properties"].as_object()) else {
        return value.clone();
    };
    let kept = fields.iter().filter_map(|(name, value)| match properties.get(name) {
        Some(schema) if value.is_null() && !schema["default"].is_null() => None,
        Some(schema) => Some((name.clone(), without_nulls(schema, value))),
        None => Some((name.clone(), value.clone())),
    });
    Value::Object(kept.collect())
}

#[derive(Default)]
struct Walk {
    found: Vec<Violation>,
}

impl Walk {
    fn say(&mut self, path: &str, message: impl Into<String>) {
        self.found.push(Violation { path: path.to_owned(), message: message.into() });
    }

    fn root(&mut self, schema: &Value, object: &Value) {
        let Some(fields) = object.as_object() else {
            return self.say("", "is no mapping; a manifest has apiVersion, kind, metadata and spec");
        };
        self.metadata(&object["metadata"]);
        let beside: Map<String, Value> =
            fields.iter().filter(|(name, _)| !AT_ROOT.contains(&name.as_str())).map(own).collect();
        self.fields("", schema, &beside, AT_ROOT, 0);
    }

    fn metadata(&mut self, metadata: &Value) {
        let Some(fields) = metadata.as_object() else {
            return self.say("metadata", "is missing; give it a `name`");
        };
        for unknown in fields.keys().filter(|name| !OF_METADATA.contains(&name.as_str())) {
            self.unknown("metadata", unknown, OF_METADATA.iter().copied());
        }
        match &metadata["name"] {
            Value::String(name) if !name.is_empty() => {}
            Value::Null => self.say("metadata.name", "is missing; give the cluster a name"),
            _ => self.say("metadata.name", "must be text, and not empty"),
        }
        for name in ["labels", "annotations"] {
            let flat = match &metadata[name] {
                Value::Null => true,
                Value::Object(entries) => entries.values().all(Value::is_string),
                _ => false,
            };
            if !flat {
                self.say(&format!("metadata.{name}"), "must map names to text; put numbers and true/false in quotes");
            }
        }
    }

    fn unknown<'a>(&mut self, path: &str, name: &str, known: impl Iterator<Item = &'a str> + Clone) {
        let message = match nearest(name, known.clone()) {
            Some(near) => format!("no such field; did you mean `{near}`?"),
            None => format!("no such field; there are {}", known.collect::<Vec<_>>().join(", ")),
        };
        self.say(&join(path, name), message);
    }

    fn fields(&mut self, path: &str, schema: &Value, fields: &Map<String, Value>, also: &[&str], depth: usize) {
        let empty = Map::new();
        let properties = schema["properties"].as_object().unwrap_or(&empty);
        for (name, value) in fields {
            match properties.get(name) {
                Some(schema) => self.value(&join(path, name), schema, value, depth + 1),
                None => self.unknown(path, name, properties.keys().map(String::as_str).chain(also.iter().copied())),
            }
        }
        for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !fields.contains_key(required) {
                let wanted = properties.get(required).and_then(|schema| schema["description"].as_str()).unwrap_or("");
                self.say(&join(path, required), format!("is missing: {}", first_sentence(wanted)));
            }
        }
    }

    fn value(&mut self, path: &str, schema: &Value, value: &Value, depth: usize) {
        if depth > MAX_DEPTH {
            return self.say(path, format!("is nested deeper than {MAX_DEPTH} levels"));
        }
        if value.is_null() {
            if schema["nullable"] != true && schema["default"].is_null() {
                self.say(path, "has no value; give one or remove the field");
            }
            return;
        }
        match (schema["type"].as_str().unwrap_or("object"), value) {
            ("object", Value::Object(fields)) => {
                if schema["maxProperties"].as_u64().is_some_and(|most| fields.len() as u64 > most) {
                    let most = &schema["maxProperties"];
                    self.say(path, format!("has {} entries; at most {most} are possible", fields.len()));
                }
                if schema["additionalProperties"].is_object() {
                    for (name, value) in fields {
                        self.value(&join(path, name), &schema["additionalProperties"], value, depth + 1);
                    }
                } else if schema["x-kubernetes-preserve-unknown-fields"] != true {
                    self.fields(path, schema, fields, &[], depth);
                }
            }
            ("array", Value::Array(items)) => {
                if schema["maxItems"].as_u64().is_some_and(|most| items.len() as u64 > most) {
                    self.say(path, format!("has {} entries; at most {} are possible", items.len(), schema["maxItems"]));
                }
                for (index, item) in items.iter().enumerate() {
                    self.value(&format!("{path}[{index}]"), &schema["items"], item, depth + 1);
                }
            }
            ("boolean", Value::Bool(_)) => {}
            ("string", Value::String(text)) => self.text(path, schema, text),
            ("integer", Value::Number(number)) if number.is_i64() || number.is_u64() => {
                self.integer(path, schema, number.as_i64().unwrap_or(i64::MAX));
            }
            (wanted, value) => {
                self.say(path, format!("must be {}, not {}", article(wanted), shown(value)));
            }
        }
    }

    fn text(&mut self, path: &str, schema: &Value, text: &str) {
        if let Some(choices) = schema["enum"].as_array() {
            let choices = choices.iter().filter_map(Value::as_str);
            if !choices.clone().any(|choice| choice == text) {
                let meant = nearest(text, choices.clone()).map(|near| format!("; did you mean {near}?"));
                let all = choices.collect::<Vec<_>>().join(", ");
                self.say(path, format!("is {text:?}, and can be {all}{}", meant.unwrap_or_default()));
            }
        }
        let length = text.chars().count() as u64;
        if schema["minLength"].as_u64().is_some_and(|least| length < least) {
            let least = &schema["minLength"];
            self.say(path, format!("is {text:?}: too short, it needs at least {least} characters"));
        }
        if schema["maxLength"].as_u64().is_some_and(|most| length > most) {
            self.say(path, format!("has {length} characters; at most {} are possible", schema["maxLength"]));
        }
    }

    fn integer(&mut self, path: &str, schema: &Value, number: i64) {
        let bound = |name: &str| schema[name].as_f64().map(|bound| bound as i64);
        let (least, most) = (bound("minimum").unwrap_or(i64::MIN), bound("maximum").unwrap_or(i64::MAX));
        if !(least..=most).contains(&number) {
            self.say(path, format!("is {number}; give a number from {least} to {most}"));
        }
    }
}

fn own((name, value): (&String, &Value)) -> (String, Value) {
    (name.clone(), value.clone())
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn first_sentence(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.split_once(". ") {
        Some((first, _)) => first.to_lowercase(),
        None => text.trim_end_matches('.').to_lowercase(),
    }
}

fn article(kind: &str) -> &str {
    match kind {
        "integer" => "a whole number",
        "string" => "text",
        "object" => "a mapping",
        "array" => "a list",
        "boolean" => "true or false",
        other => other,
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Object(_) => "a mapping".into(),
        Value::Array(_) => "a list".into(),
        Value::String(text) => format!("the text {text:?}"),
        other => other.to_string(),
    }
}

/// The known name that `typed` probably stands for.
fn nearest<'a>(typed: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |name: &str| name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    let typed = plain(typed);
    let distances = known.map(|name| (distance(&typed, &plain(name)), name));
    let (least, name) = distances.min_by_key(|(distance, _)| *distance)?;
    (least <= MAX_TYPO.min(typed.len() / 2)).then_some(name)
}

/// Levenshtein distance.
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
