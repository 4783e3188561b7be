//! Tools and tool calls as OpenAI spells them.

use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::fields::known::Scope;
use super::fields::{Fields, FromField};
use crate::output::tools::Function;
use crate::session::{CallDelta, ToolChoice, ToolsInput};

/// Takes the fields about tools.
pub(crate) fn take_tools(fields: &mut Fields) -> ToolsInput {
    let definitions: Vec<Value> = fields.read("tools").unwrap_or_default();
    let mut functions = Vec::with_capacity(definitions.len());
    for (at, tool) in definitions.iter().enumerate() {
        functions.extend(fields.noting(|fields| read_tool(fields, at, tool).map(Some)));
    }
    ToolsInput {
        functions,
        definitions,
        choice: fields.noting(take_choice),
        parallel: fields.read("parallel_tool_calls").unwrap_or(true),
    }
}

fn read_tool(fields: &mut Fields, at: usize, tool: &Value) -> Result<Function, ApiError> {
    let path = format!("tools[{at}]");
    let mut tool = fields.open(Scope::Tool, path.clone(), Map::from_field(tool.clone()).unwrap_or_default());
    if tool.take_value("type").is_none_or(|kind| kind != "function") {
        return Err(tool.fault("type", "expected \"function\""));
    }
    let function = tool.read("function").unwrap_or_default();
    let mut function = tool.open(Scope::Function, format!("{path}.function"), function);
    let Some(Value::String(name)) = function.take_value("name") else {
        return Err(function.fault("name", "expected a string"));
    };
    let without = || json!({"type": "object", "properties": {}, "additionalProperties": false});
    let parameters = function.take_value("parameters").unwrap_or_else(without);
    // The chat template shows the definition as the client sent it.
    function.take_value("description");
    tool.close(function);
    fields.close(tool);
    Ok(Function { name, parameters })
}

fn take_choice(fields: &mut Fields) -> Result<ToolChoice, ApiError> {
    const NAME: &str = "tool_choice";
    let expected = "expected \"none\", \"auto\", \"required\" or {\"type\": \"function\", \"function\": {\"name\": …}}";
    let wrong = || ApiError::field(NAME, expected);
    match fields.take_value(NAME) {
        None => Ok(ToolChoice::Auto),
        Some(Value::String(choice)) => match choice.as_str() {
            "none" => Ok(ToolChoice::None),
            "auto" => Ok(ToolChoice::Auto),
            "required" => Ok(ToolChoice::Required),
            _ => Err(wrong()),
        },
        Some(named) => {
            let mut named = fields.open(Scope::ToolChoice, NAME, Map::from_field(named).unwrap_or_default());
            let is_function = named.take_value("type").is_some_and(|kind| kind == "function");
            let function = named.take_value("function").unwrap_or_default();
            fields.close(named);
            let name = function["name"].as_str().filter(|_| is_function);
            name.map(|name| ToolChoice::Named(name.to_owned())).ok_or_else(wrong)
        }
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
