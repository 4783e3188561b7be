//! The extractor that reads a request's body as [`Fields`].

use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};

use super::error::ApiError;
use super::fields::{Fields, Unknown};
use crate::access::NamedByHeader;
use crate::guard::{BodyError, RETRY_AFTER_S, read_body, weigh_body};
use crate::session::Api;

/// Checks that the client says nothing else of the body than that it is JSON. Without this check, any web page could send
/// requests: a browser asks for no permission before it sends plain text or a form.
fn check_media_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let refuse = |reason: String| Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason));
    if let Some(encoding) = headers.get(header::CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
        return refuse(format!("content-encoding {encoding:?} is not supported: send the body as it is"));
    }
    let Some(media_type) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let essence =
        media_type.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json" || essence.starts_with("application/") && essence.ends_with("+json") {
        return Ok(());
    }
    refuse(format!(
        "content-type {media_type:?} is not supported: send `content-type: application/json` (with curl: -H \
         'content-type: application/json')"
    ))
}

impl FromRequest<Api> for Fields {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Api) -> Result<Self, ApiError> {
        let unknown = request.extensions().get::<Unknown>().cloned().unwrap_or_default();
        let is_named = request.extensions().get::<NamedByHeader>().is_some_and(|named| named.0);
        check_media_type(request.headers())?;
        let mut memory = api.bodies().body();
        let bytes = read_body(request.into_body(), &mut memory).await?;
        memory.grow_to_values(weigh_body(&bytes))?;
        Ok(Fields::parse(&bytes, unknown)?.named_by_header(is_named).in_memory(memory))
    }
}

impl From<BodyError> for ApiError {
    fn from(error: BodyError) -> Self {
        let status = match error {
            BodyError::TooLong | BodyError::TooManyValues => StatusCode::PAYLOAD_TOO_LARGE,
            BodyError::TooSlow(_) => StatusCode::REQUEST_TIMEOUT,
            BodyError::NoMemory => StatusCode::SERVICE_UNAVAILABLE,
            BodyError::Broken(_) => StatusCode::BAD_REQUEST,
        };
        let retry_after_s = (error == BodyError::NoMemory).then_some(RETRY_AFTER_S);
        Self { retry_after_s, ..Self::new(status, error.to_string()) }
    }
}
