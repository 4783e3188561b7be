//! `-i`: the conversation in the head's terminal, as it is configured.

use std::path::PathBuf;

use lockstep_proto::names::env;

use super::args::Options;
use super::environment::Environment;
use super::error::ConfigError;
use super::{CommonConfig, Foreground, HeadConfig};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatConfig {
    /// Tell tokens per second after each answer.
    pub throughput: bool,
    /// Where what was typed is kept for the next time; `None`: nowhere.
    pub history: Option<PathBuf>,
}

/// The head's conversation, where one was asked for.
///
/// # Errors
/// Somebody else reads standard input.
pub(super) fn of_head(
    options: &Options,
    variables: &Environment,
    common: &CommonConfig,
) -> Result<Option<ChatConfig>, ConfigError> {
    if !options.interactive {
        return Ok(None);
    }
    if common.follow_parent {
        return Err(ConfigError::Conflict {
            first: "-i".into(),
            second: env::FOLLOW_PARENT.into(),
            remedy: "both read standard input; unset the second, the conversation ends with its input anyway",
        });
    }
    Ok(Some(ChatConfig { throughput: options.throughput, history: history(variables) }))
}

/// What to say where a head was told what only a conversation heeds.
pub(super) fn in_vain(options: &Options, head: &HeadConfig) -> Option<String> {
    let vain = options.throughput && !matches!(head.foreground, Some(Foreground::Chat(_)));
    vain.then(|| "--throughput changes nothing without -i: /metrics on the HTTP port counts tokens and times".into())
}

/// By the XDG Base Directory Specification, what a program keeps between runs and nobody would miss.
fn history(variables: &Environment) -> Option<PathBuf> {
    let folder = |name: &str| variables.get(name).ok().flatten().map(|setting| PathBuf::from(setting.value));
    let state = folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")));
    state.filter(|state| state.is_absolute()).map(|state| state.join("lockstep/chat_history"))
}
