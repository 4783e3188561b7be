//! Log lines of the agent for people: they are JSON in Kubernetes.

use serde_json::Value;

/// `LEVEL message key=value …` of a line of JSON; `None` where it is no such line.
#[must_use]
pub fn readable(line: &str) -> Option<String> {
    let Value::Object(line) = serde_json::from_str(line.trim()).ok()? else { return None };
    let fields = line.get("fields").and_then(Value::as_object).unwrap_or(&line);
    let message = fields.get("message").and_then(Value::as_str)?;
    let level = line.get("level").and_then(Value::as_str).unwrap_or("INFO");
    let mut said = format!("{level:5} {message}");
    for (key, value) in fields {
        if !["message", "level", "timestamp", "target", "span", "spans"].contains(&key.as_str()) {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            said.push_str(&format!(" {key}={value}"));
        }
    }
    Some(said)
}
