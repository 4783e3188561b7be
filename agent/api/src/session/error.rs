//! Reasons to refuse a request, and the checks that several fields share.

use lockstep_proto::names::DEFAULT_MODEL;

use crate::metrics::Outcome;
use crate::service::ServeError;
use crate::text::TextError;

/// Reason why a request was refused or could not go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// A field is out of its bounds: INVALID_ARGUMENT, 400. `field` is its name on the wire.
    #[error("{field}: {reason}")]
    Field { field: &'static str, reason: String },
    /// The prompt does not fit the context: INVALID_ARGUMENT, 400 with the code `context_length_exceeded`.
    #[error("{field}: {reason}")]
    ContextLength { field: &'static str, reason: String },
    /// The request asks for more answers than the queue can ever hold: INVALID_ARGUMENT, 400.
    #[error(
        "{field}: the request asks for {answers} answers, and the queue holds {limit}: send {limit} at a time, or raise \
         --max-waiting"
    )]
    Batch { field: &'static str, answers: usize, limit: usize },
    /// The request names another model than the served one: NOT_FOUND, 404.
    #[error("no model is called {asked:?} here: this endpoint serves {served:?}, also called {DEFAULT_MODEL:?}")]
    UnknownModel { asked: String, served: String },
    #[error(transparent)]
    Serve(#[from] ServeError),
}

impl RequestError {
    pub(crate) fn field(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Field { field, reason: reason.into() }
    }

    /// Returns the outcome under which the metrics count the request.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Field { .. }
            | Self::ContextLength { .. }
            | Self::Batch { .. }
            | Self::UnknownModel { .. }
            | Self::Serve(ServeError::Invalid(_)) => Outcome::Invalid,
            Self::Serve(ServeError::Full { .. }) => Outcome::Full,
            Self::Serve(ServeError::Unavailable { .. }) => Outcome::Unavailable,
            Self::Serve(ServeError::SlowReader) => Outcome::SlowReader,
            Self::Serve(ServeError::Deadline) => Outcome::Deadline,
            Self::Serve(ServeError::Internal(_)) => Outcome::Internal,
        }
    }
}

pub(super) fn out_of_range(field: &'static str, value: impl std::fmt::Display, bounds: &str) -> RequestError {
    RequestError::field(field, format!("{value} is out of range: {bounds}"))
}

/// Checks that `ids` are in the vocabulary.
///
/// # Errors
/// Names the first id that the model has no token for.
pub(crate) fn check_vocabulary(field: &'static str, ids: &[u32], vocab_size: u32) -> Result<(), RequestError> {
    match ids.iter().position(|id| *id >= vocab_size) {
        Some(at) => Err(RequestError::field(
            field,
            format!("token {} at index {at} is not in the vocabulary: ids are below {vocab_size}", ids[at]),
        )),
        None => Ok(()),
    }
}

/// Returns the error for a text that could not be encoded: the client's fault if the text cannot be a prompt, else an
/// internal error.
pub(crate) fn text_error(field: &'static str, error: TextError) -> RequestError {
    match error {
        TextError::TooLong { .. } => RequestError::ContextLength { field, reason: error.to_string() },
        TextError::TemplateRefused(_) | TextError::NoTemplate | TextError::Encode(_) => {
            RequestError::field(field, error.to_string())
        }
        TextError::Tokenizer(_) | TextError::TemplateSyntax(_) => {
            RequestError::Serve(ServeError::Internal(error.to_string()))
        }
    }
}
