//! Tool calls in an answer's text, in the styles that models were trained on.

mod call;
mod forced;
mod python;
mod styles;
mod tagged;
mod typed;

use std::sync::Arc;

use serde_json::Value;

use call::CallEvent;
pub use forced::{Function, forced_call_grammar};

use super::{OutputPiece, ToolFormat, push_piece};
use styles::{Hermes, Llama, Mistral, Pythonic};
use tagged::Tagged;

/// A model's spelling of tool calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolStyle {
    /// Hermes and Qwen: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`.
    Hermes,
    /// Llama 3: `{"name": …, "parameters": {…}}`, perhaps after `<|python_tag|>`, several with `;` between them.
    Llama3Json,
    /// Mistral: `[TOOL_CALLS][{"name": …, "arguments": {…}}, …]`, newer `[TOOL_CALLS]name[ARGS]{…}`.
    Mistral,
    /// Llama 3.2 and 4: `[name(argument=value, …), …]`.
    Pythonic,
    /// Qwen3-Coder and Qwen3.5: `<tool_call><function=name><parameter=key>value</parameter>…</function></tool_call>`.
    Qwen3Coder,
}

impl ToolStyle {
    /// Finds the style whose marks a chat template contains. Returns `None` for a template with Hermes' marks but
    /// unknown tags between them (GLM).
    pub fn from_template(template: &str) -> Option<Self> {
        if ["<tool_call>", "<function=", "<parameter="].iter().all(|tag| template.contains(tag)) {
            return Some(Self::Qwen3Coder);
        }
        if ["<function=", "<arg_key>"].iter().any(|tag| template.contains(tag)) {
            return None;
        }
        let marks = [
            ("<tool_call>", Self::Hermes),
            ("[TOOL_CALLS]", Self::Mistral),
            ("func_name1(", Self::Pythonic),
            ("<|python_tag|>", Self::Llama3Json),
            ("\"parameters\": dictionary", Self::Llama3Json),
        ];
        marks.into_iter().find(|(mark, _)| template.contains(mark)).map(|(_, style)| style)
    }

    /// Names on the command line. vLLM's names are among them.
    pub const NAMES: &[(&str, Self)] = &[
        ("hermes", Self::Hermes),
        ("llama3_json", Self::Llama3Json),
        ("mistral", Self::Mistral),
        ("pythonic", Self::Pythonic),
        ("qwen3_coder", Self::Qwen3Coder),
    ];

    /// Returns the style of an answer that must call tools. A grammar cannot enforce a schema on values without quotes,
    /// so the grammar makes a model with such a style write Hermes' JSON.
    pub fn when_forced(self) -> Self {
        match self {
            Self::Qwen3Coder => Self::Hermes,
            other => other,
        }
    }

    pub fn marks(self) -> Vec<&'static str> {
        match self {
            Self::Hermes | Self::Qwen3Coder => vec![Hermes::BEGIN, Hermes::END],
            Self::Llama3Json => vec![Llama::TAG],
            Self::Mistral => vec![Mistral::BEGIN, Mistral::ARGUMENTS, Mistral::ID],
            Self::Pythonic => vec![Pythonic::START, Pythonic::END],
        }
    }
}

/// Parser of an answer's calls.
#[derive(Debug)]
pub(crate) struct ToolParser {
    style: Style,
    out: Calls,
}

#[derive(Debug)]
enum Style {
    Hermes(Hermes),
    Llama(Llama),
    Mistral(Mistral),
    Pythonic(Pythonic),
    Tagged(Tagged),
}

impl ToolParser {
    pub(crate) fn new(format: ToolFormat) -> Self {
        let style = match format.style {
            ToolStyle::Hermes => Style::Hermes(Hermes::default()),
            ToolStyle::Llama3Json => Style::Llama(Llama::default()),
            ToolStyle::Mistral => Style::Mistral(Mistral::default()),
            ToolStyle::Pythonic => Style::Pythonic(Pythonic::default()),
            ToolStyle::Qwen3Coder => Style::Tagged(Tagged::default()),
        };
        Self { style, out: Calls { tools: format.tools, max_calls: format.max_calls, begun: 0, blank: String::new() } }
    }

    pub(crate) fn push(&mut self, text: &str, pieces: &mut Vec<OutputPiece>) {
        for char in text.chars() {
            match &mut self.style {
                Style::Hermes(style) => style.step(char, &mut self.out, pieces),
                Style::Llama(style) => style.step(char, &mut self.out, pieces),
                Style::Mistral(style) => style.step(char, &mut self.out, pieces),
                Style::Pythonic(style) => style.step(char, &mut self.out, pieces),
                Style::Tagged(style) => style.step(char, &mut self.out, pieces),
            }
        }
    }

    pub(crate) fn finish(&mut self, pieces: &mut Vec<OutputPiece>) {
        match &mut self.style {
            Style::Hermes(style) => style.finish(&mut self.out, pieces),
            Style::Llama(style) => style.finish(&mut self.out, pieces),
            Style::Mistral(style) => style.finish(&mut self.out, pieces),
            Style::Pythonic(style) => style.finish(&mut self.out, pieces),
            Style::Tagged(style) => style.finish(&mut self.out, pieces),
        }
        self.out.finish(pieces);
    }
}

/// Output of the parsers. It numbers the calls, and drops white space before and after a call.
#[derive(Debug)]
struct Calls {
    tools: Arc<[Function]>,
    max_calls: usize,
    /// Calls begun so far.
    begun: usize,
    /// White space that is content only if more content follows.
    blank: String,
}

impl Calls {
    fn knows(&self, name: &str) -> bool {
        self.tools.iter().any(|known| known.name == name)
    }

    /// Returns the schema of a tool's arguments, or null for an unknown tool.
    fn parameters(&self, name: &str) -> &Value {
        self.tools.iter().find(|tool| tool.name == name).map_or(&Value::Null, |tool| &tool.parameters)
    }

    fn add_content(&mut self, text: &str, pieces: &mut Vec<OutputPiece>) {
        let end = text.trim_end().len();
        if end > 0 {
            self.blank.push_str(&text[..end]);
            push_piece(pieces, OutputPiece::Content(std::mem::take(&mut self.blank)));
        }
        self.blank.push_str(&text[end..]);
    }

    fn begin_call(&mut self, name: String, pieces: &mut Vec<OutputPiece>) {
        self.blank.clear();
        self.begun += 1;
        if self.begun <= self.max_calls {
            push_piece(pieces, OutputPiece::Call { index: self.begun - 1, name });
        }
    }

    /// Adds to the arguments of the call that began last.
    fn add_arguments(&self, fragment: String, pieces: &mut Vec<OutputPiece>) {
        if (1..=self.max_calls).contains(&self.begun) && !fragment.is_empty() {
            push_piece(pieces, OutputPiece::Arguments { index: self.begun - 1, fragment });
        }
    }

    fn add_event(&mut self, event: CallEvent, pieces: &mut Vec<OutputPiece>) {
        match event {
            CallEvent::Name(name) => self.begin_call(name, pieces),
            CallEvent::Arguments(fragment) => self.add_arguments(fragment, pieces),
        }
    }

    fn finish(&mut self, pieces: &mut Vec<OutputPiece>) {
        let blank = std::mem::take(&mut self.blank);
        if self.begun == 0 {
            push_piece(pieces, OutputPiece::Content(blank));
        }
    }
}
