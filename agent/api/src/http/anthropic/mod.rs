//! `/v1/messages` and `/v1/messages/count_tokens`, as Anthropic's clients read them.

mod answer;
mod error;
mod events;
mod messages;
mod request;

use axum::Json;
use axum::extract::{Extension, State};
use axum::response::Response;
use serde_json::{Value, json};

pub(crate) use self::error::reshape_errors;
use self::events::MessageWriter;
use super::blocks::respond;
use super::error::ApiError;
use super::fields::Fields;
use super::{Id, RequestId, with_request_id};
use crate::session::{Api, RequestError};

/// Path whose errors, and those below it, have Anthropic's shape.
const MESSAGES: &str = "/v1/messages";

/// Names of fields at this endpoint that have other names elsewhere.
const NAMES: [(&str, &str); 1] = [("stop", "stop_sequences")];

pub(crate) async fn create(
    State(api): State<Api>,
    Extension(RequestId(id)): Id,
    fields: Fields,
) -> Result<Response, ApiError> {
    let (input, streaming) = request::parse(fields, id)?;
    let id = input.request_id.clone();
    let answers = api.generate(input).await.map_err(rename)?;
    let writer = MessageWriter::new(&id, api.model().name.clone());
    Ok(with_request_id(respond(answers, streaming, writer).await?, id))
}

/// Counts the tokens of a request's prompt.
pub(crate) async fn count_tokens(
    State(api): State<Api>,
    Extension(RequestId(id)): Id,
    fields: Fields,
) -> Result<Json<Value>, ApiError> {
    let (input, _) = request::parse(fields, id)?;
    let tokens = api.count_prompt(input).await.map_err(rename)?;
    Ok(Json(json!({"input_tokens": tokens})))
}

fn rename(error: RequestError) -> ApiError {
    ApiError::from(error).renamed(&NAMES)
}
