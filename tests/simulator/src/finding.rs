//! What is wrong with a history.

use std::any::Any;
use std::fmt;
use std::time::Duration;

/// A property that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Name of the property.
    pub property: String,
    /// Time since the history began.
    pub at: Duration,
    pub text: String,
}

impl Finding {
    pub(crate) fn new(property: impl fmt::Debug, at: Duration, text: impl Into<String>) -> Self {
        Self { property: format!("{property:?}"), at, text: text.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {:.3} s: {}", self.property, self.at.as_secs_f64(), self.text)
    }
}

/// Returns the message of a panic.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message").to_owned()
}
