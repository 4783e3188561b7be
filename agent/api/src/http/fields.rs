//! Fields of a request's JSON object. An endpoint takes each field that it knows. The module `body` reads them from a
//! request.
//!
//! Two tables list OpenAI's fields that no endpoint takes: those without an effect, which are ignored, and those that
//! would change the answer, which are refused with a remedy. Any other field is refused: it is misspelled, or it
//! belongs to another endpoint.

use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::generate::Streaming;
use crate::session::{LimitsInput, SamplingInput};

/// Fields that do not change the answer.
const IGNORED: [&str; 7] =
    ["user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"];

/// Fields that would change the answer: the name, the values without an effect, and the remedy.
const UNSUPPORTED: [(&str, &[&str], &str); 11] = [
    ("best_of", &["1"], "ask for n answers and choose among them"),
    ("echo", &["false"], "put the prompt before the answer yourself"),
    ("suffix", &["\"\""], "leave it out"),
    ("functions", &["[]"], "send tools"),
    ("function_call", &["\"none\"", "\"auto\""], "send tool_choice"),
    ("modalities", &[r#"["text"]"#], "this model writes text"),
    ("audio", &[], "this model writes text"),
    ("prediction", &[], "leave it out"),
    ("reasoning_effort", &[], "leave it out"),
    ("verbosity", &[], "ask for it in a message"),
    ("web_search_options", &[], "put what was found in a message"),
];

/// Fields that are not taken yet. A field that is `null` counts as absent.
#[derive(Debug)]
pub(crate) struct Fields(Map<String, Value>);

/// A type that a field can have.
pub(crate) trait FromField: Sized {
    /// Name of the type for errors, with its article.
    const EXPECTED: &'static str;

    fn from_field(value: Value) -> Option<Self>;
}

impl FromField for f32 {
    const EXPECTED: &'static str = "a number";

    fn from_field(value: Value) -> Option<Self> {
        value.as_f64().map(|number| number as f32)
    }
}

impl FromField for u32 {
    const EXPECTED: &'static str = "a whole number from 0 to 4294967295";

    fn from_field(value: Value) -> Option<Self> {
        value.as_u64().and_then(|number| number.try_into().ok())
    }
}

/// Signed numbers are accepted as well: OpenAI's seeds are signed.
impl FromField for u64 {
    const EXPECTED: &'static str = "a whole number of 64 bits";

    fn from_field(value: Value) -> Option<Self> {
        value.as_u64().or_else(|| value.as_i64().map(i64::cast_unsigned))
    }
}

impl FromField for i64 {
    const EXPECTED: &'static str = "a whole number of 64 bits";

    fn from_field(value: Value) -> Option<Self> {
        value.as_i64()
    }
}

impl FromField for bool {
    const EXPECTED: &'static str = "true or false";

    fn from_field(value: Value) -> Option<Self> {
        value.as_bool()
    }
}

impl FromField for String {
    const EXPECTED: &'static str = "a string";

    fn from_field(value: Value) -> Option<Self> {
        match value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }
}

impl FromField for Vec<u32> {
    const EXPECTED: &'static str = "a list of token ids";

    fn from_field(value: Value) -> Option<Self> {
        match value {
            Value::Array(values) => values.into_iter().map(u32::from_field).collect(),
            _ => None,
        }
    }
}

/// One string or a list of them.
impl FromField for Vec<String> {
    const EXPECTED: &'static str = "a string or a list of strings";

    fn from_field(value: Value) -> Option<Self> {
        match value {
            Value::String(text) => Some(vec![text]),
            Value::Array(values) => values.into_iter().map(String::from_field).collect(),
            _ => None,
        }
    }
}

/// Pairs of a token id and a number. JSON can spell the ids only as names.
impl FromField for Vec<(u32, f32)> {
    const EXPECTED: &'static str = "an object of token ids and numbers, e.g. {\"50256\": -100}";

    fn from_field(value: Value) -> Option<Self> {
        let pair = |(id, number): (String, Value)| Some((id.parse().ok()?, f32::from_field(number)?));
        Map::from_field(value)?.into_iter().map(pair).collect()
    }
}

impl FromField for Map<String, Value> {
    const EXPECTED: &'static str = "an object";

    fn from_field(value: Value) -> Option<Self> {
        match value {
            Value::Object(map) => Some(map),
            _ => None,
        }
    }
}

impl Fields {
    /// Parses the body.
    ///
    /// # Errors
    /// The body is no JSON object.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        use axum::http::StatusCode;
        let value: Value = serde_json::from_slice(body)
            .map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, format!("the body is not JSON: {error}")))?;
        match value {
            Value::Object(mut map) => {
                map.retain(|_, value| !value.is_null());
                Ok(Self(map))
            }
            other => Err(ApiError::new(
                StatusCode::BAD_REQUEST,
                format!("the body must be a JSON object, not {}", describe_kind(&other, "a JSON object")),
            )),
        }
    }

    /// Takes a field. Returns `None` if the field is absent.
    ///
    /// # Errors
    /// The field has another type.
    pub(crate) fn take_field<T: FromField>(&mut self, name: &str) -> Result<Option<T>, ApiError> {
        let Some(value) = self.take_value(name) else { return Ok(None) };
        let got = describe_kind(&value, T::EXPECTED);
        let parsed = T::from_field(value);
        parsed.map(Some).ok_or_else(|| ApiError::field(name, format!("expected {}, got {got}", T::EXPECTED)))
    }

    /// Takes a field of any type.
    pub(crate) fn take_value(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name)
    }

    /// Checks the fields that this endpoint did not take.
    ///
    /// # Errors
    /// Names a field that this endpoint does not know, or that it cannot ignore.
    pub(crate) fn refuse_rest(self) -> Result<(), ApiError> {
        for (name, value) in self.0 {
            if IGNORED.contains(&name.as_str()) {
                continue;
            }
            let Some((_, neutral, remedy)) = UNSUPPORTED.iter().find(|(field, ..)| *field == name) else {
                return Err(ApiError::field(
                    name,
                    "no such field at this endpoint: check its spelling, or leave it out",
                ));
            };
            if !neutral.contains(&value.to_string().as_str()) {
                return Err(ApiError::field(name, format!("not supported: {remedy}")));
            }
        }
        Ok(())
    }

    /// Takes the fields of sampling.
    ///
    /// # Errors
    /// Names the field of another type, or a `top_k` out of range.
    pub(crate) fn take_sampling(&mut self) -> Result<SamplingInput, ApiError> {
        // Some clients send -1 for "all".
        let top_k = match self.take_field::<i64>("top_k")? {
            Some(-1) => Some(0),
            Some(top_k) => {
                Some(u32::try_from(top_k).map_err(|_| ApiError::field("top_k", "out of range: 0 (all) or more"))?)
            }
            None => None,
        };
        Ok(SamplingInput {
            temperature: self.take_field("temperature")?,
            top_k,
            top_p: self.take_field("top_p")?,
            min_p: self.take_field("min_p")?,
            repetition_penalty: self.take_field("repetition_penalty")?,
            presence_penalty: self.take_field("presence_penalty")?,
            frequency_penalty: self.take_field("frequency_penalty")?,
            logit_bias: self.take_field("logit_bias")?.unwrap_or_default(),
            seed: self.take_field("seed")?,
        })
    }

    /// Takes the limits of the answer. `max_tokens` lists the names of the field for the most tokens. The first one
    /// that is present counts.
    ///
    /// # Errors
    /// Names the field of another type, or a limit of 0 tokens.
    pub(crate) fn take_limits(&mut self, max_tokens: &[&str]) -> Result<LimitsInput, ApiError> {
        let mut limits = LimitsInput {
            max_tokens: None,
            min_tokens: self.take_field("min_tokens")?.unwrap_or_default(),
            stop: self.take_field("stop")?.unwrap_or_default(),
            stop_token_ids: self.take_field("stop_token_ids")?.unwrap_or_default(),
            ignore_eos: self.take_field("ignore_eos")?.unwrap_or_default(),
        };
        for name in max_tokens {
            let asked: Option<u32> = self.take_field(name)?;
            if asked == Some(0) {
                return Err(ApiError::field(*name, "0 is out of range: at least 1"));
            }
            limits.max_tokens = limits.max_tokens.or(asked);
        }
        Ok(limits)
    }

    /// Takes `stream` and `stream_options`. Returns `None` if the client wants one whole response.
    ///
    /// # Errors
    /// Names the field that has another type or is not known.
    pub(crate) fn take_streaming(&mut self) -> Result<Option<Streaming>, ApiError> {
        let wanted: bool = self.take_field("stream")?.unwrap_or_default();
        let Some(mut options) = self.take_field::<Map<String, Value>>("stream_options")? else {
            return Ok(wanted.then_some(Streaming { include_usage: false }));
        };
        if !wanted {
            return Err(ApiError::field("stream_options", "only together with stream: true"));
        }
        let include_usage = options.remove("include_usage") == Some(json!(true));
        // OpenAI pads chunks, so that eavesdroppers learn nothing from their lengths, and a client may switch that off.
        // The head never pads chunks, so the option has no effect.
        options.remove("include_obfuscation");
        match options.keys().next() {
            Some(name) => Err(ApiError::field(format!("stream_options.{name}"), "no such field")),
            None => Ok(Some(Streaming { include_usage })),
        }
    }
}

/// Returns the kind of a value, for errors. If `expected` allows this kind, the returned text says that the value
/// itself is wrong.
pub(crate) fn describe_kind(value: &Value, expected: &str) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) if expected.starts_with("a ") && expected.contains("number") => {
            "a number out of range or of another kind"
        }
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) if expected.contains("list") => "a list of something else",
        Value::Array(_) => "a list",
        Value::Object(_) if expected.starts_with("an object of") => "an object of something else",
        Value::Object(_) => "an object",
    }
}
