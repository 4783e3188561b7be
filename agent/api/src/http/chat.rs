//! `/v1/chat/completions`.

use axum::Json;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use futures::future::try_join_all;
use serde_json::{Value, json};

use super::error::ApiError;
use super::fields::Fields;
use super::format::grammar;
use super::generate::{Chunks, Gathered, gather, now, stream_response, usage};
use super::messages::messages;
use super::tools::{call, tools};
use super::{Id, RequestId};
use crate::model::Text;
use crate::session::{Api, Delta, GenerateInput, MAX_LOGPROBS, PromptInput, TokenOut, Usage};
use crate::text::Conversation;

struct Request {
    input: GenerateInput,
    stream: bool,
    include_usage: bool,
}

pub(crate) async fn create(
    State(api): State<Api>,
    Extension(RequestId(id)): Id,
    fields: Fields,
) -> Result<Response, ApiError> {
    let Request { input, stream, include_usage } = parse(fields, &id)?;
    let logprobs = input.logprobs.is_some();
    let answers = api.generate(input).await?;
    let wording = Wording { id, created: now(), model: api.model().name.clone(), text: api.text().clone(), logprobs };
    if stream {
        return Ok(stream_response(answers, Streamed { wording, include_usage }));
    }
    let gathered = try_join_all(answers.into_iter().map(gather)).await?;
    let usage = usage(gathered.iter().map(|answer| answer.usage));
    let choices = gathered.into_iter().enumerate().map(|(index, answer)| wording.choice(index, answer)).collect();
    let mut body = wording.body("chat.completion", choices);
    body["usage"] = usage;
    Ok(Json(body).into_response())
}

fn parse(mut fields: Fields, id: &str) -> Result<Request, ApiError> {
    let conversation = Conversation {
        messages: messages(fields.take_any("messages"))?,
        variables: fields.take("chat_template_kwargs")?.unwrap_or_default(),
        ..Conversation::default()
    };
    let (stream, include_usage) = fields.stream()?;
    let input = GenerateInput {
        model: fields.take("model")?.unwrap_or_default(),
        prompt: PromptInput::Chat(conversation),
        tools: tools(&mut fields)?,
        limits: fields.limits(&["max_completion_tokens", "max_tokens"])?,
        sampling: fields.sampling()?,
        logprobs: logprobs(&mut fields)?,
        choices: fields.take("n")?,
        grammar: grammar(&mut fields)?,
        request_id: id.to_owned(),
        deadline: None,
    };
    fields.finish()?;
    Ok(Request { input, stream, include_usage })
}

fn logprobs(fields: &mut Fields) -> Result<Option<u32>, ApiError> {
    let wanted: bool = fields.take("logprobs")?.unwrap_or_default();
    let top: Option<u32> = fields.take("top_logprobs")?;
    if top.is_some() && !wanted {
        return Err(ApiError::field("top_logprobs", "only together with logprobs: true"));
    }
    if let Some(top) = top.filter(|top| *top > MAX_LOGPROBS) {
        return Err(ApiError::field("top_logprobs", format!("{top} is out of range: 0 to {MAX_LOGPROBS}")));
    }
    Ok(wanted.then(|| top.unwrap_or(0)))
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
    fn body(&self, object: &str, choices: Vec<Value>) -> Value {
        json!({
            "id": format!("chatcmpl-{}", self.id), "object": object, "created": self.created,
            "model": self.model, "choices": choices,
        })
    }

    fn choice(&self, index: usize, answer: Gathered) -> Value {
        let content = if answer.text.is_empty() && !answer.calls.is_empty() { Value::Null } else { answer.text.into() };
        let mut message = json!({"role": "assistant", "content": content, "refusal": null});
        if !answer.reasoning.is_empty() {
            message["reasoning_content"] = answer.reasoning.into();
        }
        if !answer.calls.is_empty() {
            message["tool_calls"] = answer.calls.iter().map(|whole| call(whole, false)).collect();
        }
        let logprobs = self.logprobs(&answer.tokens);
        json!({"index": index, "message": message, "logprobs": logprobs, "finish_reason": answer.finish})
    }

    /// Null unless asked for.
    fn logprobs(&self, tokens: &[TokenOut]) -> Value {
        if !self.logprobs {
            return Value::Null;
        }
        let content = tokens.iter().filter_map(|token| {
            let logprobs = token.logprobs.as_ref()?;
            let mut entry = self.token(token.id, logprobs.chosen);
            let top: Vec<Value> = logprobs.top.iter().map(|(id, logprob)| self.token(*id, *logprob)).collect();
            entry["top_logprobs"] = json!(top);
            Some(entry)
        });
        json!({"content": content.collect::<Vec<Value>>(), "refusal": null})
    }

    fn token(&self, id: u32, logprob: f32) -> Value {
        let bytes = self.text.tokenizer().token_bytes(id);
        json!({"token": String::from_utf8_lossy(&bytes), "logprob": logprob, "bytes": bytes})
    }
}

struct Streamed {
    wording: Wording,
    include_usage: bool,
}

impl Streamed {
    fn body(&self, choices: Vec<Value>, usage: Value) -> Value {
        let mut body = self.wording.body("chat.completion.chunk", choices);
        if self.include_usage {
            body["usage"] = usage;
        }
        body
    }
}

impl Chunks for Streamed {
    fn prelude(&mut self, index: usize) -> Option<Value> {
        let delta = json!({"role": "assistant", "content": ""});
        let choice = json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": null});
        Some(self.body(vec![choice], Value::Null))
    }

    fn chunk(&mut self, index: usize, delta: Delta, finish: Option<&'static str>) -> Option<Value> {
        let told = self.wording.logprobs && !delta.tokens.is_empty();
        let silent = delta.text.is_empty() && delta.reasoning.is_empty() && delta.calls.is_empty();
        if silent && finish.is_none() && !told {
            return None;
        }
        let logprobs = self.wording.logprobs(&delta.tokens);
        let mut message = json!({});
        if !delta.reasoning.is_empty() {
            message["reasoning_content"] = delta.reasoning.into();
        }
        if !delta.text.is_empty() {
            message["content"] = delta.text.into();
        }
        if !delta.calls.is_empty() {
            message["tool_calls"] = delta.calls.iter().map(|part| call(part, true)).collect();
        }
        let choice = json!({"index": index, "delta": message, "logprobs": logprobs, "finish_reason": finish});
        Some(self.body(vec![choice], Value::Null))
    }

    fn postlude(&mut self, usages: &[Usage]) -> Option<Value> {
        self.include_usage.then(|| self.body(vec![], usage(usages.iter().copied())))
    }
}
