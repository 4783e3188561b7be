//! Flags that say how an answer is chosen and when it ends.

use clap::Args;
use lockstep_proto::chat::Setting;
use lockstep_proto::v1;

#[derive(Debug, Clone, Default, Args)]
pub(super) struct Sampling {
    /// Most new tokens. Default: what the context has left
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: Option<u32>,
    /// 0 always takes the likeliest token; higher is freer. Default: the model's own
    #[arg(long, value_name = "T")]
    temperature: Option<f32>,
    /// Choose among the K likeliest tokens; 0: among all
    #[arg(long, value_name = "K")]
    top_k: Option<u32>,
    /// Choose among the likeliest tokens whose probabilities sum to P
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// The same seed gives the same answer
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// End where the answer contains this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
}

impl Sampling {
    /// Takes what was said in the conversation.
    pub(super) fn set(&mut self, setting: Setting) {
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
