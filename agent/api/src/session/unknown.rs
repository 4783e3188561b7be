//! Fields of requests that nobody knows: whether they are refused, and which of them are in the log.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// Most names in the log. Clients choose the names, so there may be any number of them.
const MAX_LOGGED: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct UnknownFields {
    /// Set if requests with such fields are refused.
    strict: bool,
    /// Names that are in the log.
    logged: Mutex<HashSet<String>>,
}

impl UnknownFields {
    pub(crate) fn new(strict: bool) -> Self {
        Self { strict, ..Self::default() }
    }

    pub(crate) fn is_strict(&self) -> bool {
        self.strict
    }

    /// Writes the name to the log, unless it is there.
    pub(crate) fn log_once(&self, field: &str) {
        if self.is_new(field) {
            tracing::warn!(field, "requests have a field that nobody knows, and it is left out of account");
        }
    }

    /// Notes a name. Returns true if the name is new and there is room for it.
    fn is_new(&self, field: &str) -> bool {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        logged.len() < MAX_LOGGED && logged.insert(field.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_logged_once_and_not_too_many() {
        let fields = UnknownFields::new(false);
        assert!(fields.is_new("a") && !fields.is_new("a") && fields.is_new("b"));
        let new = (0..2 * MAX_LOGGED).filter(|at| fields.is_new(&at.to_string())).count();
        assert_eq!(new, MAX_LOGGED - 2);
    }
}
