//! The prompt in an answer: `echo`, and `prompt_logprobs` as vLLM spells them.

use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::fields::Fields;
use super::generate::Streaming;
use crate::session::{GeneratedToken, ScoredToken};
use crate::text::Tokenizer;

/// Takes `prompt_logprobs`: the number of most likely tokens beside each token of the prompt.
///
/// # Errors
/// The field has another type, or the answer is streamed.
pub(crate) fn take_prompt_logprobs(fields: &mut Fields, streaming: Option<Streaming>) -> Result<Option<u32>, ApiError> {
    let asked = fields.take_field("prompt_logprobs")?;
    if asked.is_some() && streaming.is_some() {
        return Err(ApiError::field("prompt_logprobs", "not together with stream: ask for the whole answer"));
    }
    Ok(asked)
}

/// Returns a list with an object for each token of the prompt. The first token has null, because no token is before it.
/// The keys of an object are ids: that of the prompt's token, and those of the `top` most likely ones.
pub(crate) fn prompt_logprobs(tokenizer: &Tokenizer, reported: &[ScoredToken], top: u32) -> Value {
    let object = |token: &ScoredToken| {
        let entry = |id: u32, logprob: f32, rank: u32| {
            let value = json!({"logprob": logprob, "rank": rank, "decoded_token": tokenizer.token_text(id)});
            (id.to_string(), value)
        };
        let logprobs = &token.scores.logprobs;
        let likely = (1..).zip(logprobs.top.iter().take(top as usize));
        let mut object: Map<String, Value> = likely.map(|(rank, (id, logprob))| entry(*id, *logprob, rank)).collect();
        object.extend([entry(token.id, logprobs.chosen, token.scores.rank)]);
        Value::Object(object)
    };
    std::iter::once(Value::Null).chain(reported.iter().map(object)).collect()
}

/// A prompt that an answer begins with.
#[derive(Debug, Default)]
pub(crate) struct Echo {
    pub text: String,
    /// First token of the prompt.
    pub first: Option<u32>,
    /// Tokens that the head has reported, from the second one on.
    pub reported: Vec<ScoredToken>,
}

impl Echo {
    /// Returns the prompt's tokens, each with its log-probabilities and those of at most `top` likely tokens. The first
    /// token has none.
    pub(crate) fn tokens(&self, top: u32) -> impl Iterator<Item = GeneratedToken> {
        let first = self.first.map(|id| GeneratedToken { id, logprobs: None });
        let others = self.reported.iter().map(move |token| {
            let mut logprobs = token.scores.logprobs.clone();
            logprobs.top.truncate(top as usize);
            GeneratedToken { id: token.id, logprobs: Some(logprobs) }
        });
        first.into_iter().chain(others)
    }
}
