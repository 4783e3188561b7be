//! Language of a conversation on a terminal, the same in `lockstep chat` and in `lockstep-agent -i`.
//!
//! The module only maps text: typed lines become an [`Input`], and the [`Figures`] of a finished answer become a line.

use std::time::Duration;

use crate::v1::FinishReason;

/// Longest input, in bytes: far more than any context holds.
pub const MAX_INPUT_BYTES: usize = 16 << 20;

/// Mark that opens and closes a text of several lines.
const FENCE: &str = "\"\"\"";

/// Output of `/help`.
pub const HELP: &str = "\
/system TEXT     tell the model this before the conversation; without TEXT: nothing
/clear, /reset   forget the conversation
/temperature T   0 always takes the likeliest token; higher is freer
/top-k K         choose among the K likeliest tokens; 0: among all
/top-p P         choose among the likeliest tokens whose probabilities sum to P
/seed N          the same seed gives the same answer
/max-tokens N    most tokens of an answer
                 these five without a value: the model's own
/help            this
/quit, /exit     end; so does Ctrl-D
A line that ends in \\ goes on in the next one; \"\"\" opens and closes a text of several lines.
Ctrl-C stops an answer; twice where none runs, it ends the conversation.";

/// Commands that the line editor completes.
pub const COMMANDS: &[&str] = &[
    "/clear",
    "/exit",
    "/help",
    "/max-tokens",
    "/quit",
    "/reset",
    "/seed",
    "/system",
    "/temperature",
    "/top-k",
    "/top-p",
];

/// Complete input of the user.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    Nothing,
    /// A message for the model.
    Say(String),
    Help,
    Clear,
    Quit,
    /// The system message for the following questions; `None`: none.
    System(Option<String>),
    Set(Setting),
    /// An unknown command, or one with a wrong value; the text is the message for the user.
    Wrong(String),
}

/// Sampling of the following answers; `None`: the model's own default.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Setting {
    Temperature(Option<f32>),
    TopK(Option<u32>),
    TopP(Option<f32>),
    Seed(Option<u64>),
    MaxTokens(Option<u32>),
}

/// Returns true if `text` is a complete input: its last line does not continue, and no text of several lines is open.
pub fn is_complete(text: &str) -> bool {
    match text.trim_start().strip_prefix(FENCE) {
        Some(rest) => rest.trim_end().ends_with(FENCE),
        None => !text.trim_end_matches(['\r', '\n']).ends_with('\\'),
    }
}

impl Input {
    /// Parses a complete input. Commands begin with `/`, or with `\` as in mistral.rs. A word that only looks like a
    /// command, such as a path, is a message for the model.
    pub fn parse(text: &str) -> Self {
        let text = text.trim();
        if let Some(rest) = text.strip_prefix(FENCE) {
            return message_or_nothing(rest.strip_suffix(FENCE).unwrap_or(rest).trim_matches(['\r', '\n']).to_owned());
        }
        let lines = text.split('\n').map(|line| line.trim_end_matches('\r'));
        let text = lines.map(|line| line.strip_suffix('\\').unwrap_or(line)).collect::<Vec<_>>().join("\n");
        let (word, value) = text.split_once(char::is_whitespace).unwrap_or((&text, ""));
        if let Some(name) = word.strip_prefix('/')
            && name.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'-')
        {
            let unknown = || Self::Wrong(format!("there is no command /{name}: /help lists what there is"));
            return parse_command(name, value.trim()).unwrap_or_else(unknown);
        }
        if let Some(input) = word.strip_prefix('\\').and_then(|name| parse_command(name, value.trim())) {
            return input;
        }
        message_or_nothing(text)
    }
}

fn message_or_nothing(text: String) -> Input {
    if text.trim().is_empty() { Input::Nothing } else { Input::Say(text) }
}

/// Parses a command; `None`: there is no command of this name.
fn parse_command(name: &str, value: &str) -> Option<Input> {
    Some(match name {
        "help" => Input::Help,
        "clear" | "reset" => Input::Clear,
        "quit" | "exit" => Input::Quit,
        "system" => Input::System(Some(value.to_owned()).filter(|text| !text.is_empty())),
        "temperature" => parse_setting(name, value, Setting::Temperature),
        "top-k" | "topk" => parse_setting(name, value, Setting::TopK),
        "top-p" | "topp" => parse_setting(name, value, Setting::TopP),
        "seed" => parse_setting(name, value, Setting::Seed),
        "max-tokens" => parse_setting(name, value, Setting::MaxTokens),
        _ => return None,
    })
}

fn parse_setting<T: std::str::FromStr>(name: &str, value: &str, setting: impl Fn(Option<T>) -> Setting) -> Input {
    match value {
        "" => Input::Set(setting(None)),
        _ => match value.parse() {
            Ok(value) => Input::Set(setting(Some(value))),
            Err(_) => Input::Wrong(format!("/{name} {value}: give a number, or nothing for the model's own")),
        },
    }
}

/// Sizes and times of an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Figures {
    pub prompt_tokens: u32,
    /// Tokens of the prompt whose keys and values were cached.
    pub cached_tokens: u32,
    pub tokens: u32,
    pub finish: FinishReason,
    /// Time from the question to the first token.
    pub first: Duration,
    /// Time from the first token to the last.
    pub rest: Duration,
}

impl Figures {
    /// Returns the tokens per second after the first token; 0 if there were fewer than two.
    pub fn rate(&self) -> f64 {
        per_second(self.tokens.saturating_sub(1), self.rest)
    }

    /// Returns the computed tokens of the prompt, per second until the first token.
    pub fn prompt_rate(&self) -> f64 {
        per_second(self.prompt_tokens.saturating_sub(self.cached_tokens), self.first)
    }
}

fn per_second(tokens: u32, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { f64::from(tokens) / time.as_secs_f64() }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let why = match self.finish {
            FinishReason::Length => ", cut at the limit",
            FinishReason::Cancelled => ", cancelled",
            _ => "",
        };
        let (rate, first) = (self.rate(), self.first.as_secs_f64() * 1e3);
        write!(f, "{} tokens{why}; {rate:.1} tokens/s after the first, which took {first:.0} ms", self.tokens)?;
        write!(f, "; prompt of {} tokens", self.prompt_tokens)?;
        if self.cached_tokens > 0 {
            write!(f, " ({} cached)", self.cached_tokens)?;
        }
        write!(f, ", {:.1} tokens/s", self.prompt_rate())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_parsed() {
        let say = |text: &str| Input::Say(text.into());
        let rows = [
            ("  ", Input::Nothing),
            ("hello\r\n", say("hello")),
            ("one \\\ntwo\\\nthree", say("one \ntwo\nthree")),
            ("\"\"\"\nfn a() {\n    /quit\n}\n\"\"\"\n", say("fn a() {\n    /quit\n}")),
            ("\"\"\"\"\"\"", Input::Nothing),
            ("/help", Input::Help),
            ("\\help", Input::Help),
            (" /reset ", Input::Clear),
            ("/clear", Input::Clear),
            ("/exit", Input::Quit),
            ("/quit now", Input::Quit),
            ("/system be brief", Input::System(Some("be brief".into()))),
            ("/system be brief\\\nand kind", Input::System(Some("be brief\nand kind".into()))),
            ("/system", Input::System(None)),
            ("/temperature 0.5", Input::Set(Setting::Temperature(Some(0.5)))),
            ("\\topk 4", Input::Set(Setting::TopK(Some(4)))),
            ("/top-p", Input::Set(Setting::TopP(None))),
            ("/seed 7", Input::Set(Setting::Seed(Some(7)))),
            ("/max-tokens 9", Input::Set(Setting::MaxTokens(Some(9)))),
            ("/seed -1", Input::Wrong("/seed -1: give a number, or nothing for the model's own".into())),
            ("/halp me", Input::Wrong("there is no command /halp: /help lists what there is".into())),
            ("/etc/passwd: what is it?", say("/etc/passwd: what is it?")),
            ("\\frac{1}{2} is a half", say("\\frac{1}{2} is a half")),
        ];
        for (text, expected) in rows {
            assert!(is_complete(text), "{text}");
            assert_eq!(Input::parse(text), expected, "{text}");
        }
        for name in COMMANDS {
            assert!(!matches!(Input::parse(name), Input::Wrong(_) | Input::Say(_)), "{name}");
            assert!(HELP.contains(name), "{name} is not in the help");
        }
    }

    #[test]
    fn open_inputs_continue() {
        for open in ["one \\", "one\\\n", "\"\"\"", "\"\"\"\nfirst\n", "a\nb\\"] {
            assert!(!is_complete(open), "{open}");
        }
    }

    #[test]
    fn figures_become_a_line() {
        let figures = Figures {
            finish: FinishReason::Length,
            prompt_tokens: 7,
            cached_tokens: 4,
            tokens: 11,
            first: Duration::from_millis(250),
            rest: Duration::from_secs(2),
        };
        let line = "11 tokens, cut at the limit; 5.0 tokens/s after the first, which took 250 ms; prompt of 7 tokens (4 \
                    cached), 12.0 tokens/s";
        assert_eq!(figures.to_string(), line);
        assert!(Figures::default().to_string().starts_with("0 tokens; 0.0 tokens/s"));
    }
}
