//! A request's JSON object, taken apart field by field.
//!
//! Three tables say what becomes of a field that no endpoint takes: some change nothing and are accepted, some would
//! change the answer and are refused with what to do instead, and what nobody knows is refused as a likely slip.

use serde_json::{Map, Value, json};

use super::error::ApiError;
use crate::session::{LimitsInput, SamplingInput};

/// They do not change the answer.
const IGNORED: [&str; 7] =
    ["user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"];

/// They would change the answer: field, the values that ask for nothing, and what to do instead.
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

/// The fields not taken yet; `null` counts as absent.
#[derive(Debug)]
pub(crate) struct Fields(Map<String, Value>);

/// A type that a field can have.
pub(crate) trait FromField: Sized {
    /// With article, for the error.
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

/// Signed ones are seeds too: OpenAI's are.
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

/// Token ids, which JSON can only spell as names, and numbers.
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
                format!("the body must be a JSON object, not {}", kind(&other)),
            )),
        }
    }

    /// Takes a field; none where it is absent.
    ///
    /// # Errors
    /// It has another type.
    pub(crate) fn take<T: FromField>(&mut self, name: &str) -> Result<Option<T>, ApiError> {
        let Some(value) = self.take_any(name) else { return Ok(None) };
        let got = kind(&value);
        let parsed = T::from_field(value);
        parsed.map(Some).ok_or_else(|| ApiError::field(name, format!("expected {}, got {got}", T::EXPECTED)))
    }

    /// Takes a field as it is.
    pub(crate) fn take_any(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name)
    }

    /// # Errors
    /// Names a field that is left and cannot be ignored.
    pub(crate) fn finish(self) -> Result<(), ApiError> {
        for (name, value) in self.0 {
            if IGNORED.contains(&name.as_str()) {
                continue;
            }
            let Some((_, neutral, remedy)) = UNSUPPORTED.iter().find(|(field, ..)| *field == name) else {
                return Err(ApiError::field(name, "no such field: check its spelling, or leave it out"));
            };
            if !neutral.contains(&value.to_string().as_str()) {
                return Err(ApiError::field(name, format!("not supported: {remedy}")));
            }
        }
        Ok(())
    }

    /// # Errors
    /// Names the field of another type.
    pub(crate) fn sampling(&mut self) -> Result<SamplingInput, ApiError> {
        // Some clients say -1 for "all".
        let top_k = match self.take::<i64>("top_k")? {
            Some(-1) => Some(0),
            Some(top_k) => {
                Some(u32::try_from(top_k).map_err(|_| ApiError::field("top_k", "out of range: 0 (all) or more"))?)
            }
            None => None,
        };
        Ok(SamplingInput {
            temperature: self.take("temperature")?,
            top_k,
            top_p: self.take("top_p")?,
            min_p: self.take("min_p")?,
            repetition_penalty: self.take("repetition_penalty")?,
            presence_penalty: self.take("presence_penalty")?,
            frequency_penalty: self.take("frequency_penalty")?,
            logit_bias: self.take("logit_bias")?.unwrap_or_default(),
            seed: self.take("seed")?,
        })
    }

    /// `max_tokens` under the given names, the first that is present.
    ///
    /// # Errors
    /// Names the field of another type.
    pub(crate) fn limits(&mut self, max_tokens: &[&str]) -> Result<LimitsInput, ApiError> {
        let mut limits = LimitsInput {
            max_tokens: None,
            min_tokens: self.take("min_tokens")?.unwrap_or_default(),
            stop: self.take("stop")?.unwrap_or_default(),
            stop_token_ids: self.take("stop_token_ids")?.unwrap_or_default(),
            ignore_eos: self.take("ignore_eos")?.unwrap_or_default(),
        };
        for name in max_tokens {
            let asked: Option<u32> = self.take(name)?;
            if asked == Some(0) {
                return Err(ApiError::field(*name, "0 is out of range: at least 1"));
            }
            limits.max_tokens = limits.max_tokens.or(asked);
        }
        Ok(limits)
    }

    /// `stream`, and whether its last chunk states the usage.
    ///
    /// # Errors
    /// Names the field of another type.
    pub(crate) fn stream(&mut self) -> Result<(bool, bool), ApiError> {
        let stream = self.take("stream")?.unwrap_or_default();
        let Some(mut options) = self.take::<Map<String, Value>>("stream_options")? else {
            return Ok((stream, false));
        };
        if !stream {
            return Err(ApiError::field("stream_options", "only together with stream: true"));
        }
        let include_usage = options.remove("include_usage") == Some(json!(true));
        // It pads chunks against eavesdroppers who count bytes; nothing to leave out here.
        options.remove("include_obfuscation");
        match options.keys().next() {
            Some(name) => Err(ApiError::field(format!("stream_options.{name}"), "no such field")),
            None => Ok((stream, include_usage)),
        }
    }
}

/// What a value is, for errors.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number out of range or of another kind",
        Value::String(_) => "a string",
        Value::Array(_) => "a list of something else",
        Value::Object(_) => "an object",
    }
}
