//! The request of `/v1/responses`.

use serde_json::{Map, Value, json};

use super::super::error::ApiError;
use super::super::fields::{Fields, take_top};
use super::super::format::{json_schema, take_grammar};
use super::super::object::{Object, Unsupported, refuse_unsupported};
use super::super::reasoning::set_effort;
use super::super::tools::{read_flat_tools, read_mode, relax_tools, take_sent_tools};
use super::input::parse_input;
use crate::grammar::Grammar;
use crate::model::Text;
use crate::session::{GenerateInput, PromptInput, SamplingInput, ToolChoice, ToolsInput};
use crate::text::Conversation;

/// Fields that this endpoint knows and does not obey.
const UNSUPPORTED: [Unsupported; 16] = [
    Unsupported::taken("store"),
    Unsupported::taken("service_tier"),
    Unsupported::taken("prompt_cache_retention"),
    Unsupported::taken("prompt_cache_options"),
    // These are about built-in tools and images. A request can ask for neither.
    Unsupported::taken("max_tool_calls"),
    Unsupported::taken("image"),
    Unsupported::refused("background", &["false"], "wait for the answer, or stream it"),
    Unsupported::refused("background_options", &["{}"], "wait for the answer, or stream it"),
    Unsupported::refused("previous_response_id", &[], NOT_STORED),
    Unsupported::refused("conversation", &[], NOT_STORED),
    Unsupported::refused("prompt", &[], "nothing is stored here: send the text in instructions and input"),
    Unsupported::refused("truncation", &["\"disabled\""], "leave out the oldest items yourself"),
    Unsupported::refused("context_management", &["[]"], "leave out the oldest items yourself"),
    Unsupported::refused("moderation", &[], "leave it out"),
    Unsupported::refused("access_programs", &["{}", "{\"cyber\":\"standard\"}"], "leave it out"),
    Unsupported::refused("verbosity", &["\"medium\""], "ask for it in a message"),
];
const NOT_STORED: &str = "nothing is stored here: send the items of the conversation in input";

const UNSUPPORTED_OF_TEXT: [Unsupported; 1] =
    [Unsupported::refused("verbosity", &["\"medium\""], "ask for it in a message")];

const UNSUPPORTED_OF_REASONING: [Unsupported; 2] = [
    Unsupported::refused("mode", &["\"standard\""], "leave it out"),
    Unsupported::refused("context", &["\"auto\""], "send the items of reasoning that the model shall see"),
];

const UNSUPPORTED_OF_TOOLS: [Unsupported; 4] = [
    Unsupported::refused("async", &["false"], "leave it out"),
    Unsupported::refused("defer_loading", &["false"], "leave it out: the model sees all tools"),
    Unsupported::refused("allowed_callers", &["[]", "[\"direct\"]"], "leave it out: only the model calls tools"),
    Unsupported::refused("output_schema", &["{}"], "describe the output in the description"),
];

/// Log-probabilities of the text, in `include`.
const INCLUDE_LOGPROBS: &str = "message.output_text.logprobs";
/// What else `include` may have. Reasoning comes in plain text, so a client needs no encrypted one. The others are about
/// tools and images that no request can have.
const INCLUDABLE: [&str; 8] = [
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "message.output_text.annotations",
];

/// A request.
pub(super) struct ResponseRequest {
    pub input: GenerateInput,
    pub streaming: bool,
    pub shape: Shape,
}

/// Parts of the request that the response follows.
pub(super) struct Shape {
    /// Fields that the response repeats.
    pub repeated: Map<String, Value>,
    /// Set if the reasoning is to be told as its own summary.
    pub summary: bool,
    /// Set if the client asked for log probabilities.
    pub logprobs: bool,
    /// Set if log-probabilities name tokens by their ids.
    pub by_id: bool,
}

/// Reads the request.
///
/// # Errors
/// Names the malformed field, or a field that asks for something that this server does not do.
pub(super) fn parse(mut fields: Fields, id: String, text: &Text) -> Result<ResponseRequest, ApiError> {
    refuse_unsupported(&mut fields, &UNSUPPORTED)?;
    let request_id = fields.take_request_id().unwrap_or(id);
    let mut repeated = take_repeated(&mut fields)?;
    let instructions: Option<String> = fields.take_field("instructions")?;
    repeated.insert("instructions".into(), json!(instructions));
    let mut variables = fields.take_field("chat_template_kwargs")?.unwrap_or_default();
    let (reasoning, summary) = take_reasoning(&mut fields, &mut variables)?;
    repeated.insert("reasoning".into(), reasoning);
    let messages = parse_input(fields.take_value("input"), instructions)?;
    let tools = take_tools(&mut fields, &mut repeated)?;
    let streaming = fields.take_streaming().is_some();
    let logprobs = take_logprobs(&mut fields)?;
    repeated.insert("top_logprobs".into(), json!(logprobs.unwrap_or(0)));
    let by_id = fields.read("return_tokens_as_token_ids").unwrap_or_default();
    let limits = fields.take_limits_by(&["max_output_tokens"]);
    let shared = fields.take_shared(limits);
    repeated.insert("max_output_tokens".into(), json!(shared.limits.max_tokens));
    repeat_sampling(&shared.sampling, text, &mut repeated);
    let grammar = take_form(&mut fields, &mut repeated)?;
    let input = GenerateInput {
        prompt: PromptInput::Chat(Conversation { messages, variables, ..Conversation::default() }),
        tools,
        logprobs,
        grammar,
        request_id,
        ..shared
    };
    fields.refuse_rest()?;
    Ok(ResponseRequest { input, streaming, shape: Shape { repeated, summary, logprobs: logprobs.is_some(), by_id } })
}

/// Takes the fields that have no effect but that they come back.
fn take_repeated(fields: &mut Fields) -> Result<Map<String, Value>, ApiError> {
    let mut repeated = Map::new();
    let metadata: Option<Map<String, Value>> = fields.take_field("metadata")?;
    repeated.insert("metadata".into(), Value::Object(metadata.unwrap_or_default()));
    for name in ["user", "safety_identifier", "prompt_cache_key"] {
        repeated.insert(name.into(), json!(fields.take_field::<String>(name)?));
    }
    Ok(repeated)
}

fn repeat_sampling(sampling: &SamplingInput, text: &Text, repeated: &mut Map<String, Value>) {
    let defaults = &text.sampling_defaults;
    let values =
        [("temperature", sampling.temperature.or(defaults.temperature)), ("top_p", sampling.top_p.or(defaults.top_p))];
    for (name, value) in values {
        // The shortest spelling of the single is the one that the client wrote.
        let spelled = value.unwrap_or(1.0).to_string();
        repeated.insert(name.into(), serde_json::from_str(&spelled).unwrap_or_default());
    }
}

/// Takes `reasoning`, and sets the variables of the chat template that it asks for. Returns `reasoning` as the response
/// repeats it, and true if the client wants a summary.
fn take_reasoning(fields: &mut Fields, variables: &mut Map<String, Value>) -> Result<(Value, bool), ApiError> {
    let (mut effort, mut summary) = (None, None);
    if let Some(mut reasoning) = Object::take(fields, "reasoning")? {
        reasoning.refuse_unsupported(&UNSUPPORTED_OF_REASONING)?;
        effort = reasoning.field::<String>("effort")?;
        if let Some(effort) = &effort {
            set_effort(variables, &reasoning.field_path("effort"), effort)?;
        }
        for name in ["generate_summary", "summary"] {
            let asked: Option<String> = reasoning.field(name)?;
            if asked.as_ref().is_some_and(|asked| !["auto", "concise", "detailed"].contains(&asked.as_str())) {
                return Err(reasoning.error(name, "expected \"auto\", \"concise\" or \"detailed\""));
            }
            summary = asked.or(summary);
        }
        reasoning.leave_rest(fields);
    }
    let wanted = summary.is_some();
    Ok((json!({"effort": effort, "summary": summary}), wanted))
}

/// Takes the number of most likely tokens to report. Returns `None` if the client wants no log probabilities.
fn take_logprobs(fields: &mut Fields) -> Result<Option<u32>, ApiError> {
    let include: Vec<String> = fields.take_field("include")?.unwrap_or_default();
    if let Some(other) = include.iter().find(|name| *name != INCLUDE_LOGPROBS && !INCLUDABLE.contains(&name.as_str())) {
        return Err(ApiError::field(
            "include",
            format!("{other:?} is not known: {INCLUDE_LOGPROBS:?} has an effect here"),
        ));
    }
    let top = take_top(fields, "top_logprobs")?.unwrap_or(0);
    Ok((top > 0 || include.iter().any(|name| name == INCLUDE_LOGPROBS)).then_some(top))
}

/// Takes the form of the answer, with the name of the field that asks for it.
fn take_form(
    fields: &mut Fields,
    repeated: &mut Map<String, Value>,
) -> Result<Option<(&'static str, Grammar)>, ApiError> {
    let other = take_grammar(fields)?;
    let (grammar, format) = take_text(fields)?;
    repeated.insert("text".into(), json!({"format": format}));
    match (grammar, other) {
        (Some(_), Some((second, _))) => Err(ApiError::field(second, "an answer has one form: ask for one")),
        (Some(grammar), None) => Ok(Some(("text", grammar))),
        (None, other) => Ok(other),
    }
}

/// Takes `text`. Returns the grammar that it asks for, and its format as the client sent it.
fn take_text(fields: &mut Fields) -> Result<(Option<Grammar>, Value), ApiError> {
    let plain = || json!({"type": "text"});
    let Some(mut text) = Object::take(fields, "text")? else { return Ok((None, plain())) };
    text.refuse_unsupported(&UNSUPPORTED_OF_TEXT)?;
    let (path, sent) = (text.field_path("format"), text.value("format"));
    text.leave_rest(fields);
    let Some(sent) = sent else { return Ok((None, plain())) };
    let mut format = Object::new(path, sent.clone(), "an object with type")?;
    let kind: String = format.required("type")?;
    let grammar = match kind.as_str() {
        "text" => None,
        "json_object" => Some(Grammar::JsonObject),
        "json_schema" => {
            let schema = format.value("schema").ok_or_else(|| format.error("schema", "missing: send the schema"))?;
            format.field::<String>("name")?;
            format.field::<String>("description")?;
            format.field::<bool>("strict")?;
            Some(json_schema(fields, "text.format.schema", schema))
        }
        _ => return Err(format.error("type", "expected \"text\", \"json_object\" or \"json_schema\"")),
    };
    format.leave_rest(fields);
    Ok((grammar, sent))
}

/// Takes the fields about tools.
fn take_tools(fields: &mut Fields, repeated: &mut Map<String, Value>) -> Result<ToolsInput, ApiError> {
    let sent = take_sent_tools(fields)?;
    repeated.insert("tools".into(), json!(sent));
    let mut tools = read_flat_tools(fields, sent, check_tool, |tool| Ok(tool.value("parameters")))?;
    if let Some(parallel) = fields.take_field("parallel_tool_calls")? {
        tools.parallel = parallel;
    }
    repeated.insert("parallel_tool_calls".into(), json!(tools.parallel));
    let choice = fields.take_value("tool_choice").unwrap_or_else(|| json!("auto"));
    repeated.insert("tool_choice".into(), choice.clone());
    choose_tools(&mut tools, choice)?;
    relax_tools(fields, "tools[].parameters", &mut tools);
    Ok(tools)
}

/// Refuses a tool that is no function.
fn check_tool(tool: &mut Object) -> Result<(), ApiError> {
    let kind: String = tool.required("type")?;
    if kind != "function" {
        return Err(tool.error("type", format!("{kind:?} is not run by this server: send a function")));
    }
    tool.refuse_unsupported(&UNSUPPORTED_OF_TOOLS)
}

/// Applies `tool_choice`.
fn choose_tools(tools: &mut ToolsInput, choice: Value) -> Result<(), ApiError> {
    const NAME: &str = "tool_choice";
    let expected = "\"none\", \"auto\", \"required\", {\"type\": \"function\", \"name\": …} or \
                    {\"type\": \"allowed_tools\", \"mode\": …, \"tools\": […]}";
    let wrong = || ApiError::field(NAME, format!("expected {expected}"));
    if let Value::String(word) = &choice {
        tools.choice = read_mode(word).map_err(|_| wrong())?;
        return Ok(());
    }
    let mut choice = Object::new(NAME, choice, expected)?;
    match choice.required::<String>("type")?.as_str() {
        "function" => tools.choice = ToolChoice::Named(choice.required("name")?),
        "allowed_tools" => {
            let mode: String = choice.required("mode")?;
            tools.choice = match mode.as_str() {
                "auto" => ToolChoice::Auto,
                "required" => ToolChoice::Required,
                _ => return Err(choice.error("mode", "expected \"auto\" or \"required\"")),
            };
            let Some(Value::Array(allowed)) = choice.value("tools") else {
                return Err(choice.error("tools", "expected a list of tools, each with type and name"));
            };
            allow_tools(tools, &allowed, &choice)?;
        }
        _ => return Err(wrong()),
    }
    Ok(())
}

/// Keeps the allowed tools. The model sees no others, so that it calls no others.
fn allow_tools(tools: &mut ToolsInput, allowed: &[Value], choice: &Object) -> Result<(), ApiError> {
    let names: Vec<&str> = allowed.iter().filter_map(|tool| tool["name"].as_str()).collect();
    let known = |name: &&str| tools.functions.iter().any(|function| function.name == **name);
    if names.len() < allowed.len() || !names.iter().all(known) {
        return Err(choice.error("tools", "each must have the name of one of the tools"));
    }
    let both = tools.definitions.drain(..).zip(tools.functions.drain(..));
    (tools.definitions, tools.functions) =
        both.filter(|(_, function)| names.contains(&function.name.as_str())).collect();
    Ok(())
}
