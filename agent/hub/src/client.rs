//! One request to the hub and its response. This module follows redirects itself: so the token goes to the hub's own
//! address only, and the final address of a file can be remembered.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use lockstep_proto::errors::with_causes;
use reqwest::header::{ACCEPT_ENCODING, ETAG, HeaderMap, IF_RANGE, LOCATION, RANGE, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Response, StatusCode, Url};
use rustls::{ClientConfig, RootCertStore};

use crate::Limits;
use crate::access::{HubConfig, Token, TokenSource};
use crate::error::{Failure, HubError};
use crate::retry::Retries;
use lockstep_engine::source::read_small_file;

/// Most redirects of one request. The hub itself uses two.
const MAX_REDIRECTS: usize = 5;
/// Time to reach a host.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest part of the hub's message that an error repeats, in characters.
const MAX_NOTE: usize = 200;
/// Largest token file, in bytes.
const MAX_TOKEN_FILE: u64 = 4096;

#[derive(Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    endpoint: Url,
    token: Option<Token>,
    pub limits: Limits,
}

/// A request to the hub.
#[derive(Debug)]
pub(crate) struct HubRequest<'a> {
    /// Subject of the request, for errors.
    pub what: &'a str,
    pub url: Url,
    /// Range of bytes to send. `None` for all.
    pub range: Option<Range<u64>>,
    /// `ETag` of the content. If the content has changed, the hub sends all of it instead of the range.
    pub if_range: Option<&'a str>,
}

/// A response with a good status, and the address after all redirects.
#[derive(Debug)]
pub(crate) struct HubResponse {
    pub response: Response,
    pub url: Url,
}

impl HubResponse {
    /// Returns the `ETag` for later requests of the same content, unless it is a weak one.
    pub(crate) fn etag(&self) -> Option<String> {
        let etag = self.response.headers().get(ETAG)?.to_str().ok()?;
        (!etag.starts_with("W/")).then(|| etag.to_owned())
    }
}

impl Client {
    /// Sets up the client.
    ///
    /// # Errors
    /// The token's file cannot be read.
    pub(crate) fn new(config: &HubConfig, limits: Limits) -> Result<Self, HubError> {
        let mut builder = reqwest::Client::builder()
            .redirect(Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(limits.silence)
            .user_agent(concat!("lockstep/", env!("CARGO_PKG_VERSION")));
        builder = builder.tls_backend_preconfigured(tls(config)?);
        let http = builder.build().map_err(|error| HubError::Tls(error.to_string()))?;
        Ok(Self { http, endpoint: config.endpoint.clone(), token: token(&config.token)?, limits })
    }

    /// Returns the endpoint followed by `parts`, each escaped.
    pub(crate) fn url<'a>(&self, parts: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(parts);
        }
        url
    }

    /// Sends a request until there is a response or the last attempt has failed.
    pub(crate) async fn send_with_retries(&self, request: &HubRequest<'_>) -> Result<HubResponse, HubError> {
        let mut retries = Retries::new(self.limits.retry);
        loop {
            let (reason, after) = match self.try_get(request).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again { reason, after }) => (reason, after),
            };
            self.pause(&mut retries, request.what, reason, after).await?;
        }
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// [`HubError::Unreachable`] after the last attempt.
    pub(crate) async fn pause(
        &self,
        retries: &mut Retries,
        what: &str,
        reason: String,
        after: Option<Duration>,
    ) -> Result<(), HubError> {
        let Some(pause) = retries.next_pause(after) else {
            let (what, tries, endpoint) = (what.to_owned(), retries.tries(), self.endpoint.to_string());
            return Err(HubError::Unreachable { what, reason, tries, endpoint });
        };
        tracing::debug!(what, reason, ?pause, "no answer from the hub: trying again");
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// Sends a request once.
    pub(crate) async fn try_get(&self, request: &HubRequest<'_>) -> Result<HubResponse, Failure> {
        let mut url = request.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(&url, request).await?;
            let status = response.status();
            if status.is_success() {
                return Ok(HubResponse { response, url });
            }
            if !status.is_redirection() {
                return Err(self.refused(&url, request.what, &response));
            }
            url = redirected(&url, response.headers(), request.what)?;
        }
        let reason = format!("more than {MAX_REDIRECTS} redirects");
        Err(HubError::Redirect { what: request.what.into(), reason }.into())
    }

    async fn send(&self, url: &Url, request: &HubRequest<'_>) -> Result<Response, Failure> {
        // Without compression, lengths are those of the files.
        let mut builder = self.http.get(url.clone()).header(ACCEPT_ENCODING, "identity");
        if let Some(token) = self.token.as_ref().filter(|_| self.is_own(url)) {
            builder = builder.bearer_auth(token.secret());
        }
        if let Some(range) = &request.range {
            builder = builder.header(RANGE, format!("bytes={}-{}", range.start, range.end.saturating_sub(1)));
            if let Some(etag) = request.if_range {
                builder = builder.header(IF_RANGE, etag);
            }
        }
        builder.send().await.map_err(|error| Failure::again(in_words(error)))
    }

    fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.endpoint.origin()
    }

    /// Returns the failure for a bad status.
    fn refused(&self, url: &Url, what: &str, response: &Response) -> Failure {
        let status = response.status();
        let what = what.to_owned();
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let note = header("x-error-message").or(header("x-error-code")).unwrap_or_default();
        let note: String = note.chars().filter(|c| !c.is_control()).take(MAX_NOTE).collect();
        let noted = if note.is_empty() { String::new() } else { format!(": {note}") };
        match status {
            // A signed link has run out. The hub gives a new one.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if !self.is_own(url) => {
                Failure::again(format!("{} answers {status}{noted}", url.host_str().unwrap_or_default()))
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if self.token.is_none() => {
                HubError::Unauthorized { what, status }.into()
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                HubError::Forbidden { what, status, note: noted }.into()
            }
            StatusCode::NOT_FOUND => {
                HubError::NotFound { what, note: if note.is_empty() { status.to_string() } else { note } }.into()
            }
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
                Failure::Again { reason: format!("the hub answers {status}{noted}"), after: retry_after(response) }
            }
            _ if status.is_server_error() => {
                Failure::Again { reason: format!("the hub answers {status}{noted}"), after: retry_after(response) }
            }
            _ => HubError::Status { what, status, note: noted }.into(),
        }
    }
}

/// Reads a whole body of at most `most` bytes.
///
/// # Errors
/// [`Failure::Again`] for a body that ends early, [`HubError::Answer`] for one that is larger.
pub(crate) async fn body(what: &str, mut response: Response, most: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| Failure::again(in_words(error)))? {
        if bytes.len() + chunk.len() > most {
            return Err(HubError::Answer { what: what.into(), reason: format!("more than {most} bytes") }.into());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Returns an error's message with its causes, without the address: signed links are secrets.
pub(crate) fn in_words(error: reqwest::Error) -> String {
    with_causes(&error.without_url())
}

fn redirected(from: &Url, headers: &HeaderMap, what: &str) -> Result<Url, HubError> {
    let astray = |reason: &str| HubError::Redirect { what: what.into(), reason: reason.into() };
    let location = headers.get(LOCATION).and_then(|location| location.to_str().ok());
    let location = location.ok_or_else(|| astray("a redirect without an address"))?;
    let to = from.join(location).map_err(|_| astray("a redirect to what is no address"))?;
    match (from.scheme(), to.scheme()) {
        ("https", "https") | ("http", "http" | "https") => Ok(to),
        (_, scheme) => Err(astray(&format!("a redirect from {} to {scheme}", from.scheme()))),
    }
}

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

fn token(source: &TokenSource) -> Result<Option<Token>, HubError> {
    let path = match source {
        TokenSource::Nowhere => return Ok(None),
        TokenSource::Given(token) => return Ok(Some(token.clone())),
        TokenSource::File(path) => path,
    };
    let wrong = |reason: &str| HubError::Token { path: path.clone(), reason: reason.into() };
    let bytes = match read_small_file(path, MAX_TOKEN_FILE) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(|error| wrong(&error.to_string()))?,
    };
    let text = String::from_utf8(bytes).map_err(|_| wrong("it holds what no token does"))?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    Token::new(&text).map(Some).ok_or_else(|| wrong("it holds what no token does"))
}

/// Sets up TLS with the certificates that this machine trusts, or with Mozilla's on a machine without any.
fn tls(config: &HubConfig) -> Result<ClientConfig, HubError> {
    let mut roots = RootCertStore::empty();
    // Reading a machine's certificates takes a while, and a plain endpoint needs none.
    if config.endpoint.scheme() == "https" {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            roots.add_parsable_certificates(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned());
        }
    }
    // The provider is named here, so that nothing depends on the provider that another part of the process installed.
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| HubError::Tls(error.to_string()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
