//! Settings of the client ports: who may ask, pages of which origins, and TLS.

use std::path::PathBuf;

use lockstep_api::AllowedOrigins;

use super::args;
use super::error::ConfigError;
use super::settings::Settings;

/// Longest API key, in bytes.
const MAX_KEY: usize = 1024;

/// Conditions on which the client ports serve.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientsConfig {
    pub allowed_origins: AllowedOrigins,
    /// Keys of the settings themselves.
    pub api_keys: ApiKeyList,
    /// File with further keys, one on each line.
    pub api_key_file: Option<PathBuf>,
    /// `None`: the ports speak plain text.
    pub certificate: Option<CertificateFiles>,
}

/// Keys. Their text is not shown.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct ApiKeyList(pub Vec<String>);

impl std::fmt::Debug for ApiKeyList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

/// Files of a certificate and of its key, in PEM. Both may be one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl ClientsConfig {
    /// Reads the settings from flags and variables.
    pub(super) fn resolve(settings: &Settings<'_>) -> Result<Self, ConfigError> {
        let options = settings.options;
        let origins = settings.setting(&join(&options.allowed_origins), args::ALLOWED_ORIGINS)?;
        let origins = origins.map(|list| AllowedOrigins::parse(&list.value).map_err(|problem| list.invalid(problem)));
        let file =
            |typed, flag| Ok::<_, ConfigError>(settings.setting(typed, flag)?.map(|path| PathBuf::from(path.value)));
        let certificate = file(&options.ssl_certfile, args::SSL_CERTFILE)?;
        let key = file(&options.ssl_keyfile, args::SSL_KEYFILE)?;
        if certificate.is_none() && key.is_some() {
            return Err(ConfigError::contradiction(
                "--ssl-keyfile is set",
                "--ssl-certfile is not",
                "give the file of the certificate, or neither",
            ));
        }
        Ok(Self {
            allowed_origins: origins.transpose()?.unwrap_or_default(),
            api_keys: api_keys(settings)?,
            api_key_file: file(&options.api_key_file, args::API_KEY_FILE)?,
            certificate: certificate.map(|certificate| {
                let key = key.unwrap_or_else(|| certificate.clone());
                CertificateFiles { certificate, key }
            }),
        })
    }
}

/// Returns the values of a flag that may be repeated as one list.
fn join(values: &[String]) -> Option<String> {
    (!values.is_empty()).then(|| values.join(","))
}

/// Reads the keys. An error does not repeat a key.
fn api_keys(settings: &Settings<'_>) -> Result<ApiKeyList, ConfigError> {
    let Some(list) = settings.setting(&join(&settings.options.api_key), args::API_KEY)? else {
        return Ok(ApiKeyList::default());
    };
    let keys: Vec<String> = list.value.split(',').map(|key| key.trim().to_owned()).collect();
    let is_key = |key: &String| (1..=MAX_KEY).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    match keys.iter().all(is_key) {
        true => Ok(ApiKeyList(keys)),
        false => Err(ConfigError::invalid(
            &list.name,
            "…",
            format!("give 1 to {MAX_KEY} visible ASCII characters without spaces, and commas between several keys"),
        )),
    }
}
