//! The configuration of `-i`, the conversation in the head's terminal.

use std::path::PathBuf;

use lockstep_proto::names::env;

use super::args::GlobalArgs;
use super::environment::Environment;
use super::error::ConfigError;
use super::{CommonConfig, Foreground, HeadConfig};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatConfig {
    /// True if the chat prints tokens per second after each answer.
    pub throughput: bool,
    /// File that keeps the typed lines for the next conversation; `None`: none is kept.
    pub history: Option<PathBuf>,
}

/// Returns the head's conversation, if `-i` asks for one.
///
/// # Errors
/// `LOCKSTEP_FOLLOW_PARENT` already reads standard input.
pub(super) fn from_options(
    options: &GlobalArgs,
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
            remedy: "both read standard input; unset the second, a conversation ends with its input anyway",
        });
    }
    Ok(Some(ChatConfig { throughput: options.throughput, history: history(variables) }))
}

/// Returns a warning if `--throughput` is given to a head without a conversation.
pub(super) fn unused_throughput(options: &GlobalArgs, head: &HeadConfig) -> Option<String> {
    let is_unused = options.throughput && !matches!(head.foreground, Some(Foreground::Chat(_)));
    is_unused
        .then(|| "--throughput has no effect without -i; read /metrics on the HTTP port for tokens and times".into())
}

/// Returns the history file, in the state folder of the XDG Base Directory Specification.
fn history(variables: &Environment) -> Option<PathBuf> {
    let folder = |name: &str| variables.setting(name).ok().flatten().map(|setting| PathBuf::from(setting.value));
    let state = folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")));
    state.filter(|state| state.is_absolute()).map(|state| state.join("lockstep/chat_history"))
}
