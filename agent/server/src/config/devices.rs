//! The devices that this process's ranks compute on.

use lockstep_proto::names::env;

use super::RingSetup;
use super::environment::{Build, Environment};
use super::error::ConfigError;
use super::values::{KvCacheMemory, Setting};

/// Most devices that `LOCKSTEP_PLAIN_DEVICES` can declare.
const MAX_DECLARED: usize = 64;

/// Devices of this machine, and their division over ranks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DevicesConfig {
    /// Number of devices beside the CPU; 0: the ranks compute on the CPU.
    pub visible: usize,
    /// Bytes of memory of each device, if `LOCKSTEP_PLAIN_DEVICES` declares devices instead of the real ones.
    pub plain: Option<Vec<u64>>,
    /// True if one rank has all devices, and the CPU for the layers that do not fit (`MISTRALRS_NO_NCCL`). Otherwise each
    /// local rank has one device.
    pub one_rank: bool,
}

impl DevicesConfig {
    /// Refuses several ranks with devices, unless `RING_*` connects the ranks. Ranks with devices are meant for NCCL: the
    /// ring would take every sum through the host's memory, so a user must ask for it.
    ///
    /// # Errors
    /// Several ranks have devices, and `ring` is not set by `RING_*`.
    pub(crate) fn check_group(&self, world_size: u32, ring: &RingSetup) -> Result<(), ConfigError> {
        if world_size == 1 || self.visible == 0 || matches!(ring, RingSetup::Ring { .. }) {
            return Ok(());
        }
        Err(ConfigError::contradiction(
            format!("{world_size} ranks have a device each"),
            "this version does not form groups over NCCL yet",
            format!(
                "set {}=1 for one rank over the devices of this machine, describe the group as a ring ({}, …), or hide \
                 the devices (CUDA_VISIBLE_DEVICES=\"\")",
                env::NO_NCCL,
                env::RING_RANK
            ),
        ))
    }
}

/// Returns the devices, from the variables and the build.
///
/// # Errors
/// A variable is malformed.
pub(super) fn from_variables(variables: &Environment, build: &Build) -> Result<DevicesConfig, ConfigError> {
    let plain = variables.setting(env::PLAIN_DEVICES)?.map(|setting| parse_declared(&setting)).transpose()?;
    let visible = plain.as_ref().map_or(build.visible_devices, Vec::len);
    Ok(DevicesConfig { visible, plain, one_rank: variables.switch(env::NO_NCCL)? && visible > 0 })
}

/// Parses amounts of memory with commas between them.
fn parse_declared(setting: &Setting) -> Result<Vec<u64>, ConfigError> {
    let wrong = || {
        setting.invalid(format!(
            "give the memory of each of at most {MAX_DECLARED} devices in bytes, with commas, such as 512Mi,1Gi"
        ))
    };
    let amount = |value: &str| {
        let amount = Setting { name: setting.name.clone(), value: value.trim().to_owned() };
        match amount.memory() {
            Ok(KvCacheMemory::Bytes(bytes)) => Ok(bytes),
            _ => Err(wrong()),
        }
    };
    let amounts = setting.value.split(',').map(amount).collect::<Result<Vec<_>, _>>()?;
    if amounts.len() > MAX_DECLARED { Err(wrong()) } else { Ok(amounts) }
}
