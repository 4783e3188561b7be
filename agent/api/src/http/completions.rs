//! `/v1/completions`: one prompt or several, as text or as token ids.

use axum::extract::{Extension, State};
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::fields::{Fields, FromField, describe_kind};
use super::format::take_grammar;
use super::generate::{ChoiceFormat, Streaming, WholeAnswer, respond};
use super::{Id, RequestId};
use crate::model::Text;
use crate::session::{Api, Delta, GenerateInput, GeneratedToken, PromptInput};

/// Most answers to one request, all prompts together. Each answer is a request of its own to the head.
const MAX_ANSWERS: usize = 64;
/// OpenAI's default of this endpoint.
pub(super) const DEFAULT_MAX_TOKENS: u32 = 16;

pub(crate) async fn create(
    State(api): State<Api>,
    Extension(RequestId(id)): Id,
    fields: Fields,
) -> Result<Response, ApiError> {
    let (inputs, streaming) = parse(fields, &id)?;
    let logprobs = inputs.iter().any(|input| input.logprobs.is_some());
    let answers = api.generate_batch(inputs).await?;
    let format = CompletionFormat { text: api.text().clone(), logprobs, offsets: vec![0; answers.len()] };
    respond(&api, &id, answers, streaming, format).await
}

/// Reads the request: an input for each prompt.
fn parse(mut fields: Fields, id: &str) -> Result<(Vec<GenerateInput>, Option<Streaming>), ApiError> {
    let prompts = fields.noting(|fields| parse_prompts(fields.take_value("prompt")));
    let streaming = fields.take_streaming();
    let mut limits = fields.take_limits(&["max_completion_tokens", "max_tokens"]);
    limits.max_tokens.get_or_insert(DEFAULT_MAX_TOKENS);
    let input = GenerateInput {
        model: fields.read("model").unwrap_or_default(),
        priority: fields.read("priority").unwrap_or_default(),
        cache_salt: fields.read("cache_salt").unwrap_or_default(),
        sampling: fields.take_sampling(),
        limits,
        logprobs: fields.read("logprobs"),
        choices: fields.read("n"),
        grammar: fields.noting(take_grammar),
        ..GenerateInput::default()
    };
    fields.refuse_rest()?;
    let several = prompts.len() > 1;
    let choices = input.choices.unwrap_or(1) as usize;
    if several && prompts.len().saturating_mul(choices) > MAX_ANSWERS {
        let count = prompts.len();
        return Err(ApiError::field(
            if choices > 1 { "n" } else { "prompt" },
            format!("{choices} answers to {count} prompts, more than {MAX_ANSWERS}: send several requests"),
        ));
    }
    let request_id = |index: usize| if several { format!("{id}-{index}") } else { id.to_owned() };
    let inputs = prompts.into_iter().enumerate();
    let inputs = inputs.map(|(at, prompt)| GenerateInput { prompt, request_id: request_id(at), ..input.clone() });
    Ok((inputs.collect(), streaming))
}

/// Reads the prompts: a string, a list of token ids, or a list of either.
///
/// # Errors
/// The field is missing or has another type.
fn parse_prompts(prompt: Option<Value>) -> Result<Vec<PromptInput>, ApiError> {
    let values = match prompt {
        None => return Err(ApiError::field("prompt", "missing: send a string or a list of token ids")),
        Some(Value::String(text)) => return Ok(vec![PromptInput::Text(text)]),
        Some(Value::Array(values)) => values,
        Some(other) => {
            let expected = "a string or a list of token ids";
            let got = describe_kind(&other, expected);
            return Err(ApiError::field("prompt", format!("expected {expected}, got {got}")));
        }
    };
    if values.is_empty() {
        return Err(ApiError::field("prompt", "the list is empty: send at least one token"));
    }
    if values[0].is_number() {
        let ids = Vec::from_field(Value::Array(values));
        let ids = ids.ok_or_else(|| ApiError::field("prompt", "a list of token ids has something else in it"))?;
        return Ok(vec![PromptInput::Tokens(ids)]);
    }
    let parse_one = |(at, value): (usize, Value)| match value {
        Value::String(text) => Ok(PromptInput::Text(text)),
        other => Vec::from_field(other).map(PromptInput::Tokens).ok_or_else(|| {
            ApiError::field("prompt", format!("prompt {at} is neither a string nor a list of token ids"))
        }),
    };
    values.into_iter().enumerate().map(parse_one).collect()
}

/// Choices of a completion.
struct CompletionFormat {
    text: Text,
    /// Set if the client asked for log probabilities.
    logprobs: bool,
    /// Number of characters sent so far, by choice.
    offsets: Vec<usize>,
}

impl CompletionFormat {
    /// Returns the log probabilities of `tokens`, or null if the client did not ask for them. Adds the number of
    /// characters of these tokens to `offset`.
    fn logprobs(&self, tokens: &[GeneratedToken], offset: &mut usize) -> Value {
        if !self.logprobs {
            return Value::Null;
        }
        let (mut texts, mut chosen, mut top, mut offsets) = (vec![], vec![], vec![], vec![]);
        for token in tokens {
            let text = self.text.tokenizer().token_text(token.id);
            let logprob = token.logprobs.as_ref().map(|logprobs| logprobs.chosen);
            top.push(self.top_logprobs(token, &text));
            offsets.push(*offset);
            *offset += text.chars().count();
            texts.push(text);
            chosen.push(logprob);
        }
        json!({"tokens": texts, "token_logprobs": chosen, "top_logprobs": top, "text_offset": offsets})
    }

    /// Returns the most likely tokens by their text. The chosen token is always among them.
    fn top_logprobs(&self, token: &GeneratedToken, text: &str) -> Value {
        let Some(logprobs) = &token.logprobs else { return Value::Null };
        let mut map = Map::new();
        for (id, logprob) in &logprobs.top {
            map.entry(self.text.tokenizer().token_text(*id)).or_insert(json!(logprob));
        }
        map.entry(text).or_insert(json!(logprobs.chosen));
        Value::Object(map)
    }
}

impl ChoiceFormat for CompletionFormat {
    const ID_PREFIX: &str = "cmpl";
    const OBJECT: &str = "text_completion";
    const CHUNK_OBJECT: &str = Self::OBJECT;

    fn choice(&self, index: usize, answer: WholeAnswer) -> Value {
        let logprobs = self.logprobs(&answer.tokens, &mut 0);
        json!({"index": index, "text": answer.text, "logprobs": logprobs, "finish_reason": answer.finish_reason})
    }

    fn first_chunk(&self, _index: usize) -> Option<Value> {
        None
    }

    fn chunk(&mut self, index: usize, delta: Delta, finish_reason: Option<&'static str>) -> Option<Value> {
        let has_logprobs = self.logprobs && !delta.tokens.is_empty();
        if delta.text.is_empty() && finish_reason.is_none() && !has_logprobs {
            return None;
        }
        let mut offset = self.offsets[index];
        let logprobs = self.logprobs(&delta.tokens, &mut offset);
        self.offsets[index] = offset;
        Some(json!({"index": index, "text": delta.text, "logprobs": logprobs, "finish_reason": finish_reason}))
    }
}
