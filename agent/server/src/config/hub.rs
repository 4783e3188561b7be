//! Where models of a hub come from: Hugging Face's own variables, by the rules of its Python library, and the
//! spelling of a model there.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use lockstep_proto::names::hub;
use reqwest::Url;

use super::environment::Environment;
use super::error::ConfigError;
use super::values::Setting;

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
/// Longest part of a model's name, in bytes: the hub's own bound.
const MAX_PART: usize = 96;
/// Longest name of a branch, tag or commit, in bytes.
const MAX_REVISION: usize = 256;

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

/// A model's name on a hub: `org/name`, or a bare `name` as the first models have it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Repository(String);

impl Repository {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Repository {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split('/').collect();
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let part = |part: &&str| {
            let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
            (1..=MAX_PART).contains(&part.len())
                && part.chars().all(legal)
                && edge(part.chars().next())
                && edge(part.chars().next_back())
                // The cache's folders are named with `--` between the parts.
                && !part.contains("--")
                && !part.contains("..")
        };
        match parts.len() {
            1 | 2 if parts.iter().all(part) => Ok(Self(text.to_owned())),
            _ => Err("a model on the hub is called org/name: letters, digits, `-`, `_` and `.`"),
        }
    }
}

/// A branch, a tag or a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision(String);

impl Revision {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Itself, where it is a whole commit and so cannot move.
    pub fn commit(&self) -> Option<&str> {
        is_commit(&self.0).then_some(self.0.as_str())
    }
}

/// Whether `text` is a whole commit of git's: 40 hexadecimal digits, small letters.
pub fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

impl Default for Revision {
    fn default() -> Self {
        Self("main".to_owned())
    }
}

impl FromStr for Revision {
    type Err = &'static str;

    /// As git allows references, less what a path would be misled by.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '+' | '=');
        let fits = (1..=MAX_REVISION).contains(&text.len()) && text.chars().all(legal);
        let part = |part: &str| !part.is_empty() && !part.starts_with(['.', '-']) && !part.contains("..");
        match fits && text.split('/').all(part) {
            true => Ok(Self(text.to_owned())),
            false => Err("a revision is a branch, a tag or a commit, such as main"),
        }
    }
}

/// A model of a hub, as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubModel {
    pub repository: Repository,
    pub revision: Revision,
}

/// The variables' hub.
///
/// # Errors
/// An endpoint that is no `http://` or `https://`, a token that can be none, a switch that is neither on nor off.
pub(super) fn from_variables(variables: &Environment) -> Result<HubConfig, ConfigError> {
    let folder = |name: &str| said(variables, name).map(|setting| setting.map(|folder| PathBuf::from(folder.value)));
    let home = match folder(hub::HOME)? {
        Some(home) => Some(home),
        None => match folder("XDG_CACHE_HOME")? {
            Some(caches) => Some(caches.join("huggingface")),
            None => folder("HOME")?.map(|home| home.join(".cache/huggingface")),
        },
    };
    let cache = match folder(hub::CACHE)? {
        Some(cache) => Some(cache),
        None => home.as_ref().map(|home| home.join("hub")),
    };
    let token = match said(variables, hub::TOKEN)? {
        Some(token) => TokenSource::Given(Token::new(&token.value).ok_or_else(|| {
            ConfigError::invalid(&token.name, "…", "it holds what no token does; give it as the hub shows it")
        })?),
        None => match folder(hub::TOKEN_PATH)?.or_else(|| home.map(|home| home.join("token"))) {
            Some(file) => TokenSource::File(file),
            None => TokenSource::Nowhere,
        },
    };
    let offline = said(variables, hub::OFFLINE)?.map(|offline| switch(&offline)).transpose()?.unwrap_or(false);
    let endpoint = match said(variables, hub::ENDPOINT)? {
        Some(setting) => endpoint(&setting)?,
        None => HubConfig::default().endpoint,
    };
    Ok(HubConfig { endpoint, cache, token, offline })
}

/// The variable, unless it is empty: these are others' variables, for whom that is as good as not set.
fn said(variables: &Environment, name: &str) -> Result<Option<Setting>, ConfigError> {
    if variables.is_empty(name) { Ok(None) } else { variables.get(name) }
}

/// As the Python library reads its switches.
fn switch(setting: &Setting) -> Result<bool, ConfigError> {
    match setting.value.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err(setting.invalid("give 1 or 0")),
    }
}

fn endpoint(setting: &Setting) -> Result<Url, ConfigError> {
    let wrong = || setting.invalid(format!("give the address of a hub, such as {DEFAULT_ENDPOINT}"));
    let url = Url::parse(setting.value.trim_end_matches('/')).map_err(|_| wrong())?;
    let plain = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    if plain { Ok(url) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &str) -> Result<HubConfig, ConfigError> {
        let pairs = variables.split_whitespace().map(|pair| pair.split_once('=').expect("NAME=value"));
        from_variables(&pairs.collect())
    }

    #[test]
    fn variables_mean_what_they_mean_in_python() {
        let cache = |variables: &str| of(variables).unwrap().cache.map(|path| path.display().to_string());
        assert_eq!(cache(""), None);
        assert_eq!(cache("HOME=/h").as_deref(), Some("/h/.cache/huggingface/hub"));
        assert_eq!(cache("HOME=/h XDG_CACHE_HOME=/x").as_deref(), Some("/x/huggingface/hub"));
        assert_eq!(cache("HOME=/h HF_HOME=/f").as_deref(), Some("/f/hub"));
        assert_eq!(cache("HF_HOME=/f HF_HUB_CACHE=/c").as_deref(), Some("/c"));
        let token = |variables: &str| of(variables).unwrap().token;
        assert_eq!(token("HF_HOME=/f HF_TOKEN="), TokenSource::File("/f/token".into()));
        assert_eq!(token("HF_HOME=/f HF_TOKEN_PATH=/t"), TokenSource::File("/t".into()));
        assert_eq!(token("HF_TOKEN=hf_x"), TokenSource::Given(Token("hf_x".into())));
        assert_eq!(token(""), TokenSource::Nowhere);
        assert!(!format!("{:?}", of("HF_TOKEN=hf_x").unwrap()).contains("hf_x"), "a token must not be logged");
        assert!(of("HF_HUB_OFFLINE=1").unwrap().offline && of("HF_HUB_OFFLINE=True").unwrap().offline);
        assert!(!of("HF_HUB_OFFLINE=0").unwrap().offline && !of("").unwrap().offline);
        let endpoint = |variables: &str| of(variables).unwrap().endpoint.to_string();
        assert_eq!(endpoint(""), "https://huggingface.co/");
        assert_eq!(endpoint("HF_ENDPOINT=http://127.0.0.1:8080/hf/"), "http://127.0.0.1:8080/hf");
        for (variables, part) in [
            ("HF_ENDPOINT=ftp://a", "HF_ENDPOINT=ftp://a"),
            ("HF_ENDPOINT=huggingface.co", "such as https://huggingface.co"),
            ("HF_ENDPOINT=https://user:secret@a", "such as"),
            ("HF_HUB_OFFLINE=maybe", "1 or 0"),
            ("HF_TOKEN=hf_\u{e9}", "HF_TOKEN=…"),
        ] {
            let told = of(variables).unwrap_err().to_string();
            assert!(told.contains(part), "{variables}: {told}");
        }
    }

    #[test]
    fn names_stay_inside_the_cache_and_the_url() {
        for good in ["org/name", "gpt2", "meta-llama/Llama-3.1-8B-Instruct", "a_b/c_d", "_a/b"] {
            assert!(good.parse::<Repository>().is_ok(), "{good}");
        }
        let long = format!("a/{}", "b".repeat(97));
        for bad in
            ["", "a/", "/a", "a/b/c", "a/..", "../a", "a/.b", "a b/c", "a/b--c", "a/b?c", "a/b%2f", "a\\b", &long]
        {
            assert!(bad.parse::<Repository>().is_err(), "{bad}");
        }
        for good in ["main", "v1.0", "refs/pr/1", "0123456789abcdef0123456789abcdef01234567"] {
            assert!(good.parse::<Revision>().is_ok(), "{good}");
        }
        for bad in ["", "..", "a/../b", "/a", "a//b", "a/", "-a", "a b", "a?b", "a%2fb", "a#b"] {
            assert!(bad.parse::<Revision>().is_err(), "{bad}");
        }
        let commit: Revision = "0123456789abcdef0123456789abcdef01234567".parse().unwrap();
        assert!(commit.commit().is_some() && Revision::default().commit().is_none());
    }
}
