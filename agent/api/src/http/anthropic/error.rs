//! Errors in Anthropic's JSON shape: `{"type": "error", "error": {"type", "message"}, "request_id"}`.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use serde_json::{Value, json};

use super::super::error::ApiError;
use super::super::{REQUEST_ID, RequestId};
use super::MESSAGES;

/// Name that Anthropic gives the header with the request's id.
const ANTHROPIC_REQUEST_ID: &str = "request-id";

/// Writes the errors of Anthropic's paths in Anthropic's shape, whoever made them.
pub(crate) async fn reshape_errors(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if path != MESSAGES && !path.strip_prefix(MESSAGES).is_some_and(|rest| rest.starts_with('/')) {
        return next.run(request).await;
    }
    let id = request.extensions().get::<RequestId>().map(|RequestId(id)| id.clone()).unwrap_or_default();
    let mut response = next.run(request).await;
    // The body of the request may have given it another id.
    let id = response.headers().get(REQUEST_ID).and_then(|own| own.to_str().ok()).map_or(id, str::to_owned);
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        let mut body = error_to_json(&error);
        body["request_id"] = json!(id);
        response.headers_mut().remove(header::CONTENT_LENGTH);
        *response.body_mut() = Body::from(body.to_string());
    }
    if let Ok(value) = HeaderValue::try_from(id) {
        response.headers_mut().insert(ANTHROPIC_REQUEST_ID, value);
    }
    response
}

/// Returns the error, which is also the data of the event `error` in a stream.
pub(super) fn error_to_json(error: &ApiError) -> Value {
    let kind = match error.status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::FORBIDDEN => "permission_error",
        StatusCode::NOT_FOUND => "not_found_error",
        StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => "timeout_error",
        status if status.is_server_error() => "api_error",
        _ => "invalid_request_error",
    };
    json!({"type": "error", "error": {"type": kind, "message": error.message}})
}
