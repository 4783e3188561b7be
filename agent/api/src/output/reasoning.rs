//! Reasoning before the answer, between two marks. The parser drops white space before and after each mark.

use super::tools::ToolStyle;
use super::{OutputPiece, push_piece};

/// Longest white space that is held back, in bytes. Longer white space counts as text.
const MAX_HELD: usize = 256;

/// Marks around a model's reasoning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReasoningStyle {
    /// `<think>` and `</think>`: DeepSeek-R1, Qwen3 and many others.
    Think,
    /// `[THINK]` and `[/THINK]`: Magistral.
    Mistral,
    /// `<seed:think>` and `</seed:think>`.
    Seed,
    /// `<|START_THINKING|>` and `<|END_THINKING|>`: Command R7B and later.
    Command,
    /// `<|channel>thought` and `<channel|>`.
    Gemma4,
    /// `<think:opensource>` and `</think:opensource>`: Hunyuan 3.
    Hy3,
    /// `<|open|>think<|sep|>` and `<|close|>think<|sep|>`.
    KimiK3,
    /// `<|think|>` and `<|end|>`: Solar Open.
    SolarOpen,
    /// `<|inner_prefix|>` and `<|inner_suffix|>`: Apertus. A call within the reasoning ends it too.
    Apertus,
    /// `<mm:think>` and `</mm:think>`: MiniMax-M3.
    MinimaxM3,
    /// Messages to `self`: Muse Glimmer. The parser of the calls reads them.
    MuseGlimmer,
    /// Messages of the channel `analysis`: gpt-oss. The parser of the calls reads them.
    Harmony,
}

impl ReasoningStyle {
    /// All styles, in the order in which a chat template is searched for their marks.
    const ALL: [Self; 12] = [
        Self::Mistral,
        Self::Seed,
        Self::Command,
        Self::Gemma4,
        Self::Hy3,
        Self::KimiK3,
        Self::SolarOpen,
        Self::Apertus,
        Self::MinimaxM3,
        Self::MuseGlimmer,
        Self::Harmony,
        Self::Think,
    ];

    /// Finds the style whose mark a chat template contains.
    pub fn from_template(template: &str) -> Option<Self> {
        let calls = |style: ToolStyle| ToolStyle::from_template(template) == Some(style);
        Self::ALL.into_iter().find(|style| match style {
            Self::Harmony => calls(ToolStyle::Harmony),
            Self::MuseGlimmer => calls(ToolStyle::MuseGlimmer),
            Self::Hy3 => calls(ToolStyle::Hy3),
            Self::KimiK3 => calls(ToolStyle::KimiK3),
            Self::SolarOpen => calls(ToolStyle::SolarOpen),
            _ => template.contains(style.end_mark()),
        })
    }

    /// Names on the command line. vLLM's names are among them.
    pub const NAMES: &[(&str, Self)] = &[
        ("think", Self::Think),
        ("deepseek_r1", Self::Think),
        ("qwen3", Self::Think),
        ("glm45", Self::Think),
        ("kimi_k2", Self::Think),
        ("minimax_m2", Self::Think),
        ("mistral", Self::Mistral),
        ("seed_oss", Self::Seed),
        ("command_r7b", Self::Command),
        ("gemma4", Self::Gemma4),
        ("hy_v3", Self::Hy3),
        ("kimi_k3", Self::KimiK3),
        ("solar_open", Self::SolarOpen),
        ("apertus", Self::Apertus),
        ("minimax_m3", Self::MinimaxM3),
        ("muse_glimmer", Self::MuseGlimmer),
        ("openai_gptoss", Self::Harmony),
    ];

    pub fn begin_mark(self) -> &'static str {
        match self {
            Self::Think => "<think>",
            Self::Mistral => "[THINK]",
            Self::Seed => "<seed:think>",
            Self::Command => "<|START_THINKING|>",
            Self::Gemma4 => "<|channel>thought",
            Self::Hy3 => "<think:opensource>",
            Self::KimiK3 => "<|open|>think<|sep|>",
            Self::SolarOpen => "<|think|>",
            Self::Apertus => "<|inner_prefix|>",
            Self::MinimaxM3 => "<mm:think>",
            Self::MuseGlimmer => "to=self<|message|>",
            Self::Harmony => "<|channel|>analysis<|message|>",
        }
    }

    pub fn end_mark(self) -> &'static str {
        match self {
            Self::Think => "</think>",
            Self::Mistral => "[/THINK]",
            Self::Seed => "</seed:think>",
            Self::Command => "<|END_THINKING|>",
            Self::Gemma4 => "<channel|>",
            Self::Hy3 => "</think:opensource>",
            Self::KimiK3 => "<|close|>think<|sep|>",
            Self::SolarOpen => "<|end|>",
            Self::Apertus => "<|inner_suffix|>",
            Self::MinimaxM3 => "</mm:think>",
            Self::MuseGlimmer => "<|eom|>",
            Self::Harmony => "<|end|>",
        }
    }

    /// Returns the style of calls whose parser reads the reasoning too.
    pub(super) fn framing(self) -> Option<ToolStyle> {
        match self {
            Self::Harmony => Some(ToolStyle::Harmony),
            Self::MuseGlimmer => Some(ToolStyle::MuseGlimmer),
            _ => None,
        }
    }

    /// Returns the mark of a call that may stand within the reasoning. The reasoning ends before this mark.
    fn call_mark(self) -> Option<&'static str> {
        (self == Self::Apertus).then_some("<|tools_prefix|>")
    }

    /// Returns the marks that a model may spell with special tokens.
    pub fn marks(self) -> Vec<&'static str> {
        match self {
            Self::Gemma4 => vec!["<|channel>", self.end_mark()],
            Self::Harmony => ToolStyle::Harmony.marks(),
            Self::MuseGlimmer => ToolStyle::MuseGlimmer.marks(),
            Self::KimiK3 => ToolStyle::KimiK3.marks(),
            _ => vec![self.begin_mark(), self.end_mark()],
        }
    }
}

/// Parser that splits the reasoning off the front of an answer.
#[derive(Debug)]
pub(crate) struct Reasoning {
    style: ReasoningStyle,
    state: ReasoningState,
    /// White space, or the beginning of a mark. The next characters decide which.
    held: String,
}

#[derive(Debug, PartialEq, Eq)]
enum ReasoningState {
    /// White space, and perhaps the beginning mark.
    Start,
    /// White space before the reasoning's first word.
    Begun,
    Reasoning,
    /// White space after the end mark.
    Ended,
    Content,
}

impl Reasoning {
    /// Makes the parser. `begun` is true if the prompt ends with the mark that begins reasoning.
    pub(crate) fn new(style: ReasoningStyle, begun: bool) -> Self {
        Self { style, state: if begun { ReasoningState::Begun } else { ReasoningState::Start }, held: String::new() }
    }

    /// Takes more of the answer. Returns the text after the reasoning.
    pub(crate) fn push(&mut self, text: &str, pieces: &mut Vec<OutputPiece>) -> String {
        let mut content = String::new();
        for char in text.chars() {
            self.step(char, pieces, &mut content);
        }
        content
    }

    /// Ends the answer. Returns the content that was held back.
    pub(crate) fn finish(&mut self, pieces: &mut Vec<OutputPiece>) -> String {
        let held = std::mem::take(&mut self.held);
        match self.state {
            ReasoningState::Reasoning => push_piece(pieces, OutputPiece::Reasoning(held.trim_end().to_owned())),
            ReasoningState::Start | ReasoningState::Content => return held,
            ReasoningState::Begun | ReasoningState::Ended => {}
        }
        String::new()
    }

    fn step(&mut self, char: char, pieces: &mut Vec<OutputPiece>, content: &mut String) {
        match self.state {
            ReasoningState::Content => content.push(char),
            ReasoningState::Ended | ReasoningState::Begun if char.is_whitespace() => {}
            ReasoningState::Ended => {
                self.state = ReasoningState::Content;
                content.push(char);
            }
            ReasoningState::Start => self.step_start(char, content),
            ReasoningState::Begun | ReasoningState::Reasoning => {
                self.state = ReasoningState::Reasoning;
                self.step_reasoning(char, pieces, content);
            }
        }
    }

    fn step_start(&mut self, char: char, content: &mut String) {
        self.held.push(char);
        let begin = self.style.begin_mark();
        let mark = self.held.trim_start();
        let end = self.style.end_mark();
        let may_become_mark = begin.starts_with(mark) || end.starts_with(mark);
        if mark == begin {
            self.state = ReasoningState::Begun;
            self.held.clear();
        } else if mark == end {
            // Without reasoning, some models write the end mark alone.
            self.state = ReasoningState::Ended;
            self.held.clear();
        } else if !may_become_mark || self.held.len() > MAX_HELD {
            self.state = ReasoningState::Content;
            content.push_str(&std::mem::take(&mut self.held));
        }
    }

    /// Holds back white space, which may end the reasoning, and any beginning of the end mark.
    fn step_reasoning(&mut self, char: char, pieces: &mut Vec<OutputPiece>, content: &mut String) {
        self.held.push(char);
        let (end, call) = (self.style.end_mark(), self.style.call_mark());
        loop {
            let mark = self.held.trim_start();
            if mark == end {
                self.state = ReasoningState::Ended;
                self.held.clear();
                return;
            }
            if call == Some(mark) {
                self.state = ReasoningState::Content;
                content.push_str(mark);
                self.held.clear();
                return;
            }
            let may_become_mark = end.starts_with(mark) || call.is_some_and(|call| call.starts_with(mark));
            if may_become_mark && self.held.len() < MAX_HELD {
                return;
            }
            let first = self.held.remove(0);
            push_piece(pieces, OutputPiece::Reasoning(first.into()));
        }
    }
}
