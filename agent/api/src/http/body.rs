//! The extractor that reads a request's body as [`Fields`], up to a bound of size and of time.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;

use super::MAX_BODY_BYTES;
use super::error::ApiError;
use super::fields::{Fields, Unknown};

/// Time within which a client must send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

impl<S: Send + Sync> FromRequest<S> for Fields {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let unknown = request.extensions().get::<Unknown>().cloned().unwrap_or_default();
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
        Fields::parse(&bytes, unknown)
    }
}
