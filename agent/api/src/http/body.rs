//! The extractor that reads a request's body as [`Fields`], up to a bound of size and of time.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};

use super::MAX_BODY_BYTES;
use super::error::ApiError;
use super::fields::{Fields, Unknown};
use crate::access::NamedByHeader;

/// Time within which a client must send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

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

impl<S: Send + Sync> FromRequest<S> for Fields {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let unknown = request.extensions().get::<Unknown>().cloned().unwrap_or_default();
        let is_named = request.extensions().get::<NamedByHeader>().is_some_and(|named| named.0);
        check_media_type(request.headers())?;
        let bytes = tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, state)).await.map_err(|_| {
            let seconds = BODY_TIMEOUT.as_secs();
            ApiError::new(StatusCode::REQUEST_TIMEOUT, format!("the body did not come within {seconds} s"))
        })?;
        let bytes = bytes.map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => ApiError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body is longer than {MAX_BODY_BYTES} bytes: no context holds so much text"),
            ),
            _ => ApiError::new(StatusCode::BAD_REQUEST, format!("read the body: {rejection}")),
        })?;
        Fields::parse(&bytes, unknown).map(|fields| fields.named_by_header(is_named))
    }
}
