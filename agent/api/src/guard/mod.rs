//! The conditions on which the client ports serve a request: its key, the page and the host that it comes from, TLS,
//! and memory for its body.

mod bodies;
mod keys;
mod origins;
mod read;

use std::sync::Arc;

use axum::http::header;
use axum::http::{HeaderMap, HeaderValue};

pub(crate) use bodies::{BodyBudget, BodyMemory, weigh_body};
pub use keys::{ApiKeys, KeysError, ReadSecret};
pub use origins::AllowedOrigins;
pub(crate) use read::{BODY_TIMEOUT, BodyError, MAX_BODY_BYTES, RETRY_AFTER_S, read_body};

/// Header in which Anthropic's clients send their key.
const X_API_KEY: &str = "x-api-key";
const BEARER: &str = "bearer ";

/// Returns the TLS settings for the next connection. It may read files.
pub type CurrentTls = Arc<dyn Fn() -> Arc<rustls::ServerConfig> + Send + Sync>;

/// Conditions on which the client ports serve. The default serves everybody, and pages of this machine.
#[derive(Clone, Default)]
pub struct ClientAccess {
    /// Origins of pages whose scripts may use the HTTP endpoint.
    pub origins: AllowedOrigins,
    /// `None`: a request needs no key.
    pub keys: Option<Arc<ApiKeys>>,
    /// `None`: the ports speak plain text.
    pub tls: Option<CurrentTls>,
}

impl ClientAccess {
    /// Checks the key of a request.
    ///
    /// # Errors
    /// Returns the reason for the refusal and its remedy.
    pub(crate) async fn check_key(&self, headers: &HeaderMap) -> Result<(), &'static str> {
        let Some(keys) = &self.keys else { return Ok(()) };
        match presented_key(headers) {
            None => Err("this server asks for an API key: send it as `authorization: Bearer KEY`"),
            Some(key) if keys.allow(key).await => Ok(()),
            Some(_) => Err("the API key is none of this server's: check it, or ask for one whoever runs the server"),
        }
    }
}

fn presented_key(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes).and_then(|value| {
        let (scheme, key) = value.split_at_checked(BEARER.len())?;
        scheme.eq_ignore_ascii_case(BEARER.as_bytes()).then_some(key)
    });
    bearer.or_else(|| headers.get(X_API_KEY).map(HeaderValue::as_bytes)).map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_in_either_header() {
        type Pairs = &'static [(&'static str, &'static str)];
        let cases: [(Pairs, Option<&[u8]>); 6] = [
            (&[], None),
            (&[("authorization", "Bearer k")], Some(b"k")),
            (&[("authorization", "bearer  k ")], Some(b"k")),
            (&[("authorization", "Basic k")], None),
            (&[("x-api-key", "k")], Some(b"k")),
            (&[("authorization", "Basic a"), ("x-api-key", "k")], Some(b"k")),
        ];
        for (pairs, expected) in cases {
            let headers = pairs.iter().map(|(name, value)| {
                (name.parse::<axum::http::HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap())
            });
            assert_eq!(presented_key(&headers.collect()), expected, "{pairs:?}");
        }
    }
}
