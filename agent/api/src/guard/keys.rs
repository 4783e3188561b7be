//! The keys that clients present. Those of a file are read anew when the file changes.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use subtle::{Choice, ConstantTimeEq};

/// Longest file of keys, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Time after which a request makes the process look at the file again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Function that returns the bytes of a file of secrets. It fails for a file of more bytes than the number.
pub type ReadSecret = fn(&Path, u64) -> io::Result<Vec<u8>>;

/// Reason why keys cannot be used. No message contains a key.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("read the API keys of {path}: {cause}")]
    Read { path: String, cause: io::Error },
    #[error("{path} holds no API key: write one on each line, or leave the setting out")]
    Empty { path: String },
    #[error("{path}: line {line} is no API key: give visible ASCII characters without spaces")]
    Malformed { path: String, line: usize },
}

/// Keys that the client ports accept.
pub struct ApiKeys {
    fixed: Vec<String>,
    file: Option<KeyFile>,
}

struct KeyFile {
    path: PathBuf,
    read: ReadSecret,
    current: Mutex<CurrentKeys>,
}

struct CurrentKeys {
    keys: Vec<String>,
    looked_at: Instant,
    /// Last logged problem of the file. The process logs each problem once.
    logged_problem: Option<String>,
}

impl ApiKeys {
    /// Returns the keys of the settings and those of a file. The function beside the file's path reads the file.
    ///
    /// # Errors
    /// The file cannot be read, or it holds no key.
    pub fn open(fixed: Vec<String>, file: Option<(&Path, ReadSecret)>) -> Result<Self, KeysError> {
        let open = |(path, read): (&Path, ReadSecret)| {
            let keys = read_keys(path, read)?;
            let current = CurrentKeys { keys, looked_at: Instant::now(), logged_problem: None };
            Ok(KeyFile { path: path.to_owned(), read, current: Mutex::new(current) })
        };
        Ok(Self { fixed, file: file.map(open).transpose()? })
    }

    /// Returns true if `presented` is one of the keys. The time for this does not depend on the keys' text.
    pub(crate) async fn allow(self: &Arc<Self>, presented: &[u8]) -> bool {
        if self.file.as_ref().is_some_and(|file| file.is_old()) {
            let this = self.clone();
            // If the runtime ends, nobody waits for the answer.
            tokio::task::spawn_blocking(move || this.file.as_ref().map(KeyFile::read_anew)).await.ok();
        }
        let mut found = is_among(&self.fixed, presented);
        if let Some(file) = &self.file {
            found |= is_among(&file.current.lock().unwrap_or_else(PoisonError::into_inner).keys, presented);
        }
        found.into()
    }
}

fn is_among(keys: &[String], presented: &[u8]) -> Choice {
    keys.iter().fold(Choice::from(0), |found, key| found | key.as_bytes().ct_eq(presented))
}

impl KeyFile {
    fn is_old(&self) -> bool {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).looked_at.elapsed() > LOOK_AGAIN
    }

    /// Reads the file. If it is wrong, the earlier keys stay.
    fn read_anew(&self) {
        let read = read_keys(&self.path, self.read);
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.looked_at = Instant::now();
        match read {
            Ok(keys) => {
                if keys != current.keys {
                    tracing::info!(path = %self.path.display(), count = keys.len(), "read new API keys");
                }
                (current.keys, current.logged_problem) = (keys, None);
            }
            Err(error) => {
                let problem = error.to_string();
                if current.logged_problem.as_ref() != Some(&problem) {
                    tracing::error!(error = problem, "cannot use the new API keys: using the old ones");
                    current.logged_problem = Some(problem);
                }
            }
        }
    }
}

/// Reads the keys of a file, one on each line. Empty lines and lines that begin with `#` hold none.
fn read_keys(path: &Path, read: ReadSecret) -> Result<Vec<String>, KeysError> {
    let shown = || path.display().to_string();
    let unreadable = |cause| KeysError::Read { path: shown(), cause };
    let bytes = read(path, MAX_FILE).map_err(unreadable)?;
    let text = String::from_utf8(bytes)
        .map_err(|_| unreadable(io::Error::other("it is no text: write keys of visible ASCII characters")))?;
    let mut keys = Vec::new();
    for (line, key) in text.lines().map(str::trim).enumerate() {
        if key.is_empty() || key.starts_with('#') {
            continue;
        }
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(KeysError::Malformed { path: shown(), line: line + 1 });
        }
        keys.push(key.to_owned());
    }
    if keys.is_empty() { Err(KeysError::Empty { path: shown() }) } else { Ok(keys) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Refuses a file whose text is `exposed`, as the agent's own function refuses one that others can read.
    fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
        let bytes = std::fs::read(path)?;
        let is_fine = bytes != b"exposed" && bytes.len() as u64 <= most;
        if is_fine { Ok(bytes) } else { Err(io::Error::other("run `chmod 600`")) }
    }

    #[tokio::test]
    async fn a_file_of_keys_is_read_anew() {
        let path = std::env::temp_dir().join(format!("lockstep-keys-{}", uuid::Uuid::new_v4()));
        std::fs::write(&path, "# ours\n  one\n\ntwo\n").unwrap();
        let keys = Arc::new(ApiKeys::open(vec!["fixed".into()], Some((&path, read))).unwrap());
        let age = || {
            let mut current = keys.file.as_ref().unwrap().current.lock().unwrap();
            current.looked_at -= 2 * LOOK_AGAIN;
        };
        let steps = [
            (None, [true, true, true, false]),
            (Some("three"), [true, false, false, true]),
            (Some(""), [true, false, false, true]),
            (Some("a b"), [true, false, false, true]),
            (Some("exposed"), [true, false, false, true]),
        ];
        for (text, expected) in steps {
            if let Some(text) = text {
                std::fs::write(&path, text).unwrap();
                age();
            }
            for (key, expected) in ["fixed", "one", "two", "three"].into_iter().zip(expected) {
                assert_eq!(keys.allow(key.as_bytes()).await, expected, "{key} of {text:?}");
            }
            assert!(!keys.allow(b"").await && !keys.allow(b"on").await && !keys.allow(b"# ours").await);
        }
        for (text, expected) in [
            (&b"\n#x\n"[..], "holds no API key"),
            (b"a\nb c", "line 2 is no API key"),
            (b"\xff", "it is no text"),
            (b"exposed", "run `chmod 600`"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = ApiKeys::open(vec![], Some((&path, read))).err().unwrap().to_string();
            assert!(error.contains(expected) && !error.contains("b c"), "{error}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(ApiKeys::open(vec![], Some((&path, read))).err().unwrap().to_string().contains("read the API keys"));
    }
}
