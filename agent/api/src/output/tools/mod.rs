//! Tool calls in an answer's text, in the styles that models were trained on.

mod call;
mod forced;
mod gemma;
mod harmony;
mod llama;
mod mistral;
mod named;
mod nested;
mod objects;
mod python;
mod pythonic;
mod recipients;
mod scan;
mod style;
mod tagged;
mod typed;

use std::sync::Arc;

use serde_json::Value;

use call::CallEvent;
pub use forced::{Function, forced_call_grammar};
pub use style::ToolStyle;

use super::{OutputPiece, ToolFormat, push_piece};
use gemma::Gemma;
use harmony::Harmony;
use llama::Llama;
use mistral::Mistral;
use named::Named;
use nested::Nested;
use objects::Objects;
use pythonic::Pythonic;
use recipients::Recipients;
use style::Syntax;
use tagged::Tagged;

/// Parser of an answer's calls.
#[derive(Debug)]
pub(crate) struct ToolParser {
    style: Style,
    out: Calls,
}

#[derive(Debug)]
enum Style {
    Objects(Objects),
    Named(Named),
    Tagged(Tagged),
    Nested(Nested),
    Pythonic(Pythonic),
    Gemma(Gemma),
    Llama(Llama),
    Mistral(Mistral),
    Harmony(Harmony),
    Recipients(Recipients),
}

/// Calls a method of the parser that the style has.
macro_rules! of_style {
    ($style:expr, $method:ident($($argument:expr),*)) => {
        match $style {
            Style::Objects(style) => style.$method($($argument),*),
            Style::Named(style) => style.$method($($argument),*),
            Style::Tagged(style) => style.$method($($argument),*),
            Style::Nested(style) => style.$method($($argument),*),
            Style::Pythonic(style) => style.$method($($argument),*),
            Style::Gemma(style) => style.$method($($argument),*),
            Style::Llama(style) => style.$method($($argument),*),
            Style::Mistral(style) => style.$method($($argument),*),
            Style::Harmony(style) => style.$method($($argument),*),
            Style::Recipients(style) => style.$method($($argument),*),
        }
    };
}

impl ToolParser {
    /// Makes the parser. `has_reasoning` is true if a style that frames reasoning as well reports it apart from content.
    pub(crate) fn new(format: ToolFormat, has_reasoning: bool) -> Self {
        let style = match format.style.syntax() {
            Syntax::Objects(marks) => Style::Objects(Objects::new(marks)),
            Syntax::Named(spelling) => Style::Named(Named::new(spelling)),
            Syntax::Tagged(tags) => Style::Tagged(Tagged::new(tags)),
            Syntax::Nested => Style::Nested(Nested::default()),
            Syntax::Pythonic(marks) => Style::Pythonic(Pythonic::new(marks)),
            Syntax::Gemma(marks) => Style::Gemma(Gemma::new(marks)),
            Syntax::Llama => Style::Llama(Llama::default()),
            Syntax::Mistral => Style::Mistral(Mistral::default()),
            Syntax::Harmony(dialect) => Style::Harmony(Harmony::new(dialect, has_reasoning)),
            Syntax::Recipients => Style::Recipients(Recipients::default()),
        };
        let out = Calls {
            tools: format.tools,
            max_calls: format.max_calls,
            pretended: format.style.pretended_tools(),
            in_pretended: false,
            begun: 0,
            blank: String::new(),
        };
        Self { style, out }
    }

    pub(crate) fn push(&mut self, text: &str, pieces: &mut Vec<OutputPiece>) {
        for char in text.chars() {
            of_style!(&mut self.style, step(char, &mut self.out, pieces));
        }
    }

    pub(crate) fn finish(&mut self, pieces: &mut Vec<OutputPiece>) {
        of_style!(&mut self.style, finish(&mut self.out, pieces));
        self.out.finish(pieces);
    }
}

/// Output of the parsers. It numbers the calls, and drops white space before and after a call.
#[derive(Debug)]
struct Calls {
    tools: Arc<[Function]>,
    max_calls: usize,
    /// Tools that the model calls to say that it calls none.
    pretended: &'static [&'static str],
    /// Set within a call of such a tool.
    in_pretended: bool,
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

    /// Begins a call. `id` is the call's id if the model wrote one. A call of a pretended tool is left out, unless the
    /// client has a tool of that name.
    fn begin_call(&mut self, name: String, id: Option<String>, pieces: &mut Vec<OutputPiece>) {
        self.blank.clear();
        self.in_pretended = self.pretended.contains(&name.as_str()) && !self.knows(&name);
        if self.in_pretended {
            return;
        }
        self.begun += 1;
        if self.begun <= self.max_calls {
            push_piece(pieces, OutputPiece::Call { index: self.begun - 1, id, name });
        }
    }

    /// Adds to the arguments of the call that began last.
    fn add_arguments(&self, fragment: String, pieces: &mut Vec<OutputPiece>) {
        if (1..=self.max_calls).contains(&self.begun) && !self.in_pretended && !fragment.is_empty() {
            push_piece(pieces, OutputPiece::Arguments { index: self.begun - 1, fragment });
        }
    }

    fn add_event(&mut self, event: CallEvent, pieces: &mut Vec<OutputPiece>) {
        match event {
            CallEvent::Name(name) => self.begin_call(name, None, pieces),
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
