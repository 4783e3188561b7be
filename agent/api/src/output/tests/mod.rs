//! Whole answers through the parsers, and the same answers cut in any way.

use proptest::prelude::*;
use serde_json::json;

use super::*;

mod newer;
mod styles;

fn format(reasoning: Option<ReasoningStyle>, tools: Option<ToolStyle>) -> OutputFormat {
    let parameters = json!({"properties": {
        "a": {"type": "integer"}, "b": {"type": ["array", "null"]}, "city": {"type": "string"},
    }});
    let function = |name: &str| Function { name: name.into(), parameters: parameters.clone() };
    let functions = [function("get_weather"), function("add")];
    let tools = tools.map(|style| ToolFormat { style, tools: functions.into(), max_calls: 16 });
    OutputFormat { reasoning, reasoning_begun: false, tools }
}

/// Parses a whole answer that comes in parts. Joins adjacent pieces of one kind.
fn read<'a>(format: &OutputFormat, pieces: impl IntoIterator<Item = &'a str>) -> Vec<OutputPiece> {
    let mut parser = OutputParser::new(format);
    let mut all = Vec::new();
    let mut add = |pieces: Vec<OutputPiece>| pieces.into_iter().for_each(|piece| push_piece(&mut all, piece));
    pieces.into_iter().for_each(|text| add(parser.push(text)));
    add(parser.finish());
    all
}

/// Returns the pieces as text: `content`, `(reasoning)`, `|index:name{arguments}`.
fn shown(format: &OutputFormat, text: &str) -> String {
    let mut shown = String::new();
    for piece in read(format, [text]) {
        match piece {
            OutputPiece::Content(text) => shown.push_str(&text),
            OutputPiece::Reasoning(text) => shown.push_str(&format!("({text})")),
            OutputPiece::Call { index, id, name } => {
                let id = id.map(|id| format!("#{id}")).unwrap_or_default();
                shown.push_str(&format!("|{index}{id}:{name}"));
            }
            OutputPiece::Arguments { fragment, .. } => shown.push_str(&fragment),
        }
    }
    shown
}

const HERMES: [(&str, &str); 14] = [
    ("plain < text </tool_call>\n", "plain < text </tool_call>\n"),
    (
        "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": [2, \"}\"]}}\n</tool_call>",
        "|0:add{\"a\": 1, \"b\": [2, \"}\"]}",
    ),
    ("Let me see.\n<tool_call>{\"name\": \"add\", \"arguments\": {}}</tool_call>\n", "Let me see.|0:add{}"),
    (
        "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_call>\n<tool_call>\n{\"name\": \"get_weather\", \
         \"arguments\": {\"city\": \"Ber\\\"lin\"}}\n</tool_call>",
        "|0:add{\"a\": 1}|1:get_weather{\"city\": \"Ber\\\"lin\"}",
    ),
    ("<tool_call>{\"arguments\": {\"a\": 1}, \"name\": \"add\"}</tool_call>", "|0:add{\"a\": 1}"),
    ("<tool_call>{\"name\": \"add\", \"arguments\": \"{\\\"a\\\": 1}\"}</tool_call>", "|0:add{\"a\": 1}"),
    ("<tool_call>{\"name\": \"add\", \"arguments\": null}</tool_call>", "|0:add{}"),
    ("<tool_call>{\"name\": \"add\"}</tool_call> and more", "|0:add{} and more"),
    ("<tool_call>{\"name\": \"unknown\", \"arguments\": {}}</tool_call>", "|0:unknown{}"),
    ("<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": 1", "|0:add{\"a\": 1"),
    ("<tool_call>{\"na", "<tool_call>{\"na"),
    ("<tool_call>nonsense</tool_call>", "<tool_call>nonsense</tool_call>"),
    ("<tool_call>{\"name\": 5}</tool_call>", "<tool_call>{\"name\": 5}</tool_call>"),
    ("<tool_", "<tool_"),
];

const LLAMA: [(&str, &str); 10] = [
    ("{\"name\": \"add\", \"parameters\": {\"a\": \"1\"}}", "|0:add{\"a\": \"1\"}"),
    (" <|python_tag|> {\"type\": \"function\", \"name\": \"add\", \"parameters\": {}}", "|0:add{}"),
    (
        "{\"name\": \"add\", \"parameters\": {}}; {\"name\": \"get_weather\", \"parameters\": {}}",
        "|0:add{}|1:get_weather{}",
    ),
    ("{\"name\": \"Ada\", \"age\": 5}", "{\"name\": \"Ada\", \"age\": 5}"),
    ("{\"a\": {\"name\": \"add\"}}", "{\"a\": {\"name\": \"add\"}}"),
    ("It is {\"name\": \"add\", \"parameters\": {}}", "It is {\"name\": \"add\", \"parameters\": {}}"),
    ("<|python_tag|>print(1)", "<|python_tag|>print(1)"),
    ("  plain", "  plain"),
    ("{\"name\": \"add\", \"parameters\": {}} done", "|0:add{} done"),
    ("<|python", "<|python"),
];

const MISTRAL: [(&str, &str); 9] = [
    ("[TOOL_CALLS][{\"name\": \"add\", \"arguments\": {\"a\": 1}}]", "|0:add{\"a\": 1}"),
    (
        "Sure. [TOOL_CALLS] [{\"name\": \"add\", \"arguments\": {}}, {\"name\": \"get_weather\", \"arguments\": {\"c\": \"]\"}}]",
        "Sure.|0:add{}|1:get_weather{\"c\": \"]\"}",
    ),
    ("[TOOL_CALLS]{\"name\": \"add\", \"arguments\": {}}", "|0:add{}"),
    (
        "[TOOL_CALLS]add[ARGS]{\"a\": {\"b\": 1}}[TOOL_CALLS]get_weather[ARGS]{}",
        "|0:add{\"a\": {\"b\": 1}}|1:get_weather{}",
    ),
    ("[TOOL_CALLS]add[CALL_ID]123456789[ARGS]{\"a\": 1}", "|0#123456789:add{\"a\": 1}"),
    ("[TOOL_CALLS]add{\"a\": 1}", "|0:add{\"a\": 1}"),
    ("[TOOL_CALLS][1, 2]", "[TOOL_CALLS][1, 2]"),
    ("[TOOL_CALLS]add", "[TOOL_CALLS]add"),
    ("[1, 2] is a [list]", "[1, 2] is a [list]"),
];

const PYTHONIC: [(&str, &str); 11] = [
    ("[add(a=1, b='x)')]", "|0:add{\"a\":1,\"b\":\"x)\"}"),
    ("[add(a=[1, 2], b={'k': None}), get_weather()]", "|0:add{\"a\":[1,2],\"b\":{\"k\":null}}|1:get_weather{}"),
    (" <|python_start|>[ add(a=True) ]<|python_end|>", "|0:add{\"a\":true}"),
    ("[1, 2, 3]", "[1, 2, 3]"),
    ("[other(a=1)]", "[other(a=1)]"),
    ("[add(1, 2)]", "[add(1, 2)]"),
    ("add(a=1)", "add(a=1)"),
    ("[add(a=1", "[add(a=1"),
    ("[add", "[add"),
    ("[]", "[]"),
    ("[add(a=1)] ignored", "|0:add{\"a\":1}"),
];

const QWEN3_CODER: [(&str, &str); 18] = [
    (
        "Let me see.\n<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n<parameter=b>\n[2, \"x\"]\n</parameter>\n\
         </function>\n</tool_call>",
        "Let me see.|0:add{\"a\": 1, \"b\": [2,\"x\"]}",
    ),
    ("<tool_call><function=add></function></tool_call>", "|0:add{}"),
    (
        "<tool_call>\n<function=add>\n<parameter=a>1</parameter>\n</function>\n</tool_call>\n<tool_call>\n\
         <function=get_weather>\n<parameter=city>\nBer\"lin\n</parameter>\n</function>\n</tool_call>\n",
        "|0:add{\"a\": 1}|1:get_weather{\"city\": \"Ber\\\"lin\"}",
    ),
    // The value keeps its inner lines, and end tags that do not end it.
    (
        "<tool_call><function=get_weather><parameter=city>\n\n a\n</parameter>b</function>\n\n</parameter></function></tool_call>",
        "|0:get_weather{\"city\": \"\\n a\\n</parameter>b</function>\\n\"}",
    ),
    (
        "<tool_call><function=get_weather><parameter=city></parameter></parameter></function>",
        "|0:get_weather{\"city\": \"</parameter>\"}",
    ),
    ("<tool_call><function=unknown><parameter=a>1</parameter></function></tool_call>", "|0:unknown{\"a\": \"1\"}"),
    (
        "<tool_call><function=add><parameter=b>None</parameter></function></tool_call> and more",
        "|0:add{\"b\": null} and more",
    ),
    ("<function=add>\n<parameter=a>5</parameter></function>\n</tool_call>", "|0:add{\"a\": 5}"),
    ("<function=add></function> <function=add></function>", "|0:add{}|1:add{}"),
    ("<function=unknown></function>", "<function=unknown></function>"),
    ("<tool_call><function=add><parameter=a>1</parameter></tool_call>", "|0:add{\"a\": 1}"),
    // The model left out end tags.
    ("<tool_call><function=add><parameter=a>1\n</function>\n</tool_call>", "|0:add{\"a\": 1}"),
    ("<tool_call><function=add><parameter=a>1</parameter>", "|0:add{\"a\": 1"),
    ("<tool_call><function=add><parameter=a>1", "|0:add{"),
    ("<tool_call>\n<function=ad", "<tool_call>\n<function=ad"),
    ("<tool_call>{\"name\": \"add\"}</tool_call>", "<tool_call>{\"name\": \"add\"}</tool_call>"),
    ("<tool_call><function={{ name }}></function>", "<tool_call><function={{ name }}></function>"),
    ("<tool_call><tool_call><function=add></function>", "<tool_call>|0:add{}"),
];

const REASONING: [(&str, &str); 8] = [
    ("<think>\nWell, hm.\n</think>\n\nYes.", "(Well, hm.)Yes."),
    ("<think>\n\n</think>\n\nYes.\n", "Yes.\n"),
    ("  <think>a < b</thin</think>c", "(a < b</thin)c"),
    ("no reasoning <think>x</think>", "no reasoning <think>x</think>"),
    ("<think>cut off \n", "(cut off)"),
    ("<think>cut off </thi", "(cut off </thi)"),
    ("<thi", "<thi"),
    ("\n plain", "\n plain"),
];

fn all() -> Vec<(OutputFormat, &'static str, &'static str)> {
    let styled = |style: ToolStyle, cases: &[(&'static str, &'static str)]| {
        cases.iter().map(move |(text, expected)| (format(None, Some(style)), *text, *expected)).collect::<Vec<_>>()
    };
    let reasoned = REASONING.map(|(text, expected)| (format(Some(ReasoningStyle::Think), None), text, expected));
    let both = format(Some(ReasoningStyle::Think), Some(ToolStyle::Hermes));
    let text = "<think>I <tool_call> add</think>\n<tool_call>{\"name\": \"add\", \"arguments\": {}}</tool_call>";
    [
        styled(ToolStyle::Hermes, &HERMES),
        styled(ToolStyle::Llama3Json, &LLAMA),
        styled(ToolStyle::Mistral, &MISTRAL),
        styled(ToolStyle::Pythonic, &PYTHONIC),
        styled(ToolStyle::Qwen3Coder, &QWEN3_CODER),
        reasoned.to_vec(),
        vec![(both, text, "(I <tool_call> add)|0:add{}")],
    ]
    .concat()
}

#[test]
fn answers_are_parsed() {
    for (format, text, expected) in all() {
        assert_eq!(shown(&format, text), expected, "{text}");
    }
}

#[test]
fn cuts_do_not_change_the_pieces() {
    for (format, text, _) in all() {
        let whole = read(&format, [text]);
        assert_eq!(read(&format, text.split_inclusive(|_| true)), whole, "{text}");
        for (at, _) in text.char_indices() {
            assert_eq!(read(&format, [&text[..at], &text[at..]]), whole, "{text} at {at}");
        }
    }
}

#[test]
fn a_call_reports_its_name_and_then_fragments_of_its_arguments() {
    let mut parser = OutputParser::new(&format(None, Some(ToolStyle::Hermes)));
    let pieces: Vec<Vec<OutputPiece>> =
        ["<tool_call>{\"name\": \"ad", "d\", \"argum", "ents\": {\"a\"", ": 1}", "}</tool_call>"]
            .map(|text| parser.push(text))
            .into();
    let fragment = |text: &str| vec![OutputPiece::Arguments { index: 0, fragment: text.into() }];
    let expected = [
        vec![],
        vec![OutputPiece::Call { index: 0, id: None, name: "add".into() }],
        fragment("{\"a\""),
        fragment(": 1}"),
        vec![],
    ];
    assert_eq!(pieces, expected);
}

/// The parser can tell the type of a value only when the value is complete.
#[test]
fn parameters_in_tags_are_reported_one_by_one() {
    let mut parser = OutputParser::new(&format(None, Some(ToolStyle::Qwen3Coder)));
    let parts = [
        "<tool_call>\n<function=add",
        ">",
        "\n<parameter=a>\n4",
        "2\n</parameter>\n<par",
        "ameter=",
        "b>[]</parameter>",
    ];
    let pieces: Vec<Vec<OutputPiece>> = parts.map(|text| parser.push(text)).into();
    let fragment = |text: &str| OutputPiece::Arguments { index: 0, fragment: text.into() };
    let begun = vec![OutputPiece::Call { index: 0, id: None, name: "add".into() }, fragment("{")];
    assert_eq!(pieces, [vec![], begun, vec![], vec![], vec![fragment("\"a\": 42")], vec![]]);
    assert_eq!(parser.push("</function>"), [fragment(", \"b\": []}")]);
}

#[test]
fn a_prompt_may_begin_the_reasoning() {
    let begun = OutputFormat { reasoning_begun: true, ..format(Some(ReasoningStyle::Think), None) };
    assert_eq!(shown(&begun, "\nhm\n</think>\n\nyes"), "(hm)yes");
    assert_eq!(shown(&begun, "hm"), "(hm)");
}

#[test]
fn calls_beyond_the_limit_are_dropped() {
    let mut format = format(None, Some(ToolStyle::Llama3Json));
    format.tools.as_mut().unwrap().max_calls = 1;
    let text = "{\"name\": \"add\", \"parameters\": {\"a\": 1}};{\"name\": \"add\", \"parameters\": {\"a\": 2}}";
    assert_eq!(shown(&format, text), "|0:add{\"a\": 1}");
}

#[test]
fn templates_determine_the_styles() {
    let cases = [
        ("{{ '<tool_call>' }}", Some(ToolStyle::Hermes), None),
        ("{{ '[TOOL_CALLS]' }} [/THINK]", Some(ToolStyle::Mistral), Some(ReasoningStyle::Mistral)),
        ("<|python_tag|>", Some(ToolStyle::Llama3Json), None),
        ("[func_name1(params_name1=params_value1)]", Some(ToolStyle::Pythonic), None),
        ("{% if '</think>' in content %}", None, Some(ReasoningStyle::Think)),
        ("{{ messages }}", None, None),
        ("<tool_call>\n<function=name>\n<parameter=key>\nvalue", Some(ToolStyle::Qwen3Coder), None),
        ("<function=example_function_name>{\"a\": \"b\"}</function>", Some(ToolStyle::FunctionaryV31), None),
        ("<tool_call>{name}\n<arg_key>{key}</arg_key>", None, None),
        ("<tool_call>{name}\n<arg_key>{key}</arg_key>\n<arg_value>", Some(ToolStyle::Glm45), None),
    ];
    for (template, tools, reasoning) in cases {
        assert_eq!(ToolStyle::from_template(template), tools, "{template}");
        assert_eq!(ReasoningStyle::from_template(template), reasoning, "{template}");
    }
}

proptest! {
    /// Marks, pieces of calls and noise in any order, cut anywhere.
    #[test]
    fn any_cut_of_any_text_reads_the_same(
        parts in prop::collection::vec(prop::sample::select(vec![
            "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "<think>", "</think>", "[", "]", "{", "}",
            "\"name\": \"add\"", "\"arguments\": ", "\"parameters\": {", "\"", ", ", ";", "add(", "a=1", ")", " ", "\n", "é", "\\",
            "{\"name\": \"add\", \"arguments\": {\"a\": 1}}", "text", "<function=add>", "<parameter=a>", "<parameter=", "1",
            "</parameter>", "</function>", "<function=", ">>>", "all\n", "add\n", "<|channel|>", "<|message|>", "<|end|>", "<|start|>",
            "final", "analysis", " to=functions.add", "functools", "```tool_code", "```", "<arg_key>a</arg_key>", "<arg_value>",
            "</arg_value>", "<|tool_call>", "call:add{", "a:", "<|\"|>", "<tool_call|>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>",
            "<｜tool▁call▁end｜>", "<|tool_call_begin|>functions.add:0<|tool_call_argument_begin|>", "<|START_ACTION|>",
            "<invoke name=\"add\">", "<parameter name=\"a\">", "</invoke>", "<minimax:tool_call>", "<|tool_call_start|>",
            "]<]minimax[>[", "]<]minimax[>[<tool_call>", "]<]minimax[>[<invoke name=\"add\">", "]<]minimax[>[</invoke>", "<b>",
            "]<]minimax[>[<item>", "]<]minimax[>[</b>", "]<]minimax[>[</tool_call>", "Action: ```json", "<|tools_prefix|>[", "{\"add\": {",
            "<|tools_suffix|>", "to=self", "to=user", "<|eom|>", "<atem:invoke name=\"add\">", "<atem:parameter name=\"a\">",
            "</atem:parameter>", "</atem:invoke>", "<atem:function_calls>",
        ]), 0..14),
        cuts in prop::collection::vec(0usize..200, 0..6),
        style in prop::sample::select(ToolStyle::NAMES), reasons in any::<bool>(),
    ) {
        let format = format(reasons.then_some(ReasoningStyle::Think), Some(style.1));
        let text = parts.concat();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| text.floor_char_boundary(cut)).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&str> = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
        prop_assert_eq!(read(&format, pieces), read(&format, [text.as_str()]));
    }
}
