//! `/v1/chat/completions`.

use axum::extract::{Extension, State};
use axum::response::Response;
use serde_json::{Value, json};

use super::error::ApiError;
use super::fields::Fields;
use super::format::take_grammar;
use super::generate::{ChoiceFormat, Streaming, WholeAnswer, respond};
use super::messages::take_messages;
use super::tools::{call_to_json, take_tools};
use super::{Id, RequestId};
use crate::model::Text;
use crate::session::{Api, Delta, GenerateInput, GeneratedToken, MAX_LOGPROBS, PromptInput};
use crate::text::Conversation;

pub(crate) async fn create(
    State(api): State<Api>,
    Extension(RequestId(id)): Id,
    fields: Fields,
) -> Result<Response, ApiError> {
    let (input, streaming) = parse(fields, &id)?;
    let format = ChatFormat { text: api.text().clone(), logprobs: input.logprobs.is_some() };
    let answers = api.generate(input).await?;
    respond(&api, &id, answers, streaming, format).await
}

fn parse(mut fields: Fields, id: &str) -> Result<(GenerateInput, Option<Streaming>), ApiError> {
    let conversation = Conversation {
        messages: fields.noting(take_messages),
        variables: fields.read("chat_template_kwargs").unwrap_or_default(),
        ..Conversation::default()
    };
    let streaming = fields.take_streaming();
    let input = GenerateInput {
        model: fields.read("model").unwrap_or_default(),
        prompt: PromptInput::Chat(conversation),
        priority: fields.read("priority").unwrap_or_default(),
        cache_salt: fields.read("cache_salt").unwrap_or_default(),
        tools: take_tools(&mut fields),
        limits: fields.take_limits(&["max_completion_tokens", "max_tokens"]),
        sampling: fields.take_sampling(),
        logprobs: fields.noting(take_logprobs),
        choices: fields.read("n"),
        grammar: fields.noting(take_grammar),
        request_id: id.to_owned(),
        deadline: None,
    };
    fields.refuse_rest()?;
    Ok((input, streaming))
}

fn take_logprobs(fields: &mut Fields) -> Result<Option<u32>, ApiError> {
    let wanted: bool = fields.take_field("logprobs")?.unwrap_or_default();
    let top: Option<u32> = fields.take_field("top_logprobs")?;
    if top.is_some_and(|top| top > 0) && !wanted {
        return Err(ApiError::field("top_logprobs", "only together with logprobs: true"));
    }
    if let Some(top) = top.filter(|top| *top > MAX_LOGPROBS) {
        return Err(ApiError::field("top_logprobs", format!("{top} is out of range: 0 to {MAX_LOGPROBS}")));
    }
    Ok(wanted.then(|| top.unwrap_or(0)))
}

/// Format of the choices of a chat completion.
struct ChatFormat {
    text: Text,
    /// Set if the client asked for log probabilities.
    logprobs: bool,
}

impl ChatFormat {
    /// Returns the log probabilities of `tokens`, or null if the client did not ask for them.
    fn logprobs(&self, tokens: &[GeneratedToken]) -> Value {
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

impl ChoiceFormat for ChatFormat {
    const ID_PREFIX: &str = "chatcmpl";
    const OBJECT: &str = "chat.completion";
    const CHUNK_OBJECT: &str = "chat.completion.chunk";

    fn choice(&self, index: usize, answer: WholeAnswer) -> Value {
        let content = if answer.text.is_empty() && !answer.calls.is_empty() { Value::Null } else { answer.text.into() };
        let mut message = json!({"role": "assistant", "content": content, "refusal": null});
        if !answer.reasoning.is_empty() {
            message["reasoning_content"] = answer.reasoning.into();
        }
        if !answer.calls.is_empty() {
            message["tool_calls"] = answer.calls.iter().map(|call| call_to_json(call, false)).collect();
        }
        let logprobs = self.logprobs(&answer.tokens);
        json!({"index": index, "message": message, "logprobs": logprobs, "finish_reason": answer.finish_reason})
    }

    fn first_chunk(&self, index: usize) -> Option<Value> {
        let delta = json!({"role": "assistant", "content": ""});
        Some(json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": null}))
    }

    fn chunk(&mut self, index: usize, delta: Delta, finish_reason: Option<&'static str>) -> Option<Value> {
        let has_logprobs = self.logprobs && !delta.tokens.is_empty();
        let is_empty = delta.text.is_empty() && delta.reasoning.is_empty() && delta.calls.is_empty();
        if is_empty && finish_reason.is_none() && !has_logprobs {
            return None;
        }
        let logprobs = self.logprobs(&delta.tokens);
        let mut message = json!({});
        if !delta.reasoning.is_empty() {
            message["reasoning_content"] = delta.reasoning.into();
        }
        // Some clients add up the content of every chunk, even of the last one, so that chunk has some.
        if !delta.text.is_empty() || is_empty && finish_reason.is_some() {
            message["content"] = delta.text.into();
        }
        if !delta.calls.is_empty() {
            message["tool_calls"] = delta.calls.iter().map(|call| call_to_json(call, true)).collect();
        }
        Some(json!({"index": index, "delta": message, "logprobs": logprobs, "finish_reason": finish_reason}))
    }
}
