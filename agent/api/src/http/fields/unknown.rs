//! Fields that nobody knows: the header, the log and the metric that name them.

use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::middleware::Next;
use axum::response::Response;

use super::MAX_NAME_CHARS;
use crate::session::Api;

/// Header of an answer that names the request's fields that were left out of account.
const HEADER: &str = "x-lockstep-ignored";
/// Most names in the header.
const MAX_NAMES: usize = 32;
/// Longest list of names in the header, in bytes. Proxies have little room for headers.
const MAX_HEADER_BYTES: usize = 2048;

/// Fields of one request that were left out of account. Clones share their names.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unknown {
    /// Set if the server refuses such fields.
    strict: bool,
    names: Arc<Mutex<Names>>,
}

#[derive(Debug, Default)]
struct Names {
    /// Names without repetition, at most [`MAX_NAMES`].
    listed: Vec<String>,
    /// Number of all fields, repetitions included.
    count: u64,
    /// Set if there was no room for a name.
    more: bool,
}

impl Unknown {
    pub(crate) fn is_strict(&self) -> bool {
        self.strict
    }

    /// Notes a field of the object at `path`, which ends with a dot or is empty.
    pub(crate) fn add(&self, path: &str, name: &str) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.count += 1;
        let name: String = path.chars().chain(name.chars().take(MAX_NAME_CHARS)).collect();
        if names.listed.contains(&name) {
            return;
        }
        if names.listed.len() == MAX_NAMES {
            names.more = true;
        } else {
            names.listed.push(name);
        }
    }

    fn take(&self) -> Names {
        std::mem::take(&mut *self.names.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Gives each request a list of unknown fields. Names those fields in the answer's header and in the log, and counts them.
pub(crate) async fn report(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let unknown = Unknown { strict: api.unknown_fields().is_strict(), names: Arc::default() };
    request.extensions_mut().insert(unknown.clone());
    let mut response = next.run(request).await;
    let names = unknown.take();
    if names.count == 0 {
        return response;
    }
    api.metrics().count_ignored_fields(names.count);
    names.listed.iter().for_each(|name| api.unknown_fields().log_once(name));
    if let Ok(value) = HeaderValue::try_from(names.header()) {
        response.headers_mut().insert(HEADER, value);
    }
    response
}

impl Names {
    /// Returns the names with commas between them. Bytes that are not legible in a header, and commas, are spelled `%NN`.
    fn header(&self) -> String {
        let mut header = String::new();
        let mut more = self.more;
        for name in &self.listed {
            let before = header.len();
            if before > 0 {
                header.push_str(", ");
            }
            for byte in name.bytes() {
                if byte.is_ascii_graphic() && !b",%".contains(&byte) {
                    header.push(char::from(byte));
                } else {
                    write!(header, "%{byte:02X}").ok();
                }
            }
            if header.len() > MAX_HEADER_BYTES {
                header.truncate(before);
                more = true;
                break;
            }
        }
        if more {
            header.push_str(", ...");
        }
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_legible_and_bounded() {
        let unknown = Unknown::default();
        for (path, name) in [("", "a"), ("tools[].", "x,y"), ("", "a"), ("", "é\r\n%")] {
            unknown.add(path, name);
        }
        let names = unknown.take();
        assert_eq!((names.header().as_str(), names.count), ("a, tools[].x%2Cy, %C3%A9%0D%0A%25", 4));
        (0..2_000).for_each(|at| unknown.add("", &format!("{at}").repeat(70)));
        let names = unknown.take();
        assert_eq!((names.listed.len(), names.count), (MAX_NAMES, 2_000));
        assert!(names.header().ends_with(", ...") && names.header().len() < MAX_HEADER_BYTES + 8);
    }
}
