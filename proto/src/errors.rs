//! Errors as people read them.

use std::error::Error;

/// Returns an error's message followed by those of its causes, each once. Some libraries' own messages say only what
/// was tried, such as "transport error".
#[must_use]
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in causes(error).skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Returns the message of an error's innermost cause.
#[must_use]
pub fn root_cause(error: &(dyn Error + 'static)) -> String {
    causes(error).last().unwrap_or(error).to_string()
}

/// Yields the error, its cause, the cause of that, and so on.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;

    /// A message and maybe its cause.
    #[derive(Debug)]
    struct Failure(&'static str, Option<Box<Failure>>);

    impl fmt::Display for Failure {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Failure {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|cause| cause as _)
        }
    }

    #[test]
    fn each_cause_appears_once() {
        let refused = || Some(Box::new(Failure("refused", None)));
        let rows = [
            (Failure("dial", None), "dial", "dial"),
            (Failure("dial", refused()), "dial: refused", "refused"),
            (Failure("dial: refused", refused()), "dial: refused", "refused"),
        ];
        for (error, message, root) in rows {
            assert_eq!((with_causes(&error).as_str(), root_cause(&error).as_str()), (message, root));
        }
    }
}
