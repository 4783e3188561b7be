//! Errors in OpenAI's JSON shape: `{"error": {"message", "type", "param", "code"}}`.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::access::Refusal;
use crate::service::ServeError;
use crate::session::RequestError;

/// Extension of the response to a request that was refused before the session saw it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Uncounted;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub status: StatusCode,
    pub message: String,
    /// Name of the field at fault.
    pub param: Option<String>,
    pub code: Option<&'static str>,
    pub retry_after_s: Option<u32>,
    /// Set if the session has counted the request's outcome already.
    pub is_counted: bool,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code: None, retry_after_s: None, is_counted: false }
    }

    /// Returns the error 400 for one field.
    pub(crate) fn field(param: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        let param = param.into();
        let message = format!("{param}: {reason}");
        Self { param: Some(param), ..Self::new(StatusCode::BAD_REQUEST, message) }
    }

    /// Returns the error with the name that an endpoint gives to the field at fault. `names` has pairs of our name and
    /// the endpoint's.
    pub(super) fn renamed(mut self, names: &[(&str, &str)]) -> Self {
        let Some(param) = &self.param else { return self };
        if let Some((ours, theirs)) = names.iter().find(|(ours, _)| ours == param) {
            if let Some(rest) = self.message.strip_prefix(ours) {
                self.message = format!("{theirs}{rest}");
            }
            self.param = Some((*theirs).to_owned());
        }
        self
    }

    /// Returns the body of the response, which is also the data of an event in a stream.
    pub(crate) fn json(&self) -> Value {
        let kind = match self.status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::SERVICE_UNAVAILABLE => "service_unavailable_error",
            StatusCode::GATEWAY_TIMEOUT => "timeout_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        json!({"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}})
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        let message = error.to_string();
        let error = match error {
            RequestError::Field { field, .. } => {
                Self { param: Some(field.into()), ..Self::new(StatusCode::BAD_REQUEST, message) }
            }
            RequestError::ContextLength { field, .. } => Self {
                param: Some(field.into()),
                code: Some("context_length_exceeded"),
                ..Self::new(StatusCode::BAD_REQUEST, message)
            },
            RequestError::Batch { field, .. } => {
                Self { param: Some(field.into()), ..Self::new(StatusCode::BAD_REQUEST, message) }
            }
            RequestError::UnknownModel { .. } => Self {
                param: Some("model".into()),
                code: Some("model_not_found"),
                ..Self::new(StatusCode::NOT_FOUND, message)
            },
            RequestError::Serve(error) => Self::from_serve(&error, message),
        };
        Self { is_counted: true, ..error }
    }
}

impl ApiError {
    fn from_serve(error: &ServeError, message: String) -> Self {
        let (status, code, retry_after_s) = match error {
            ServeError::Invalid(_) => (StatusCode::BAD_REQUEST, None, None),
            ServeError::Full { retry_after_s, .. } => {
                (StatusCode::TOO_MANY_REQUESTS, Some("queue_full"), Some(*retry_after_s))
            }
            ServeError::Unavailable { retry_after_s, .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, Some("unavailable"), Some(*retry_after_s))
            }
            ServeError::SlowReader => (StatusCode::REQUEST_TIMEOUT, Some("slow_reader"), None),
            ServeError::Deadline => (StatusCode::GATEWAY_TIMEOUT, Some("deadline_exceeded"), None),
            ServeError::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, None, None),
        };
        Self { code, retry_after_s, ..Self::new(status, message) }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.json())).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if !self.is_counted && self.status.is_client_error() {
            response.extensions_mut().insert(Uncounted);
        }
        response.extensions_mut().insert(Refusal(self.message.clone()));
        // An endpoint with another shape of errors writes the body anew.
        response.extensions_mut().insert(self);
        response
    }
}
