//! `/v1/responses`, as OpenAI's clients read it. The server stores nothing: each request holds its whole conversation.

mod answer;
mod events;
mod input;
mod request;

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde_json::{Value, json};

use self::answer::ResponseObject;
use self::events::ResponseWriter;
use super::blocks::respond;
use super::error::ApiError;
use super::fields::Fields;
use super::{Id, RequestId, with_request_id};
use crate::session::{Api, RequestError};

/// Names of fields at this endpoint that have other names elsewhere.
const NAMES: [(&str, &str); 2] = [("messages", "input"), ("max_tokens", "max_output_tokens")];

pub(crate) async fn create(
    State(api): State<Api>,
    Extension(RequestId(id)): Id,
    fields: Fields,
) -> Result<Response, ApiError> {
    let request = request::parse(fields, id, api.text())?;
    let id = request.input.request_id.clone();
    let answers = api.generate(request.input).await.map_err(rename)?;
    let object = ResponseObject::new(&id, api.model().name.clone(), request.shape);
    let writer = ResponseWriter::new(object, api.text().clone());
    Ok(with_request_id(respond(answers, request.streaming, writer).await?, id))
}

/// Counts the tokens of a request's prompt.
pub(crate) async fn count_tokens(
    State(api): State<Api>,
    Extension(RequestId(id)): Id,
    fields: Fields,
) -> Result<Json<Value>, ApiError> {
    let request = request::parse(fields, id, api.text())?;
    let tokens = api.count_prompt(request.input).await.map_err(rename)?;
    Ok(Json(json!({"object": "response.input_tokens", "input_tokens": tokens})))
}

/// Refuses to look up, cancel or change a response.
pub(crate) async fn not_stored(uri: Uri) -> ApiError {
    let path = uri.path();
    ApiError::new(
        StatusCode::NOT_FOUND,
        format!("nothing is at {path}: this server stores no responses, so keep the answer of POST /v1/responses"),
    )
}

fn rename(error: RequestError) -> ApiError {
    ApiError::from(error).renamed(&NAMES)
}
