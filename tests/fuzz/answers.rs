//! A model's answers, cut anywhere, and the forms that clients ask of answers.

use lockstep_api::{
    Function, Grammar, GrammarError, Grammars, Guide, OutputFormat, OutputParser, OutputPiece, ReasoningStyle,
    Tokenizer, ToolFormat, ToolStyle, forced_call_grammar,
};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, OnceLock};

use lockstep_tests::random::Random;
use serde_json::{Value, json};

use crate::files::{read_tokenizer, small_model};

/// Styles of reasoning before calls in any style, and those that are tried without calls.
const WITH_CALLS: &[Option<ReasoningStyle>] = &[None, Some(ReasoningStyle::Think)];
const WITHOUT_CALLS: &[Option<ReasoningStyle>] = &[
    Some(ReasoningStyle::Mistral),
    Some(ReasoningStyle::Seed),
    Some(ReasoningStyle::Command),
    Some(ReasoningStyle::Gemma4),
    Some(ReasoningStyle::KimiK3),
    Some(ReasoningStyle::Harmony),
];
/// Tokens that a walk takes through a grammar.
const TOKENS: usize = 24;
/// Id of the token that ends an answer.
const END: u32 = 2;

/// Parses an answer in every style. The pieces must not depend on where the answer is cut.
pub fn output(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for format in formats() {
        let whole = parse_pieces(&format, std::iter::once(text.as_ref()));
        let mut random = seed_from(bytes);
        assert_eq!(parse_pieces(&format, cut_anywhere(&text, &mut random).into_iter()), whole, "by {format:?}");
        assert_order(&whole);
    }
}

fn formats() -> Vec<OutputFormat> {
    let styles = ToolStyle::NAMES.iter().map(|(_, style)| *style);
    let tools = styles.map(|style| Some(ToolFormat { style, tools: functions().into(), max_calls: 3 })).chain([None]);
    let pairs = tools.flat_map(|tools| WITH_CALLS.iter().map(move |reasoning| (*reasoning, tools.clone())));
    let pairs = pairs.chain(WITHOUT_CALLS.iter().map(|reasoning| (*reasoning, None)));
    let with = |(reasoning, tools): (Option<ReasoningStyle>, Option<ToolFormat>)| {
        [false, true].map(|begun| OutputFormat { reasoning, reasoning_begun: begun, tools: tools.clone() })
    };
    pairs.flat_map(with).collect()
}

fn functions() -> [Function; 2] {
    let parameters = json!({"properties": {
        "a": {"type": ["integer", "null"]}, "b": {"type": "boolean"}, "c": {"type": "number"}, "d": {"type": "array"},
        "e": {"anyOf": [{"type": "object"}, {"$ref": "#/properties/e"}]}, "city": {"type": "string"},
    }});
    ["f", "get_weather"].map(|name| Function { name: name.into(), parameters: parameters.clone() })
}

/// Parses an answer and joins the pieces of one kind.
fn parse_pieces<'a>(format: &OutputFormat, parts: impl Iterator<Item = &'a str>) -> Vec<OutputPiece> {
    let mut parser = OutputParser::new(format);
    let mut pieces: Vec<OutputPiece> = parts.flat_map(|part| parser.push(part)).collect();
    pieces.extend(parser.finish());
    pieces.into_iter().fold(Vec::new(), join_piece)
}

fn join_piece(mut pieces: Vec<OutputPiece>, piece: OutputPiece) -> Vec<OutputPiece> {
    match (pieces.last_mut(), piece) {
        (Some(OutputPiece::Content(last)), OutputPiece::Content(more))
        | (Some(OutputPiece::Reasoning(last)), OutputPiece::Reasoning(more)) => {
            last.push_str(&more);
        }
        (Some(OutputPiece::Arguments { index, fragment }), OutputPiece::Arguments { index: same, fragment: more })
            if *index == same =>
        {
            fragment.push_str(&more);
        }
        (_, piece) => pieces.push(piece),
    }
    pieces
}

/// Asserts that calls are counted from 0, and that arguments follow the call that they belong to.
fn assert_order(pieces: &[OutputPiece]) {
    let mut calls = 0;
    for piece in pieces {
        match piece {
            OutputPiece::Call { index, .. } => {
                assert_eq!(*index, calls);
                calls += 1;
            }
            OutputPiece::Arguments { index, .. } => assert_eq!(*index + 1, calls),
            OutputPiece::Content(_) | OutputPiece::Reasoning(_) => {}
        }
    }
    assert!(calls <= 3);
}

fn cut_anywhere<'a>(text: &'a str, random: &mut Random) -> Vec<&'a str> {
    let (mut parts, mut rest) = (Vec::new(), text);
    while !rest.is_empty() {
        let most = 1 + random.below(12);
        let end = (most..=rest.len()).find(|end| rest.is_char_boundary(*end)).unwrap_or(rest.len());
        let (part, after) = rest.split_at(end);
        parts.push(part);
        rest = after;
    }
    parts
}

/// Compiles a grammar and walks through it. The first line of the input names the grammar's language.
pub fn grammar(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (kind, source) = text.split_once('\n').unwrap_or(("lark", &text));
    let grammar = match kind {
        "schema" => serde_json::from_str(source).map(Grammar::JsonSchema).map_err(|error| invalid(&error)),
        "regex" => Ok(Grammar::Regex(source.into())),
        "choice" => Ok(Grammar::Choice(source.lines().map(str::to_owned).collect())),
        "tools" => forced_calls(source, bytes.len()),
        _ => Ok(Grammar::Lark(source.into())),
    };
    if let Ok(guide) = grammar.and_then(|grammar| grammars().compile(&grammar)) {
        walk_grammar(guide, &mut seed_from(bytes));
    }
}

fn invalid(error: &serde_json::Error) -> GrammarError {
    GrammarError::Invalid(error.to_string())
}

/// Compiles a list of tools, objects with `name` and `parameters`, to forced calls in one of the styles.
fn forced_calls(source: &str, number: usize) -> Result<Grammar, GrammarError> {
    let tools: Vec<Value> = serde_json::from_str(source).map_err(|error| invalid(&error))?;
    let function = |tool: &Value| Function {
        name: tool["name"].as_str().unwrap_or("f").to_owned(),
        parameters: tool["parameters"].clone(),
    };
    let functions: Vec<Function> = tools.iter().map(function).collect();
    forced_call_grammar(ToolStyle::NAMES[number % ToolStyle::NAMES.len()].1, &functions, number % 2 == 1, |_| None)
}

fn grammars() -> &'static Grammars {
    static GRAMMARS: OnceLock<Grammars> = OnceLock::new();
    GRAMMARS.get_or_init(|| {
        let tokenizer = Tokenizer::from_json(&read_tokenizer("llama2")).expect("a tokenizer");
        Grammars::new(Arc::new(tokenizer), small_model().vocab_size, Arc::new([END]))
    })
}

/// Chooses allowed tokens at random, as a model would.
fn walk_grammar(mut guide: Guide, random: &mut Random) {
    for _ in 0..TOKENS {
        let Ok(allowed) = guide.allowed() else { return };
        let Some(allowed) = allowed else { return };
        let ids: Vec<u32> = (0..small_model().vocab_size).filter(|id| allowed.contains(*id)).collect();
        assert!(!ids.is_empty(), "the grammar allows no token");
        let id = ids[random.below(ids.len())];
        if id == END || guide.advance(id).unwrap_or(true) {
            return;
        }
    }
}

fn seed_from(bytes: &[u8]) -> Random {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    Random::new(hasher.finish())
}
