//! Answers of Apertus, Command R, MiniMax-M3 and Muse Glimmer. The texts follow their chat templates.

use super::styles::Case;
use super::*;

const APERTUS_STYLE: Option<ReasoningStyle> = Some(ReasoningStyle::Apertus);
const APERTUS: &[Case] = &[
    (
        ToolStyle::Apertus,
        APERTUS_STYLE,
        "<|inner_prefix|>hm<|inner_suffix|>Look.<|tools_prefix|>[{\"add\": {\"a\": 1}}, {\"get_weather\": {\"city\": \"]\"}}]<|tools_suffix|>",
        "(hm)Look.|0:add{\"a\": 1}|1:get_weather{\"city\": \"]\"}",
    ),
    // Calls within the reasoning, whose end mark comes after them or never.
    (
        ToolStyle::Apertus,
        APERTUS_STYLE,
        "<|inner_prefix|>hm\n<|tools_prefix|>[{\"add\": {}}]<|tools_suffix|>",
        "(hm)|0:add{}",
    ),
    (
        ToolStyle::Apertus,
        APERTUS_STYLE,
        "<|inner_prefix|>hm<|tools_prefix|>[{\"new\": {}}]<|tools_suffix|><|inner_suffix|>Done",
        "(hm)|0:new{}Done",
    ),
    (ToolStyle::Apertus, None, "<|tools_prefix|>[{\"add\": {\"a\"", "|0:add{\"a\""),
    (ToolStyle::Apertus, None, "<|tools_prefix|>[{\"\": {}}]", "<|tools_prefix|>[{\"\": {}}]"),
    (ToolStyle::Apertus, None, "<|tools_prefix|>[]<|tools_suffix|>Hi", "Hi"),
];

const COMMAND_R: &[Case] = &[
    (
        ToolStyle::CommandR,
        None,
        "Look.\nAction:\n```json\n[\n    {\n        \"tool_name\": \"add\",\n        \"parameters\": {\n            \"a\": 1\n        }\n    },\n\
         \u{20}   {\n        \"tool_name\": \"get_weather\",\n        \"parameters\": {}\n    }\n]```\n",
        "Look.|0:add{\n            \"a\": 1\n        }|1:get_weather{}",
    ),
    // Calls that say that there are none.
    (ToolStyle::CommandR, None, "Action: ```json\n[{\"tool_name\": \"directly-answer\", \"parameters\": {}}]\n```", ""),
    (
        ToolStyle::CommandR,
        None,
        "Action: ```json\n[{\"tool_name\": \"add\", \"parameters\": {}}, {\"tool_name\": \"directly_answer\", \"parameters\": {\"x\": 1}},\
         {\"tool_name\": \"add\", \"parameters\": {}}]\n```\nSo be it.",
        "|0:add{}|1:add{}\nSo be it.",
    ),
    (ToolStyle::CommandR, None, "Action: ```json\n{\"a\": 1}\n```", "Action: ```json\n{\"a\": 1}\n```"),
    (ToolStyle::CommandR, None, "Action: run", "Action: run"),
];

const M3_STYLE: Option<ReasoningStyle> = Some(ReasoningStyle::MinimaxM3);
const MINIMAX_M3: &[Case] = &[
    (
        ToolStyle::MinimaxM3,
        M3_STYLE,
        "<mm:think>hm</mm:think>Look.]<]minimax[>[<tool_call>\n]<]minimax[>[<invoke name=\"get_weather\">]<]minimax[>[<city> B\n</city> ]\
         ]<]minimax[>[</city>]<]minimax[>[</invoke>\n]<]minimax[>[<invoke name=\"add\">]<]minimax[>[<a>1]<]minimax[>[</a>]<]minimax[>[<b>\
         ]<]minimax[>[<item>x]<]minimax[>[</item>]<]minimax[>[<item>]<]minimax[>[<k>2]<]minimax[>[</k>]<]minimax[>[</item>]<]minimax[>[</b>\
         ]<]minimax[>[</invoke>\n]<]minimax[>[</tool_call>",
        "(hm)Look.|0:get_weather{\"city\": \" B\\n</city> ]\"}|1:add{\"a\": 1, \"b\": [\"x\",{\"k\":\"2\"}]}",
    ),
    // The mark that ends the reasoning is there without reasoning too. A list may be written as JSON, and be empty.
    (ToolStyle::MinimaxM3, M3_STYLE, "</mm:think>\nHi", "Hi"),
    (ToolStyle::Hermes, M3_STYLE, "<tool_call>{\"name\": \"add\"}</tool_call>", "|0:add{}"),
    (
        ToolStyle::MinimaxM3,
        None,
        "]<]minimax[>[<invoke name=\"add\">]<]minimax[>[<b>[1]]<]minimax[>[</b>]<]minimax[>[</invoke>]<]minimax[>[<invoke name=\"add\">\
         ]<]minimax[>[<b>]<]minimax[>[</b>]<]minimax[>[</invoke>",
        "|0:add{\"b\": [1]}|1:add{\"b\": []}",
    ),
    // End tags that the model left out, and marks without a tag.
    (
        ToolStyle::MinimaxM3,
        None,
        "]<]minimax[>[<tool_call>]<]minimax[>[<invoke name=\"new\">]<]minimax[>[<a>]<]minimax[>[<k>]<]minimax[> ]<]minimax[>[ x<]minimax[>[</invoke>",
        "|0:new{",
    ),
    (
        ToolStyle::MinimaxM3,
        None,
        "]<]minimax[>[<tool_call>]<]minimax[>[<invoke name=\"new\">]<]minimax[>[<a>]<]minimax[>[<k> ]<]minimax[>[ x]<]minimax[>[</tool_call>.",
        "|0:new{\"a\": {\"k\":\" ]<]minimax[>[ x\"}}.",
    ),
    (ToolStyle::MinimaxM3, None, "]<]minimax[>[<tool_call>none", "]<]minimax[>[<tool_call>none"),
    (ToolStyle::MinimaxM3, None, "]<]minimax[>[<invoke name=\"other\">", "]<]minimax[>[<invoke name=\"other\">"),
    (ToolStyle::MinimaxM3, None, "]<]minimax[>[<tool_call>\n]<]min", "]<]minimax[>[<tool_call>\n]<]min"),
];

const MUSE_STYLE: Option<ReasoningStyle> = Some(ReasoningStyle::MuseGlimmer);
const MUSE_GLIMMER: &[Case] = &[
    (
        ToolStyle::MuseGlimmer,
        MUSE_STYLE,
        " to=self<|message|>hm<|eom|><|start|>assistant to=add<|message|><atem:function_calls>\n<atem:invoke name=\"add\">\n\
         <atem:parameter name=\"a\">1</atem:parameter>\n<atem:parameter name=\"b\">[\"x\"]</atem:parameter>\n</atem:invoke>\n\
         </atem:function_calls><|eom|><|start|>assistant to=get_weather<|message|><atem:function_calls>\n\
         <atem:invoke name=\"get_weather\">\n<atem:parameter name=\"city\"> B\n</atem:parameter>\n</atem:invoke>\n</atem:function_calls><|eot|>",
        "(hm)|0:add{\"a\": 1, \"b\": [\"x\"]}|1:get_weather{\"city\": \" B\\n\"}",
    ),
    (
        ToolStyle::MuseGlimmer,
        MUSE_STYLE,
        " to=self<|message|>one<|eom|><|start|>assistant to=self<|message|>two<|eom|><|start|>assistant to=user<|message|>\
         Write <atem:invoke>.<|eot|>",
        "(one\ntwo)Write <atem:invoke>.",
    ),
    (ToolStyle::MuseGlimmer, None, " to=self<|message|>hm<|eom|><|start|>assistant to=user<|message|>Hi", "hm\nHi"),
    // Text to a tool that is no call, messages without a recipient or a header, and a header that is cut.
    (ToolStyle::MuseGlimmer, MUSE_STYLE, " to=add<|message|>what?<|eot|>", "what?"),
    (ToolStyle::MuseGlimmer, MUSE_STYLE, "<|message|>Hi", "Hi"),
    (
        ToolStyle::MuseGlimmer,
        MUSE_STYLE,
        "Look. <atem:function_calls>\n<atem:invoke name=\"add\">\n</atem:invoke>\n</atem:function_calls>",
        "Look.|0:add{}",
    ),
    (ToolStyle::MuseGlimmer, MUSE_STYLE, " to=us", ""),
    (ToolStyle::Hermes, MUSE_STYLE, "<tool_call>{\"name\": \"add\"}</tool_call>", "|0:add{}"),
];

pub(super) const ALL: [&[Case]; 4] = [APERTUS, COMMAND_R, MINIMAX_M3, MUSE_GLIMMER];
