//! One call as a JSON object, read by characters: its name as soon as that is whole, its arguments as they come.

/// Names that a call's members have; arguments have two.
const NAME: &str = "name";
const ARGUMENTS: [&str; 2] = ["arguments", "parameters"];
/// Members that say nothing here.
const OTHERS: [&str; 3] = ["type", "id", "function"];
/// Longest key or name of a tool.
const MAX_NAME: usize = 256;

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CallEvent {
    Name(String),
    /// More of the arguments; never before the name.
    Arguments(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    More,
    /// The object is whole; the character was its last.
    Done,
    /// This is no call; the character was part of it.
    Broken,
}

/// The object so far.
#[derive(Debug, Default)]
pub(crate) struct Call {
    state: State,
    key: String,
    name: Option<String>,
    told: bool,
    /// Arguments that wait for the name.
    early: String,
    has_arguments: bool,
}

#[derive(Debug, Default)]
enum State {
    /// `{`
    #[default]
    Open,
    /// `"` or `}`
    Key,
    InKey(Text),
    Colon,
    /// The first character of a value.
    Value,
    Name(Text),
    /// Arguments that are spelled as a text with JSON in it.
    Quoted(Text),
    Raw(Raw),
    Skip(Raw),
    /// `,` or `}`
    Next,
}

impl Call {
    /// Whether the name was told, so that the text cannot be taken back.
    pub(crate) fn is_told(&self) -> bool {
        self.told
    }

    /// Takes one character; tells what became certain.
    pub(crate) fn step(&mut self, char: char, knows: impl Fn(&str) -> bool, mut tell: impl FnMut(CallEvent)) -> Step {
        let blank = char.is_ascii_whitespace();
        let next = match (&mut self.state, char) {
            (State::Open | State::Key | State::Colon | State::Value | State::Next, _) if blank => return Step::More,
            (State::Open, '{') => State::Key,
            (State::Key, '"') => State::InKey(Text::default()),
            (State::Next, ',') => State::Key,
            (State::Key | State::Next, '}') => return self.end(&mut tell),
            (State::InKey(text), _) => match text.step(char) {
                TextStep::More => return Step::More,
                TextStep::Whole(key) if self.takes(&key) => {
                    self.key = key;
                    State::Colon
                }
                _ => return Step::Broken,
            },
            (State::Colon, ':') => State::Value,
            (State::Value, _) => match self.value(char, &mut tell) {
                Some(state) => state,
                None => return Step::Broken,
            },
            (State::Name(text), _) => match text.step(char) {
                TextStep::More => return Step::More,
                TextStep::Whole(name) if knows(&name) => {
                    self.name = Some(name);
                    State::Next
                }
                _ => return Step::Broken,
            },
            (State::Quoted(text), _) => match text.step(char) {
                TextStep::More => return Step::More,
                TextStep::Whole(arguments) => {
                    self.arguments(&arguments, &mut tell);
                    State::Next
                }
                TextStep::Broken => return Step::Broken,
            },
            (State::Raw(raw) | State::Skip(raw), _) => {
                let ended = raw.step(char);
                let is_arguments = matches!(self.state, State::Raw(_));
                if is_arguments && ended != RawStep::Before {
                    self.arguments(char.encode_utf8(&mut [0; 4]), &mut tell);
                }
                match ended {
                    RawStep::More => return Step::More,
                    RawStep::Whole => State::Next,
                    RawStep::Before => {
                        self.state = State::Next;
                        return self.step(char, knows, tell);
                    }
                }
            }
            _ => return Step::Broken,
        };
        self.state = next;
        self.tell_name(&mut tell);
        Step::More
    }

    /// A member that is no call's ends it, unless the call is certain already.
    fn takes(&self, key: &str) -> bool {
        self.told || key == NAME || ARGUMENTS.contains(&key) || OTHERS.contains(&key)
    }

    /// The state that the first character of a member's value leads to.
    fn value(&mut self, char: char, tell: &mut impl FnMut(CallEvent)) -> Option<State> {
        let is_arguments = ARGUMENTS.contains(&self.key.as_str()) && !self.has_arguments;
        if self.key == NAME && self.name.is_none() {
            return (char == '"').then(|| State::Name(Text::bounded()));
        }
        if !is_arguments {
            let mut raw = Raw::default();
            raw.step(char);
            return Some(State::Skip(raw));
        }
        self.has_arguments = true;
        match char {
            '"' => Some(State::Quoted(Text::default())),
            '{' => {
                let mut raw = Raw::default();
                raw.step(char);
                self.arguments("{", tell);
                Some(State::Raw(raw))
            }
            // `null`, a number, a list: arguments are an object, so these are none.
            _ => {
                self.has_arguments = false;
                let mut raw = Raw::default();
                raw.step(char);
                Some(State::Skip(raw))
            }
        }
    }

    fn arguments(&mut self, text: &str, tell: &mut impl FnMut(CallEvent)) {
        if self.told {
            tell(CallEvent::Arguments(text.to_owned()));
        } else {
            self.early.push_str(text);
        }
    }

    fn tell_name(&mut self, tell: &mut impl FnMut(CallEvent)) {
        if let Some(name) = self.name.as_ref().filter(|_| !self.told) {
            self.told = true;
            tell(CallEvent::Name(name.clone()));
            let early = std::mem::take(&mut self.early);
            if !early.is_empty() {
                tell(CallEvent::Arguments(early));
            }
        }
    }

    fn end(&mut self, tell: &mut impl FnMut(CallEvent)) -> Step {
        if !self.told {
            return Step::Broken;
        }
        if !self.has_arguments {
            tell(CallEvent::Arguments("{}".into()));
        }
        Step::Done
    }
}

/// A JSON text after its opening quote.
#[derive(Debug, Default)]
struct Text {
    raw: String,
    escaped: bool,
    bounded: bool,
}

enum TextStep {
    More,
    Whole(String),
    Broken,
}

impl Text {
    /// No longer than a name.
    fn bounded() -> Self {
        Self { bounded: true, ..Self::default() }
    }

    fn step(&mut self, char: char) -> TextStep {
        if char == '"' && !self.escaped {
            let text = serde_json::from_str(&format!("\"{}\"", self.raw));
            return text.map_or(TextStep::Broken, TextStep::Whole);
        }
        self.escaped = char == '\\' && !self.escaped;
        match char {
            // Models write line ends into texts, which JSON does not allow.
            '\n' => self.raw.push_str("\\n"),
            '\r' => self.raw.push_str("\\r"),
            '\t' => self.raw.push_str("\\t"),
            _ => self.raw.push(char),
        }
        if self.bounded && self.raw.len() > MAX_NAME { TextStep::Broken } else { TextStep::More }
    }
}

/// Where a JSON value ends; what is in it is not judged.
#[derive(Debug, Default)]
pub(crate) struct Raw {
    depth: usize,
    in_text: bool,
    escaped: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RawStep {
    More,
    /// The character is the value's last.
    Whole,
    /// The value, a number or a word, has ended before the character.
    Before,
}

impl Raw {
    pub(crate) fn step(&mut self, char: char) -> RawStep {
        if self.in_text {
            let quote = char == '"' && !self.escaped;
            self.escaped = char == '\\' && !self.escaped;
            self.in_text = !quote;
            return if quote && self.depth == 0 { RawStep::Whole } else { RawStep::More };
        }
        match char {
            '"' => self.in_text = true,
            '{' | '[' => self.depth += 1,
            '}' | ']' | ',' if self.depth == 0 => return RawStep::Before,
            '}' | ']' => {
                self.depth -= 1;
                if self.depth == 0 {
                    return RawStep::Whole;
                }
            }
            _ => {}
        }
        RawStep::More
    }
}
