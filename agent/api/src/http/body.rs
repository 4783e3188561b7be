//! The extractor that reads a request's body as [`Fields`], up to a bound of size and of time.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt as _;
use lockstep_proto::errors::with_causes;

use super::MAX_BODY_BYTES;
use super::error::ApiError;
use super::fields::{Fields, Unknown};
use crate::access::NamedByHeader;
use crate::guard::{BodyMemory, MAX_BODIES_BYTES, weigh_body};
use crate::session::Api;

/// Time within which a client must send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest pause of a client within its body.
const PAUSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time after which a client may find memory for its body, in seconds.
const RETRY_AFTER_S: u32 = 2;

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
        let bytes = tokio::time::timeout(BODY_TIMEOUT, read_body(request.into_body(), &mut memory))
            .await
            .unwrap_or_else(|_| Err(too_slow(BODY_TIMEOUT)))?;
        let needed = weigh_body(&bytes);
        if needed > MAX_BODIES_BYTES {
            let reason = "the body has too many values: send fewer token ids, messages or prompts in one request";
            return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, reason));
        }
        if !memory.grow(needed) {
            return Err(no_memory());
        }
        Ok(Fields::parse(&bytes, unknown)?.named_by_header(is_named).in_memory(memory))
    }
}

/// Reads a whole body.
///
/// # Errors
/// The body is too long, comes too slowly or breaks off, or there is no memory for it now.
async fn read_body(mut body: Body, memory: &mut BodyMemory) -> Result<Vec<u8>, ApiError> {
    let mut bytes = Vec::new();
    loop {
        let frame = tokio::time::timeout(PAUSE_TIMEOUT, body.frame()).await.map_err(|_| too_slow(PAUSE_TIMEOUT))?;
        let Some(frame) = frame else { return Ok(bytes) };
        let frame = frame.map_err(|error| {
            ApiError::new(StatusCode::BAD_REQUEST, format!("read the body: {}", with_causes(&error)))
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > MAX_BODY_BYTES {
            let reason = format!("the body is longer than {MAX_BODY_BYTES} bytes: no context holds so much text");
            return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, reason));
        }
        if !memory.grow(bytes.len() + data.len()) {
            return Err(no_memory());
        }
        bytes.extend_from_slice(&data);
    }
}

fn too_slow(time: Duration) -> ApiError {
    let reason = format!("the body came too slowly: no more of it within {} s", time.as_secs());
    ApiError::new(StatusCode::REQUEST_TIMEOUT, reason)
}

fn no_memory() -> ApiError {
    let reason = format!("the server has no memory left for the bodies of requests: try again in {RETRY_AFTER_S} s");
    ApiError { retry_after_s: Some(RETRY_AFTER_S), ..ApiError::new(StatusCode::SERVICE_UNAVAILABLE, reason) }
}
