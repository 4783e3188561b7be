//! Grammar of an answer that must call tools, with arguments by each tool's schema. The calls have the style of
//! [`ToolStyle::when_forced`]: the model's own, or Hermes' if no grammar can enforce a schema in the model's own.

use serde_json::{Map, Value};

use super::ToolStyle;
use crate::grammar::{Grammar, GrammarError, literal, with_whitespace};

/// Most calls of an answer that must call a tool.
const MAX_CALLS: usize = 8;

/// A tool that may be called.
#[derive(Debug, Clone, PartialEq)]
pub struct Function {
    pub name: String,
    /// Schema of the tool's arguments.
    pub parameters: Value,
}

/// Place of a digit in a spelling: models number their calls.
const DIGIT: char = '\0';

/// A style's text around calls, and around the name and the arguments of each call.
#[derive(Clone, Copy)]
struct CallSpelling {
    begin: &'static str,
    before_name: &'static str,
    before_arguments: &'static str,
    after_arguments: &'static str,
    /// Text between two calls. `None` if an answer has one call.
    between: Option<&'static str>,
    end: &'static str,
}

const OBJECTS: CallSpelling = CallSpelling {
    begin: "[",
    before_name: "{\"name\": \"",
    before_arguments: "\", \"arguments\": ",
    after_arguments: "}",
    between: Some(", "),
    end: "]",
};
const HERMES: CallSpelling = CallSpelling {
    begin: "",
    before_name: "<tool_call>\n{\"name\": \"",
    after_arguments: "}\n</tool_call>",
    between: Some("\n"),
    end: "",
    ..OBJECTS
};
const LLAMA: CallSpelling =
    CallSpelling { begin: "", before_arguments: "\", \"parameters\": ", between: Some("; "), end: "", ..OBJECTS };
const COMMAND_R7B: CallSpelling = CallSpelling {
    begin: "<|START_ACTION|>[\n    ",
    before_name: "{\"tool_call_id\": \"\0\", \"tool_name\": \"",
    before_arguments: "\", \"parameters\": ",
    after_arguments: "}",
    between: Some(",\n    "),
    end: "\n]<|END_ACTION|>",
};
const PYTHONIC: CallSpelling = CallSpelling {
    begin: "[",
    before_name: "",
    before_arguments: "(",
    after_arguments: ")",
    between: Some(", "),
    end: "]",
};
const DEEPSEEK_V3: CallSpelling = CallSpelling {
    begin: "<｜tool▁calls▁begin｜>",
    before_name: "<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
    before_arguments: "\n```json\n",
    after_arguments: "\n```<｜tool▁call▁end｜>",
    between: Some("\n"),
    end: "<｜tool▁calls▁end｜>",
};
const DEEPSEEK_V31: CallSpelling = CallSpelling {
    before_name: "<｜tool▁call▁begin｜>",
    before_arguments: "<｜tool▁sep｜>",
    after_arguments: "<｜tool▁call▁end｜>",
    between: Some(""),
    ..DEEPSEEK_V3
};
const KIMI_K2: CallSpelling = CallSpelling {
    begin: "<|tool_calls_section_begin|>",
    before_name: "<|tool_call_begin|>functions.",
    before_arguments: ":\0<|tool_call_argument_begin|>",
    after_arguments: "<|tool_call_end|>",
    between: Some(""),
    end: "<|tool_calls_section_end|>",
};
const SOLAR_OPEN: CallSpelling = CallSpelling {
    begin: "<|tool_calls|>",
    before_name: "<|tool_call:begin|>call_\0\0\0\0<|tool_call:name|>",
    before_arguments: "<|tool_call:args|>",
    after_arguments: "<|tool_call:end|>",
    between: Some(""),
    end: "",
};
const APERTUS: CallSpelling = CallSpelling {
    begin: "<|tools_prefix|>[",
    before_name: "{\"",
    before_arguments: "\": ",
    end: "]<|tools_suffix|>",
    ..OBJECTS
};
const COMMAND_R: CallSpelling = CallSpelling {
    begin: "Action:\n```json\n[\n",
    before_name: "    {\n        \"tool_name\": \"",
    before_arguments: "\",\n        \"parameters\": ",
    after_arguments: "\n    }",
    between: Some(",\n"),
    end: "\n]```",
};
const FUNCTIONARY_V31: CallSpelling = CallSpelling {
    begin: "",
    before_name: "<function=",
    before_arguments: ">",
    after_arguments: "</function>",
    between: Some(""),
    end: "",
};
const FUNCTIONARY_V32: CallSpelling = CallSpelling {
    begin: "",
    before_name: "",
    before_arguments: "\n",
    after_arguments: "",
    between: Some(">>>"),
    end: "",
};
/// gpt-oss ends its answer after a call.
const HARMONY: CallSpelling = CallSpelling {
    begin: "",
    before_name: "<|channel|>commentary to=functions.",
    before_arguments: " <|constrain|>json<|message|>",
    after_arguments: "",
    between: None,
    end: "",
};

/// Returns the spelling of a style's calls.
fn spelling(style: ToolStyle) -> CallSpelling {
    let listed = |begin, end| CallSpelling { begin, end, ..OBJECTS };
    match style {
        ToolStyle::Llama3Json => LLAMA,
        ToolStyle::Mistral => listed("[TOOL_CALLS][", "]"),
        ToolStyle::Firefunction => listed(" functools[", "]"),
        ToolStyle::ToolCalls => listed("<tool_calls>[", "]</tool_calls>"),
        ToolStyle::NemotronV2 => listed("<TOOLCALL>[", "]</TOOLCALL>"),
        ToolStyle::Granite => listed("<|tool_call|>[", "]"),
        ToolStyle::GigaChat3 => CallSpelling { begin: "<|function_call|>", between: None, end: "", ..OBJECTS },
        ToolStyle::SolarOpen => SOLAR_OPEN,
        ToolStyle::Apertus => APERTUS,
        ToolStyle::CommandR => COMMAND_R,
        ToolStyle::CommandR7b => COMMAND_R7B,
        ToolStyle::Pythonic | ToolStyle::Gemma3 => PYTHONIC,
        ToolStyle::Lfm2 => CallSpelling { begin: "<|tool_call_start|>[", end: "]<|tool_call_end|>", ..PYTHONIC },
        ToolStyle::DeepSeekV3 => DEEPSEEK_V3,
        ToolStyle::DeepSeekV31 => DEEPSEEK_V31,
        ToolStyle::KimiK2 => KIMI_K2,
        ToolStyle::FunctionaryV31 => FUNCTIONARY_V31,
        ToolStyle::FunctionaryV32 => FUNCTIONARY_V32,
        ToolStyle::Harmony => HARMONY,
        ToolStyle::Hermes
        | ToolStyle::Qwen3Coder
        | ToolStyle::SeedOss
        | ToolStyle::MinimaxM2
        | ToolStyle::MinimaxM3
        | ToolStyle::MuseGlimmer
        | ToolStyle::DeepSeekV32
        | ToolStyle::Glm45
        | ToolStyle::Hy3
        | ToolStyle::KimiK3
        | ToolStyle::MiniCpm5
        | ToolStyle::Gemma4
        | ToolStyle::FunctionGemma => HERMES,
    }
}

/// Makes the grammar of one call, or of one or more calls if `several` is set. Each call is to one of `tools`.
/// `special` returns the id of the special token with a given text.
///
/// # Errors
/// Names the tool whose parameters are no schema.
pub fn forced_call_grammar(
    style: ToolStyle,
    tools: &[Function],
    several: bool,
    special: impl Fn(&str) -> Option<u32>,
) -> Result<Grammar, GrammarError> {
    let (spelling, marks) = (spelling(style), style.when_forced().marks());
    // A mark may be a special token. A text in a grammar never matches a special token, so the rule must name its id.
    let marked = |text: &str| spell(text, &marks, &special);
    let names: Vec<String> = (0..tools.len()).map(|index| format!("call{index}")).collect();
    let more = match spelling.between.filter(|_| several) {
        Some(between) => format!(" ({} call){{0,{}}}", marked(between), MAX_CALLS - 1),
        None => String::new(),
    };
    let mut rules = vec![
        format!("start: {} call{more} {}", marked(spelling.begin), marked(spelling.end)),
        format!("call: {} ({}) {}", marked(spelling.before_name), names.join(" | "), marked(spelling.after_arguments)),
    ];
    for (index, tool) in tools.iter().enumerate() {
        let head = format!("{} {}", literal(&tool.name), marked(spelling.before_arguments));
        rules.push(format!("call{index}: {head} arguments{index}"));
        match style {
            ToolStyle::Pythonic | ToolStyle::Gemma3 | ToolStyle::Lfm2 => {
                add_keyword_rules(index, &tool.parameters, &mut rules)?;
            }
            _ => rules.push(format!("arguments{index}: {}", json_rule(&with_object_type(&tool.parameters))?)),
        }
    }
    Ok(Grammar::Lark(rules.join("\n")))
}

/// Spells a text as Lark does. A mark becomes a special token if the model has one for it.
fn spell(text: &str, marks: &[&str], special: &impl Fn(&str) -> Option<u32>) -> String {
    if text.is_empty() {
        return String::new();
    }
    for mark in marks {
        if let Some((before, after)) = text.split_once(mark)
            && let Some(id) = special(mark)
        {
            return format!("{} <[{id}]> {}", spell(before, marks, special), spell(after, marks, special));
        }
    }
    match text.split_once(DIGIT) {
        Some((before, after)) => {
            format!("{} /[0-9]/ {}", spell(before, marks, special), spell(after, marks, special))
        }
        None => literal(text),
    }
}

/// Returns the schema with `type: object`, which some tools' schemas leave out.
fn with_object_type(parameters: &Value) -> Value {
    let mut parameters = parameters.clone();
    if let Value::Object(fields) = &mut parameters {
        fields.entry("type").or_insert_with(|| "object".into());
    }
    parameters
}

fn json_rule(schema: &Value) -> Result<String, GrammarError> {
    Ok(format!("%json {}", with_whitespace(schema.clone())?))
}

/// Adds the rules of named arguments: first all required ones, then any of the optional ones, in the schema's order.
fn add_keyword_rules(index: usize, parameters: &Value, rules: &mut Vec<String>) -> Result<(), GrammarError> {
    let none = Map::new();
    let properties = parameters["properties"].as_object().unwrap_or(&none);
    let is_required =
        |name: &String| parameters["required"].as_array().is_some_and(|all| all.iter().any(|one| one == name.as_str()));
    let (required, optional): (Vec<_>, Vec<_>) = properties.iter().partition(|(name, _)| is_required(name));
    let ordered: Vec<_> = required.iter().chain(&optional).collect();
    for (at, (name, schema)) in ordered.iter().enumerate() {
        let mut schema = (*schema).clone();
        // A property's schema may refer to definitions beside the properties.
        if let Value::Object(fields) = &mut schema {
            for definitions in ["$defs", "definitions"] {
                if let Some(value) = parameters.get(definitions) {
                    fields.entry(definitions).or_insert_with(|| value.clone());
                }
            }
        }
        rules.push(format!("argument{index}_{at}: {} {}", literal(&format!("{name}=")), json_rule(&schema)?));
    }
    let argument = |at: usize| format!("argument{index}_{at}");
    let optional_from =
        |at: usize| (at..ordered.len()).map(|at| format!("(\", \" {})?", argument(at))).collect::<Vec<_>>();
    let count = required.len();
    let list = if count > 0 {
        let first: Vec<String> = (0..count).map(argument).collect();
        format!("{} {}", first.join(" \", \" "), optional_from(count).join(" "))
    } else {
        let beginnings = (0..ordered.len()).map(|at| format!("{} {}", argument(at), optional_from(at + 1).join(" ")));
        beginnings.chain(["\"\"".to_owned()]).collect::<Vec<_>>().join(" | ")
    };
    rules.push(format!("arguments{index}: {list}"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::grammar::Grammars;
    use crate::output::{OutputFormat, OutputParser, OutputPiece, ToolFormat};
    use crate::text::fixtures;

    fn tools() -> Vec<Function> {
        let weather = json!({
            "type": "object",
            "properties": {"city": {"$ref": "#/$defs/city"}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["city"],
            "additionalProperties": false,
            "$defs": {"city": {"enum": ["Bern", "Rom"]}},
        });
        let add = json!({
            "type": "object",
            "properties": {"a": {"type": "boolean"}, "b": {"type": "array", "items": {"type": "null"}, "maxItems": 2}},
            "additionalProperties": false,
        });
        vec![
            Function { name: "get_weather".into(), parameters: weather },
            Function { name: "add".into(), parameters: add },
        ]
    }

    fn is_call(name: &str, arguments: &Value) -> bool {
        let fits = |key: &str, fits: &dyn Fn(&Value) -> bool| arguments.get(key).is_none_or(fits);
        match name {
            "get_weather" => {
                (arguments["city"] == "Bern" || arguments["city"] == "Rom")
                    && fits("days", &|days| days.as_u64().is_some_and(|days| (1..=9).contains(&days)))
            }
            "add" => fits("a", &Value::is_boolean) && fits("b", &Value::is_array),
            _ => false,
        }
    }

    /// Takes a random walk through the grammar, and checks that the style's own parser finds calls. Returns their
    /// number.
    fn walk(style: ToolStyle, several: bool, seed: u64) -> usize {
        let first = style.marks().first().copied().unwrap_or_default();
        let special = |mark: &str| (mark == first && seed % 2 == 1).then_some(fixtures::END - 1);
        let grammar = forced_call_grammar(style, &tools(), several, special).unwrap();
        let grammars = Grammars::new(fixtures::byte_level(), fixtures::BYTE_LEVEL_VOCAB, vec![fixtures::END].into());
        let mut guide = grammars.compile(&grammar).unwrap();
        let tokenizer = fixtures::byte_level();
        let mut bytes = Vec::new();
        for position in 0..6000 {
            let allowed = guide.allowed().unwrap().unwrap();
            let ids = (0..fixtures::BYTE_LEVEL_VOCAB).filter(|id| allowed.contains(*id));
            let draw = |id: &u32| draw_of(seed, position, *id);
            let id = ids.max_by_key(draw).unwrap();
            if id == fixtures::END {
                break;
            }
            bytes.extend(if id == fixtures::END - 1 { first.into() } else { tokenizer.token_bytes(id) });
            if guide.advance(id).unwrap() {
                break;
            }
        }
        let text = String::from_utf8(bytes).unwrap();
        let tools = Some(ToolFormat { style, tools: tools().into(), max_calls: 99 });
        let mut parser = OutputParser::new(&OutputFormat { tools, ..OutputFormat::default() });
        let mut calls: Vec<(String, String)> = Vec::new();
        for piece in parser.push(&text).into_iter().chain(parser.finish()) {
            match piece {
                OutputPiece::Call { name, .. } => calls.push((name, String::new())),
                OutputPiece::Arguments { fragment, .. } => calls.last_mut().unwrap().1.push_str(&fragment),
                other => panic!("{other:?} in {text}"),
            }
        }
        for (name, arguments) in &calls {
            let arguments = serde_json::from_str(arguments).unwrap_or_else(|error| panic!("{error} in {text}"));
            assert!(is_call(name, &arguments), "{text}");
        }
        assert!(!calls.is_empty() && (several || calls.len() == 1), "{style:?}: {text}");
        calls.len()
    }

    /// Returns a number that depends on all three arguments.
    fn draw_of(seed: u64, position: u32, id: u32) -> u64 {
        let mut state = seed ^ u64::from(position) << 20 ^ u64::from(id) << 40;
        for _ in 0..3 {
            state = (state ^ state >> 31).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(17);
        }
        state
    }

    #[test]
    fn forced_answers_are_calls_in_every_style() {
        for (_, style) in ToolStyle::NAMES.iter().filter(|(_, style)| style.when_forced() == *style) {
            let most = (0..8).map(|seed| walk(*style, true, seed)).max();
            assert!(most > Some(1) || spelling(*style).between.is_none(), "{style:?}: sometimes several");
            for seed in 0..2 {
                walk(*style, false, seed);
            }
        }
    }

    /// A grammar cannot enforce a schema on values without quotes.
    #[test]
    fn a_style_without_json_is_forced_into_one_with() {
        let grammar = |style: ToolStyle| forced_call_grammar(style, &tools(), true, |_| None).unwrap();
        let styles = [
            ToolStyle::Qwen3Coder,
            ToolStyle::Glm45,
            ToolStyle::MinimaxM2,
            ToolStyle::MinimaxM3,
            ToolStyle::MuseGlimmer,
            ToolStyle::Gemma4,
        ];
        for style in styles {
            assert_eq!(grammar(style), grammar(style.when_forced()));
            assert_eq!(style.when_forced(), ToolStyle::Hermes);
        }
    }

    #[test]
    fn arguments_are_an_object_whatever_the_schema_says() {
        let grammars = Grammars::new(fixtures::byte_level(), fixtures::BYTE_LEVEL_VOCAB, vec![fixtures::END].into());
        for parameters in [json!({}), json!({"properties": {"a": true}}), json!({"description": "any"})] {
            let tool = Function { name: "f".into(), parameters };
            let grammar = forced_call_grammar(ToolStyle::Llama3Json, &[tool], false, |_| None).unwrap();
            let mut guide = grammars.compile(&grammar).unwrap();
            for byte in b"{\"name\": \"f\", \"parameters\": " {
                assert!(!guide.advance(u32::from(*byte)).unwrap());
            }
            let allowed = guide.allowed().unwrap().unwrap();
            let first: String = (0..128u8).filter(|id| allowed.contains((*id).into())).map(char::from).collect();
            assert_eq!(first, "{");
        }
    }

    #[test]
    fn a_schema_that_cannot_be_kept_names_its_fault() {
        let tool = Function { name: "f".into(), parameters: json!({"type": "robot"}) };
        let grammars = Grammars::new(fixtures::byte_level(), fixtures::BYTE_LEVEL_VOCAB, vec![fixtures::END].into());
        for style in [ToolStyle::Hermes, ToolStyle::Pythonic] {
            match forced_call_grammar(style, std::slice::from_ref(&tool), false, |_| None)
                .and_then(|g| grammars.compile(&g))
            {
                Err(error) => assert!(style == ToolStyle::Pythonic || error.to_string().contains("robot"), "{error}"),
                Ok(_) => assert_eq!(style, ToolStyle::Pythonic, "it has no properties"),
            }
        }
    }
}
