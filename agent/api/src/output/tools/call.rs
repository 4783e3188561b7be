//! Parser of one call that is a JSON object. It takes one character at a time. It reports the name as a whole, and the
//! arguments in fragments as they come.

/// Keys of a call's name. Models use one or the other.
const NAMES: [&str; 2] = ["name", "tool_name"];
/// Keys of a call's arguments. Models use one or the other.
const ARGUMENTS: [&str; 2] = ["arguments", "parameters"];
/// Keys that are allowed and ignored.
const OTHERS: [&str; 4] = ["type", "id", "function", "tool_call_id"];
/// Longest key or name of a tool, in bytes.
const MAX_NAME: usize = 256;

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CallEvent {
    Name(String),
    /// More of the arguments. It never comes before the name.
    Arguments(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallStep {
    More,
    /// The object is whole. The character was its last.
    Done,
    /// The text is no call. The character belongs to that text.
    Broken,
}

/// State of the object so far.
#[derive(Debug, Default)]
pub(crate) struct Call {
    state: CallState,
    key: String,
    name: Option<String>,
    reported: bool,
    /// Arguments that came before the name.
    early: String,
    has_arguments: bool,
}

#[derive(Debug, Default)]
enum CallState {
    /// `{`
    #[default]
    Open,
    /// `"` or `}`
    Key,
    InKey(JsonText),
    Colon,
    /// The first character of a value.
    Value,
    Name(JsonText),
    /// Arguments that are spelled as JSON in a string.
    Quoted(JsonText),
    Raw(JsonValue),
    Skip(JsonValue),
    /// `,` or `}`
    Next,
}

impl Call {
    /// Returns true once the name is reported. From then on, the text cannot become content.
    pub(crate) fn is_reported(&self) -> bool {
        self.reported
    }

    /// Takes one character. Calls `emit` with the parts of the call that this character made certain.
    pub(crate) fn step(
        &mut self,
        char: char,
        knows: impl Fn(&str) -> bool,
        mut emit: impl FnMut(CallEvent),
    ) -> CallStep {
        let blank = char.is_ascii_whitespace();
        let next = match (&mut self.state, char) {
            (CallState::Open | CallState::Key | CallState::Colon | CallState::Value | CallState::Next, _) if blank => {
                return CallStep::More;
            }
            (CallState::Open, '{') => CallState::Key,
            (CallState::Key, '"') => CallState::InKey(JsonText::default()),
            (CallState::Next, ',') => CallState::Key,
            (CallState::Key | CallState::Next, '}') => return self.close(&mut emit),
            (CallState::InKey(text), _) => match text.step(char) {
                JsonTextStep::More => return CallStep::More,
                JsonTextStep::Whole(key) if self.allows_key(&key) => {
                    self.key = key;
                    CallState::Colon
                }
                _ => return CallStep::Broken,
            },
            (CallState::Colon, ':') => CallState::Value,
            (CallState::Value, _) => match self.begin_value(char, &mut emit) {
                Some(state) => state,
                None => return CallStep::Broken,
            },
            (CallState::Name(text), _) => match text.step(char) {
                JsonTextStep::More => return CallStep::More,
                JsonTextStep::Whole(name) if knows(&name) => {
                    self.name = Some(name);
                    CallState::Next
                }
                _ => return CallStep::Broken,
            },
            (CallState::Quoted(text), _) => match text.step(char) {
                JsonTextStep::More => return CallStep::More,
                JsonTextStep::Whole(arguments) => {
                    self.report_arguments(&arguments, &mut emit);
                    CallState::Next
                }
                JsonTextStep::Broken => return CallStep::Broken,
            },
            (CallState::Raw(raw) | CallState::Skip(raw), _) => {
                let ended = raw.step(char);
                let is_arguments = matches!(self.state, CallState::Raw(_));
                if is_arguments && ended != JsonValueStep::Before {
                    self.report_arguments(char.encode_utf8(&mut [0; 4]), &mut emit);
                }
                match ended {
                    JsonValueStep::More => return CallStep::More,
                    JsonValueStep::Whole => CallState::Next,
                    JsonValueStep::Before => {
                        self.state = CallState::Next;
                        return self.step(char, knows, emit);
                    }
                }
            }
            _ => return CallStep::Broken,
        };
        self.state = next;
        self.report_name(&mut emit);
        CallStep::More
    }

    /// Returns true if a call may have this key. Once the name was reported, any key is accepted.
    fn allows_key(&self, key: &str) -> bool {
        self.reported || NAMES.contains(&key) || ARGUMENTS.contains(&key) || OTHERS.contains(&key)
    }

    /// Returns the state after the first character of a member's value.
    fn begin_value(&mut self, char: char, emit: &mut impl FnMut(CallEvent)) -> Option<CallState> {
        let is_arguments = ARGUMENTS.contains(&self.key.as_str()) && !self.has_arguments;
        if NAMES.contains(&self.key.as_str()) && self.name.is_none() {
            return (char == '"').then(|| CallState::Name(JsonText::bounded()));
        }
        if !is_arguments {
            let mut raw = JsonValue::default();
            raw.step(char);
            return Some(CallState::Skip(raw));
        }
        self.has_arguments = true;
        match char {
            '"' => Some(CallState::Quoted(JsonText::default())),
            '{' => {
                let mut raw = JsonValue::default();
                raw.step(char);
                self.report_arguments("{", emit);
                Some(CallState::Raw(raw))
            }
            // Arguments are an object, so `null`, a number or a list is skipped.
            _ => {
                self.has_arguments = false;
                let mut raw = JsonValue::default();
                raw.step(char);
                Some(CallState::Skip(raw))
            }
        }
    }

    fn report_arguments(&mut self, text: &str, emit: &mut impl FnMut(CallEvent)) {
        if self.reported {
            emit(CallEvent::Arguments(text.to_owned()));
        } else {
            self.early.push_str(text);
        }
    }

    fn report_name(&mut self, emit: &mut impl FnMut(CallEvent)) {
        if let Some(name) = self.name.as_ref().filter(|_| !self.reported) {
            self.reported = true;
            emit(CallEvent::Name(name.clone()));
            let early = std::mem::take(&mut self.early);
            if !early.is_empty() {
                emit(CallEvent::Arguments(early));
            }
        }
    }

    fn close(&mut self, emit: &mut impl FnMut(CallEvent)) -> CallStep {
        if !self.reported {
            return CallStep::Broken;
        }
        if !self.has_arguments {
            emit(CallEvent::Arguments("{}".into()));
        }
        CallStep::Done
    }
}

/// A JSON string after its opening quote.
#[derive(Debug, Default)]
struct JsonText {
    raw: String,
    escaped: bool,
    bounded: bool,
}

enum JsonTextStep {
    More,
    Whole(String),
    Broken,
}

impl JsonText {
    /// Makes a string that is at most as long as a name.
    fn bounded() -> Self {
        Self { bounded: true, ..Self::default() }
    }

    fn step(&mut self, char: char) -> JsonTextStep {
        if char == '"' && !self.escaped {
            let text = serde_json::from_str(&format!("\"{}\"", self.raw));
            return text.map_or(JsonTextStep::Broken, JsonTextStep::Whole);
        }
        self.escaped = char == '\\' && !self.escaped;
        match char {
            // Models write line ends into strings, which JSON does not allow.
            '\n' => self.raw.push_str("\\n"),
            '\r' => self.raw.push_str("\\r"),
            '\t' => self.raw.push_str("\\t"),
            _ => self.raw.push(char),
        }
        if self.bounded && self.raw.len() > MAX_NAME { JsonTextStep::Broken } else { JsonTextStep::More }
    }
}

/// Search for the end of a JSON value. Its content is not checked.
#[derive(Debug, Default)]
pub(crate) struct JsonValue {
    depth: usize,
    in_text: bool,
    escaped: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum JsonValueStep {
    More,
    /// The character is the value's last.
    Whole,
    /// The value is a number or a word, and ended before the character.
    Before,
}

impl JsonValue {
    pub(crate) fn step(&mut self, char: char) -> JsonValueStep {
        if self.in_text {
            let quote = char == '"' && !self.escaped;
            self.escaped = char == '\\' && !self.escaped;
            self.in_text = !quote;
            return if quote && self.depth == 0 { JsonValueStep::Whole } else { JsonValueStep::More };
        }
        match char {
            '"' => self.in_text = true,
            '{' | '[' => self.depth += 1,
            '}' | ']' | ',' if self.depth == 0 => return JsonValueStep::Before,
            '}' | ']' => {
                self.depth -= 1;
                if self.depth == 0 {
                    return JsonValueStep::Whole;
                }
            }
            _ => {}
        }
        JsonValueStep::More
    }
}
