//! One question to the hub and its answer. Redirects are followed here, by hand: the token goes to the hub's own
//! address and nowhere else, and where a file really is can be remembered.

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

/// Redirects of one question; the hub itself uses two.
const MAX_REDIRECTS: usize = 5;
/// Time to reach a host.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest part of the hub's own words that an error repeats, in characters.
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

/// A question.
#[derive(Debug)]
pub(crate) struct Ask<'a> {
    /// What it is about, for errors.
    pub what: &'a str,
    pub url: Url,
    /// Bytes of the body to send, all where `None`.
    pub range: Option<Range<u64>>,
    /// An `ETag`: the range only if the content is still this, else all of it.
    pub if_range: Option<&'a str>,
}

/// An answer whose status is good, and where it came from in the end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub response: Response,
    pub url: Url,
}

impl Answer {
    /// Name of the content by which a later question can ask for more of the same; weak ones are good for nothing.
    pub(crate) fn etag(&self) -> Option<String> {
        let etag = self.response.headers().get(ETAG)?.to_str().ok()?;
        (!etag.starts_with("W/")).then(|| etag.to_owned())
    }
}

impl Client {
    /// # Errors
    /// A token file that cannot be read.
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

    /// The endpoint and `parts` behind it, each escaped.
    pub(crate) fn url<'a>(&self, parts: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(parts);
        }
        url
    }

    /// Asks until there is an answer or the patience ends.
    pub(crate) async fn get(&self, ask: &Ask<'_>) -> Result<Answer, HubError> {
        let mut retries = Retries::new(self.limits.retry);
        loop {
            let (reason, after) = match self.try_get(ask).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again { reason, after }) => (reason, after),
            };
            self.pause(&mut retries, ask.what, reason, after).await?;
        }
    }

    /// Waits before the next try.
    ///
    /// # Errors
    /// [`HubError::Unreachable`] where there have been enough.
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

    /// Asks once.
    pub(crate) async fn try_get(&self, ask: &Ask<'_>) -> Result<Answer, Failure> {
        let mut url = ask.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(&url, ask).await?;
            let status = response.status();
            if status.is_success() {
                return Ok(Answer { response, url });
            }
            if !status.is_redirection() {
                return Err(self.refused(&url, ask.what, &response));
            }
            url = redirected(&url, response.headers(), ask.what)?;
        }
        let reason = format!("more than {MAX_REDIRECTS} redirects");
        Err(HubError::Redirect { what: ask.what.into(), reason }.into())
    }

    async fn send(&self, url: &Url, ask: &Ask<'_>) -> Result<Response, Failure> {
        // Lengths are to be those of the files.
        let mut request = self.http.get(url.clone()).header(ACCEPT_ENCODING, "identity");
        if let Some(token) = self.token.as_ref().filter(|_| self.is_own(url)) {
            request = request.bearer_auth(token.secret());
        }
        if let Some(range) = &ask.range {
            request = request.header(RANGE, format!("bytes={}-{}", range.start, range.end.saturating_sub(1)));
            if let Some(etag) = ask.if_range {
                request = request.header(IF_RANGE, etag);
            }
        }
        request.send().await.map_err(|error| Failure::again(in_words(error)))
    }

    fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.endpoint.origin()
    }

    /// What a bad status means.
    fn refused(&self, url: &Url, what: &str, response: &Response) -> Failure {
        let status = response.status();
        let what = what.to_owned();
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let note = header("x-error-message").or(header("x-error-code")).unwrap_or_default();
        let note: String = note.chars().filter(|c| !c.is_control()).take(MAX_NOTE).collect();
        let noted = if note.is_empty() { String::new() } else { format!(": {note}") };
        match status {
            // A link that a host signed for a while: the hub gives another.
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

/// TLS by the certificates that this machine trusts; by Mozilla's, where it came without any.
fn tls(config: &HubConfig) -> Result<ClientConfig, HubError> {
    let mut roots = RootCertStore::empty();
    // Reading a machine's certificates takes a while, and a plain endpoint needs none.
    if config.endpoint.scheme() == "https" {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            roots.add_parsable_certificates(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned());
        }
    }
    // Named here so that nothing depends on what another part of the process installed.
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| HubError::Tls(error.to_string()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
