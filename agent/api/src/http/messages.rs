//! Messages of a chat.

use serde_json::{Map, Value};

use super::error::ApiError;
use super::fields::FromField;
use crate::text::{ChatMessage, ToolCall};

/// Fields of a message that do not change the answer.
const IGNORED: [&str; 4] = ["refusal", "annotations", "audio", "function_call"];

/// Reads the messages.
///
/// # Errors
/// Names the message and its malformed field.
pub(crate) fn parse_messages(value: Option<Value>) -> Result<Vec<ChatMessage>, ApiError> {
    match value {
        None => Err(ApiError::field("messages", "missing: send a list of messages with role and content")),
        Some(Value::Array(values)) => {
            values.into_iter().enumerate().map(|(at, value)| parse_message(at, value)).collect()
        }
        Some(_) => Err(ApiError::field("messages", "expected a list of messages with role and content")),
    }
}

fn parse_message(at: usize, value: Value) -> Result<ChatMessage, ApiError> {
    let path = format!("messages[{at}]");
    let Some(mut message) = Map::from_field(value) else {
        return Err(ApiError::field(path, "expected an object with role and content"));
    };
    message.retain(|_, value| !value.is_null());
    let Some(Value::String(role)) = message.remove("role") else {
        return Err(ApiError::field(format!("{path}.role"), "expected a string, e.g. \"user\""));
    };
    let tool_calls = parse_tool_calls(&format!("{path}.tool_calls"), message.remove("tool_calls"))?;
    // A message that calls tools may lack content.
    let content = match message.remove("content") {
        None if !tool_calls.is_empty() => String::new(),
        value => parse_content(&format!("{path}.content"), value)?,
    };
    let mut text = |name: &str| match message.remove(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(ApiError::field(format!("{path}.{name}"), "expected a string")),
    };
    let (tool_call_id, name) = (text("tool_call_id")?, text("name")?);
    let reasoning = text("reasoning_content")?;
    let reasoning = reasoning.or(text("reasoning")?);
    match message.keys().find(|name| !IGNORED.contains(&name.as_str())) {
        Some(name) => Err(ApiError::field(format!("{path}.{name}"), "not supported: put it in the content")),
        None => Ok(ChatMessage {
            // `developer` is OpenAI's newer name of the role. Models' templates know the older name.
            role: if role == "developer" { "system".into() } else { role },
            content,
            tool_calls,
            tool_call_id,
            name,
            reasoning,
        }),
    }
}

/// Returns the content: a text, or a list of text parts, which are joined by line ends.
fn parse_content(path: &str, value: Option<Value>) -> Result<String, ApiError> {
    let parts = match value {
        Some(Value::String(text)) => return Ok(text),
        Some(Value::Array(parts)) => parts,
        _ => return Err(ApiError::field(path, "expected a string or a list of text parts")),
    };
    let part = |(at, part): (usize, Value)| match (part["type"].as_str(), part["text"].as_str()) {
        (Some("text"), Some(text)) => Ok(text.to_owned()),
        (Some("text") | None, _) => {
            Err(ApiError::field(format!("{path}[{at}]"), "expected an object with type \"text\" and a text"))
        }
        (Some(kind), _) => {
            Err(ApiError::field(format!("{path}[{at}].type"), format!("{kind:?} is not supported: send \"text\"")))
        }
    };
    let texts: Vec<String> = parts.into_iter().enumerate().map(part).collect::<Result<_, _>>()?;
    Ok(texts.join("\n"))
}

fn parse_tool_calls(path: &str, value: Option<Value>) -> Result<Vec<ToolCall>, ApiError> {
    let calls = match value {
        None => return Ok(Vec::new()),
        Some(Value::Array(calls)) => calls,
        Some(_) => return Err(ApiError::field(path, "expected a list of calls")),
    };
    let call = |(at, call): (usize, Value)| {
        let function = &call["function"];
        let path = format!("{path}[{at}].function");
        let Some(name) = function["name"].as_str() else {
            return Err(ApiError::field(format!("{path}.name"), "expected a string"));
        };
        Ok(ToolCall {
            id: call["id"].as_str().unwrap_or_default().to_owned(),
            name: name.to_owned(),
            arguments: parse_arguments(&function["arguments"]).ok_or_else(|| {
                ApiError::field(format!("{path}.arguments"), "expected an object as JSON text, e.g. \"{\\\"a\\\": 1}\"")
            })?,
        })
    };
    calls.into_iter().enumerate().map(call).collect()
}

/// Returns a call's arguments. OpenAI spells them as JSON in a string, and templates want the object. Clients echo `null` for
/// a call without arguments. They also echo a call that was cut, whose text is no JSON: the template gets that text.
fn parse_arguments(value: &Value) -> Option<Value> {
    let parsed = match value {
        Value::String(text) if text.trim().is_empty() => Value::Null,
        Value::String(text) => match serde_json::from_str(text) {
            Ok(parsed) => parsed,
            Err(_) => return Some(value.clone()),
        },
        other => other.clone(),
    };
    match parsed {
        Value::Null => Some(Value::Object(Map::new())),
        object => object.is_object().then_some(object),
    }
}
