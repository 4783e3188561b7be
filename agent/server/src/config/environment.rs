//! What the process is handed beside its arguments: variables, and what it was built with.

use std::collections::BTreeMap;

use super::args::Flag;
use super::error::ConfigError;
use super::values::Setting;

/// Longest value of a variable, in bytes; a path may be that long.
const MAX_VALUE: usize = 4096;

/// Variables by name.
#[derive(Debug, Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The process's own variables; to be called once, by `main`. What is not UTF-8 becomes a value that every check
    /// refuses.
    pub fn of_process() -> Self {
        let text = |os: std::ffi::OsString| os.to_string_lossy().into_owned();
        Self(std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub(super) fn is_set(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Whether `name` is set to nothing.
    pub(super) fn is_empty(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(String::is_empty)
    }

    /// The variable `name`, if it is set.
    ///
    /// # Errors
    /// Set but empty, or no possible value of anything.
    pub(super) fn get(&self, name: &str) -> Result<Option<Setting>, ConfigError> {
        self.0.get(name).map(|value| checked(name, value)).transpose()
    }

    /// Whether the switch `name` is on; it is off where it is not set.
    ///
    /// # Errors
    /// Neither `1` nor `0`.
    pub(super) fn switch(&self, name: &str) -> Result<bool, ConfigError> {
        self.get(name)?.map_or(Ok(false), |said| said.switch())
    }

    /// The flag as `typed`, else its variable.
    pub(super) fn or(&self, typed: &Option<String>, flag: Flag) -> Result<Option<Setting>, ConfigError> {
        match typed {
            Some(value) => checked(&format!("--{}", flag.flag), value).map(Some),
            None => self.get(flag.env),
        }
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

fn checked(name: &str, value: &str) -> Result<Setting, ConfigError> {
    let problem = match value {
        "" => "it is empty; leave it out or give a value",
        _ if value.len() > MAX_VALUE => "it is longer than 4096 bytes",
        _ if value.contains(char::REPLACEMENT_CHARACTER) => "it is not UTF-8",
        _ => return Ok(Setting { name: name.to_owned(), value: value.to_owned() }),
    };
    Err(ConfigError::invalid(name, value, problem))
}

/// What this program can do here.
#[derive(Debug, Clone, Copy)]
pub struct Build {
    /// Feature `nccl`.
    pub nccl: bool,
    /// CUDA devices that it can compute on: 0 in a build for the CPU.
    pub visible_devices: usize,
}

impl Build {
    /// This build, on a machine where it sees so many CUDA devices.
    pub fn this(visible_devices: usize) -> Self {
        Self { nccl: cfg!(feature = "nccl"), visible_devices }
    }
}
