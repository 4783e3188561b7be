//! Fields that several endpoints obey. A field of another type is a fault, which [`Fields::refuse_rest`] reports.

use serde_json::{Map, Value};

use super::known::Scope;
use super::{Fields, FromField, other_kind};
use crate::http::error::ApiError;
use crate::http::generate::Streaming;
use crate::session::{
    ALL_LOGPROBS, BeamsInput, EarlyStopping, GenerateInput, LimitsInput, MAX_LOGPROBS, OutputInput, SamplingInput,
    Truncation, request_id,
};

/// Wishes about the tokens in a response.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TokenSpelling {
    /// Set if the response lists the ids of tokens.
    pub ids: bool,
    /// Set if log-probabilities name tokens by their ids.
    pub by_id: bool,
}

/// Takes the number of most likely tokens to report. -1 stands for all tokens.
///
/// # Errors
/// The number is out of range.
pub(crate) fn take_top(fields: &mut Fields, name: &str) -> Result<Option<u32>, ApiError> {
    let asked: Option<i64> = fields.take_field(name)?;
    let read = |asked: i64| match u32::try_from(asked) {
        _ if asked == -1 => Ok(ALL_LOGPROBS),
        Ok(top) if top <= MAX_LOGPROBS => Ok(top),
        _ => Err(fields.fault(name, format!("{asked} is out of range: 0 to {MAX_LOGPROBS}, or -1 (all)"))),
    };
    asked.map(read).transpose()
}

/// Takes the fields of a beam search.
///
/// # Errors
/// A field has another type, or asks for something without a beam search.
fn take_beams(fields: &mut Fields) -> Result<Option<BeamsInput>, ApiError> {
    const LENGTH_PENALTY: &str = "length_penalty";
    const EARLY_STOPPING: &str = "early_stopping";
    let wanted = fields.take_field("use_beam_search")?.unwrap_or_default();
    let length_penalty: f32 = fields.take_field(LENGTH_PENALTY)?.unwrap_or(1.0);
    let early_stopping = match fields.take_value(EARLY_STOPPING) {
        None | Some(Value::Bool(false)) => EarlyStopping::Likely,
        Some(Value::Bool(true)) => EarlyStopping::Full,
        Some(Value::String(text)) if text == "never" => EarlyStopping::Never,
        Some(other) => return Err(fields.fault(EARLY_STOPPING, other_kind(&other, "true, false or \"never\""))),
    };
    let only_with = |name: &str| Err(fields.fault(name, "only together with use_beam_search: true"));
    match wanted {
        false if length_penalty != 1.0 => only_with(LENGTH_PENALTY),
        false if early_stopping != EarlyStopping::Likely => only_with(EARLY_STOPPING),
        false => Ok(None),
        true => Ok(Some(BeamsInput { length_penalty, early_stopping })),
    }
}

impl Fields {
    /// Takes the fields of sampling.
    fn take_sampling(&mut self) -> SamplingInput {
        // Some clients send -1 for "all".
        let top_k = self.read::<i64>("top_k").map(|asked| if asked == -1 { Ok(0) } else { u32::try_from(asked) });
        let fault = self.fault("top_k", "out of range: 0 (all) or more");
        SamplingInput {
            temperature: self.read("temperature"),
            top_k: self.note(top_k.transpose().map_err(|_| fault)),
            top_p: self.read("top_p"),
            min_p: self.read("min_p"),
            repetition_penalty: self.read::<f32>("repetition_penalty").or(self.read("repeat_penalty")),
            presence_penalty: self.read("presence_penalty"),
            frequency_penalty: self.read("frequency_penalty"),
            logit_bias: self.take_logit_bias(),
            seed: self.read("seed").map(i64::cast_unsigned),
        }
    }

    /// Takes pairs of a token id and a number. JSON can spell the ids only as names.
    fn take_logit_bias(&mut self) -> Vec<(u32, f32)> {
        const NAME: &str = "logit_bias";
        let biases = self.read::<Map<String, Value>>(NAME).unwrap_or_default();
        let read = |(id, bias): (String, Value)| match (id.parse(), f32::from_field(bias)) {
            (Ok(id), Some(bias)) => Ok((id, bias)),
            (Err(_), _) => {
                let id: String = id.chars().take(super::MAX_NAME_CHARS).collect();
                Err(format!("{id:?} is no token id: expected an object of ids and numbers, e.g. {{\"50256\": -100}}"))
            }
            (Ok(_), None) => Err(format!("the bias of token {id} is no number: send a number from -100 to 100")),
        };
        let biases: Result<Vec<(u32, f32)>, String> = biases.into_iter().map(read).collect();
        let biases = biases.map_err(|reason| self.fault(NAME, reason));
        self.note(biases)
    }

    /// Takes the limits of the answer.
    pub(crate) fn take_limits(&mut self) -> LimitsInput {
        if self.fields.get("n_predict").is_some_and(|asked| asked.as_f64() == Some(-1.0)) {
            self.take_value("n_predict");
        }
        self.take_limits_by(&["max_completion_tokens", "max_tokens", "max_new_tokens", "n_predict"])
    }

    /// Takes the limits of the answer. Of `names`, those of the field for the most tokens, the first one that is present
    /// counts.
    pub(crate) fn take_limits_by(&mut self, names: &[&str]) -> LimitsInput {
        let mut limits = LimitsInput {
            max_tokens: None,
            min_tokens: self.read("min_tokens").unwrap_or_default(),
            stop: self.read("stop").unwrap_or_default(),
            stop_token_ids: self.read("stop_token_ids").unwrap_or_default(),
            ignore_eos: self.read("ignore_eos").unwrap_or_default(),
        };
        // Such a request may ask for no answer.
        let shows_prompt = self.fields.get("echo") == Some(&Value::Bool(true)) || self.contains("prompt_logprobs");
        for name in names {
            let asked: Option<u32> = self.read(name);
            if asked == Some(0) && !shows_prompt {
                let fault = self.fault(name, "0 is out of range: at least 1");
                self.note(Err::<(), _>(fault));
            }
            limits.max_tokens = limits.max_tokens.or(asked);
        }
        limits
    }

    /// Takes the fields that all endpoints share: all but the prompt, the tools, the form of the answer and what it shows.
    /// The endpoints have different names for the `limits`.
    pub(crate) fn take_shared(&mut self, limits: LimitsInput) -> GenerateInput {
        GenerateInput {
            model: self.read("model").unwrap_or_default(),
            priority: self.read("priority").unwrap_or_default(),
            cache_salt: self.read("cache_salt").unwrap_or_default(),
            limits,
            output: self.take_output(),
            truncation: self.take_truncation(),
            allowed_token_ids: self.read("allowed_token_ids").unwrap_or_default(),
            bad_words: self.read("bad_words").unwrap_or_default(),
            sampling: self.take_sampling(),
            beams: self.noting(take_beams),
            ..GenerateInput::default()
        }
    }

    /// Takes the wishes about the text of an answer.
    fn take_output(&mut self) -> OutputInput {
        let include_stop = self.read("include_stop_str_in_output").unwrap_or_default();
        OutputInput {
            include_stop: self.read("no_stop_trim").unwrap_or_default() || include_stop,
            show_special_tokens: !self.read("skip_special_tokens").unwrap_or(true),
            reasoning_as_content: false,
        }
    }

    /// Takes the wishes about the tokens in a response.
    pub(crate) fn take_token_spelling(&mut self) -> TokenSpelling {
        TokenSpelling {
            ids: self.read("return_token_ids").unwrap_or_default(),
            by_id: self.read("return_tokens_as_token_ids").unwrap_or_default(),
        }
    }

    /// Takes the way to shorten a prompt that is too long.
    fn take_truncation(&mut self) -> Option<Truncation> {
        const NAME: &str = "truncate_prompt_tokens";
        const SIDE: &str = "truncation_side";
        let side = match self.read::<String>(SIDE).as_deref() {
            None | Some("left") => Ok(false),
            Some("right") => Ok(true),
            Some(_) => Err(self.fault(SIDE, "expected \"left\" or \"right\"")),
        };
        let keeps_first = self.note(side);
        let whole: bool = self.read("truncate_sequence").unwrap_or_default();
        let asked = self.read::<i64>(NAME).or(self.read("truncate"));
        let truncation = match asked {
            None => Ok(whole.then_some(Truncation { max_tokens: None, keeps_first })),
            Some(-1) => Ok(Some(Truncation { max_tokens: None, keeps_first })),
            Some(most) => match u32::try_from(most) {
                Ok(most) if most > 0 => Ok(Some(Truncation { max_tokens: Some(most), keeps_first })),
                _ => Err(self.fault(NAME, format!("{most} is out of range: at least 1, or -1 for what has room"))),
            },
        };
        self.note(truncation)
    }

    /// Takes the id that the client gives the request, unless a header has one.
    pub(crate) fn take_request_id(&mut self) -> Option<String> {
        const NAME: &str = "request_id";
        let id: Option<String> = self.read::<String>(NAME).or(self.read("rid")).filter(|id| !id.is_empty());
        let checked = match id {
            Some(id) if request_id(Some(id.as_bytes())) != id => {
                Err(self.fault(NAME, "expected 1 to 128 visible ASCII characters"))
            }
            id => Ok(id),
        };
        self.note(checked).filter(|_| !self.is_named)
    }

    /// Takes `stream` and `stream_options`. Returns `None` if the client wants one whole response.
    pub(crate) fn take_streaming(&mut self) -> Option<Streaming> {
        const OPTIONS: &str = "stream_options";
        let wanted: bool = self.read("stream").unwrap_or_default();
        let mut streaming = Streaming { include_usage: false, continuous_usage: false };
        if let Some(options) = self.read::<Map<String, Value>>(OPTIONS) {
            if !wanted {
                let fault = self.fault(OPTIONS, "only together with stream: true");
                self.note(Err::<(), _>(fault));
            }
            let mut options = self.open(Scope::StreamOptions, OPTIONS, options);
            streaming.include_usage = options.read("include_usage").unwrap_or_default();
            streaming.continuous_usage = options.read("continuous_usage_stats").unwrap_or_default();
            self.close(options);
        }
        wanted.then_some(streaming)
    }
}
