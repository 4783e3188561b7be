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

/// Place of the name in a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Shape {
    /// `{"name": "add", "arguments": {…}}`, with the keys in any order.
    #[default]
    Members,
    /// `{"add": {…}}`
    NameIsKey,
}

/// State of the object so far.
#[derive(Debug, Default)]
pub(crate) struct Call {
    shape: Shape,
    state: CallState,
    key: String,
    /// Set once the name is reported.
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
    pub(crate) fn new(shape: Shape) -> Self {
        Self { shape, ..Self::default() }
    }

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
        match &mut self.state {
            CallState::InKey(text) | CallState::Name(text) | CallState::Quoted(text) => match text.step(char) {
                JsonTextStep::More => CallStep::More,
                JsonTextStep::Whole(text) => self.take_text(text, knows, &mut emit),
                JsonTextStep::Broken => CallStep::Broken,
            },
            CallState::Raw(raw) | CallState::Skip(raw) => {
                let step = raw.step(char);
                self.take_raw(char, step, &mut emit)
            }
            _ if char.is_ascii_whitespace() => CallStep::More,
            _ => self.take_mark(char, &mut emit),
        }
    }

    /// Takes a character between the object's strings and values.
    fn take_mark(&mut self, char: char, emit: &mut impl FnMut(CallEvent)) -> CallStep {
        self.state = match (&self.state, char) {
            (CallState::Open, '{') | (CallState::Next, ',') => CallState::Key,
            (CallState::Key, '"') => CallState::InKey(JsonText::default()),
            (CallState::Key | CallState::Next, '}') => return self.close(emit),
            (CallState::Colon, ':') => CallState::Value,
            (CallState::Value, _) => return self.begin_value(char, emit),
            _ => return CallStep::Broken,
        };
        CallStep::More
    }

    /// Takes a whole string: a key, a name, or arguments.
    fn take_text(&mut self, text: String, knows: impl Fn(&str) -> bool, emit: &mut impl FnMut(CallEvent)) -> CallStep {
        self.state = match self.state {
            CallState::InKey(_) if self.shape == Shape::NameIsKey && !self.reported => {
                if text.is_empty() || !knows(&text) {
                    return CallStep::Broken;
                }
                self.report_name(text, emit);
                self.key = ARGUMENTS[0].into();
                CallState::Colon
            }
            CallState::InKey(_) if self.allows_key(&text) => {
                self.key = text;
                CallState::Colon
            }
            CallState::Name(_) if knows(&text) => {
                self.report_name(text, emit);
                CallState::Next
            }
            CallState::Quoted(_) => {
                self.report_arguments(&text, emit);
                CallState::Next
            }
            _ => return CallStep::Broken,
        };
        CallStep::More
    }

    /// Takes a character of a value that is reported as written or skipped. `step` tells if the value has ended.
    fn take_raw(&mut self, char: char, step: JsonValueStep, emit: &mut impl FnMut(CallEvent)) -> CallStep {
        if matches!(self.state, CallState::Raw(_)) && step != JsonValueStep::Before {
            self.report_arguments(char.encode_utf8(&mut [0; 4]), emit);
        }
        if step == JsonValueStep::More {
            return CallStep::More;
        }
        self.state = CallState::Next;
        if step == JsonValueStep::Before { self.take_mark(char, emit) } else { CallStep::More }
    }

    /// Returns true if a call may have this key. Once the name was reported, any key is accepted.
    fn allows_key(&self, key: &str) -> bool {
        self.reported || NAMES.contains(&key) || ARGUMENTS.contains(&key) || OTHERS.contains(&key)
    }

    /// Takes the first character of a member's value.
    fn begin_value(&mut self, char: char, emit: &mut impl FnMut(CallEvent)) -> CallStep {
        let key = self.key.as_str();
        self.state = if NAMES.contains(&key) && !self.reported {
            if char != '"' {
                return CallStep::Broken;
            }
            CallState::Name(JsonText::bounded())
        } else if ARGUMENTS.contains(&key) && !self.has_arguments {
            self.begin_arguments(char, emit)
        } else {
            CallState::Skip(JsonValue::begin(char))
        };
        CallStep::More
    }

    /// Reports the name, and the arguments that came before it.
    fn report_name(&mut self, name: String, emit: &mut impl FnMut(CallEvent)) {
        self.reported = true;
        emit(CallEvent::Name(name));
        let early = std::mem::take(&mut self.early);
        if !early.is_empty() {
            emit(CallEvent::Arguments(early));
        }
    }

    /// Reports more of the arguments, or keeps the text until the name is known.
    fn report_arguments(&mut self, text: &str, emit: &mut impl FnMut(CallEvent)) {
        if self.reported {
            emit(CallEvent::Arguments(text.to_owned()));
        } else {
            self.early.push_str(text);
        }
    }

    /// Ends the object. A call without arguments has an empty object.
    fn close(&mut self, emit: &mut impl FnMut(CallEvent)) -> CallStep {
        if !self.reported {
            return CallStep::Broken;
        }
        if !self.has_arguments {
            emit(CallEvent::Arguments("{}".into()));
        }
        CallStep::Done
    }

    /// Returns the state after the first character of the arguments. Arguments are an object, so the parser skips `null`,
    /// a number or a list.
    fn begin_arguments(&mut self, char: char, emit: &mut impl FnMut(CallEvent)) -> CallState {
        self.has_arguments = matches!(char, '"' | '{');
        match char {
            '"' => CallState::Quoted(JsonText::default()),
            '{' => {
                self.report_arguments("{", emit);
                CallState::Raw(JsonValue::begin(char))
            }
            _ => CallState::Skip(JsonValue::begin(char)),
        }
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
    /// Begins a value with its first character.
    pub(crate) fn begin(char: char) -> Self {
        let mut value = Self::default();
        value.step(char);
        value
    }

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
