//! Tools that an answer may or must call: their checks, the grammar of the answer, and the format of its calls.

use std::collections::HashSet;

use serde_json::Value;

use super::RequestError;
use crate::grammar::{Grammar, GrammarError};
use crate::model::Text;
use crate::output::ToolFormat;
use crate::output::tools::{Function, ToolStyle, forced_call_grammar};

const FIELD: &str = "tools";
const CHOICE: &str = "tool_choice";
/// Most tools, as with OpenAI.
pub(crate) const MAX_TOOLS: usize = 128;
/// Longest name of a tool, in bytes, as with OpenAI.
const MAX_NAME: usize = 64;

/// A client's tools.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ToolsInput {
    /// Definitions as the client sent them. Chat templates show them to the model.
    pub definitions: Vec<Value>,
    /// Name and parameters of each definition.
    pub functions: Vec<Function>,
    pub choice: ToolChoice,
    /// Set if an answer may have several calls.
    pub parallel: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ToolChoice {
    /// The chat template does not show the tools to the model.
    None,
    /// The model decides.
    #[default]
    Auto,
    /// The answer is at least one call, and nothing else.
    Required,
    /// The answer is one call of this tool.
    Named(String),
}

/// Checks the tools against OpenAI's bounds and the model.
///
/// # Errors
/// Names the tool or field that is wrong, or gives the reason why this model cannot call tools in this way.
pub(crate) fn check_tools(input: &ToolsInput, text: &Text) -> Result<(), RequestError> {
    let refuse = |reason: String| Err(RequestError::field(FIELD, reason));
    if input.functions.len() > MAX_TOOLS {
        return refuse(format!("{} tools, more than {MAX_TOOLS}", input.functions.len()));
    }
    let mut seen = HashSet::new();
    for (at, function) in input.functions.iter().enumerate() {
        let name = &function.name;
        let legal = |char: char| char.is_ascii_alphanumeric() || "_-.".contains(char);
        if !(1..=MAX_NAME).contains(&name.len()) || !name.chars().all(legal) {
            return refuse(format!("tool {at} has no name of 1 to {MAX_NAME} letters, digits, `_`, `-` and `.`"));
        }
        if !seen.insert(name) {
            return refuse(format!("two tools are called {name:?}"));
        }
        if !function.parameters.is_object() {
            return refuse(format!("the parameters of {name:?} are no schema: send an object"));
        }
    }
    match &input.choice {
        ToolChoice::Required if input.functions.is_empty() => {
            Err(RequestError::field(CHOICE, "a call is required, and there are no tools: send tools"))
        }
        ToolChoice::Named(name) if !seen.contains(name) => {
            Err(RequestError::field(CHOICE, format!("no tool is called {name:?}")))
        }
        ToolChoice::Auto if !input.functions.is_empty() && !calls_tools(text) => refuse(
            "by its chat template, the model was not trained to call tools: require a call with tool_choice. If it was, \
                 serve it with --tool-call-parser and a template that shows tools"
                .into(),
        ),
        _ => Ok(()),
    }
}

/// Returns the format of the answer's calls. Returns `None` if there is nothing to call, unless the model's style has marks
/// around content as well.
pub(crate) fn call_format(input: &ToolsInput, text: &Text) -> Option<ToolFormat> {
    if input.functions.is_empty() || input.choice == ToolChoice::None {
        let framed = text.tool_style.filter(|style| style.frames_content());
        return framed.map(|style| ToolFormat { style, tools: Vec::new().into(), max_calls: 0 });
    }
    Some(ToolFormat {
        style: if input.choice == ToolChoice::Auto { style(text) } else { style(text).when_forced() },
        tools: input.functions.clone().into(),
        max_calls: if allows_several_calls(input) { usize::MAX } else { 1 },
    })
}

/// Returns the grammar of an answer that must call a tool.
///
/// # Errors
/// Names a tool whose parameters no grammar can enforce.
pub(crate) fn call_grammar(input: &ToolsInput, text: &Text) -> Result<Option<Grammar>, RequestError> {
    let functions: Vec<Function> = match &input.choice {
        ToolChoice::None | ToolChoice::Auto => return Ok(None),
        ToolChoice::Required => input.functions.clone(),
        ToolChoice::Named(name) => input.functions.iter().filter(|function| function.name == *name).cloned().collect(),
    };
    let grammar = forced_call_grammar(style(text), &functions, allows_several_calls(input), |mark| {
        text.tokenizer().special_token_id(mark)
    });
    grammar.map(Some).map_err(|error| match error {
        GrammarError::Invalid(reason) | GrammarError::Internal(reason) => RequestError::field(FIELD, reason),
    })
}

fn allows_several_calls(input: &ToolsInput) -> bool {
    input.parallel && !matches!(input.choice, ToolChoice::Named(_))
}

/// Returns true if the model was trained to call tools, judged by its chat template.
fn calls_tools(text: &Text) -> bool {
    text.shows_tools() && text.tool_style.is_some()
}

/// Returns the style of the model's calls. For a model without a style of its own, the grammar demands Hermes' style.
fn style(text: &Text) -> ToolStyle {
    text.tool_style.unwrap_or(ToolStyle::Hermes)
}
