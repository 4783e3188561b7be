//! Reasoning that a client asks for. Chat templates read it from variables, by several names.

use serde_json::{Map, Value, json};

use super::chat::EFFORTS;
use super::error::ApiError;

/// Switches of reasoning in chat templates: that of Qwen3 and most others, and that of DeepSeek and Granite.
const SWITCHES: [&str; 2] = ["enable_thinking", "thinking"];

/// Sets the effort, unless the client has set the template's variables.
///
/// # Errors
/// No such effort is known.
pub(super) fn set_effort(variables: &mut Map<String, Value>, path: &str, effort: &str) -> Result<(), ApiError> {
    if !EFFORTS.contains(&effort) {
        return Err(ApiError::field(path, format!("{effort:?} is no effort: send one of {}", EFFORTS.join(", "))));
    }
    let wanted = effort != "none";
    set_thinking(variables, wanted);
    if wanted {
        variables.entry("reasoning_effort").or_insert_with(|| json!(effort));
    }
    Ok(())
}

/// Switches reasoning on or off, unless the client has set the template's variables.
pub(super) fn set_thinking(variables: &mut Map<String, Value>, wanted: bool) {
    for switch in SWITCHES {
        variables.entry(switch).or_insert(Value::Bool(wanted));
    }
}
