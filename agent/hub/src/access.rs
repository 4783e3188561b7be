//! The address of a hub, and the token for it.

use std::fmt;
use std::path::PathBuf;

use reqwest::Url;

/// Address of Hugging Face's own hub.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Configuration of a hub: its address, cache and token. The agent reads and dials nothing until it needs a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubConfig {
    /// Address, without a trailing slash.
    pub endpoint: Url,
    /// Folder of the `models--org--name` folders. `None`: neither `HF_HOME` nor `HOME` is set.
    pub cache: Option<PathBuf>,
    pub token: TokenSource,
    /// Set if the client must not ask the hub.
    pub offline: bool,
}

impl Default for HubConfig {
    fn default() -> Self {
        let endpoint = Url::parse(DEFAULT_ENDPOINT).expect("a constant that is a URL");
        Self { endpoint, cache: None, token: TokenSource::default(), offline: false }
    }
}

/// Source of the token.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum TokenSource {
    #[default]
    Nowhere,
    Given(Token),
    /// File with the token. The file may be missing.
    File(PathBuf),
}

/// Token for the hub. Its debug form hides it from logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Returns `None` if `text` is empty or has other characters than visible ASCII.
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

/// Parses the address of a hub: `http://` or `https://`, a host, and no user, query or fragment. Returns `None` for other
/// text.
pub fn parse_endpoint(text: &str) -> Option<Url> {
    let url = Url::parse(text.trim_end_matches('/')).ok()?;
    let is_valid = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    is_valid.then_some(url)
}
