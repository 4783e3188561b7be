//! Errors and metadata as gRPC spells them.

use std::time::Duration;

use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use crate::service::ServeError;
use crate::session::{RequestError, request_id};

const REQUEST_ID: &str = "x-request-id";
pub(super) const RETRY_AFTER: &str = "retry-after";
const TIMEOUT: &str = "grpc-timeout";

/// Returns the status of an error. Its metadata holds the request's id, and `retry-after` in seconds if trying again
/// helps.
pub(crate) fn status(error: &RequestError, request_id: &str) -> Status {
    let (code, retry_after_s) = match error {
        RequestError::Field { .. }
        | RequestError::ContextLength { .. }
        | RequestError::Batch { .. }
        | RequestError::Serve(ServeError::Invalid(_)) => (Code::InvalidArgument, None),
        RequestError::UnknownModel { .. } => (Code::NotFound, None),
        RequestError::Serve(ServeError::Full { retry_after_s, .. }) => (Code::ResourceExhausted, Some(*retry_after_s)),
        RequestError::Serve(ServeError::Unavailable { retry_after_s, .. }) => (Code::Unavailable, Some(*retry_after_s)),
        RequestError::Serve(ServeError::SlowReader) => (Code::ResourceExhausted, None),
        RequestError::Serve(ServeError::Deadline) => (Code::DeadlineExceeded, None),
        RequestError::Serve(ServeError::Internal(_)) => (Code::Internal, None),
    };
    let mut metadata = MetadataMap::new();
    add_request_id(&mut metadata, request_id);
    if let Some(seconds) = retry_after_s {
        metadata.insert(RETRY_AFTER, MetadataValue::from(seconds));
    }
    Status::with_metadata(code, error.to_string(), metadata)
}

/// Returns the client's `x-request-id`, or a new id.
pub(crate) fn read_request_id(metadata: &MetadataMap) -> String {
    request_id(metadata.get(REQUEST_ID).map(|id| id.as_bytes()))
}

pub(crate) fn add_request_id(metadata: &mut MetadataMap, id: &str) {
    if let Ok(value) = id.parse() {
        metadata.insert(REQUEST_ID, value);
    }
}

/// Returns the time that the client gives the call, or `None` if the client set none.
///
/// # Errors
/// The header is malformed.
pub(crate) fn read_deadline(metadata: &MetadataMap) -> Result<Option<Duration>, RequestError> {
    let Some(value) = metadata.get(TIMEOUT) else { return Ok(None) };
    let timeout = value.to_str().ok().and_then(parse_timeout);
    timeout.map(Some).ok_or_else(|| {
        RequestError::field(TIMEOUT, "expected up to 8 digits and a unit of H, M, S, m, u or n, e.g. `30S`")
    })
}

/// Parses a timeout by <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>, "Timeout".
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_parse() {
        let cases = [
            ("30S", Some(Duration::from_secs(30))),
            ("2H", Some(Duration::from_secs(7200))),
            ("1M", Some(Duration::from_secs(60))),
            ("250m", Some(Duration::from_millis(250))),
            ("7u", Some(Duration::from_micros(7))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("", None),
            ("S", None),
            ("123456789S", None),
            ("-1S", None),
            ("1x", None),
            ("1é", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_timeout(text), expected, "{text:?}");
        }
    }

    #[test]
    fn errors_have_codes() {
        let serve = |error| RequestError::Serve(error);
        let cases = [
            (RequestError::field("top_p", "x"), Code::InvalidArgument, None),
            (RequestError::ContextLength { field: "x", reason: "y".into() }, Code::InvalidArgument, None),
            (RequestError::Batch { field: "x", answers: 3, limit: 2 }, Code::InvalidArgument, None),
            (serve(ServeError::SlowReader), Code::ResourceExhausted, None),
            (RequestError::UnknownModel { asked: "a".into(), served: "b".into() }, Code::NotFound, None),
            (serve(ServeError::Invalid("x".into())), Code::InvalidArgument, None),
            (serve(ServeError::Full { limit: 1, retry_after_s: 2 }), Code::ResourceExhausted, Some("2")),
            (serve(ServeError::Unavailable { reason: "x".into(), retry_after_s: 9 }), Code::Unavailable, Some("9")),
            (serve(ServeError::Deadline), Code::DeadlineExceeded, None),
            (serve(ServeError::Internal("x".into())), Code::Internal, None),
        ];
        for (error, code, retry_after) in cases {
            let status = status(&error, "id-1");
            assert_eq!(status.code(), code);
            assert_eq!(status.metadata().get(RETRY_AFTER).map(|value| value.to_str().unwrap()), retry_after);
            assert_eq!(status.metadata().get(REQUEST_ID).unwrap(), "id-1");
        }
    }
}
