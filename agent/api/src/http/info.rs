//! Small endpoints under the names of vLLM: tokens of a text and back, the version, the load, and one address for both
//! kinds of requests.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::error::ApiError;
use super::fields::Fields;
use super::messages::take_messages;
use super::tools::take_tools;
use super::{Id, chat, completions};
use crate::session::Api;
use crate::text::Conversation;

/// `POST /tokenize`: the tokens of a `prompt`, or of the prompt that `messages` make.
pub(crate) async fn tokenize(State(api): State<Api>, mut fields: Fields) -> Result<Json<Value>, ApiError> {
    let model: String = fields.take_field("model")?.unwrap_or_default();
    let shows_pieces: bool = fields.take_field("return_token_strs")?.unwrap_or_default();
    let special: Option<bool> = fields.take_field("add_special_tokens")?;
    let tokens = match fields.take_field("prompt")? {
        Some(prompt) => {
            fields.refuse_rest()?;
            api.tokenize("prompt", &model, prompt, special.unwrap_or(true)).await?
        }
        None if fields.contains("messages") => {
            let messages = fields.noting(take_messages);
            let conversation = Conversation {
                tools: take_tools(&mut fields).definitions,
                adds_special_tokens: special.unwrap_or_default(),
                ..chat::take_conversation(&mut fields, messages)
            };
            fields.refuse_rest()?;
            api.tokenize_chat(&model, conversation).await?
        }
        None => return Err(ApiError::field("prompt", "missing: send a prompt or messages")),
    };
    let tokenizer = api.text().tokenizer();
    let pieces = shows_pieces.then(|| tokens.iter().map(|id| tokenizer.piece(*id)).collect::<Vec<_>>());
    let length = api.model().context_length;
    Ok(Json(json!({"count": tokens.len(), "max_model_len": length, "tokens": tokens, "token_strs": pieces})))
}

/// `POST /detokenize`: the text of `tokens`, special tokens included.
pub(crate) async fn detokenize(State(api): State<Api>, mut fields: Fields) -> Result<Json<Value>, ApiError> {
    let model: String = fields.take_field("model")?.unwrap_or_default();
    let tokens: Option<Vec<u32>> = fields.take_field("tokens")?;
    let tokens = tokens.ok_or_else(|| ApiError::field("tokens", "missing: send a list of token ids"))?;
    fields.refuse_rest()?;
    Ok(Json(json!({"prompt": api.detokenize("tokens", &model, &tokens, false)?})))
}

/// `POST /invocations`, for platforms that know only this address: a chat completion if the request has `messages`, else
/// a completion.
pub(crate) async fn invoke(api: State<Api>, id: Id, fields: Fields) -> Result<Response, ApiError> {
    match (fields.contains("messages"), fields.contains("prompt")) {
        (true, _) => chat::create(api, id, fields).await,
        (false, true) => completions::create(api, id, fields).await,
        (false, false) => Err(ApiError::field("messages", "missing: send messages, or prompt")),
    }
}

/// `GET /version`.
pub(crate) async fn version() -> Json<Value> {
    Json(json!({"version": env!("CARGO_PKG_VERSION")}))
}

/// `/ping`: 200 while the head's task runs, as the platforms ask that also send `/invocations`.
pub(crate) async fn ping(State(api): State<Api>) -> StatusCode {
    if api.hung_for().is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// `GET /load`: the number of requests that the head has and has not finished.
pub(crate) async fn load(State(api): State<Api>) -> Json<Value> {
    let status = api.status().borrow().clone();
    Json(json!({"server_load": status.running + status.waiting, "running": status.running, "waiting": status.waiting}))
}

/// `GET /server_info`: facts of the program, the model and the group.
pub(crate) async fn server_info(State(api): State<Api>) -> Response {
    let (model, status) = (api.model(), api.status().borrow().clone());
    let body = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "model": {
            "name": model.name, "source": model.source, "architecture": model.architecture,
            "parameters": model.parameters, "dtype": model.dtype, "vocab_size": model.vocab_size,
            "has_chat_template": model.has_chat_template,
        },
        "max_model_len": model.context_length,
        "world_size": status.world_size,
        "tensor_parallel_size": status.tensor_parallel_size,
        "pipeline_parallel_size": status.pipeline_parallel_size,
        "backend": status.backend,
        "kv_blocks": status.kv_blocks_total,
        "epoch": status.epoch,
    });
    Json(body).into_response()
}
