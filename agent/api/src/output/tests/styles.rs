//! Answers as models write them, by style. The texts follow the chat templates of the models.

use super::*;

pub(super) type Case = (ToolStyle, Option<ReasoningStyle>, &'static str, &'static str);

const THINK: Option<ReasoningStyle> = Some(ReasoningStyle::Think);

const DEEPSEEK: &[Case] = &[
    (
        ToolStyle::DeepSeekV3,
        THINK,
        "<think>hm</think>\n\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n{\"a\": 1, \"b\": [\"`}\"]}\n\
         ```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{}\n```<｜tool▁call▁end｜>\
         <｜tool▁calls▁end｜>",
        "(hm)|0:add{\"a\": 1, \"b\": [\"`}\"]}|1:get_weather{}",
    ),
    // The model left out the line end, as in llama.cpp's test.
    (
        ToolStyle::DeepSeekV3,
        None,
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n{\"a\": 1}```<｜tool▁call▁end｜>",
        "|0:add{\"a\": 1}",
    ),
    (
        ToolStyle::DeepSeekV31,
        THINK,
        "<think>hm</think>Look.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>add<｜tool▁sep｜>{\"a\": 1}<｜tool▁call▁end｜>\
         <｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{\"city\": \"Paris\"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "(hm)Look.|0:add{\"a\": 1}|1:get_weather{\"city\": \"Paris\"}",
    ),
    // A call without arguments, a call without its end mark, and marks without a call.
    (ToolStyle::DeepSeekV31, None, "<｜tool▁call▁begin｜>add<｜tool▁sep｜><｜tool▁call▁end｜> and", "|0:add{} and"),
    (
        ToolStyle::DeepSeekV31,
        None,
        "<｜tool▁call▁begin｜>add<｜tool▁sep｜>{}\n<｜tool▁call▁begin｜>add<｜tool▁sep｜>{}<｜tool▁calls▁end｜>",
        "|0:add{}|1:add{}",
    ),
    (ToolStyle::DeepSeekV31, None, "<｜tool▁call▁begin｜>a b{", "<｜tool▁call▁begin｜>a b{"),
    (ToolStyle::DeepSeekV31, None, "a<｜tool▁call▁begin｜>add<｜too", "a<｜tool▁call▁begin｜>add<｜too"),
    (
        ToolStyle::DeepSeekV32,
        THINK,
        "<think>hm</think>\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"add\">\n<｜DSML｜parameter name=\"a\" string=\"false\">-14\
         </｜DSML｜parameter>\n<｜DSML｜parameter name=\"b\" string=\"true\">[1]</｜DSML｜parameter>\n</｜DSML｜invoke>\n\
         <｜DSML｜invoke name=\"get_weather\">\n</｜DSML｜invoke>\n</｜DSML｜function_calls>",
        "(hm)|0:add{\"a\": -14, \"b\": \"[1]\"}|1:get_weather{}",
    ),
    (
        ToolStyle::DeepSeekV32,
        None,
        "Look.\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"add\">\n<｜DSML｜parameter name=\"b\" string=\"false\">[{\"k\": null}]\
         </｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>",
        "Look.|0:add{\"b\": [{\"k\":null}]}",
    ),
];

const GLM: &[Case] = &[
    (
        ToolStyle::Glm45,
        THINK,
        "\n<think>hm</think>\n<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n<arg_key>b</arg_key>\n\
         <arg_value>[1, \"<x>\"]</arg_value>\n</tool_call>",
        "(hm)|0:add{\"a\": 1, \"b\": [1,\"<x>\"]}",
    ),
    (
        ToolStyle::Glm45,
        None,
        "On it.<tool_call>get_weather<arg_key>city</arg_key><arg_value> 5 </arg_value></tool_call><tool_call>add</tool_call>",
        "On it.|0:get_weather{\"city\": \" 5 \"}|1:add{}",
    ),
    (
        ToolStyle::Glm45,
        None,
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>a</arg_value>b\n\nc</arg_value>\n</tool_call>\n<tool_call>add\n\
         </tool_call>",
        "|0:get_weather{\"city\": \"a</arg_value>b\\n\\nc\"}|1:add{}",
    ),
    (
        ToolStyle::Glm45,
        None,
        "<tool_call>{\"name\": \"add\"}</tool_call><tool_call>",
        "<tool_call>{\"name\": \"add\"}</tool_call><tool_call>",
    ),
    // The model left out an end tag.
    (ToolStyle::Glm45, None, "<tool_call>add<arg_key>a</arg_key><arg_value>1</tool_call>", "|0:add{\"a\": 1}"),
];

const KIMI: &[Case] = &[
    (
        ToolStyle::KimiK2,
        THINK,
        "<think>hm</think>Hi<|tool_calls_section_begin|><|tool_call_begin|>functions.add:0<|tool_call_argument_begin|>{\"a\": 1}\
         <|tool_call_end|><|tool_call_begin|>functions.get_weather:1<|tool_call_argument_begin|>{\"city\": \"<|tool_call_end|>\"}\
         <|tool_call_end|><|tool_calls_section_end|>",
        "(hm)Hi|0#functions.add:0:add{\"a\": 1}|1#functions.get_weather:1:get_weather{\"city\": \"<|tool_call_end|>\"}",
    ),
    // Without marks of a section, and without end marks.
    (
        ToolStyle::KimiK2,
        None,
        "<|tool_call_begin|>functions.add:0<|tool_call_argument_begin|>{}<|tool_call_begin|>functions.add:1<|tool_call_argument_begin|>{\"a\"",
        "|0#functions.add:0:add{}|1#functions.add:1:add{\"a\"",
    ),
];

const HARMONY_STYLE: Option<ReasoningStyle> = Some(ReasoningStyle::Harmony);
const HARMONY: &[Case] = &[
    (ToolStyle::Harmony, HARMONY_STYLE, "<|channel|>final<|message|>Hello\n<b>\n", "Hello\n<b>\n"),
    (
        ToolStyle::Harmony,
        HARMONY_STYLE,
        "<|channel|>analysis<|message|>I'm\nthinking<|end|><|start|>assistant<|channel|>final<|message|>Hello",
        "(I'm\nthinking)Hello",
    ),
    (
        ToolStyle::Harmony,
        None,
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Hello",
        "hm\nHello",
    ),
    (
        ToolStyle::Harmony,
        HARMONY_STYLE,
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary to=functions.add <|constrain|>json<|message|>\
         {\"a\": 1, \"b\": [\"<|\"]}<|call|>",
        "(hm)|0:add{\"a\": 1, \"b\": [\"<|\"]}",
    ),
    (
        ToolStyle::Harmony,
        HARMONY_STYLE,
        " to=functions.add<|channel|>analysis<|message|>{\"a\": 1}",
        "|0:add{\"a\": 1}",
    ),
    (
        ToolStyle::Harmony,
        HARMONY_STYLE,
        "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant to=functions.get_weather<|channel|>commentary json<|message|>\
         {\"city\": \"Bern\"}",
        "I look.|0:get_weather{\"city\": \"Bern\"}",
    ),
    // Two thoughts, a recipient that is no function, and a header within a header.
    (
        ToolStyle::Harmony,
        HARMONY_STYLE,
        "<|channel|>analysis<|message|>one<|end|><|start|>assistant<|channel|>analysis<|message|>two<|end|><|start|>assistant\
         <|channel|>commentary to=python <|constrain|>code<|message|>print(1)<|call|>",
        "(one\ntwo)",
    ),
    (
        ToolStyle::Harmony,
        HARMONY_STYLE,
        "<|channel|>commentary to=assistant<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>x",
        "(hm)x",
    ),
    // A call without arguments, an answer that a form allows, and answers that are cut.
    (ToolStyle::Harmony, HARMONY_STYLE, "<|channel|>commentary to=functions.add<|message|><|call|>", "|0:add{}"),
    (ToolStyle::Harmony, HARMONY_STYLE, "{\"a\": 1}", "{\"a\": 1}"),
    (ToolStyle::Harmony, HARMONY_STYLE, "  today", "  today"),
    (ToolStyle::Harmony, HARMONY_STYLE, "<|channel|>analysis<|message|>hm<|en", "(hm<|en)"),
    (ToolStyle::Harmony, HARMONY_STYLE, "<|channel|>anal", ""),
];

const GEMMA: &[Case] = &[
    (
        ToolStyle::Gemma3,
        None,
        "I look.\n```tool_code\nget_weather(city='Bern')\nadd(a=1, b=[2])\n```\nDone.",
        "I look.|0:get_weather{\"city\":\"Bern\"}|1:add{\"a\":1,\"b\":[2]}\nDone.",
    ),
    (ToolStyle::Gemma3, None, "```tool_code\n[add(a=1), add()]\n```", "|0:add{\"a\":1}|1:add{}"),
    (ToolStyle::Gemma3, None, "[add(a=1)]", "|0:add{\"a\":1}"),
    (ToolStyle::Gemma3, None, "```tool_code\nprint(1)\n```", "```tool_code\nprint(1)\n```"),
    (ToolStyle::Gemma3, None, "```python\nadd(a=1)\n```", "```python\nadd(a=1)\n```"),
    (
        ToolStyle::FunctionGemma,
        None,
        "<start_function_call>call:add{a:1,b:[<escape>x, {y}<escape>,2.5]}<end_function_call><start_function_call>call:get_weather\
         {city:<escape><escape>}<end_function_call>",
        "|0:add{\"a\":1,\"b\":[\"x, {y}\",2.5]}|1:get_weather{\"city\":\"\"}",
    ),
    (
        ToolStyle::Gemma4,
        Some(ReasoningStyle::Gemma4),
        "<|channel>thought\nhm\n<channel|>Hi<|tool_call>call:add{a:-7,b:[{k:<|\"|>a\"}<|\"|>,<|\"|>q<|\"|>:null},true,1.5e10]}<tool_call|>",
        "(hm)Hi|0:add{\"a\":-7,\"b\":[{\"k\":\"a\\\"}\",\"q\":null},true,15000000000.0]}",
    ),
    (ToolStyle::Gemma4, Some(ReasoningStyle::Gemma4), "<|channel>thought<channel|>Hello", "Hello"),
    (
        ToolStyle::Gemma4,
        None,
        "<|tool_call>call:add{}<tool_call|><|tool_call>call:get_weather{\"city\": \"B}\\\"\", x: y z}<tool_call|>",
        "|0:add{}|1:get_weather{\"city\":\"B}\\\"\",\"x\":\"y z\"}",
    ),
    (ToolStyle::Gemma4, None, "<|tool_call>call:add{a}<tool_call|>", "<|tool_call>call:add{a}<tool_call|>"),
    (ToolStyle::Gemma4, None, "<|tool_call>add{a:1", "<|tool_call>add{a:1"),
    (ToolStyle::Gemma4, None, "<|tool_call>call:add{a:<|\"|>1", "<|tool_call>call:add{a:<|\"|>1"),
];

const OBJECTS: &[Case] = &[
    (
        ToolStyle::CommandR7b,
        Some(ReasoningStyle::Command),
        "<|START_THINKING|>hm<|END_THINKING|><|START_ACTION|>[\n    {\"tool_call_id\": \"0\", \"tool_name\": \"add\", \"parameters\": \
         {\"a\": 1}},\n    {\"tool_call_id\": \"1\", \"tool_name\": \"get_weather\", \"parameters\": {}}\n]<|END_ACTION|>",
        "(hm)|0:add{\"a\": 1}|1:get_weather{}",
    ),
    (
        ToolStyle::CommandR7b,
        Some(ReasoningStyle::Command),
        "<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>Hello,\nworld<|END_RESPONSE|>",
        "(hm)Hello,\nworld",
    ),
    (
        ToolStyle::Firefunction,
        None,
        "Sure. functools[{\"name\": \"add\", \"arguments\": {\"a\": 1}}, {\"name\": \"add\", \"arguments\": {}}]",
        "Sure.|0:add{\"a\": 1}|1:add{}",
    ),
    (ToolStyle::Firefunction, None, "use functools, or functools[1]", "use functools, or functools[1]"),
    (
        ToolStyle::ToolCalls,
        None,
        "<tool_calls>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n{\"name\": \"add\", \"arguments\": {}}\n</tool_calls> done",
        "|0:add{\"a\": 1}|1:add{} done",
    ),
    (
        ToolStyle::ToolCalls,
        None,
        "<tool_calls>[{\"name\": \"add\", \"arguments\": {}}, {\"name\": \"add\", \"arguments\": {}}]</tool_calls>",
        "|0:add{}|1:add{}",
    ),
    (
        ToolStyle::NemotronV2,
        THINK,
        "<think>hm\n</think>\n<TOOLCALL>[{\"name\": \"add\", \"arguments\": {\"a\": 1}}]</TOOLCALL>\n",
        "(hm)|0:add{\"a\": 1}",
    ),
    (ToolStyle::NemotronV2, None, "<TOOLCALL>[]</TOOLCALL>none", "none"),
    (ToolStyle::Granite, None, "<|tool_call|>[{\"name\": \"add\", \"arguments\": {\"a\": 1}}]", "|0:add{\"a\": 1}"),
    (ToolStyle::Hermes, None, "<tool_call><tool_call>{\"name\": \"add\"}</tool_call>", "<tool_call>|0:add{}"),
];

const OTHERS: &[Case] = &[
    (
        ToolStyle::FunctionaryV31,
        None,
        "<function=add>{\"a\": 1}</function><function=get_weather>{\"city\": \"</function>\"}</function>",
        "|0:add{\"a\": 1}|1:get_weather{\"city\": \"</function>\"}",
    ),
    (ToolStyle::FunctionaryV31, None, "<function=other>{}</function>", "<function=other>{}</function>"),
    (ToolStyle::FunctionaryV31, None, "a <function=add>1</function>", "a <function=add>1</function>"),
    (ToolStyle::FunctionaryV32, None, "all\nHello,\nworld > >> x", "Hello,\nworld > >> x"),
    (
        ToolStyle::FunctionaryV32,
        None,
        "all\nI look.\n>>>add\n{\"a\": 1}>>>get_weather\n{\"city\": \">>>\"}",
        "I look.|0:add{\"a\": 1}|1:get_weather{\"city\": \">>>\"}",
    ),
    (ToolStyle::FunctionaryV32, None, "add\n{\"a\"", "|0:add{\"a\""),
    (ToolStyle::FunctionaryV32, None, "nobody\nHello", "nobody\nHello"),
    (ToolStyle::FunctionaryV32, None, "{\"a\": 1}", "{\"a\": 1}"),
    (ToolStyle::FunctionaryV32, None, "add\nHello", "add\nHello"),
    (
        ToolStyle::Lfm2,
        THINK,
        "<think>hm <|tool_call_start|></think>Hi<|tool_call_start|>[add(a=1), get_weather(city=\"Paris\")]<|tool_call_end|>Done",
        "(hm <|tool_call_start|>)Hi|0:add{\"a\":1}|1:get_weather{\"city\":\"Paris\"}Done",
    ),
    (ToolStyle::Lfm2, None, "[add(a=1)]", "[add(a=1)]"),
    (
        ToolStyle::Lfm2,
        None,
        "<|tool_call_start|>[nothing()]<|tool_call_end|>",
        "<|tool_call_start|>[nothing()]<|tool_call_end|>",
    ),
    (
        ToolStyle::MinimaxM2,
        THINK,
        "<think>hm\n</think>\n\n<minimax:tool_call>\n<invoke name=\"add\">\n<parameter name=\"a\">1</parameter>\n<parameter name=\"b\">\
         [1]</parameter>\n</invoke>\n<invoke name=\"new\">\n</invoke>\n</minimax:tool_call>",
        "(hm)|0:add{\"a\": 1, \"b\": [1]}|1:new{}",
    ),
    (ToolStyle::MinimaxM2, None, "<invoke name=\"other\"></invoke>", "<invoke name=\"other\"></invoke>"),
    (
        ToolStyle::SeedOss,
        Some(ReasoningStyle::Seed),
        "<seed:think>hm</seed:think>\n<seed:tool_call>\n<function=get_weather>\n<parameter=city>a \"b\"\n  c\n</parameter>\n</function>\n\
         </seed:tool_call>\n<seed:tool_call>\n<function=add>\n<parameter=a>1</parameter>\n</function>\n</seed:tool_call>",
        "(hm)|0:get_weather{\"city\": \"a \\\"b\\\"\\n  c\\n\"}|1:add{\"a\": 1}",
    ),
];

const FURTHER: &[Case] = &[
    (
        ToolStyle::GigaChat3,
        None,
        "Hi<|message_sep|>\n\nfunction call<|role_sep|>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}",
        "Hi|0:add{\"a\": 1}",
    ),
    (ToolStyle::GigaChat3, None, "<|function_call|>{\"name\": \"add\", \"arguments\": {}}", "|0:add{}"),
    (
        ToolStyle::Hy3,
        Some(ReasoningStyle::Hy3),
        "<think:opensource>hm</think:opensource>Hi<tool_calls:opensource>\n<tool_call:opensource>add<tool_sep:opensource>\n\
         <arg_key:opensource>a</arg_key:opensource>\n<arg_value:opensource>1</arg_value:opensource>\n</tool_call:opensource>\n\
         <tool_call:opensource>add<tool_sep:opensource>\n</tool_call:opensource>\n</tool_calls:opensource>",
        "(hm)Hi|0:add{\"a\": 1}|1:add{}",
    ),
    (
        ToolStyle::KimiK3,
        Some(ReasoningStyle::KimiK3),
        "<|open|>think<|sep|>hm<|close|>think<|sep|><|open|>response<|sep|>On it.<|close|>response<|sep|><|open|>tools<|sep|>\
         <|open|>call tool=\"add\" index=\"1\"<|sep|><|open|>argument key=\"a\" type=\"number\"<|sep|>1<|close|>argument<|sep|>\
         <|open|>argument key=\"b\" type=\"string\"<|sep|>[1]<|close|>argument<|sep|><|close|>call<|sep|><|close|>tools<|sep|>\
         <|close|>message<|sep|>",
        "(hm)On it.|0:add{\"a\": 1, \"b\": \"[1]\"}",
    ),
    (
        ToolStyle::KimiK3,
        None,
        "<|open|>response<|sep|>Use the response tag.<|close|>response<|sep|><|close|>message<|sep|>",
        "Use the response tag.",
    ),
    (
        ToolStyle::MiniCpm5,
        THINK,
        "<think>hm</think>\n<function name=\"get_weather\"><param name=\"city\"><![CDATA[<a> </param>]]></param></function>\n\
         <function name=\"add\"><param name=\"a\">1</param></function>",
        "(hm)|0:get_weather{\"city\": \"<a> </param>\"}|1:add{\"a\": 1}",
    ),
    (ToolStyle::MiniCpm5, None, "<function name=\"other\"></function>", "<function name=\"other\"></function>"),
    (
        ToolStyle::SolarOpen,
        Some(ReasoningStyle::SolarOpen),
        "<|think|>hm<|end|><|begin|>assistant<|tool_calls|><|tool_call:begin|>x1<|tool_call:name|>add<|tool_call:args|>{\"a\": 1}\
         <|tool_call:end|><|tool_call:begin|>x2<|tool_call:name|>add<|tool_call:args|>{}<|tool_call:end|>",
        "(hm)|0#x1:add{\"a\": 1}|1#x2:add{}",
    ),
    (
        ToolStyle::SolarOpen,
        Some(ReasoningStyle::SolarOpen),
        "<|think|>hm<|end|><|begin|>assistant<|content|>Hello<|end|>",
        "(hm)Hello",
    ),
];

fn cases() -> impl Iterator<Item = (OutputFormat, &'static str, &'static str)> {
    let all = [DEEPSEEK, GLM, KIMI, HARMONY, GEMMA, OBJECTS, OTHERS, FURTHER].into_iter().chain(newer::ALL);
    all.flatten().map(|(style, reasoning, text, shown)| (format(*reasoning, Some(*style)), *text, *shown))
}

#[test]
fn answers_are_parsed_in_every_style() {
    let mut wrong = Vec::new();
    for (format, text, expected) in cases() {
        let shown = shown(&format, text);
        if shown != expected {
            wrong.push(format!("{:?} {text}\n  {shown}\n  {expected}", format.tools.map(|tools| tools.style)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A cut at any character, and at all of them, gives the pieces of the whole text.
#[test]
fn a_stream_is_the_whole_in_every_style() {
    for (format, text, _) in cases() {
        let whole = read(&format, [text]);
        assert_eq!(read(&format, text.split_inclusive(|_| true)), whole, "{text}");
        for (at, _) in text.char_indices() {
            assert_eq!(read(&format, [&text[..at], &text[at..]]), whole, "{text} at {at}");
        }
    }
}

#[test]
fn every_style_has_a_case() {
    for (name, style) in ToolStyle::NAMES {
        let older =
            [ToolStyle::Hermes, ToolStyle::Llama3Json, ToolStyle::Mistral, ToolStyle::Pythonic, ToolStyle::Qwen3Coder];
        let known = cases().any(|(format, ..)| format.tools.is_some_and(|tools| tools.style == *style));
        assert!(known || older.contains(style), "{name}");
    }
}

/// gpt-oss writes channels without tools too, and functionary v3.2 recipients.
#[test]
fn framed_answers_are_parsed_without_tools() {
    let framed = |style: ToolStyle| OutputFormat {
        tools: Some(ToolFormat { style, tools: Vec::new().into(), max_calls: 0 }),
        ..OutputFormat::default()
    };
    let harmony = OutputFormat { reasoning: HARMONY_STYLE, ..OutputFormat::default() };
    let text = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>x";
    assert_eq!(shown(&harmony, text), "(hm)x");
    assert_eq!(shown(&framed(ToolStyle::Harmony), text), "hm\nx");
    let muse = OutputFormat { reasoning: Some(ReasoningStyle::MuseGlimmer), ..OutputFormat::default() };
    assert_eq!(shown(&muse, " to=self<|message|>hm<|eom|><|start|>assistant to=user<|message|>x"), "(hm)x");
    assert_eq!(shown(&framed(ToolStyle::FunctionaryV32), "all\nx"), "x");
    assert_eq!(shown(&framed(ToolStyle::CommandR7b), "<|START_RESPONSE|>x<|END_RESPONSE|>"), "x");
    assert_eq!(shown(&harmony, "<|channel|>commentary to=functions.add<|message|>{}"), "");
}
