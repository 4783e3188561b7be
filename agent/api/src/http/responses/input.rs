//! Items of `input`: they become messages of a chat.

use serde_json::Value;

use super::super::error::ApiError;
use super::super::messages::read_arguments;
use super::super::object::{Object, parse_content};
use crate::text::{ChatMessage, ToolCall};

const ITEM: &str = "an item: an object with role and content, or with a type";
const SYSTEM: &str = "system";
const ASSISTANT: &str = "assistant";

/// Reads the input and the instructions.
///
/// # Errors
/// Names the item and its malformed field.
pub(super) fn parse_input(input: Option<Value>, instructions: Option<String>) -> Result<Vec<ChatMessage>, ApiError> {
    let mut messages = Messages::default();
    if let Some(instructions) = instructions {
        messages.list.push(ChatMessage::new(SYSTEM, instructions));
    }
    match input {
        None => return Err(ApiError::field("input", "missing: send a text or a list of items")),
        Some(Value::String(text)) => messages.list.push(ChatMessage::new("user", text)),
        Some(Value::Array(items)) => {
            for (at, item) in items.into_iter().enumerate() {
                messages.add(Object::new(format!("input[{at}]"), item, ITEM)?)?;
            }
        }
        Some(_) => return Err(ApiError::field("input", "expected a text or a list of items")),
    }
    Ok(messages.list)
}

/// Messages so far. The reasoning, the text and the calls of one answer are items of their own, and one message.
#[derive(Default)]
struct Messages {
    list: Vec<ChatMessage>,
}

impl Messages {
    fn add(&mut self, mut item: Object) -> Result<(), ApiError> {
        let kind: Option<String> = item.field("type")?;
        match kind.as_deref() {
            None | Some("message") => self.add_message(item),
            Some("reasoning") => {
                let reasoning = read_reasoning(&mut item)?;
                self.answer(|message| message.reasoning.is_none() && is_empty(message)).reasoning = Some(reasoning);
                Ok(())
            }
            Some("function_call") => {
                let call = read_call(&mut item)?;
                self.answer(|_| true).tool_calls.push(call);
                Ok(())
            }
            Some("function_call_output") => {
                let id = item.required("call_id")?;
                let output = parse_content(&item.field_path("output"), item.value("output"), &["input_text"])?;
                self.list.push(ChatMessage { tool_call_id: Some(id), ..ChatMessage::new("tool", output) });
                Ok(())
            }
            Some("item_reference") => Err(item
                .error("type", "this server stores no items: send the item itself, as clients do with store: false")),
            Some(kind) => Err(item.error(
                "type",
                format!("{kind:?} is not supported: send message, reasoning, function_call or function_call_output"),
            )),
        }
    }

    fn add_message(&mut self, mut item: Object) -> Result<(), ApiError> {
        let role: String = item.required("role")?;
        let kinds: &[&str] = if role == ASSISTANT {
            &["output_text", "input_text", "text"]
        } else {
            &["input_text", "output_text", "text"]
        };
        let content = parse_content(&item.field_path("content"), item.value("content").map(spell_refusals), kinds)?;
        match role.as_str() {
            ASSISTANT => self.answer(is_empty).content = content,
            // Templates know `developer` by its older name. Many take one such message, at the beginning.
            SYSTEM | "developer" => match self.list.as_mut_slice() {
                [first] if first.role == SYSTEM => first.content = format!("{}\n\n{content}", first.content),
                _ => self.list.push(ChatMessage::new(SYSTEM, content)),
            },
            _ => self.list.push(ChatMessage::new(role, content)),
        }
        Ok(())
    }

    /// Returns the last message if it is an answer that `fits` what comes next, or else a new answer.
    fn answer(&mut self, fits: impl Fn(&ChatMessage) -> bool) -> &mut ChatMessage {
        let continues = self.list.last().is_some_and(|last| last.role == ASSISTANT && fits(last));
        if !continues {
            self.list.push(ChatMessage::new(ASSISTANT, ""));
        }
        let last = self.list.len() - 1;
        &mut self.list[last]
    }
}

fn is_empty(message: &ChatMessage) -> bool {
    message.content.is_empty() && message.tool_calls.is_empty()
}

/// Writes refusals as text.
fn spell_refusals(content: Value) -> Value {
    let spell = |part: Value| match part["refusal"].as_str() {
        Some(text) if part["type"] == "refusal" => serde_json::json!({"type": "output_text", "text": text}),
        _ => part,
    };
    match content {
        Value::Array(parts) => parts.into_iter().map(spell).collect(),
        other => other,
    }
}

/// Reads the text of an item of reasoning: its content, or else its summary.
fn read_reasoning(item: &mut Object) -> Result<String, ApiError> {
    let (content, summary) = (item.value("content"), item.value("summary"));
    let is_filled = |value: &Value| value.as_array().is_none_or(|parts| !parts.is_empty());
    if let Some(content) = content.filter(is_filled) {
        return parse_content(&item.field_path("content"), Some(content), &["reasoning_text", "text"]);
    }
    if let Some(summary) = summary.filter(is_filled) {
        return parse_content(&item.field_path("summary"), Some(summary), &["summary_text", "text"]);
    }
    match item.value("encrypted_content") {
        Some(_) => Err(item
            .error("encrypted_content", "this server cannot read it: send the item's content, or leave the item out")),
        None => Ok(String::new()),
    }
}

fn read_call(item: &mut Object) -> Result<ToolCall, ApiError> {
    let arguments = item.value("arguments").unwrap_or_default();
    let arguments = read_arguments(arguments)
        .ok_or_else(|| item.error("arguments", "expected an object as JSON text, e.g. \"{\\\"a\\\": 1}\""))?;
    Ok(ToolCall { id: item.required("call_id")?, name: item.required("name")?, arguments })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::super::messages::spell_messages;
    use super::*;

    /// Returns the messages in a few characters.
    fn spell(input: Value, instructions: Option<&str>) -> String {
        spell_messages(parse_input(Some(input), instructions.map(str::to_owned)))
    }

    #[test]
    fn items_become_messages() {
        let user = json!({"role": "user", "content": "hi"});
        let parts = json!({"type": "message", "role": "user", "status": "completed",
                           "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]});
        let reasoning = json!({"type": "reasoning", "id": "rs", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]});
        let summary = json!({"type": "reasoning", "summary": [{"type": "summary_text", "text": "sum"}]});
        let answer = json!({"type": "message", "id": "m", "role": "assistant",
                            "content": [{"type": "output_text", "text": "ok", "annotations": []}]});
        let refusal = json!({"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]});
        let call = json!({"type": "function_call", "call_id": "c", "name": "f", "arguments": "{\"a\": 1}"});
        let output = json!({"type": "function_call_output", "call_id": "c", "output": "2"});
        let listed =
            json!({"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "3"}]});
        let cases = [
            (json!("hi"), None, "user: hi"),
            (json!("hi"), Some("be brief"), "system: be brief | user: hi"),
            (
                json!([{"role": "developer", "content": "x"}, user]),
                Some("be brief"),
                "system: be brief\n\nx | user: hi",
            ),
            (json!([parts, {"role": "system", "content": "x"}]), None, "user: a\nb | system: x"),
            (
                json!([user, reasoning, answer, call, call, output]),
                None,
                "user: hi | assistant: (hm)ok c=f{\"a\":1} c=f{\"a\":1} | tool[c]: 2",
            ),
            (
                json!([summary, call, listed, reasoning, call]),
                None,
                "assistant: (sum) c=f{\"a\":1} | tool[c]: 3 | assistant: (hm) c=f{\"a\":1}",
            ),
            (json!([answer, answer, refusal]), None, "assistant: ok | assistant: ok | assistant: no"),
            (json!(5), None, "input: expected a text or a list of items"),
            (
                json!([5]),
                None,
                "input[0]: expected an item: an object with role and content, or with a type, got a number",
            ),
            (json!([{"content": "x"}]), None, "input[0].role: missing: send a string"),
            (
                json!([{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]),
                None,
                "input[0].content[0].type: \"input_image\" is not supported: send \"input_text\"",
            ),
            (
                json!([{"type": "item_reference", "id": "x"}]),
                None,
                "input[0].type: this server stores no items: send the item itself, as clients do with store: false",
            ),
            (
                json!([user, {"type": "web_search_call"}]),
                None,
                "input[1].type: \"web_search_call\" is not supported: send message, reasoning, function_call or function_call_output",
            ),
            (
                json!([{"type": "reasoning", "summary": [], "encrypted_content": "x"}]),
                None,
                "input[0].encrypted_content: this server cannot read it: send the item's content, or leave the item out",
            ),
            (
                json!([{"type": "function_call", "name": "f", "arguments": "{}"}]),
                None,
                "input[0].call_id: missing: send a string",
            ),
        ];
        for (input, instructions, expected) in cases {
            assert_eq!(spell(input.clone(), instructions), expected, "{input}");
        }
    }
}
