//! Values of `charts/inference-cluster`, generated from the CRD. `values.schema.json` accepts a spec exactly if the
//! CRD's schema accepts it; the API server judges the CEL rules. `values.yaml` documents each field. Both always match
//! the CRD.

use serde_json::{Map, Value, json};

use super::crd;

/// Keywords of a CRD schema that JSON Schema has too.
const KEYWORDS: [&str; 9] =
    ["description", "enum", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "pattern"];

/// Width of a line in `values.yaml`.
const WIDTH: usize = 120;

/// Text of the values beside `spec` in `values.yaml`.
const OTHER_VALUES: &str = "\
# Name of the InferenceCluster and of its Service. Default: the name of the release.
name: \"\"
labels: {}
annotations: {}

# Pod of `helm test`. It runs the operator's image and asks the Service for tokens until an answer comes, for at most
# timeoutSeconds.
test:
  image:
    repository: ghcr.io/lockstep-dev/operator
    tag: \"\" # default: the chart's appVersion
    digest: \"\"
    pullPolicy: IfNotPresent
  imagePullSecrets: []
  prompt: Once upon a time
  timeoutSeconds: 240

# Spec of the InferenceCluster. The chart passes it on unchanged. Commented lines show the defaults.
";

fn spec_schema() -> Value {
    serde_json::to_value(crd()).unwrap()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
        .take()
}

/// Returns `value`, as an integer if it is a whole number.
fn whole(value: &Value) -> Value {
    match value.as_f64() {
        Some(number) if number.fract() == 0.0 => json!(number as i64),
        _ => value.clone(),
    }
}

/// Converts a schema of the CRD to JSON Schema.
fn converted(schema: &Value) -> Value {
    let mut to = Map::new();
    let nullable = schema["nullable"] == true;
    let mut types = match schema["x-kubernetes-int-or-string"].as_bool() {
        Some(true) => vec![json!("integer"), json!("string")],
        _ => schema.get("type").cloned().into_iter().collect(),
    };
    if nullable && !types.is_empty() {
        types.push(json!("null"));
    }
    match types.len() {
        0 => None,
        1 => to.insert("type".into(), types.remove(0)),
        _ => to.insert("type".into(), types.into()),
    };
    for key in KEYWORDS {
        if let Some(value) = schema.get(key) {
            to.insert(key.into(), whole(value));
        }
    }
    if nullable
        && let Some(Value::Array(values)) = to.get_mut("enum")
        && !values.contains(&Value::Null)
    {
        values.push(Value::Null);
    }
    if let Some(items) = schema.get("items") {
        to.insert("items".into(), converted(items));
    }
    if let Some(properties) = schema["properties"].as_object() {
        let properties: Map<_, _> = properties.iter().map(|(name, schema)| (name.clone(), converted(schema))).collect();
        to.insert("properties".into(), properties.into());
        if schema["x-kubernetes-preserve-unknown-fields"] != true {
            to.insert("additionalProperties".into(), json!(false));
        }
    }
    if schema["additionalProperties"].is_object() {
        to.insert("additionalProperties".into(), converted(&schema["additionalProperties"]));
    }
    if let Some(required) = schema.get("required") {
        to.insert("required".into(), required.clone());
    }
    to.into()
}

fn values_schema() -> String {
    let text = |pattern: &str| json!({ "type": "string", "pattern": pattern });
    let texts = json!({ "type": "object", "additionalProperties": { "type": "string" } });
    let image = json!({
        "type": "object", "additionalProperties": false, "required": ["repository"],
        "properties": {
            "repository": text("^[a-z0-9]+([._:/-]+[a-z0-9]+)*$"),
            "tag": text("^([A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?$"),
            "digest": text("^(sha256:[a-f0-9]{64})?$"),
            "pullPolicy": { "enum": ["Always", "IfNotPresent", "Never"] },
        },
    });
    let test = json!({
        "type": "object", "additionalProperties": false, "required": ["image"],
        "properties": {
            "image": image,
            "imagePullSecrets": { "type": "array", "items": { "type": "object", "required": ["name"] } },
            "prompt": { "type": "string", "minLength": 1 },
            "timeoutSeconds": { "type": "integer", "minimum": 10, "maximum": 3600 },
        },
    });
    let name = json!({ "type": "string", "maxLength": 40, "pattern": "^([a-z]([-a-z0-9]*[a-z0-9])?)?$" });
    let schema = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the chart inference-cluster. Generated from the CRD by `make generate`",
        "type": "object", "additionalProperties": false, "required": ["spec"],
        "properties": {
            "global": { "type": "object", "description": "Values that a parent chart shares. This chart does not use them." },
            "name": name, "labels": texts, "annotations": texts, "test": test,
            "spec": converted(&spec_schema()),
        },
    });
    serde_json::to_string_pretty(&schema).unwrap() + "\n"
}

/// Writes `text` as comment lines that begin with `margin`.
fn write_comment(text: &str, margin: &str, to: &mut String) {
    let mut line = format!("{margin}#");
    for word in text.split_whitespace() {
        if line.len() + 1 + word.len() > WIDTH {
            to.push_str(&line);
            to.push('\n');
            line = format!("{margin}#");
        }
        line = format!("{line} {word}");
    }
    to.push_str(&line);
    to.push('\n');
}

/// Writes a field of `values.yaml`. The field is set if `set` has a value, else commented out. The children of a
/// commented field get no `#` of their own.
fn write_field(name: &str, schema: &Value, margin: &str, set: Option<&Value>, to: &mut String) {
    write_comment(schema["description"].as_str().unwrap_or_default(), margin, to);
    let hash = if set.is_some() || margin.contains('#') { "" } else { "# " };
    let children = schema["properties"].as_object().filter(|children| !children.is_empty());
    match (children, set.or(schema.get("default"))) {
        (Some(children), _) => {
            to.push_str(&format!("{margin}{hash}{name}:\n"));
            let margin = format!("{margin}{hash}  ");
            for (name, schema) in in_order(children, &schema["required"]) {
                write_field(name, schema, &margin, set.and_then(|set| set.get(name)), to);
            }
        }
        (None, Some(value)) => to.push_str(&format!("{margin}{hash}{name}: {}\n", format_inline(value))),
        (None, None) => to.push_str(&format!("{margin}{hash}{name}:\n")),
    }
}

/// Returns the required fields first, then the optional ones, each by name.
fn in_order<'a>(fields: &'a Map<String, Value>, required: &Value) -> Vec<(&'a String, &'a Value)> {
    let mut fields: Vec<_> = fields.iter().collect();
    let optional = |name: &str| !required.as_array().is_some_and(|names| names.iter().any(|known| known == name));
    fields.sort_by_key(|(name, _)| (optional(name), (*name).clone()));
    fields
}

/// Formats a value in one line.
fn format_inline(value: &Value) -> String {
    match value {
        Value::Array(_) | Value::Object(_) => value.to_string(),
        scalar => serde_yaml::to_string(&whole(scalar)).unwrap().trim_end().to_owned(),
    }
}

fn values() -> String {
    let mut to = String::from(OTHER_VALUES);
    let schema = spec_schema();
    let set = json!({ "model": { "source": "builtin://tiny" } });
    let mut fields = String::new();
    for (name, schema) in in_order(schema["properties"].as_object().unwrap(), &schema["required"]) {
        write_field(name, schema, "  ", set.get(name), &mut fields);
    }
    to.push_str("spec:\n");
    to + &fields
}

#[test]
fn the_chart_accepts_the_specs_that_the_crd_accepts() {
    for (file, made) in [("values.schema.json", values_schema()), ("values.yaml", values())] {
        let path = format!("{}/../charts/inference-cluster/{file}", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("LOCKSTEP_REGENERATE").is_some() {
            std::fs::write(&path, &made).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap();
        assert!(kept == made, "charts/inference-cluster/{file} does not match the CRD: run `make generate`");
    }
}

#[test]
fn the_charts_values_set_only_the_small_model() {
    let values: Value = serde_yaml::from_str(&values()).unwrap();
    assert_eq!(values["spec"], json!({ "model": { "source": "builtin://tiny" } }));
}
