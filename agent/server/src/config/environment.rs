//! The inputs of the process beside its arguments: variables, and features of its build.

use std::collections::BTreeMap;

use super::args::Flag;
use super::error::ConfigError;
use super::values::Setting;

/// Longest value of a variable, in bytes. The longest path has this length.
const MAX_VALUE: usize = 4096;

/// Variables by name.
#[derive(Debug, Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Returns the process's own variables. `main` calls this once. A value that is not UTF-8 becomes a value that every
    /// check refuses.
    pub fn from_process() -> Self {
        let text = |os: std::ffi::OsString| os.to_string_lossy().into_owned();
        Self(std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub(super) fn is_set(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Returns true if `name` is set to the empty text.
    pub(super) fn is_empty(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(String::is_empty)
    }

    /// Sets a variable, in these variables alone.
    pub(super) fn set(&mut self, name: &str, value: String) {
        self.0.insert(name.to_owned(), value);
    }

    /// Returns the variable `name`, if it is set.
    ///
    /// # Errors
    /// The value is empty, too long or not UTF-8.
    pub(super) fn setting(&self, name: &str) -> Result<Option<Setting>, ConfigError> {
        self.0.get(name).map(|value| check_value(name, value)).transpose()
    }

    /// Returns true if the switch `name` is on. A switch that is not set is off.
    ///
    /// # Errors
    /// The value is neither `1` nor `0`.
    pub(super) fn switch(&self, name: &str) -> Result<bool, ConfigError> {
        self.setting(name)?.map_or(Ok(false), |setting| setting.switch())
    }

    /// Returns the flag as `typed`, or else its variable.
    pub(super) fn flag_or_variable(&self, typed: &Option<String>, flag: Flag) -> Result<Option<Setting>, ConfigError> {
        match typed {
            Some(value) => check_value(&format!("--{}", flag.flag), value).map(Some),
            None => self.setting(flag.env),
        }
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

fn check_value(name: &str, value: &str) -> Result<Setting, ConfigError> {
    let problem = match value {
        "" => "the value is empty; give one or leave the setting out",
        _ if value.len() > MAX_VALUE => "the value is longer than 4096 bytes; shorten it",
        _ if value.contains(char::REPLACEMENT_CHARACTER) => "the value is not UTF-8; give it in UTF-8",
        _ => return Ok(Setting { name: name.to_owned(), value: value.to_owned() }),
    };
    Err(ConfigError::invalid(name, value, problem))
}

/// Abilities of this program on this machine.
#[derive(Debug, Clone, Copy)]
pub struct Build {
    /// Set if the program has the feature `nccl`.
    pub nccl: bool,
    /// CUDA devices that the program can compute on: 0 in a build for the CPU.
    pub visible_devices: usize,
}

impl Build {
    /// Returns this build, on a machine with this number of CUDA devices.
    pub fn current(visible_devices: usize) -> Self {
        Self { nccl: cfg!(feature = "nccl"), visible_devices }
    }
}
