//! Messages of `/v1/messages`: they become messages of a chat.

use serde_json::{Map, Value};

use super::super::error::ApiError;
use super::super::object::{Object, parse_content};
use crate::text::{ChatMessage, ToolCall};

const SYSTEM: &str = "system";
const ASSISTANT: &str = "assistant";
const USER: &str = "user";

/// Reads the messages and the system prompt.
///
/// # Errors
/// Names the message and its malformed field.
pub(super) fn parse_messages(messages: Option<Value>, system: Option<Value>) -> Result<Vec<ChatMessage>, ApiError> {
    let mut list = Vec::new();
    if let Some(system) = system {
        let text = parse_content(SYSTEM, Some(system), &["text"])?;
        if !text.is_empty() {
            list.push(ChatMessage::new(SYSTEM, text));
        }
    }
    let messages = match messages {
        None => return Err(ApiError::field("messages", "missing: send a list of messages with role and content")),
        Some(Value::Array(messages)) if !messages.is_empty() => messages,
        Some(_) => return Err(ApiError::field("messages", "expected a list of at least one message")),
    };
    for (at, message) in messages.into_iter().enumerate() {
        add_message(Object::new(format!("messages[{at}]"), message, "an object with role and content")?, &mut list)?;
    }
    match list.last() {
        Some(last) if last.role == ASSISTANT => Err(ApiError::field(
            "messages",
            "the last message is the assistant's, and this endpoint begins no answer for the model: end with a message \
             of the user",
        )),
        _ => Ok(list),
    }
}

fn add_message(mut message: Object, list: &mut Vec<ChatMessage>) -> Result<(), ApiError> {
    let role: String = message.required("role")?;
    let (path, content) = (message.field_path("content"), message.value("content"));
    match role.as_str() {
        USER => add_user_message(&path, content, list),
        ASSISTANT => {
            list.push(read_answer(&path, content)?);
            Ok(())
        }
        SYSTEM => {
            list.push(ChatMessage::new(SYSTEM, parse_content(&path, content, &["text"])?));
            Ok(())
        }
        _ => Err(message.error("role", format!("{role:?} is not known: send \"user\" or \"assistant\""))),
    }
}

/// Returns the blocks of a content, each with its type. A text is one block.
fn read_blocks(path: &str, content: Option<Value>) -> Result<Vec<(String, Object)>, ApiError> {
    const EXPECTED: &str = "a text or a list of blocks";
    let blocks = match content {
        Some(Value::String(text)) => {
            let block = Map::from_iter([("text".to_owned(), Value::String(text))]);
            return Ok(vec![("text".to_owned(), Object::new(path, Value::Object(block), EXPECTED)?)]);
        }
        Some(Value::Array(blocks)) => blocks,
        _ => return Err(ApiError::field(path, format!("expected {EXPECTED}"))),
    };
    let read = |(at, block): (usize, Value)| {
        let mut block = Object::new(format!("{path}[{at}]"), block, "a block: an object with a type")?;
        Ok((block.required("type")?, block))
    };
    blocks.into_iter().enumerate().map(read).collect()
}

/// Adds a user's message. Results of tools are messages of their own.
fn add_user_message(path: &str, content: Option<Value>, list: &mut Vec<ChatMessage>) -> Result<(), ApiError> {
    let mut texts = Vec::new();
    for (kind, mut block) in read_blocks(path, content)? {
        match kind.as_str() {
            "text" => texts.push(block.required("text")?),
            "tool_result" => {
                flush_texts(&mut texts, list);
                list.push(read_result(&mut block)?);
            }
            _ => return Err(refuse_block(&block, &kind, "text or tool_result")),
        }
    }
    flush_texts(&mut texts, list);
    Ok(())
}

fn flush_texts(texts: &mut Vec<String>, list: &mut Vec<ChatMessage>) {
    if !texts.is_empty() {
        list.push(ChatMessage::new(USER, texts.join("\n")));
        texts.clear();
    }
}

fn refuse_block(block: &Object, kind: &str, known: &str) -> ApiError {
    block.error("type", format!("{kind:?} is not supported: send {known}"))
}

fn read_result(block: &mut Object) -> Result<ChatMessage, ApiError> {
    let id = block.required("tool_use_id")?;
    let content = match block.value("content") {
        None => String::new(),
        content => parse_content(&block.field_path("content"), content, &["text"])?,
    };
    // Chat templates know no other way to tell the model that a call failed.
    let failed = block.field("is_error")?.unwrap_or(false);
    let content = if failed { format!("Error: {content}") } else { content };
    Ok(ChatMessage { tool_call_id: Some(id), ..ChatMessage::new("tool", content) })
}

fn read_answer(path: &str, content: Option<Value>) -> Result<ChatMessage, ApiError> {
    let mut message = ChatMessage::new(ASSISTANT, "");
    let (mut texts, mut thoughts) = (Vec::<String>::new(), Vec::<String>::new());
    for (kind, mut block) in read_blocks(path, content)? {
        match kind.as_str() {
            "text" => texts.push(block.required("text")?),
            "thinking" => thoughts.push(block.required("thinking")?),
            "tool_use" => message.tool_calls.push(ToolCall {
                id: block.required("id")?,
                name: block.required("name")?,
                arguments: Value::Object(block.field("input")?.unwrap_or_default()),
            }),
            _ => return Err(refuse_block(&block, &kind, "text, thinking or tool_use")),
        }
    }
    message.content = texts.join("\n");
    message.reasoning = (!thoughts.is_empty()).then(|| thoughts.join("\n"));
    Ok(message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::super::messages::spell_messages;
    use super::*;

    /// Returns the messages in a few characters.
    fn spell(messages: Value, system: Option<Value>) -> String {
        spell_messages(parse_messages(Some(messages), system))
    }

    #[test]
    fn blocks_become_messages() {
        let text = |text: &str| json!({"type": "text", "text": text, "cache_control": {"type": "ephemeral"}});
        let user = json!({"role": "user", "content": "hi"});
        let thinking = json!({"type": "thinking", "thinking": "hm", "signature": "s"});
        let call = json!({"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}});
        let answer = json!({"role": "assistant", "content": [thinking, text("ok"), call]});
        let result = |content: Value| json!({"type": "tool_result", "tool_use_id": "c", "content": content});
        let failed = json!({"type": "tool_result", "tool_use_id": "c", "content": "no", "is_error": true});
        let empty = json!({"type": "tool_result", "tool_use_id": "c"});
        let says = |content: Value| json!([{"role": "user", "content": content}]);
        let cases = [
            (json!([user]), None, "user: hi"),
            (json!([user]), Some(json!("be brief")), "system: be brief | user: hi"),
            (says(json!([text("a"), text("b")])), Some(json!([text("x"), text("y")])), "system: x\ny | user: a\nb"),
            (
                json!([user, answer, {"role": "user", "content": [result(json!("2")), result(json!([text("3")])), text("so?")]}]),
                None,
                "user: hi | assistant: (hm)ok c=f{\"a\":1} | tool[c]: 2 | tool[c]: 3 | user: so?",
            ),
            (says(json!([failed, empty])), None, "tool[c]: Error: no | tool[c]: "),
            (json!([{"role": "system", "content": "x"}, user]), None, "system: x | user: hi"),
            (json!([]), None, "messages: expected a list of at least one message"),
            (
                json!([user, {"role": "assistant", "content": "I"}]),
                None,
                "messages: the last message is the assistant's",
            ),
            (json!([{"role": "tool", "content": "x"}]), None, "messages[0].role: \"tool\" is not known"),
            (json!([{"content": "x"}]), None, "messages[0].role: missing: send a string"),
            (says(json!(5)), None, "messages[0].content: expected a text or a list of blocks"),
            (says(json!([{"text": "x"}])), None, "messages[0].content[0].type: missing"),
            (
                says(json!([{"type": "image", "source": {}}])),
                None,
                "messages[0].content[0].type: \"image\" is not supported: send text or tool_result",
            ),
            (
                says(json!([result(json!([{"type": "image"}]))])),
                None,
                "messages[0].content[0].content[0].type: \"image\" is not supported: send \"text\"",
            ),
            (
                json!([user, {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"}]}]),
                None,
                "messages[1].content[0].type: \"redacted_thinking\" is not supported",
            ),
            (json!([user]), Some(json!(5)), "system: expected a string or a list of text parts"),
        ];
        for (messages, system, expected) in cases {
            let spelled = spell(messages.clone(), system);
            assert!(spelled.starts_with(expected), "{messages}: {spelled}");
        }
    }
}
