//! The styles as data: how a chat template is recognized, which parser reads the calls, and by which marks.

use super::call::Shape;
use super::gemma;
use super::harmony;
use super::named::{Head, Spelling};
use super::nested::Nested;
use super::objects;
use super::pythonic;
use super::recipients::Recipients;
use super::tagged::Tags;

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
    /// DeepSeek-V3 and R1: `<｜tool▁call▁begin｜>function<｜tool▁sep｜>name`, and the arguments in a block of code.
    DeepSeekV3,
    /// DeepSeek-V3.1: `<｜tool▁call▁begin｜>name<｜tool▁sep｜>{…}<｜tool▁call▁end｜>`.
    DeepSeekV31,
    /// DeepSeek-V3.2 and V4: `<｜DSML｜invoke name="…"><｜DSML｜parameter name="…" string="true">value…`.
    DeepSeekV32,
    /// GLM-4.5 and later: `<tool_call>name<arg_key>key</arg_key><arg_value>value</arg_value>…</tool_call>`.
    Glm45,
    /// Kimi K2: `<|tool_call_begin|>functions.name:0<|tool_call_argument_begin|>{…}<|tool_call_end|>`.
    KimiK2,
    /// gpt-oss: messages `to=functions.name`.
    Harmony,
    /// Gemma 3: Python in a block `tool_code`, or a list as in [`Self::Pythonic`].
    Gemma3,
    /// FunctionGemma: `<start_function_call>call:name{key:<escape>value<escape>}<end_function_call>`.
    FunctionGemma,
    /// Gemma 4: `<|tool_call>call:name{key:<|"|>value<|"|>}<tool_call|>`.
    Gemma4,
    /// Command R7B and later: `<|START_ACTION|>[{"tool_call_id": …, "tool_name": …, "parameters": {…}}]<|END_ACTION|>`.
    CommandR7b,
    /// functionary v3.1, and Llama 3.1 with tools of its user: `<function=name>{…}</function>`.
    FunctionaryV31,
    /// functionary v3.2: `>>>name`, line end, `{…}`.
    FunctionaryV32,
    /// firefunction v2: `functools[{"name": …, "arguments": {…}}]`.
    Firefunction,
    /// LFM2: `<|tool_call_start|>[name(argument=value, …)]<|tool_call_end|>`.
    Lfm2,
    /// MiniMax-M1, Apriel: `<tool_calls>` around one object, several, or a list.
    ToolCalls,
    /// MiniMax-M2: `<minimax:tool_call><invoke name="…"><parameter name="…">value</parameter>…</invoke>…`.
    MinimaxM2,
    /// Nemotron Nano v2: `<TOOLCALL>[{"name": …, "arguments": {…}}]</TOOLCALL>`.
    NemotronV2,
    /// Granite 3: `<|tool_call|>[{"name": …, "arguments": {…}}]`.
    Granite,
    /// Seed-OSS: as [`Self::Qwen3Coder`], in `<seed:tool_call>`.
    SeedOss,
    /// GigaChat 3: `<|function_call|>{"name": …, "arguments": {…}}`.
    GigaChat3,
    /// Hunyuan 3: as [`Self::Glm45`], with `:opensource` in the tags.
    Hy3,
    /// Kimi K3: `<|open|>call tool="name"<|sep|><|open|>argument key="key" type="number"<|sep|>value…`.
    KimiK3,
    /// MiniCPM5: `<function name="…"><param name="…">value</param>…</function>`.
    MiniCpm5,
    /// Solar Open: `<|tool_call:begin|>id<|tool_call:name|>name<|tool_call:args|>{…}<|tool_call:end|>`.
    SolarOpen,
    /// Apertus: `<|tools_prefix|>[{"name": {…}}, …]<|tools_suffix|>`.
    Apertus,
    /// Command R and Command R+: `Action:`, and a list of `{"tool_name": …, "parameters": {…}}` in a block of code.
    CommandR,
    /// MiniMax-M3: `]<]minimax[>[<invoke name="…">]<]minimax[>[<key>value]<]minimax[>[</key>…`.
    MinimaxM3,
    /// Muse Glimmer: messages `to=name`, with `<atem:invoke name="…"><atem:parameter name="…">value</atem:parameter>…`.
    MuseGlimmer,
}

/// Marks in chat templates. The first line whose marks a template has names its style. A line without a style is a style
/// that no parser reads, though its marks resemble another's.
const TEMPLATES: &[(&[&str], Option<ToolStyle>)] = &[
    (&["<|start|>", "<|channel|>", "<|message|>"], Some(ToolStyle::Harmony)),
    (&["<|tool_call_begin|>", "<|tool_call_argument_begin|>"], Some(ToolStyle::KimiK2)),
    (&["<|open|>", "<|sep|>", "<|close|>"], Some(ToolStyle::KimiK3)),
    (&["<|tool_call:begin|>", "<|tool_call:args|>"], Some(ToolStyle::SolarOpen)),
    (&["<|role_sep|>", "<|message_sep|>"], Some(ToolStyle::GigaChat3)),
    (&["<arg_key{}>", "':opensource'"], Some(ToolStyle::Hy3)),
    (&["<function name=\"", "<param name=\""], Some(ToolStyle::MiniCpm5)),
    (&["｜DSML｜"], Some(ToolStyle::DeepSeekV32)),
    (&["<|tools_prefix|>", "<|tools_suffix|>"], Some(ToolStyle::Apertus)),
    (&["Action:", "```json", "directly-answer"], Some(ToolStyle::CommandR)),
    (&["<｜tool▁calls▁begin｜>", "```json"], Some(ToolStyle::DeepSeekV3)),
    (&["<｜tool▁calls▁begin｜>"], Some(ToolStyle::DeepSeekV31)),
    (&["]<]minimax[>["], Some(ToolStyle::MinimaxM3)),
    (&["<|message|>", "<atem:function_calls>"], Some(ToolStyle::MuseGlimmer)),
    (&["<|tool_call>call:"], Some(ToolStyle::Gemma4)),
    (&["<start_function_call>"], Some(ToolStyle::FunctionGemma)),
    (&["<minimax:tool_call>"], Some(ToolStyle::MinimaxM2)),
    (&["<seed:tool_call>"], Some(ToolStyle::SeedOss)),
    (&["<arg_key>", "<arg_value>"], Some(ToolStyle::Glm45)),
    (&["<arg_key>"], None),
    (&["<|START_ACTION|>"], Some(ToolStyle::CommandR7b)),
    (&[">>>all"], Some(ToolStyle::FunctionaryV32)),
    (&["functools["], Some(ToolStyle::Firefunction)),
    (&["List of tools: ["], Some(ToolStyle::Lfm2)),
    (&["<|tool_list_start|>"], Some(ToolStyle::Lfm2)),
    (&["<tool_call>", "<function=", "<parameter="], Some(ToolStyle::Qwen3Coder)),
    (&["<function=", "<parameter="], None),
    (&["<function=", "</function>"], Some(ToolStyle::FunctionaryV31)),
    (&["<function="], None),
    (&["<TOOLCALL>"], Some(ToolStyle::NemotronV2)),
    (&["<tool_calls>"], Some(ToolStyle::ToolCalls)),
    (&["<|tool_call|>"], Some(ToolStyle::Granite)),
    (&["<tool_call>"], Some(ToolStyle::Hermes)),
    (&["[TOOL_CALLS]"], Some(ToolStyle::Mistral)),
    (&["func_name1("], Some(ToolStyle::Pythonic)),
    (&["```tool_code"], Some(ToolStyle::Gemma3)),
    (&["<|python_tag|>"], Some(ToolStyle::Llama3Json)),
    (&["\"parameters\": dictionary"], Some(ToolStyle::Llama3Json)),
];

/// The parser of a style, and its marks.
pub(super) enum Syntax {
    Objects(&'static objects::Marks),
    Named(&'static Spelling),
    Tagged(&'static Tags),
    Nested,
    Pythonic(&'static pythonic::Marks),
    Gemma(&'static gemma::Marks),
    Llama,
    Mistral,
    Harmony(&'static harmony::Dialect),
    Recipients,
}

impl ToolStyle {
    /// Finds the style whose marks a chat template contains.
    pub fn from_template(template: &str) -> Option<Self> {
        TEMPLATES.iter().find(|(marks, _)| marks.iter().all(|mark| template.contains(mark)))?.1
    }

    /// Names on the command line. vLLM's names are among them.
    pub const NAMES: &[(&str, Self)] = &[
        ("hermes", Self::Hermes),
        ("llama3_json", Self::Llama3Json),
        ("mistral", Self::Mistral),
        ("pythonic", Self::Pythonic),
        ("qwen3_coder", Self::Qwen3Coder),
        ("deepseek_v3", Self::DeepSeekV3),
        ("deepseek_v31", Self::DeepSeekV31),
        ("deepseek_v32", Self::DeepSeekV32),
        ("glm45", Self::Glm45),
        ("kimi_k2", Self::KimiK2),
        ("openai", Self::Harmony),
        ("gemma3", Self::Gemma3),
        ("functiongemma", Self::FunctionGemma),
        ("gemma4", Self::Gemma4),
        ("command_r7b", Self::CommandR7b),
        ("functionary_v3_1", Self::FunctionaryV31),
        ("functionary_v3_2", Self::FunctionaryV32),
        ("firefunction_v2", Self::Firefunction),
        ("lfm2", Self::Lfm2),
        ("minimax", Self::ToolCalls),
        ("minimax_m2", Self::MinimaxM2),
        ("nemotron_v2", Self::NemotronV2),
        ("granite", Self::Granite),
        ("seed_oss", Self::SeedOss),
        ("gigachat3", Self::GigaChat3),
        ("hy_v3", Self::Hy3),
        ("kimi_k3", Self::KimiK3),
        ("minicpm5", Self::MiniCpm5),
        ("solar_open", Self::SolarOpen),
        ("apertus", Self::Apertus),
        ("command_r", Self::CommandR),
        ("minimax_m3", Self::MinimaxM3),
        ("muse_glimmer", Self::MuseGlimmer),
    ];

    /// Returns the style of an answer that must call tools. A grammar cannot enforce a schema on values without quotes,
    /// so the grammar makes a model with such a style write Hermes' JSON.
    pub fn when_forced(self) -> Self {
        match self.syntax() {
            Syntax::Tagged(_) | Syntax::Nested | Syntax::Gemma(_) => Self::Hermes,
            Syntax::Harmony(dialect) if dialect.has_tags() => Self::Hermes,
            _ => self,
        }
    }

    /// Returns true if answers without calls need the parser too: their content has marks around it.
    pub fn frames_content(self) -> bool {
        let styles = [Self::FunctionaryV32, Self::CommandR7b, Self::KimiK3, Self::SolarOpen];
        self.frames_reasoning() || styles.contains(&self)
    }

    /// Returns true if the parser of the calls reads the reasoning too.
    pub(crate) fn frames_reasoning(self) -> bool {
        matches!(self.syntax(), Syntax::Harmony(_))
    }

    /// Returns the names of tools that the model calls to say that it calls none.
    pub(super) fn pretended_tools(self) -> &'static [&'static str] {
        if self == Self::CommandR { &["directly-answer", "directly_answer"] } else { &[] }
    }

    /// Returns the marks that a model may spell with special tokens, and the tokens in them.
    pub fn marks(self) -> Vec<&'static str> {
        let marks = match self.syntax() {
            Syntax::Objects(marks) => [marks.begin, &[marks.end], marks.dropped].concat(),
            Syntax::Named(spelling) => [spelling.begin, &[spelling.end], spelling.sections, SEPARATORS].concat(),
            Syntax::Tagged(tags) => tags.marks(),
            Syntax::Nested => Nested::MARKS.to_vec(),
            Syntax::Pythonic(marks) => [marks.begin, &[marks.end]].concat(),
            Syntax::Gemma(marks) => vec![marks.begin, marks.end, marks.quote],
            Syntax::Llama => vec![super::llama::Llama::TAG],
            Syntax::Mistral => super::mistral::Mistral::MARKS.to_vec(),
            Syntax::Harmony(dialect) => dialect.marks(),
            Syntax::Recipients => Recipients::MARKS.to_vec(),
        };
        let marks = marks.into_iter().filter(|mark| !mark.is_empty());
        marks.flat_map(|mark| tokens_in(mark).chain([mark])).collect()
    }

    pub(super) fn syntax(self) -> Syntax {
        match self {
            Self::Hermes => Syntax::Objects(&HERMES),
            Self::CommandR7b => Syntax::Objects(&COMMAND_R7B),
            Self::Firefunction => Syntax::Objects(&FIREFUNCTION),
            Self::ToolCalls => Syntax::Objects(&TOOL_CALLS),
            Self::NemotronV2 => Syntax::Objects(&NEMOTRON_V2),
            Self::Granite => Syntax::Objects(&GRANITE),
            Self::GigaChat3 => Syntax::Objects(&GIGACHAT3),
            Self::Apertus => Syntax::Objects(&APERTUS),
            Self::CommandR => Syntax::Objects(&COMMAND_R),
            Self::DeepSeekV3 | Self::DeepSeekV31 => Syntax::Named(&DEEPSEEK),
            Self::KimiK2 => Syntax::Named(&KIMI_K2),
            Self::FunctionaryV31 => Syntax::Named(&FUNCTIONARY_V31),
            Self::SolarOpen => Syntax::Named(&SOLAR_OPEN),
            Self::Qwen3Coder => Syntax::Tagged(&QWEN3_CODER),
            Self::SeedOss => Syntax::Tagged(&SEED_OSS),
            Self::MinimaxM2 => Syntax::Tagged(&MINIMAX_M2),
            Self::DeepSeekV32 => Syntax::Tagged(&DEEPSEEK_V32),
            Self::Glm45 => Syntax::Tagged(&GLM45),
            Self::Hy3 => Syntax::Tagged(&HY3),
            Self::KimiK3 => Syntax::Tagged(&KIMI_K3),
            Self::MiniCpm5 => Syntax::Tagged(&MINICPM5),
            Self::MinimaxM3 => Syntax::Nested,
            Self::Pythonic => Syntax::Pythonic(&PYTHONIC),
            Self::Lfm2 => Syntax::Pythonic(&LFM2),
            Self::Gemma3 => Syntax::Pythonic(&GEMMA3),
            Self::FunctionGemma => Syntax::Gemma(&FUNCTION_GEMMA),
            Self::Gemma4 => Syntax::Gemma(&GEMMA4),
            Self::Llama3Json => Syntax::Llama,
            Self::Mistral => Syntax::Mistral,
            Self::Harmony => Syntax::Harmony(&harmony::GPT_OSS),
            Self::MuseGlimmer => Syntax::Harmony(&harmony::MUSE_GLIMMER),
            Self::FunctionaryV32 => Syntax::Recipients,
        }
    }
}

/// Returns the special tokens within a longer mark.
fn tokens_in(mark: &'static str) -> impl Iterator<Item = &'static str> {
    let open = |begin: &'static str, end: &'static str| {
        mark.match_indices(begin).filter_map(move |(at, _)| {
            let length = mark[at + begin.len()..].find(end)? + begin.len() + end.len();
            Some(&mark[at..at + length]).filter(|token| token.len() < mark.len())
        })
    };
    open("<|", "|>").chain(open("｜DSML", "｜"))
}

const HERMES: objects::Marks = objects::Marks {
    begin: &["<tool_call>"],
    end: "</tool_call>",
    dropped: &[],
    several: false,
    shape: Shape::Members,
};
const COMMAND_R7B: objects::Marks = objects::Marks {
    begin: &["<|START_ACTION|>"],
    end: "<|END_ACTION|>",
    dropped: &["<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"],
    several: false,
    shape: Shape::Members,
};
const FIREFUNCTION: objects::Marks =
    objects::Marks { begin: &["functools"], end: "", dropped: &[], several: false, shape: Shape::Members };
const TOOL_CALLS: objects::Marks = objects::Marks {
    begin: &["<tool_calls>"],
    end: "</tool_calls>",
    dropped: &[],
    several: true,
    shape: Shape::Members,
};
const NEMOTRON_V2: objects::Marks =
    objects::Marks { begin: &["<TOOLCALL>"], end: "</TOOLCALL>", dropped: &[], several: false, shape: Shape::Members };
const GRANITE: objects::Marks = objects::Marks {
    begin: &["<|tool_call|>"],
    end: "",
    dropped: &["<|/tool_call|>"],
    several: false,
    shape: Shape::Members,
};

const GIGACHAT3: objects::Marks = objects::Marks {
    begin: &["<|function_call|>", "function call<|role_sep|>"],
    end: "",
    dropped: &["<|message_sep|>"],
    several: false,
    shape: Shape::Members,
};
/// Calls may stand within the reasoning, so its marks may come after them.
const APERTUS: objects::Marks = objects::Marks {
    begin: &["<|tools_prefix|>"],
    end: "<|tools_suffix|>",
    dropped: &["<|inner_prefix|>", "<|inner_suffix|>"],
    several: false,
    shape: Shape::NameIsKey,
};
/// The template writes a line end before the block of code, and the model a space.
const COMMAND_R: objects::Marks = objects::Marks {
    begin: &["Action:\n```json", "Action: ```json", "Action:```json", "Action:\n\n```json"],
    end: "```",
    dropped: &[],
    several: false,
    shape: Shape::Members,
};

const DEEPSEEK_SEPARATOR: &str = "<｜tool▁sep｜>";
const KIMI_SEPARATOR: &str = "<|tool_call_argument_begin|>";
const SOLAR_NAME: &str = "<|tool_call:name|>";
const SOLAR_ARGUMENTS: &str = "<|tool_call:args|>";
/// Marks between a name and its arguments.
const SEPARATORS: &[&str] = &[DEEPSEEK_SEPARATOR, KIMI_SEPARATOR, SOLAR_NAME, SOLAR_ARGUMENTS];

const DEEPSEEK: Spelling = Spelling {
    begin: &["<｜tool▁call▁begin｜>"],
    sections: &["<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"],
    end: "<｜tool▁call▁end｜>",
    read_head: read_deepseek,
    known: false,
};
const KIMI_K2: Spelling = Spelling {
    begin: &["<|tool_call_begin|>"],
    sections: &["<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"],
    end: "<|tool_call_end|>",
    read_head: read_kimi,
    known: false,
};
const FUNCTIONARY_V31: Spelling = Spelling {
    begin: &["<function="],
    sections: &[],
    end: "</function>",
    read_head: |head| Head::named(head.trim_end().strip_suffix('>')?),
    known: true,
};

const SOLAR_OPEN: Spelling = Spelling {
    begin: &["<|tool_call:begin|>"],
    sections: &["<|begin|>assistant", "<|content|>", "<|end|>", "<|tool_calls|>"],
    end: "<|tool_call:end|>",
    read_head: read_solar,
    known: false,
};

/// Reads `id<name>name<args>`.
fn read_solar(head: &str) -> Option<Head<'_>> {
    let (id, name) = head.split_once(SOLAR_NAME)?;
    let Head { name, .. } = Head::named(name.trim().trim_end_matches(SOLAR_ARGUMENTS).trim())?;
    Some(Head { name, id: Some(id.trim()).filter(|id| !id.is_empty()) })
}

/// Reads `name<sep>`, or `function<sep>name` and the begin of a block of code.
fn read_deepseek(head: &str) -> Option<Head<'_>> {
    let (kind, name) = head.split_once(DEEPSEEK_SEPARATOR)?;
    let name = name.trim().trim_end_matches("```json").trim();
    Head::named(if name.is_empty() { kind.trim() } else { name })
}

/// Reads `functions.name:number<begin>`, which is also the call's id.
fn read_kimi(head: &str) -> Option<Head<'_>> {
    let id = head.trim().trim_end_matches(KIMI_SEPARATOR).trim();
    let name = id.rsplit_once(':').map_or(id, |(name, _)| name);
    let Head { name, .. } = Head::named(name.strip_prefix("functions.").unwrap_or(name))?;
    Some(Head { name, id: Some(id) })
}

const QWEN3_CODER: Tags = Tags {
    outer: Some(["<tool_call>", "</tool_call>"]),
    function: ["<function=", ">"],
    function_end: "</function>",
    parameter: ["<parameter=", ">"],
    value: "",
    parameter_end: "</parameter>",
    has_line_ends: true,
    sections: &[],
    known: false,
    quotes: ["", ""],
};
const SEED_OSS: Tags =
    Tags { outer: Some(["<seed:tool_call>", "</seed:tool_call>"]), has_line_ends: false, ..QWEN3_CODER };
const MINIMAX_M2: Tags = Tags {
    outer: Some(["<minimax:tool_call>", "</minimax:tool_call>"]),
    function: ["<invoke name=\"", "\">"],
    function_end: "</invoke>",
    parameter: ["<parameter name=\"", "\">"],
    has_line_ends: false,
    ..QWEN3_CODER
};
const DEEPSEEK_V32: Tags = Tags {
    outer: None,
    function: ["<｜DSML｜invoke name=\"", "\">"],
    function_end: "</｜DSML｜invoke>",
    parameter: ["<｜DSML｜parameter name=\"", "\">"],
    parameter_end: "</｜DSML｜parameter>",
    has_line_ends: false,
    sections: &[
        "<｜DSML｜function_calls>",
        "</｜DSML｜function_calls>",
        "<｜DSML｜tool_calls>",
        "</｜DSML｜tool_calls>",
    ],
    ..QWEN3_CODER
};
const GLM45: Tags = Tags {
    outer: None,
    function: ["<tool_call>", ""],
    function_end: "</tool_call>",
    parameter: ["<arg_key>", "</arg_key>"],
    value: "<arg_value>",
    parameter_end: "</arg_value>",
    has_line_ends: false,
    ..QWEN3_CODER
};
const HY3: Tags = Tags {
    outer: None,
    function: ["<tool_call:opensource>", "<tool_sep:opensource>"],
    function_end: "</tool_call:opensource>",
    parameter: ["<arg_key:opensource>", "</arg_key:opensource>"],
    value: "<arg_value:opensource>",
    parameter_end: "</arg_value:opensource>",
    has_line_ends: false,
    sections: &["<tool_calls:opensource>", "</tool_calls:opensource>"],
    ..QWEN3_CODER
};
const KIMI_K3: Tags = Tags {
    outer: None,
    function: ["<|open|>call tool=\"", "<|sep|>"],
    function_end: "<|close|>call<|sep|>",
    parameter: ["<|open|>argument key=\"", "<|sep|>"],
    parameter_end: "<|close|>argument<|sep|>",
    has_line_ends: false,
    sections: &[
        "<|open|>response<|sep|>",
        "<|close|>response<|sep|>",
        "<|open|>tools<|sep|>",
        "<|close|>tools<|sep|>",
        "<|close|>message<|sep|>",
    ],
    ..QWEN3_CODER
};
const MINICPM5: Tags = Tags {
    outer: None,
    function: ["<function name=\"", "\">"],
    parameter: ["<param name=\"", "\">"],
    parameter_end: "</param>",
    has_line_ends: false,
    known: true,
    quotes: ["<![CDATA[", "]]>"],
    ..QWEN3_CODER
};

const PYTHONIC: pythonic::Marks =
    pythonic::Marks { begin: &["<|python_start|>"], end: "<|python_end|>", bare: true, loose: false };
const LFM2: pythonic::Marks =
    pythonic::Marks { begin: &["<|tool_call_start|>"], end: "<|tool_call_end|>", bare: false, loose: false };
const GEMMA3: pythonic::Marks = pythonic::Marks { begin: &["```tool_code"], end: "```", bare: true, loose: true };

const FUNCTION_GEMMA: gemma::Marks =
    gemma::Marks { begin: "<start_function_call>", end: "<end_function_call>", quote: "<escape>" };
const GEMMA4: gemma::Marks = gemma::Marks { begin: "<|tool_call>", end: "<tool_call|>", quote: "<|\"|>" };
