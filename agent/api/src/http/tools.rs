//! Tools and tool calls as OpenAI spells them, and the tools of endpoints that spell them flat.

use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::fields::known::Scope;
use super::fields::{Fields, FromField};
use super::format::relax_schema;
use super::object::Object;
use crate::output::tools::Function;
use crate::session::{CallDelta, ToolChoice, ToolsInput};

const CHOICE: &str = "tool_choice";
const EXPECTED: &str = "expected \"none\", \"auto\", \"required\", {\"type\": \"function\", \"function\": {\"name\": …}} or \
                        {\"type\": \"allowed_tools\", \"allowed_tools\": {\"mode\": …, \"tools\": […]}}";

/// Takes the fields about tools.
pub(crate) fn take_tools(fields: &mut Fields) -> ToolsInput {
    let mut definitions: Vec<Value> = fields.read("tools").unwrap_or_default();
    let mut functions = Vec::with_capacity(definitions.len());
    for (at, tool) in definitions.iter().enumerate() {
        functions.extend(fields.noting(|fields| read_tool(fields, at, tool).map(Some)));
    }
    let Choice { choice, allowed } = fields.noting(take_choice);
    if let Some(allowed) = allowed {
        for name in allowed.iter().filter(|name| functions.iter().all(|function| function.name != **name)) {
            let fault = fields.fault(CHOICE, format!("no tool is called {name:?}"));
            fields.note(Err::<(), _>(fault));
        }
        // The model sees only the tools that it may call.
        functions.retain(|function| allowed.contains(&function.name));
        definitions
            .retain(|tool| tool["function"]["name"].as_str().is_some_and(|name| allowed.iter().any(|a| a == name)));
    }
    let parallel = fields.read("parallel_tool_calls").unwrap_or(true);
    let mut tools = ToolsInput { functions, definitions, choice, parallel };
    relax_tools(fields, "tools[].function.parameters", &mut tools);
    tools
}

/// Lets the parameters of calls that a grammar enforces be enforced as far as they can be, and names the rest.
pub(super) fn relax_tools(fields: &mut Fields, path: &str, tools: &mut ToolsInput) {
    if !matches!(tools.choice, ToolChoice::None | ToolChoice::Auto) {
        for function in &mut tools.functions {
            relax_schema(fields, path, &mut function.parameters);
        }
    }
}

/// Takes the list of tools as the client sent it.
///
/// # Errors
/// The field is no list.
pub(super) fn take_sent_tools(fields: &mut Fields) -> Result<Vec<Value>, ApiError> {
    match fields.take_value("tools") {
        None => Ok(Vec::new()),
        Some(Value::Array(tools)) => Ok(tools),
        Some(_) => Err(ApiError::field("tools", "expected a list of tools")),
    }
}

/// Reads tools that have the fields of their function beside their type. Chat templates know the definitions as OpenAI's
/// chat completions spell them. `check` refuses a tool that this server cannot offer, and `take_parameters` takes the
/// schema of its parameters.
///
/// # Errors
/// Names the malformed field, or a tool that `check` refuses.
pub(super) fn read_flat_tools(
    fields: &mut Fields,
    sent: Vec<Value>,
    check: impl Fn(&mut Object) -> Result<(), ApiError>,
    take_parameters: impl Fn(&mut Object) -> Result<Option<Value>, ApiError>,
) -> Result<ToolsInput, ApiError> {
    let mut tools = ToolsInput { parallel: true, ..ToolsInput::default() };
    for (at, tool) in sent.into_iter().enumerate() {
        let mut tool = Object::new(format!("tools[{at}]"), tool, "a tool")?;
        check(&mut tool)?;
        let name: String = tool.required("name")?;
        let mut definition = json!({"name": name});
        if let Some(description) = tool.field::<String>("description")? {
            definition["description"] = json!(description);
        }
        let parameters = take_parameters(&mut tool)?;
        if let Some(parameters) = &parameters {
            definition["parameters"] = parameters.clone();
        }
        if let Some(strict) = tool.field::<bool>("strict")? {
            definition["strict"] = json!(strict);
        }
        tool.leave_rest(fields);
        tools.definitions.push(json!({"type": "function", "function": definition}));
        tools.functions.push(make_function(name, parameters));
    }
    Ok(tools)
}

/// Choice among tools, and the names of the allowed tools if they are fewer than all.
#[derive(Default)]
struct Choice {
    choice: ToolChoice,
    allowed: Option<Vec<String>>,
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
    let parameters = function.take_value("parameters");
    // The chat template shows the definition as the client sent it.
    function.take_value("description");
    tool.close(function);
    fields.close(tool);
    Ok(make_function(name, parameters))
}

/// Returns a function. A function without parameters takes none.
fn make_function(name: String, parameters: Option<Value>) -> Function {
    let without = || json!({"type": "object", "properties": {}, "additionalProperties": false});
    Function { name, parameters: parameters.unwrap_or_else(without) }
}

fn take_choice(fields: &mut Fields) -> Result<Choice, ApiError> {
    match fields.take_value(CHOICE) {
        None => Ok(Choice::default()),
        Some(Value::String(choice)) => read_mode(&choice).map(|choice| Choice { choice, allowed: None }),
        Some(choice) => {
            let mut choice = fields.open(Scope::ToolChoice, CHOICE, Map::from_field(choice).unwrap_or_default());
            let read = read_choice(&mut choice);
            fields.close(choice);
            read
        }
    }
}

/// Returns the choice that a word asks for.
///
/// # Errors
/// The word is not known.
pub(super) fn read_mode(mode: &str) -> Result<ToolChoice, ApiError> {
    match mode {
        "none" => Ok(ToolChoice::None),
        "auto" => Ok(ToolChoice::Auto),
        // Mistral and Anthropic call it `any`.
        "required" | "any" => Ok(ToolChoice::Required),
        _ => Err(ApiError::field(CHOICE, EXPECTED)),
    }
}

fn read_choice(choice: &mut Fields) -> Result<Choice, ApiError> {
    let name = |tool: &Value| tool["function"]["name"].as_str().or(tool["name"].as_str()).map(str::to_owned);
    let kind = choice.take_value("type").unwrap_or_default();
    match kind.as_str() {
        Some("function") => {
            let function = choice.take_value("function").unwrap_or_default();
            // OpenAI's Responses API has the name one level higher.
            let named = function["name"].as_str().map(str::to_owned).or(choice.read("name"));
            let named = named.ok_or_else(|| ApiError::field(CHOICE, EXPECTED))?;
            Ok(Choice { choice: ToolChoice::Named(named), allowed: None })
        }
        Some("allowed_tools") => {
            let Some(allowed) = choice.take_field::<Map<String, Value>>("allowed_tools")? else {
                return Err(choice.fault("allowed_tools", "expected an object with mode and tools"));
            };
            let mut allowed = choice.open(Scope::AllowedTools, format!("{CHOICE}.allowed_tools"), allowed);
            let mode: Option<String> = allowed.take_field("mode")?;
            let tools: Vec<Value> = allowed.take_field("tools")?.unwrap_or_default();
            let names: Option<Vec<String>> = tools.iter().map(name).collect();
            let names = names.filter(|names| !names.is_empty());
            let names = names.ok_or_else(|| allowed.fault("tools", "expected a list of functions with their names"))?;
            choice.close(allowed);
            Ok(Choice { choice: read_mode(mode.as_deref().unwrap_or("auto"))?, allowed: Some(names) })
        }
        Some(mode) => read_mode(mode).map(|choice| Choice { choice, allowed: None }),
        None => Err(ApiError::field(CHOICE, EXPECTED)),
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
