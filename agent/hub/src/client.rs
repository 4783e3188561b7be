//! One request to the hub and its response. The client follows redirects itself. So it sends the token only to the hub's
//! own address, and a caller can reuse the final address of a file.

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
use crate::error::{AttemptError, HubError};
use crate::retry::Retries;
use lockstep_engine::source::{check_secret_file, read_small_file};

/// Most redirects of one request. The hub itself uses two.
const MAX_REDIRECTS: usize = 5;
/// Timeout of a connection attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest part of the hub's own message in an error, in characters.
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
    /// File or model of the request, for errors.
    pub what: &'a str,
    pub url: Url,
    /// Bytes of the file to request. `None`: all of them.
    pub range: Option<Range<u64>>,
    /// `ETag` of the content. If the content has changed, the host sends the whole file instead of the range.
    pub if_range: Option<&'a str>,
}

/// A response with a successful status, and its address after all redirects.
#[derive(Debug)]
pub(crate) struct HubResponse {
    pub response: Response,
    pub url: Url,
}

impl HubResponse {
    /// Returns the strong `ETag` of the content, for a later request of another range. A weak one cannot serve for that.
    pub(crate) fn etag(&self) -> Option<String> {
        let etag = self.response.headers().get(ETAG)?.to_str().ok()?;
        (!etag.starts_with("W/")).then(|| etag.to_owned())
    }
}

impl Client {
    /// Creates a client.
    ///
    /// # Errors
    /// The token file cannot be read.
    pub(crate) fn new(config: &HubConfig, limits: Limits) -> Result<Self, HubError> {
        let mut builder = reqwest::Client::builder()
            .redirect(Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(limits.idle_timeout)
            .user_agent(concat!("lockstep/", env!("CARGO_PKG_VERSION")));
        builder = builder.tls_backend_preconfigured(tls_config(config)?);
        let http = builder.build().map_err(|error| HubError::Tls(error.to_string()))?;
        Ok(Self { http, endpoint: config.endpoint.clone(), token: read_token(&config.token)?, limits })
    }

    /// Returns the endpoint with the path segments `parts` behind it, each escaped.
    pub(crate) fn url<'a>(&self, parts: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(parts);
        }
        url
    }

    /// Sends a request again and again, until a response comes or the retry policy ends the attempts.
    pub(crate) async fn send_with_retries(&self, request: &HubRequest<'_>) -> Result<HubResponse, HubError> {
        let mut retries = Retries::new(self.limits.retry);
        loop {
            let (reason, after) = match self.send_once(request).await {
                Ok(response) => return Ok(response),
                Err(AttemptError::Final(error)) => return Err(error),
                Err(AttemptError::Retry { reason, after }) => (reason, after),
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
        tracing::debug!(what, reason, ?pause, "a request to the hub failed: trying again");
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// Sends a request once, and follows redirects.
    pub(crate) async fn send_once(&self, request: &HubRequest<'_>) -> Result<HubResponse, AttemptError> {
        let mut url = request.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send_to(&url, request).await?;
            let status = response.status();
            if status.is_success() {
                return Ok(HubResponse { response, url });
            }
            if !status.is_redirection() {
                return Err(self.status_error(&url, request.what, &response));
            }
            url = redirect_target(&url, response.headers(), request.what)?;
        }
        let reason = format!("more than {MAX_REDIRECTS} redirects");
        Err(HubError::Redirect { what: request.what.into(), reason }.into())
    }

    async fn send_to(&self, url: &Url, request: &HubRequest<'_>) -> Result<Response, AttemptError> {
        // Without compression, a length in a response is the length in the file.
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
        builder.send().await.map_err(|error| AttemptError::retry(in_words(error)))
    }

    /// Returns true if `url` belongs to the hub itself, not to a storage that the hub redirects to.
    fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.endpoint.origin()
    }

    /// Returns the error for an unsuccessful status.
    fn status_error(&self, url: &Url, what: &str, response: &Response) -> AttemptError {
        let status = response.status();
        let what = what.to_owned();
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let note = header("x-error-message").or(header("x-error-code")).unwrap_or_default();
        let note: String = note.chars().filter(|c| !c.is_control()).take(MAX_NOTE).collect();
        let noted = if note.is_empty() { String::new() } else { format!(": {note}") };
        match status {
            // A storage's signed link has expired. The hub gives another one.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if !self.is_own(url) => {
                AttemptError::retry(format!("{} answers {status}{noted}", url.host_str().unwrap_or_default()))
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
                AttemptError::Retry { reason: format!("the hub answers {status}{noted}"), after: retry_after(response) }
            }
            _ if status.is_server_error() => {
                AttemptError::Retry { reason: format!("the hub answers {status}{noted}"), after: retry_after(response) }
            }
            _ => HubError::Status { what, status, note: noted }.into(),
        }
    }
}

/// Reads a whole body of at most `max_bytes` bytes.
///
/// # Errors
/// [`AttemptError::Retry`] for a body that ends early, [`HubError::WrongAnswer`] for a larger body.
pub(crate) async fn read_body(what: &str, mut response: Response, max_bytes: usize) -> Result<Vec<u8>, AttemptError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| AttemptError::retry(in_words(error)))? {
        if bytes.len() + chunk.len() > max_bytes {
            return Err(HubError::WrongAnswer {
                what: what.into(),
                reason: format!("it has more than {max_bytes} bytes"),
            }
            .into());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Returns an error's message with its causes, without the address: signed links are secrets.
pub(crate) fn in_words(error: reqwest::Error) -> String {
    with_causes(&error.without_url())
}

fn redirect_target(from: &Url, headers: &HeaderMap, what: &str) -> Result<Url, HubError> {
    let wrong_redirect = |reason: &str| HubError::Redirect { what: what.into(), reason: reason.into() };
    let location = headers.get(LOCATION).and_then(|location| location.to_str().ok());
    let location = location.ok_or_else(|| wrong_redirect("a redirect without an address"))?;
    let to = from.join(location).map_err(|_| wrong_redirect("a redirect to a malformed address"))?;
    match (from.scheme(), to.scheme()) {
        ("https", "https") | ("http", "http" | "https") => Ok(to),
        (_, scheme) => Err(wrong_redirect(&format!("a redirect from {} to {scheme}", from.scheme()))),
    }
}

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

fn read_token(source: &TokenSource) -> Result<Option<Token>, HubError> {
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
    // No error: `hf auth login` itself writes the file so that others can read it.
    if let Err(problem) = check_secret_file(path) {
        tracing::warn!(path = %path.display(), %problem, "the hub's token is no secret");
    }
    let text = String::from_utf8(bytes).map_err(|_| {
        wrong("the file holds a character that no token has; write the token into it as the hub shows it")
    })?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    Token::new(&text).map(Some).ok_or_else(|| {
        wrong("the file holds a character that no token has; write the token into it as the hub shows it")
    })
}

/// Returns the settings of TLS, with the certificates that this machine trusts, or with Mozilla's if it has none.
fn tls_config(config: &HubConfig) -> Result<ClientConfig, HubError> {
    let mut roots = RootCertStore::empty();
    // Reading a machine's certificates takes a while, and a plain endpoint needs none.
    if config.endpoint.scheme() == "https" {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            roots.add_parsable_certificates(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned());
        }
    }
    // The explicit provider makes this independent of the default that another part of the process installs.
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| HubError::Tls(error.to_string()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
