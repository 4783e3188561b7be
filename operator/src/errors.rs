//! Errors as people read them.

use std::error::Error;

/// An error with its causes, each once: the message of some libraries' errors says only what was tried.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::with_causes;

    #[test]
    fn causes_are_said_once() {
        let load = crate::resource::load("/no/such.yaml".as_ref()).unwrap_err();
        assert_eq!(with_causes(&load), "cannot read /no/such.yaml: No such file or directory (os error 2)");
        let wrapped = anyhow::Error::new(std::io::Error::other("x")).context("start");
        assert_eq!(with_causes(wrapped.as_ref()), "start: x");
    }
}
