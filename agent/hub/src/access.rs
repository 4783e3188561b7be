//! Address, cache and token of a hub.

use std::fmt;
use std::path::PathBuf;

use reqwest::Url;

/// Address of Hugging Face's own hub.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Settings of a hub, its cache and its token. The crate reads and dials nothing until a model is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubConfig {
    /// Address without the last slash of its path.
    pub endpoint: Url,
    /// Folder of `models--org--name`. `None` if neither `HF_HOME` nor a home folder is known.
    pub cache: Option<PathBuf>,
    pub token: TokenSource,
    /// Set if the hub must not be asked.
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
    /// File with the token. The file need not exist.
    File(PathBuf),
}

/// A token. Logs never show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Returns `None` if `text` cannot be a token: it is empty, or has a character that is not visible ASCII.
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
