//! Conversations and tools as `lockstep.v1` spells them.

use lockstep_proto::v1::tool_choice::Mode;
use lockstep_proto::v1::{self, ToolCallDelta};
use serde_json::{Value, json};

use crate::output::tools::Function;
use crate::session::{CallDelta, RequestError, ToolChoice, ToolsInput};
use crate::text::{ChatMessage, Conversation, ToolCall};

/// Reads a conversation.
///
/// # Errors
/// Names the call whose arguments are no object.
pub(crate) fn conversation_from_wire(messages: Vec<v1::ChatMessage>) -> Result<Conversation, RequestError> {
    let messages = messages.into_iter().map(message_from_wire).collect::<Result<_, _>>()?;
    Ok(Conversation { messages, ..Conversation::default() })
}

fn message_from_wire(wire: v1::ChatMessage) -> Result<ChatMessage, RequestError> {
    let non_empty = |text: String| (!text.is_empty()).then_some(text);
    let call = |wire: v1::ToolCall| match json_object(&wire.arguments) {
        Some(arguments) => Ok(ToolCall { id: wire.id, name: wire.name, arguments }),
        None => {
            let reason = format!("the arguments of a call of {:?} are no JSON object", wire.name);
            Err(RequestError::field("messages", reason))
        }
    };
    Ok(ChatMessage {
        role: wire.role,
        content: wire.content,
        tool_calls: wire.tool_calls.into_iter().map(call).collect::<Result<_, _>>()?,
        tool_call_id: non_empty(wire.tool_call_id),
        name: None,
        reasoning: non_empty(wire.reasoning),
    })
}

/// Reads the tools and the client's choice among them.
///
/// # Errors
/// Names the tool whose parameters are no object.
pub(crate) fn tools_from_wire(
    tools: Vec<v1::Tool>,
    choice: Option<v1::ToolChoice>,
    single_call: bool,
) -> Result<ToolsInput, RequestError> {
    let mut input = ToolsInput { parallel: !single_call, ..ToolsInput::default() };
    for tool in tools {
        let Some(parameters) = json_object(&tool.parameters) else {
            return Err(RequestError::field("tools", format!("the parameters of {:?} are no JSON object", tool.name)));
        };
        input.definitions.push(json!({
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": parameters},
        }));
        input.functions.push(Function { name: tool.name, parameters });
    }
    let choice = choice.unwrap_or_default();
    input.choice = match choice.mode() {
        _ if !choice.name.is_empty() => ToolChoice::Named(choice.name),
        Mode::Unspecified => ToolChoice::Auto,
        Mode::None => ToolChoice::None,
        Mode::Required => ToolChoice::Required,
    };
    Ok(input)
}

fn json_object(text: &str) -> Option<Value> {
    if text.is_empty() {
        return Some(json!({}));
    }
    serde_json::from_str(text).ok().filter(Value::is_object)
}

pub(crate) fn call_to_wire(part: CallDelta) -> ToolCallDelta {
    let (id, name) = part.begin.unwrap_or_default();
    ToolCallDelta { index: part.index as u32, id, name, arguments: part.arguments }
}
