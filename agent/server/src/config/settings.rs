//! Access to the settings of this process: a flag, or else its variable.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::args::{Flag, GlobalArgs};
use super::environment::Environment;
use super::error::ConfigError;
use super::values::{KvCacheMemory, Setting};

/// Flags and variables of this process.
pub(super) struct Settings<'a> {
    pub options: &'a GlobalArgs,
    pub variables: &'a Environment,
}

impl Settings<'_> {
    /// Returns the flag's value, or else the variable's.
    pub(super) fn setting(&self, typed: &Option<String>, flag: Flag) -> Result<Option<Setting>, ConfigError> {
        self.variables.flag_or_variable(typed, flag)
    }

    /// Returns a switch, which is off by default.
    ///
    /// # Errors
    /// The value is no switch.
    pub(super) fn switch(&self, typed: &Option<String>, flag: Flag) -> Result<bool, ConfigError> {
        self.setting(typed, flag)?.map_or(Ok(false), |setting| setting.switch())
    }

    /// Returns a whole number in `range`.
    pub(super) fn integer(
        &self,
        typed: &Option<String>,
        flag: Flag,
        range: RangeInclusive<u32>,
    ) -> Result<Option<u32>, ConfigError> {
        self.setting(typed, flag)?.map(|setting| setting.integer(range)).transpose()
    }

    /// Returns a time of at least `min`.
    pub(super) fn duration(
        &self,
        typed: &Option<String>,
        flag: Flag,
        min: Duration,
    ) -> Result<Option<Duration>, ConfigError> {
        self.setting(typed, flag)?.map(|setting| setting.duration(min)).transpose()
    }

    /// Returns an amount of memory.
    pub(super) fn memory(&self, typed: &Option<String>, flag: Flag) -> Result<Option<KvCacheMemory>, ConfigError> {
        self.setting(typed, flag)?.map(|setting| setting.memory()).transpose()
    }
}
