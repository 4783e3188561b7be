//! Settings that the process reads from files again.

use std::sync::{Mutex, PoisonError};

use super::files::TlsError;

/// SHA-256 of the files.
pub(super) type Digest = [u8; 32];

/// Settings from files. They stay in use until the files hold other valid ones.
pub(super) struct Kept<T>(Mutex<Current<T>>);

struct Current<T> {
    digest: Digest,
    settings: T,
    /// Last logged problem of the files. The process logs each problem once.
    logged_problem: Option<String>,
}

impl<T: Clone> Kept<T> {
    pub(super) fn new(digest: Digest, settings: T) -> Self {
        Self(Mutex::new(Current { digest, settings, logged_problem: None }))
    }

    /// Reads the files, and returns the settings for a new connection. `read` gets the digest of the files that are in use,
    /// and returns nothing if the files are the same. `log_news` logs that there are new settings, and `refusal` says what
    /// happens to files that are wrong.
    pub(super) fn refresh(
        &self,
        read: impl FnOnce(Digest) -> Result<Option<(Digest, T)>, TlsError>,
        log_news: impl FnOnce(),
        refusal: &str,
    ) -> T {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match read(current.digest) {
            Ok(None) => current.logged_problem = None,
            Ok(Some((digest, settings))) => {
                log_news();
                *current = Current { digest, settings, logged_problem: None };
            }
            Err(error) => {
                let text = error.to_string();
                if current.logged_problem.as_ref() != Some(&text) {
                    tracing::error!(error = text, "{refusal}");
                    current.logged_problem = Some(text);
                }
            }
        }
        current.settings.clone()
    }
}
