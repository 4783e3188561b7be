//! Where a hub is, and who asks it.

use std::fmt;
use std::path::PathBuf;

use reqwest::Url;

/// Address of Hugging Face's own hub.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// A hub, the cache in front of it, and who asks. Nothing is read or dialled until a model of it is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubConfig {
    /// Without a path's last slash.
    pub endpoint: Url,
    /// The folder of `models--org--name`; `None`: neither `HF_HOME` nor a home folder is known.
    pub cache: Option<PathBuf>,
    pub token: TokenSource,
    /// Nothing is asked of the hub.
    pub offline: bool,
}

impl Default for HubConfig {
    fn default() -> Self {
        let endpoint = Url::parse(DEFAULT_ENDPOINT).expect("a constant that is a URL");
        Self { endpoint, cache: None, token: TokenSource::default(), offline: false }
    }
}

/// Where the token is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum TokenSource {
    #[default]
    Nowhere,
    Given(Token),
    /// It need not exist.
    File(PathBuf),
}

/// A token, which no log shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// `None` where `text` cannot be one: empty, or with anything but visible ASCII.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())).then(|| Self(text.to_owned()))
    }

    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Reads the address of a hub: `http://` or `https://`, a host, and no user, query or fragment. `None`: `text` is none.
pub fn parse_endpoint(text: &str) -> Option<Url> {
    let url = Url::parse(text.trim_end_matches('/')).ok()?;
    let plain = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    plain.then_some(url)
}
