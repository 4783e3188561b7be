//! Messages of a chat.

use serde_json::{Map, Value};

use super::error::ApiError;
use super::fields::known::Scope;
use super::fields::{Fields, FromField};
use crate::text::{ChatMessage, ToolCall};

/// Takes the messages.
///
/// # Errors
/// There are no messages. A fault in a message is noted.
pub(crate) fn take_messages(fields: &mut Fields) -> Result<Vec<ChatMessage>, ApiError> {
    const NAME: &str = "messages";
    match fields.take_value(NAME) {
        None => Err(ApiError::field(NAME, "missing: send a list of messages with role and content")),
        Some(Value::Array(messages)) => Ok(read_list(fields, NAME, messages)),
        Some(_) => Err(ApiError::field(NAME, "expected a list of messages with role and content")),
    }
}

/// Takes the messages of several conversations.
///
/// # Errors
/// There is no list of lists, or it is empty. A fault in a message is noted.
pub(super) fn take_conversations(fields: &mut Fields) -> Result<Vec<Vec<ChatMessage>>, ApiError> {
    const NAME: &str = "messages";
    let fault =
        || ApiError::field(NAME, "expected a list of conversations, each a list of messages with role and content");
    let Some(Value::Array(conversations)) = fields.take_value(NAME) else { return Err(fault()) };
    let mut read = Vec::with_capacity(conversations.len());
    for (at, messages) in conversations.into_iter().enumerate() {
        let Value::Array(messages) = messages else { return Err(fault()) };
        read.push(read_list(fields, &format!("{NAME}[{at}]"), messages));
    }
    if read.is_empty() { Err(fault()) } else { Ok(read) }
}

fn read_list(fields: &mut Fields, path: &str, messages: Vec<Value>) -> Vec<ChatMessage> {
    let messages = messages.into_iter().enumerate();
    messages
        .map(|(at, message)| fields.noting(|fields| read_message(fields, format!("{path}[{at}]"), message)))
        .collect()
}

fn read_message(fields: &mut Fields, path: String, value: Value) -> Result<ChatMessage, ApiError> {
    let Some(message) = Map::from_field(value) else {
        return Err(ApiError::field(path, "expected an object with role and content"));
    };
    let mut message = fields.open(Scope::Message, path, message);
    let Some(Value::String(role)) = message.take_value("role") else {
        return Err(message.fault("role", "expected a string, e.g. \"user\""));
    };
    let tool_calls = message.noting(take_tool_calls);
    // A message that calls tools may lack content.
    let content = match message.take_value("content") {
        None if !tool_calls.is_empty() => String::new(),
        value => message.noting(|message| read_content(message, value)),
    };
    let reasoning = message.read("reasoning_content");
    let read = ChatMessage {
        // `developer` is OpenAI's newer name of the role. Models' templates know the older name.
        role: if role == "developer" { "system".into() } else { role },
        content,
        tool_calls,
        tool_call_id: message.read("tool_call_id"),
        name: message.read("name"),
        reasoning: message.read("reasoning").filter(|_| reasoning.is_none()).or(reasoning),
    };
    fields.close(message);
    Ok(read)
}

/// Returns the content: a text, or a list of text parts, which are joined by line ends.
fn read_content(message: &mut Fields, value: Option<Value>) -> Result<String, ApiError> {
    const NAME: &str = "content";
    let parts = match value {
        Some(Value::String(text)) => return Ok(text),
        Some(Value::Array(parts)) => parts,
        _ => return Err(message.fault(NAME, "expected a string or a list of text parts")),
    };
    let mut texts = Vec::with_capacity(parts.len());
    for (at, part) in parts.into_iter().enumerate() {
        let path = message.path_of(&format!("{NAME}[{at}]"));
        let wrong = |path| ApiError::field(path, "expected an object with type \"text\" and a text");
        let Some(part) = Map::from_field(part) else { return Err(wrong(path)) };
        let mut part = message.open(Scope::ContentPart, path.clone(), part);
        match (part.take_value("type"), part.take_value("text")) {
            (Some(Value::String(kind)), Some(Value::String(text))) if kind == "text" => texts.push(text),
            (Some(Value::String(kind)), _) if kind != "text" => {
                let kind: String = kind.chars().take(64).collect();
                return Err(part.fault("type", format!("{kind:?} is not supported: send \"text\"")));
            }
            _ => return Err(wrong(path)),
        }
        message.close(part);
    }
    Ok(texts.join("\n"))
}

fn take_tool_calls(message: &mut Fields) -> Result<Vec<ToolCall>, ApiError> {
    const NAME: &str = "tool_calls";
    let calls = match message.take_value(NAME) {
        None => return Ok(Vec::new()),
        Some(Value::Array(calls)) => calls,
        Some(_) => return Err(message.fault(NAME, "expected a list of calls")),
    };
    let mut read = Vec::with_capacity(calls.len());
    for (at, call) in calls.into_iter().enumerate() {
        let path = message.path_of(&format!("{NAME}[{at}]"));
        let Some(call) = Map::from_field(call) else { return Err(ApiError::field(path, "expected an object")) };
        let mut call = message.open(Scope::ToolCall, path.clone(), call);
        let function = call.read("function").unwrap_or_default();
        let mut function = call.open(Scope::CalledFunction, format!("{path}.function"), function);
        let Some(Value::String(name)) = function.take_value("name") else {
            return Err(function.fault("name", "expected a string"));
        };
        let arguments = function.take_value("arguments").unwrap_or_default();
        let Some(arguments) = read_arguments(arguments) else {
            return Err(function.fault("arguments", "expected an object as JSON text, e.g. \"{\\\"a\\\": 1}\""));
        };
        let id = call.take_value("id").and_then(String::from_field).unwrap_or_default();
        read.push(ToolCall { id, name, arguments });
        call.close(function);
        message.close(call);
    }
    Ok(read)
}

/// Returns a call's arguments. OpenAI spells them as JSON in a string, and templates want the object. Clients echo `null` for
/// a call without arguments. They also echo a call that was cut, whose text is no JSON: the template gets that text.
pub(super) fn read_arguments(value: Value) -> Option<Value> {
    let parsed = match value {
        Value::String(text) if text.trim().is_empty() => Value::Null,
        Value::String(text) => match serde_json::from_str(&text) {
            Ok(parsed) => parsed,
            Err(_) => return Some(Value::String(text)),
        },
        other => other,
    };
    match parsed {
        Value::Null => Some(Value::Object(Map::new())),
        object => object.is_object().then_some(object),
    }
}

/// Returns the messages of a request.
#[cfg(test)]
pub(crate) fn read_messages(request: &Value) -> Vec<ChatMessage> {
    let mut fields = Fields::parse(request.to_string().as_bytes(), Default::default()).unwrap();
    take_messages(&mut fields).unwrap()
}

/// Returns messages in a few characters, or the message of the error.
#[cfg(test)]
pub(super) fn spell_messages(parsed: Result<Vec<ChatMessage>, ApiError>) -> String {
    let messages = match parsed {
        Ok(messages) => messages,
        Err(error) => return error.message,
    };
    let spell = |message: &ChatMessage| {
        let calls = message.tool_calls.iter().map(|call| format!(" {}={}{}", call.id, call.name, call.arguments));
        let reasoning = message.reasoning.as_ref().map(|text| format!("({text})")).unwrap_or_default();
        let id = message.tool_call_id.as_ref().map(|id| format!("[{id}]")).unwrap_or_default();
        format!("{}{id}: {reasoning}{}{}", message.role, message.content, calls.collect::<String>())
    };
    messages.iter().map(spell).collect::<Vec<_>>().join(" | ")
}
