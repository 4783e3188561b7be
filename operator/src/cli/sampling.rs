//! Flags that control how tokens are sampled and when an answer ends.

use clap::Args;
use lockstep_proto::chat::Setting;
use lockstep_proto::v1;

#[derive(Debug, Clone, Default, Args)]
pub(super) struct SamplingArgs {
    /// Largest number of new tokens. Default: as many as the context has room for
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: Option<u32>,
    /// Sampling temperature. 0 always takes the likeliest token. Default: the model's own
    #[arg(long, value_name = "T")]
    temperature: Option<f32>,
    /// Sample from the K likeliest tokens. 0 samples from all tokens. Default: the model's own
    #[arg(long, value_name = "K")]
    top_k: Option<u32>,
    /// Sample from the likeliest tokens whose probabilities sum to P. Default: the model's own
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// Seed of the random numbers. The same seed gives the same answer. Default: a new seed for each answer
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Text that ends the answer. May be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
}

impl SamplingArgs {
    /// Applies a setting that was typed in a conversation.
    pub(super) fn apply(&mut self, setting: Setting) {
        match setting {
            Setting::Temperature(temperature) => self.temperature = temperature,
            Setting::TopK(top_k) => self.top_k = top_k,
            Setting::TopP(top_p) => self.top_p = top_p,
            Setting::Seed(seed) => self.seed = seed,
            Setting::MaxTokens(max_tokens) => self.max_tokens = max_tokens,
        }
    }

    pub(super) fn sampling(&self) -> v1::Sampling {
        v1::Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            seed: self.seed,
            ..v1::Sampling::default()
        }
    }

    pub(super) fn limits(&self) -> v1::Limits {
        v1::Limits { max_tokens: self.max_tokens, stop: self.stop.clone(), ..v1::Limits::default() }
    }
}
