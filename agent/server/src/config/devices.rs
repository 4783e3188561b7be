//! Which devices this process's ranks compute on.

use lockstep_proto::names::env;

use super::RingSetup;
use super::environment::{Build, Environment};
use super::error::ConfigError;
use super::values::{KvCacheMemory, Setting};

/// Most devices of one machine that can be declared.
const MAX_DECLARED: usize = 64;

/// The devices of this machine, and whose they are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DevicesConfig {
    /// How many there are beside the CPU; 0: it is all.
    pub visible: usize,
    /// Bytes of memory of each, where `LOCKSTEP_PLAIN_DEVICES` declares them in place of those that are there.
    pub plain: Option<Vec<u64>>,
    /// One rank has all of them, and the CPU for what does not fit (`MISTRALRS_NO_NCCL`); else each local rank has one.
    pub one_rank: bool,
}

impl DevicesConfig {
    /// Refuses ranks that could exchange tensors in no way that was asked for. Devices that were found, and not told to be
    /// a ring, are for NCCL: the ring would take every sum through the host's memory.
    ///
    /// # Errors
    /// Several ranks, which have devices.
    pub fn check_group(&self, world_size: u32, ring: &RingSetup) -> Result<(), ConfigError> {
        if world_size == 1 || self.visible == 0 || matches!(ring, RingSetup::Ring { .. }) {
            return Ok(());
        }
        Err(ConfigError::contradiction(
            format!("{world_size} ranks have a device each"),
            "this version does not form groups over NCCL yet",
            format!(
                "set {}=1 for one rank over the devices of this machine, tell the group as a ring ({}, …), or hide the \
                 devices (CUDA_VISIBLE_DEVICES=\"\")",
                env::NO_NCCL,
                env::RING_RANK
            ),
        ))
    }
}

/// # Errors
/// A variable is malformed.
pub(super) fn from_variables(variables: &Environment, build: &Build) -> Result<DevicesConfig, ConfigError> {
    let plain = variables.get(env::PLAIN_DEVICES)?.map(|setting| declared(&setting)).transpose()?;
    let visible = plain.as_ref().map_or(build.visible_devices, Vec::len);
    Ok(DevicesConfig { visible, plain, one_rank: variables.switch(env::NO_NCCL)? && visible > 0 })
}

/// Amounts of memory with commas between them.
fn declared(setting: &Setting) -> Result<Vec<u64>, ConfigError> {
    let wrong = || setting.invalid("give the memory of each device in bytes, with commas, such as 512Mi,1Gi");
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
