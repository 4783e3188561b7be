//! The variables for the hub of models. They are Hugging Face's own, with the rules of its Python library.

use std::path::PathBuf;

use lockstep_hub::{DEFAULT_ENDPOINT, HubConfig, Token, TokenSource, parse_endpoint};
use lockstep_proto::names::hub;

use super::environment::Environment;
use super::error::ConfigError;
use super::values::Setting;

/// Reads the hub's configuration from the variables.
///
/// # Errors
/// The endpoint is no `http://` or `https://` address, the token is malformed, or the switch is neither on nor off.
pub(super) fn from_variables(variables: &Environment) -> Result<HubConfig, ConfigError> {
    let folder =
        |name: &str| nonempty(variables, name).map(|setting| setting.map(|folder| PathBuf::from(folder.value)));
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
    let token = match nonempty(variables, hub::TOKEN)? {
        Some(token) => TokenSource::Given(Token::new(&token.value).ok_or_else(|| {
            ConfigError::invalid(
                &token.name,
                "…",
                "the token has a character that no token has; give it as the hub shows it",
            )
        })?),
        None => match folder(hub::TOKEN_PATH)?.or_else(|| home.map(|home| home.join("token"))) {
            Some(file) => TokenSource::File(file),
            None => TokenSource::Nowhere,
        },
    };
    let offline = nonempty(variables, hub::OFFLINE)?.map(|offline| switch(&offline)).transpose()?.unwrap_or(false);
    let endpoint = match nonempty(variables, hub::ENDPOINT)? {
        Some(setting) => parse_endpoint(&setting.value)
            .ok_or_else(|| setting.invalid(format!("give the address of a hub, such as {DEFAULT_ENDPOINT}")))?,
        None => HubConfig::default().endpoint,
    };
    Ok(HubConfig { endpoint, cache, token, offline })
}

/// Returns the variable, unless it is empty. Hugging Face's library too treats an empty variable as not set.
fn nonempty(variables: &Environment, name: &str) -> Result<Option<Setting>, ConfigError> {
    if variables.is_empty(name) { Ok(None) } else { variables.setting(name) }
}

/// Parses a switch by the rules of the Python library.
fn switch(setting: &Setting) -> Result<bool, ConfigError> {
    match setting.value.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err(setting.invalid("give 1 or 0")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_variables(variables: &str) -> Result<HubConfig, ConfigError> {
        let pairs = variables.split_whitespace().map(|pair| pair.split_once('=').expect("NAME=value"));
        from_variables(&pairs.collect())
    }

    #[test]
    fn variables_have_the_meaning_of_the_python_library() {
        let cache = |variables: &str| parse_variables(variables).unwrap().cache.map(|path| path.display().to_string());
        assert_eq!(cache(""), None);
        assert_eq!(cache("HOME=/h").as_deref(), Some("/h/.cache/huggingface/hub"));
        assert_eq!(cache("HOME=/h XDG_CACHE_HOME=/x").as_deref(), Some("/x/huggingface/hub"));
        assert_eq!(cache("HOME=/h HF_HOME=/f").as_deref(), Some("/f/hub"));
        assert_eq!(cache("HF_HOME=/f HF_HUB_CACHE=/c").as_deref(), Some("/c"));
        let token = |variables: &str| parse_variables(variables).unwrap().token;
        assert_eq!(token("HF_HOME=/f HF_TOKEN="), TokenSource::File("/f/token".into()));
        assert_eq!(token("HF_HOME=/f HF_TOKEN_PATH=/t"), TokenSource::File("/t".into()));
        assert_eq!(token("HF_TOKEN=hf_x"), TokenSource::Given(Token::new("hf_x").unwrap()));
        assert_eq!(token(""), TokenSource::Nowhere);
        assert!(
            !format!("{:?}", parse_variables("HF_TOKEN=hf_x").unwrap()).contains("hf_x"),
            "a token must not be logged"
        );
        assert!(
            parse_variables("HF_HUB_OFFLINE=1").unwrap().offline
                && parse_variables("HF_HUB_OFFLINE=True").unwrap().offline
        );
        assert!(!parse_variables("HF_HUB_OFFLINE=0").unwrap().offline && !parse_variables("").unwrap().offline);
        let endpoint = |variables: &str| parse_variables(variables).unwrap().endpoint.to_string();
        assert_eq!(endpoint(""), "https://huggingface.co/");
        assert_eq!(endpoint("HF_ENDPOINT=http://127.0.0.1:8080/hf/"), "http://127.0.0.1:8080/hf");
        for (variables, part) in [
            ("HF_ENDPOINT=ftp://a", "HF_ENDPOINT=ftp://a"),
            ("HF_ENDPOINT=huggingface.co", "such as https://huggingface.co"),
            ("HF_ENDPOINT=https://user:secret@a", "such as"),
            ("HF_HUB_OFFLINE=maybe", "1 or 0"),
            ("HF_TOKEN=hf_\u{e9}", "HF_TOKEN=…"),
        ] {
            let message = parse_variables(variables).unwrap_err().to_string();
            assert!(message.contains(part), "{variables}: {message}");
        }
    }
}
