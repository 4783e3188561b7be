//! Log lines of the agent, which are JSON in Kubernetes, as people read them.

use serde_json::Value;

/// Returns `LEVEL message key=value …` of a line of JSON, or `None` if the line is no such JSON.
#[must_use]
pub fn parse_log_line(line: &str) -> Option<String> {
    let Value::Object(line) = serde_json::from_str(line.trim()).ok()? else { return None };
    let fields = line.get("fields").and_then(Value::as_object).unwrap_or(&line);
    let message = fields.get("message").and_then(Value::as_str)?;
    let level = line.get("level").and_then(Value::as_str).unwrap_or("INFO");
    let mut text = format!("{level:5} {message}");
    for (key, value) in fields {
        if !["message", "level", "timestamp", "target", "span", "spans"].contains(&key.as_str()) {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            text.push_str(&format!(" {key}={value}"));
        }
    }
    Some(text)
}

/// Returns the last line of `log` that is not blank, readable where it is a line of JSON.
#[must_use]
pub fn last_log_line(log: &str) -> String {
    let line = log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    parse_log_line(line).unwrap_or_else(|| line.trim().to_owned())
}
