//! Fields that both endpoints obey. A field of another type is a fault, which [`Fields::refuse_rest`] reports.

use serde_json::{Map, Value};

use super::known::Scope;
use super::{Fields, FromField};
use crate::http::generate::Streaming;
use crate::session::{LimitsInput, SamplingInput};

impl Fields {
    /// Takes the fields of sampling.
    pub(crate) fn take_sampling(&mut self) -> SamplingInput {
        // Some clients send -1 for "all".
        let top_k = self.read::<i64>("top_k").map(|asked| if asked == -1 { Ok(0) } else { u32::try_from(asked) });
        let fault = self.fault("top_k", "out of range: 0 (all) or more");
        SamplingInput {
            temperature: self.read("temperature"),
            top_k: self.note(top_k.transpose().map_err(|_| fault)),
            top_p: self.read("top_p"),
            min_p: self.read("min_p"),
            repetition_penalty: self.read("repetition_penalty"),
            presence_penalty: self.read("presence_penalty"),
            frequency_penalty: self.read("frequency_penalty"),
            logit_bias: self.take_logit_bias(),
            seed: self.read("seed"),
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

    /// Takes the limits of the answer. `max_tokens` lists the names of the field for the most tokens. The first one
    /// that is present counts.
    pub(crate) fn take_limits(&mut self, max_tokens: &[&str]) -> LimitsInput {
        let mut limits = LimitsInput {
            max_tokens: None,
            min_tokens: self.read("min_tokens").unwrap_or_default(),
            stop: self.read("stop").unwrap_or_default(),
            stop_token_ids: self.read("stop_token_ids").unwrap_or_default(),
            ignore_eos: self.read("ignore_eos").unwrap_or_default(),
        };
        for name in max_tokens {
            let asked: Option<u32> = self.read(name);
            if asked == Some(0) {
                let fault = self.fault(name, "0 is out of range: at least 1");
                self.note(Err::<(), _>(fault));
            }
            limits.max_tokens = limits.max_tokens.or(asked);
        }
        limits
    }

    /// Takes `stream` and `stream_options`. Returns `None` if the client wants one whole response.
    pub(crate) fn take_streaming(&mut self) -> Option<Streaming> {
        const OPTIONS: &str = "stream_options";
        let wanted: bool = self.read("stream").unwrap_or_default();
        let mut streaming = Streaming { include_usage: false };
        if let Some(options) = self.read::<Map<String, Value>>(OPTIONS) {
            if !wanted {
                let fault = self.fault(OPTIONS, "only together with stream: true");
                self.note(Err::<(), _>(fault));
            }
            let mut options = self.open(Scope::StreamOptions, OPTIONS, options);
            streaming.include_usage = options.read("include_usage").unwrap_or_default();
            self.close(options);
        }
        wanted.then_some(streaming)
    }
}
