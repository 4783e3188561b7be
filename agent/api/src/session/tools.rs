//! Tools that an answer may call, or must: checked, and turned into the way that the answer is made and read.

use std::collections::HashSet;

use serde_json::Value;

use super::RequestError;
use crate::grammar::{Grammar, GrammarError};
use crate::model::Text;
use crate::output::ToolFormat;
use crate::output::tools::{Function, ToolStyle, forced};

const FIELD: &str = "tools";
const CHOICE: &str = "tool_choice";
/// OpenAI's bounds.
const MAX_TOOLS: usize = 128;
const MAX_NAME: usize = 64;

/// What a client says of tools.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ToolsInput {
    /// As sent: chat templates show them to the model.
    pub definitions: Vec<Value>,
    /// Of each definition.
    pub functions: Vec<Function>,
    pub choice: ToolChoice,
    /// An answer may have several calls.
    pub parallel: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ToolChoice {
    /// The model sees no tools.
    None,
    #[default]
    Auto,
    /// At least one call, and nothing else.
    Required,
    /// One call of this tool.
    Named(String),
}

/// # Errors
/// Names what is wrong with the tools, or why this model cannot be asked to call them so.
pub(crate) fn check(input: &ToolsInput, text: &Text) -> Result<(), RequestError> {
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
            "the model was not made to call tools, by its chat template: require a call with tool_choice, or, if it \
                 was, serve it with --tool-call-parser and a template that shows tools"
                .into(),
        ),
        _ => Ok(()),
    }
}

/// How calls in the answer are read; none where there is nothing to call.
pub(crate) fn format(input: &ToolsInput, text: &Text) -> Option<ToolFormat> {
    if input.functions.is_empty() || input.choice == ToolChoice::None {
        return None;
    }
    Some(ToolFormat {
        style: if input.choice == ToolChoice::Auto { style(text) } else { style(text).when_forced() },
        tools: input.functions.clone().into(),
        max_calls: if several(input) { usize::MAX } else { 1 },
    })
}

/// Where a call is required, what the answer must be.
///
/// # Errors
/// Which tool's parameters cannot be kept.
pub(crate) fn grammar(input: &ToolsInput, text: &Text) -> Result<Option<Grammar>, RequestError> {
    let functions: Vec<Function> = match &input.choice {
        ToolChoice::None | ToolChoice::Auto => return Ok(None),
        ToolChoice::Required => input.functions.clone(),
        ToolChoice::Named(name) => input.functions.iter().filter(|function| function.name == *name).cloned().collect(),
    };
    let grammar = forced(style(text), &functions, several(input), |mark| text.tokenizer().special_token_id(mark));
    grammar.map(Some).map_err(|error| match error {
        GrammarError::Invalid(reason) | GrammarError::Internal(reason) => RequestError::field(FIELD, reason),
    })
}

fn several(input: &ToolsInput) -> bool {
    input.parallel && !matches!(input.choice, ToolChoice::Named(_))
}

/// Whether the model was made to call tools, by its chat template.
fn calls_tools(text: &Text) -> bool {
    text.shows_tools() && text.tool_style.is_some()
}

/// A model that knows no calls is made to write them all the same.
fn style(text: &Text) -> ToolStyle {
    text.tool_style.unwrap_or(ToolStyle::Hermes)
}
