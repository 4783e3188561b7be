//! Tools and tool calls as OpenAI spells them.

use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::fields::Fields;
use crate::output::tools::Function;
use crate::session::{CallDelta, ToolChoice, ToolsInput};

/// Takes the fields about tools.
///
/// # Errors
/// Names the malformed field.
pub(crate) fn parse_tools(fields: &mut Fields) -> Result<ToolsInput, ApiError> {
    let definitions = match fields.take_value("tools") {
        None => Vec::new(),
        Some(Value::Array(definitions)) => definitions,
        Some(_) => return Err(ApiError::field("tools", "expected a list of tools")),
    };
    let functions =
        definitions.iter().enumerate().map(|(at, tool)| parse_function(at, tool)).collect::<Result<_, _>>()?;
    Ok(ToolsInput {
        definitions,
        functions,
        choice: parse_choice(fields.take_value("tool_choice"))?,
        parallel: fields.take_field("parallel_tool_calls")?.unwrap_or(true),
    })
}

fn parse_function(at: usize, tool: &Value) -> Result<Function, ApiError> {
    let path = format!("tools[{at}]");
    if tool["type"] != "function" {
        return Err(ApiError::field(format!("{path}.type"), "expected \"function\""));
    }
    let Some(name) = tool["function"]["name"].as_str() else {
        return Err(ApiError::field(format!("{path}.function.name"), "expected a string"));
    };
    let parameters = match &tool["function"]["parameters"] {
        Value::Null => json!({"type": "object", "properties": {}, "additionalProperties": false}),
        parameters => parameters.clone(),
    };
    Ok(Function { name: name.to_owned(), parameters })
}

fn parse_choice(value: Option<Value>) -> Result<ToolChoice, ApiError> {
    let expected = "expected \"none\", \"auto\", \"required\" or {\"type\": \"function\", \"function\": {\"name\": …}}";
    match value {
        None => Ok(ToolChoice::Auto),
        Some(Value::String(choice)) => match choice.as_str() {
            "none" => Ok(ToolChoice::None),
            "auto" => Ok(ToolChoice::Auto),
            "required" => Ok(ToolChoice::Required),
            _ => Err(ApiError::field("tool_choice", expected)),
        },
        Some(named) => match named["function"]["name"].as_str() {
            Some(name) if named["type"] == "function" => Ok(ToolChoice::Named(name.to_owned())),
            _ => Err(ApiError::field("tool_choice", expected)),
        },
    }
}

/// Returns a whole call, or a part of a streamed one, as JSON.
pub(crate) fn call_to_json(call: &CallDelta, streamed: bool) -> Value {
    let mut value = Map::new();
    let mut function = Map::new();
    if streamed {
        value.insert("index".into(), json!(call.index));
    }
    if let Some((id, name)) = &call.begin {
        value.insert("id".into(), json!(id));
        value.insert("type".into(), json!("function"));
        function.insert("name".into(), json!(name));
    }
    function.insert("arguments".into(), json!(call.arguments));
    value.insert("function".into(), Value::Object(function));
    Value::Object(value)
}
