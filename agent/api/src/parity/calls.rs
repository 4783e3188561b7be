//! Published templates beside the parsers: an answer with calls, as a template writes it for a later turn, is read back.

use serde_json::{Value, json};

use super::templates::{STYLES, parse, read, read_template, templates_folder};
use crate::output::reasoning::ReasoningStyle;
use crate::output::tools::{Function, ToolStyle};
use crate::output::{OutputFormat, OutputParser, OutputPiece, ToolFormat};

/// Templates that leave earlier calls out, or that refuse objects as arguments or any earlier call, as in transformers.
const WITHOUT_CALLS: &[&str] = &[
    "LFM2-8B-A1B",
    "LFM2.5-Instruct",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
    "ibm-granite-granite-3.3-2B-Instruct",
    "meetkai-functionary-medium-v3.2",
    "Kimi-K2-Instruct",
    "Kimi-K2-Thinking",
];

/// Each template writes calls that the parser of its style reads back, cut into pieces of any size.
#[test]
fn published_templates_write_calls_that_are_read_back() {
    let Some(folder) = templates_folder() else { return };
    let arguments =
        json!({"city": "Zürich \"<b>\"\n 5", "days": 2, "flag": true, "tags": ["a", "<b>"], "opts": {"x": 1.5}});
    let calls = [("get_weather", arguments), ("now", json!({}))];
    // Some templates show one call, or no content beside calls.
    let answers = [("I look.", &calls[..]), ("I look.", &calls[..1]), ("", &calls), ("", &calls[..1])];
    let mut wrong = Vec::new();
    for (style, name) in STYLES.iter().flat_map(|(style, names)| names.iter().map(move |name| (*style, name))) {
        let source = read_template(&folder, name);
        let read_back = |(content, calls)| read_back(style, &source, content, calls).err();
        let faults: Vec<String> = answers.into_iter().map_while(read_back).collect();
        if (faults.len() == answers.len()) != WITHOUT_CALLS.contains(name) {
            wrong.push(format!("{name}: {}", faults.join("\n")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Renders an answer with these calls, and parses it in pieces of each size.
///
/// # Errors
/// The template refuses the answer, or something else than the answer is read.
fn read_back(style: ToolStyle, source: &str, content: &str, calls: &[(&str, Value)]) -> Result<(), String> {
    let (prompt, answer) = render(source, &assistant(content, calls))?;
    let reasoning = ReasoningStyle::from_template(source);
    let format = OutputFormat {
        reasoning,
        reasoning_begun: reasoning.is_some_and(|style| prompt.trim_end().ends_with(style.begin_mark())),
        tools: Some(ToolFormat { style, tools: functions().into(), max_calls: usize::MAX }),
    };
    let length = answer.chars().count();
    let whole = parse_answer(&format, &answer, length);
    let values = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
    let read: Vec<(&str, Value)> = whole.calls.iter().map(|(name, text)| (name.as_str(), values(text))).collect();
    let has_thoughts = reasoning.is_none() || !answer.contains(THOUGHTS) || whole.reasoning == THOUGHTS;
    if read != calls || !whole.content.contains(content) || !has_thoughts {
        return Err(format!("{answer}\n  {whole:?}"));
    }
    match (1..length).find(|size| parse_answer(&format, &answer, *size) != whole) {
        Some(size) => Err(format!("in pieces of {size}: {answer}")),
        None => Ok(()),
    }
}

const THOUGHTS: &str = "Hm.";

/// Returns an assistant's message with reasoning, content and calls.
fn assistant(content: &str, calls: &[(&str, Value)]) -> Value {
    let call = |(name, arguments): &(&str, Value)| {
        let function = json!({"name": name, "arguments": arguments.to_string()});
        json!({"id": "call12345", "type": "function", "function": function})
    };
    let calls: Vec<Value> = calls.iter().map(call).collect();
    json!({"role": "assistant", "content": content, "reasoning_content": THOUGHTS, "tool_calls": calls})
}

/// Returns tools that every template shows. Command R's demands the descriptions and the schemas of
/// values.
fn functions() -> Vec<Function> {
    let weather = json!({
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "x"},
            "days": {"type": "integer", "description": "x"},
            "flag": {"type": "boolean", "description": "x"},
            "tags": {"type": "array", "items": {"type": "string"}, "description": "x"},
            "opts": {"type": "object", "additionalProperties": {"type": "number"}, "description": "x"},
        },
        "required": ["city"],
    });
    let nothing = json!({"type": "object", "properties": {}, "required": []});
    let functions = [("get_weather", weather), ("now", nothing)];
    functions.map(|(name, parameters)| Function { name: name.into(), parameters }).into()
}

/// Renders a message after a user's. Returns the end of the prompt before the message, and the message with the end of its
/// turn.
fn render(source: &str, message: &Value) -> Result<(String, String), String> {
    let user = json!({"role": "user", "content": "Weather?"});
    let tool = |Function { name, parameters }| json!({"type": "function", "function": {"name": name, "description": "x", "parameters": parameters}});
    let tools: Vec<Value> = functions().into_iter().map(tool).collect();
    let render = |source: &str, messages: Value| {
        let conversation = read(&json!({"messages": messages, "tools": tools}));
        parse(source)?.render(&conversation).map_err(|error| error.to_string())
    };
    let prompt = render(source, json!([user]))?;
    // An undefined variable is false.
    let turns = render(&source.replace("add_generation_prompt", "nothing"), json!([user, message]))?;
    let common = prompt.chars().zip(turns.chars()).take_while(|(a, b)| a == b).map(|(char, _)| char.len_utf8()).sum();
    // The prompt may end with a mark that the answer does not have. Then the common text ends before that mark.
    let end = if common == prompt.len() { common } else { prompt[..common].rfind(['>', '\n', ']']).unwrap() + 1 };
    Ok((turns[..end].to_owned(), turns[end..].to_owned()))
}

/// An answer as its parser reads it.
#[derive(Debug, Default, PartialEq)]
struct Answer {
    content: String,
    reasoning: String,
    calls: Vec<(String, String)>,
}

/// Parses an answer that comes in pieces of `size` characters.
fn parse_answer(format: &OutputFormat, text: &str, size: usize) -> Answer {
    let mut parser = OutputParser::new(format);
    let mut answer = Answer::default();
    let chars: Vec<char> = text.chars().collect();
    let mut pieces: Vec<OutputPiece> =
        chars.chunks(size).flat_map(|piece| parser.push(&piece.iter().collect::<String>())).collect();
    pieces.extend(parser.finish());
    for piece in pieces {
        match piece {
            OutputPiece::Content(text) => answer.content.push_str(&text),
            OutputPiece::Reasoning(text) => answer.reasoning.push_str(&text),
            OutputPiece::Call { name, .. } => answer.calls.push((name, String::new())),
            OutputPiece::Arguments { fragment, .. } => answer.calls.last_mut().unwrap().1.push_str(&fragment),
        }
    }
    answer
}
