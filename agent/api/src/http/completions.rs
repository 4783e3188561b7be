//! `/v1/completions`: one prompt or several, as text or as token ids.

use axum::Json;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use futures::future::try_join_all;
use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::fields::{Fields, FromField, kind};
use super::format::grammar;
use super::generate::{Chunks, Gathered, gather, now, stream_response, usage};
use super::{Id, RequestId};
use crate::model::Text;
use crate::session::{Api, Delta, GenerateInput, PromptInput, TokenOut, Usage};

/// Answers to one request, all prompts together; each is a request of its own to the head.
const MAX_ANSWERS: usize = 64;
/// OpenAI's default of this endpoint.
const DEFAULT_MAX_TOKENS: u32 = 16;

struct Request {
    inputs: Vec<GenerateInput>,
    logprobs: bool,
    stream: bool,
    include_usage: bool,
}

pub(crate) async fn create(
    State(api): State<Api>,
    Extension(RequestId(id)): Id,
    fields: Fields,
) -> Result<Response, ApiError> {
    let Request { inputs, logprobs, stream, include_usage } = parse(fields, &id)?;
    let mut answers = Vec::with_capacity(inputs.len());
    for input in inputs {
        answers.extend(api.generate(input).await?);
    }
    let wording = Wording { id, created: now(), model: api.model().name.clone(), text: api.text().clone(), logprobs };
    if stream {
        let offsets = vec![0; answers.len()];
        return Ok(stream_response(answers, Streamed { wording, include_usage, offsets }));
    }
    let gathered = try_join_all(answers.into_iter().map(gather)).await?;
    let usage = usage(gathered.iter().map(|answer| answer.usage));
    let choices = gathered.into_iter().enumerate().map(|(index, answer)| wording.choice(index, answer)).collect();
    let mut body = wording.body(choices);
    body["usage"] = usage;
    Ok(Json(body).into_response())
}

fn parse(mut fields: Fields, id: &str) -> Result<Request, ApiError> {
    let prompts = prompts(fields.take_any("prompt"))?;
    let (stream, include_usage) = fields.stream()?;
    let mut limits = fields.limits(&["max_tokens"])?;
    limits.max_tokens.get_or_insert(DEFAULT_MAX_TOKENS);
    let input = GenerateInput {
        model: fields.take("model")?.unwrap_or_default(),
        sampling: fields.sampling()?,
        limits,
        logprobs: fields.take("logprobs")?,
        choices: fields.take("n")?,
        grammar: grammar(&mut fields)?,
        ..GenerateInput::default()
    };
    fields.finish()?;
    let logprobs = input.logprobs.is_some();
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
    Ok(Request { inputs: inputs.collect(), logprobs, stream, include_usage })
}

/// A string, a list of token ids, or a list of either.
fn prompts(prompt: Option<Value>) -> Result<Vec<PromptInput>, ApiError> {
    let values = match prompt {
        None => return Err(ApiError::field("prompt", "missing: send a string or a list of token ids")),
        Some(Value::String(text)) => return Ok(vec![PromptInput::Text(text)]),
        Some(Value::Array(values)) => values,
        Some(other) => {
            let got = kind(&other);
            return Err(ApiError::field("prompt", format!("expected a string or a list of token ids, got {got}")));
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
    let one = |(at, value): (usize, Value)| match value {
        Value::String(text) => Ok(PromptInput::Text(text)),
        other => Vec::from_field(other).map(PromptInput::Tokens).ok_or_else(|| {
            ApiError::field("prompt", format!("prompt {at} is neither a string nor a list of token ids"))
        }),
    };
    values.into_iter().enumerate().map(one).collect()
}

/// Turns answers into OpenAI's words.
struct Wording {
    id: String,
    created: u64,
    model: String,
    text: Text,
    logprobs: bool,
}

impl Wording {
    fn body(&self, choices: Vec<Value>) -> Value {
        json!({
            "id": format!("cmpl-{}", self.id), "object": "text_completion", "created": self.created,
            "model": self.model, "choices": choices,
        })
    }

    fn choice(&self, index: usize, answer: Gathered) -> Value {
        let logprobs = self.logprobs(&answer.tokens, &mut 0);
        json!({"index": index, "text": answer.text, "logprobs": logprobs, "finish_reason": answer.finish})
    }

    /// Null unless asked for; `offset` counts the characters of the tokens so far.
    fn logprobs(&self, tokens: &[TokenOut], offset: &mut usize) -> Value {
        if !self.logprobs {
            return Value::Null;
        }
        let (mut texts, mut chosen, mut top, mut offsets) = (vec![], vec![], vec![], vec![]);
        for token in tokens {
            let text = self.text.tokenizer().token_text(token.id);
            let logprob = token.logprobs.as_ref().map(|logprobs| logprobs.chosen);
            top.push(self.top(token, &text));
            offsets.push(*offset);
            *offset += text.chars().count();
            texts.push(text);
            chosen.push(logprob);
        }
        json!({"tokens": texts, "token_logprobs": chosen, "top_logprobs": top, "text_offset": offsets})
    }

    /// The most likely tokens by their text, the chosen one always among them.
    fn top(&self, token: &TokenOut, text: &str) -> Value {
        let Some(logprobs) = &token.logprobs else { return Value::Null };
        let mut map = Map::new();
        for (id, logprob) in &logprobs.top {
            map.entry(self.text.tokenizer().token_text(*id)).or_insert(json!(logprob));
        }
        map.entry(text).or_insert(json!(logprobs.chosen));
        Value::Object(map)
    }
}

struct Streamed {
    wording: Wording,
    include_usage: bool,
    /// By choice: characters of the tokens told so far.
    offsets: Vec<usize>,
}

impl Streamed {
    fn body(&self, choices: Vec<Value>, usage: Value) -> Value {
        let mut body = self.wording.body(choices);
        if self.include_usage {
            body["usage"] = usage;
        }
        body
    }
}

impl Chunks for Streamed {
    fn prelude(&mut self, _index: usize) -> Option<Value> {
        None
    }

    fn chunk(&mut self, index: usize, delta: Delta, finish: Option<&'static str>) -> Option<Value> {
        let told = self.wording.logprobs && !delta.tokens.is_empty();
        if delta.text.is_empty() && finish.is_none() && !told {
            return None;
        }
        let logprobs = self.wording.logprobs(&delta.tokens, &mut self.offsets[index]);
        let choice = json!({"index": index, "text": delta.text, "logprobs": logprobs, "finish_reason": finish});
        Some(self.body(vec![choice], Value::Null))
    }

    fn postlude(&mut self, usages: &[Usage]) -> Option<Value> {
        self.include_usage.then(|| self.body(vec![], usage(usages.iter().copied())))
    }
}
