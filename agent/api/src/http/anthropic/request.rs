//! The request of `/v1/messages`.

use serde_json::{Map, Value, json};

use super::super::error::ApiError;
use super::super::fields::Fields;
use super::super::format::{json_schema, take_grammar};
use super::super::object::{Object, Unsupported, refuse_unsupported};
use super::super::reasoning::{set_effort, set_thinking};
use super::super::tools::{read_flat_tools, relax_tools, take_sent_tools};
use super::messages::parse_messages;
use crate::grammar::Grammar;
use crate::session::{GenerateInput, PromptInput, ToolChoice, ToolsInput};
use crate::text::Conversation;

/// Fields that this endpoint knows and does not obey.
const UNSUPPORTED: [Unsupported; 12] = [
    Unsupported::taken("metadata"),
    Unsupported::taken("cache_control"),
    Unsupported::taken("service_tier"),
    Unsupported::taken("inference_geo"),
    Unsupported::taken("user_profile_id"),
    Unsupported::taken("workspace_id"),
    Unsupported::taken("betas"),
    Unsupported::refused("speed", &["\"standard\""], "leave it out"),
    Unsupported::refused("container", &[], "this server runs no code"),
    Unsupported::refused("mcp_servers", &["[]"], "call them yourself, and send the results of their tools"),
    Unsupported::refused(
        "context_management",
        &["{}", "{\"edits\":[]}", KEEP_ALL],
        "leave out what is too old yourself",
    ),
    Unsupported::refused("diagnostics", &["{}", "{\"previous_message_id\":null}"], "leave it out"),
];
/// Edits that keep everything.
const KEEP_ALL: &str = "{\"edits\":[{\"type\":\"clear_thinking_20251015\",\"keep\":\"all\"}]}";

const UNSUPPORTED_OF_TOOLS: [Unsupported; 5] = [
    Unsupported::taken("cache_control"),
    Unsupported::taken("eager_input_streaming"),
    Unsupported::refused("defer_loading", &["false"], "leave it out: the model sees all tools"),
    Unsupported::refused("allowed_callers", &["[]", "[\"direct\"]"], "leave it out: only the model calls tools"),
    Unsupported::refused("input_examples", &["[]"], "write them into the description"),
];

/// Reads the request. Returns true beside the input if the client wants a stream.
///
/// # Errors
/// Names the malformed field, or a field that asks for something that this server does not do.
pub(super) fn parse(mut fields: Fields, id: String) -> Result<(GenerateInput, bool), ApiError> {
    refuse_unsupported(&mut fields, &UNSUPPORTED)?;
    let request_id = fields.take_request_id().unwrap_or(id);
    let mut variables = fields.take_field("chat_template_kwargs")?.unwrap_or_default();
    take_thinking(&mut fields, &mut variables)?;
    let grammar = take_output(&mut fields, &mut variables)?;
    let system = fields.take_value("system");
    let messages = parse_messages(fields.take_value("messages"), system)?;
    let streaming = fields.take_field("stream")?.unwrap_or(false);
    let mut limits = fields.take_limits_by(&["max_tokens"]);
    limits.stop.extend(fields.take_field::<Vec<String>>("stop_sequences")?.unwrap_or_default());
    let shared = fields.take_shared(limits);
    let input = GenerateInput {
        prompt: PromptInput::Chat(Conversation { messages, variables, ..Conversation::default() }),
        tools: take_tools(&mut fields)?,
        grammar,
        request_id,
        ..shared
    };
    fields.refuse_rest()?;
    Ok((input, streaming))
}

/// Takes `thinking`, and sets the variables of the chat template that it asks for.
fn take_thinking(fields: &mut Fields, variables: &mut Map<String, Value>) -> Result<(), ApiError> {
    let Some(mut thinking) = Object::take(fields, "thinking")? else { return Ok(()) };
    match thinking.required::<String>("type")?.as_str() {
        "enabled" => {
            set_thinking(variables, true);
            // Seed-OSS keeps to this budget. Anthropic's clients must send one to any model.
            if let Some(budget) = thinking.field::<u32>("budget_tokens")? {
                variables.entry("thinking_budget").or_insert_with(|| json!(budget));
            }
        }
        "disabled" => set_thinking(variables, false),
        // The model decides, as its template does without this field.
        "adaptive" => {}
        kind => {
            let reason = format!("{kind:?} is not supported: send \"enabled\", \"disabled\" or \"adaptive\"");
            return Err(thinking.error("type", reason));
        }
    }
    let shown = [Unsupported::refused("display", &["\"summarized\""], "leave it out: the thinking is shown as it is")];
    thinking.refuse_unsupported(&shown)?;
    thinking.leave_rest(fields);
    Ok(())
}

/// Takes the form of the answer, with the name of the field that asks for it: `output_config`, its older name
/// `output_format`, or one of the fields of the other endpoints.
fn take_output(
    fields: &mut Fields,
    variables: &mut Map<String, Value>,
) -> Result<Option<(&'static str, Grammar)>, ApiError> {
    let mut asked = Vec::from_iter(take_grammar(fields)?);
    if let Some(format) = Object::take(fields, "output_format")? {
        asked.push(("output_format", read_format(format, fields)?));
    }
    if let Some(mut config) = Object::take(fields, "output_config")? {
        if let Some(effort) = config.field::<String>("effort")? {
            set_effort(variables, &config.field_path("effort"), &effort)?;
        }
        if let Some(format) = config.value("format") {
            let format = Object::new(config.field_path("format"), format, "an object with type and schema")?;
            asked.push(("output_config", read_format(format, fields)?));
        }
        config.leave_rest(fields);
    }
    match asked.get(1) {
        Some((second, _)) => Err(ApiError::field(*second, "an answer has one form: ask for one")),
        None => Ok(asked.pop()),
    }
}

fn read_format(mut format: Object, fields: &mut Fields) -> Result<Grammar, ApiError> {
    if format.required::<String>("type")? != "json_schema" {
        return Err(format.error("type", "expected \"json_schema\""));
    }
    let path = format.field_path("schema");
    let schema = format.value("schema").ok_or_else(|| format.error("schema", "missing: send the schema"))?;
    format.leave_rest(fields);
    Ok(json_schema(fields, &path, schema))
}

/// Takes the fields about tools.
fn take_tools(fields: &mut Fields) -> Result<ToolsInput, ApiError> {
    let sent = take_sent_tools(fields)?;
    let take_schema = |tool: &mut Object| Ok(Some(Value::Object(tool.required("input_schema")?)));
    let mut tools = read_flat_tools(fields, sent, check_tool, take_schema)?;
    let Some(mut choice) = Object::take(fields, "tool_choice")? else { return Ok(tools) };
    tools.choice = match choice.required::<String>("type")?.as_str() {
        "auto" => ToolChoice::Auto,
        "any" => ToolChoice::Required,
        "none" => ToolChoice::None,
        "tool" => ToolChoice::Named(choice.required("name")?),
        _ => return Err(choice.error("type", "expected \"auto\", \"any\", \"tool\" or \"none\"")),
    };
    tools.parallel = !choice.field("disable_parallel_tool_use")?.unwrap_or(false);
    choice.leave_rest(fields);
    relax_tools(fields, "tools[].input_schema", &mut tools);
    Ok(tools)
}

/// Refuses a tool that the client cannot run itself.
fn check_tool(tool: &mut Object) -> Result<(), ApiError> {
    if let Some(kind) = tool.field::<String>("type")?.filter(|kind| kind != "custom") {
        return Err(tool.error("type", format!("{kind:?} is not run by this server: send a tool with input_schema")));
    }
    tool.refuse_unsupported(&UNSUPPORTED_OF_TOOLS)
}
