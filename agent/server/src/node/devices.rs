//! Devices of one local rank.

use lockstep_engine::{Accelerator, Devices, EngineError};

use crate::config::DevicesConfig;

/// Opens the devices of a rank: one device of its own, or all devices and the CPU for the layers that do not fit. On a
/// machine without devices, a rank has none and computes on the CPU.
///
/// # Errors
/// Fails if a device is missing or its driver fails.
pub(super) fn open_devices(config: &DevicesConfig, local_rank: usize) -> Result<Devices, EngineError> {
    let open = |ordinal: usize| match &config.plain {
        None => Accelerator::open(ordinal),
        Some(sizes) => sizes.get(ordinal).map(|bytes| Accelerator::plain(*bytes)).ok_or_else(|| {
            let declared = sizes.len();
            EngineError::Usage(format!("device {ordinal} was requested, but {declared} are declared"))
        }),
    };
    let accelerators = device_ordinals(config, local_rank).map(open).collect::<Result<_, _>>()?;
    Ok(Devices { accelerators, rest_on_cpu: config.one_rank })
}

/// Returns the names of a rank's devices: `cuda:0`, `cuda:0 + cuda:1 + cpu (avx2)`, `cpu (avx512)`.
pub(super) fn describe_devices(config: &DevicesConfig, local_rank: usize, isa: &str) -> String {
    let name = |ordinal| if config.plain.is_some() { "cpu (plain)".to_owned() } else { format!("cuda:{ordinal}") };
    let cpu = (config.visible == 0 || config.one_rank).then(|| format!("cpu ({isa})"));
    device_ordinals(config, local_rank).map(name).chain(cpu).collect::<Vec<_>>().join(" + ")
}

/// Returns the ordinals of a rank's devices.
fn device_ordinals(config: &DevicesConfig, local_rank: usize) -> std::ops::Range<usize> {
    match config.visible {
        0 => 0..0,
        visible if config.one_rank => 0..visible,
        _ => local_rank..local_rank + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_has_its_own_device_or_all_devices() {
        let config = |visible, one_rank| DevicesConfig { visible, plain: None, one_rank };
        assert_eq!(describe_devices(&config(0, false), 1, "avx2"), "cpu (avx2)");
        assert_eq!(describe_devices(&config(4, false), 1, "avx2"), "cuda:1");
        assert_eq!(describe_devices(&config(2, true), 0, "avx2"), "cuda:0 + cuda:1 + cpu (avx2)");
        assert!(open_devices(&config(0, false), 3).unwrap().accelerators.is_empty());
        let plain = DevicesConfig { visible: 2, plain: Some(vec![1, 2]), one_rank: true };
        let all = open_devices(&plain, 0).unwrap();
        assert_eq!((all.accelerators.len(), all.rest_on_cpu), (2, true));
        let own = DevicesConfig { one_rank: false, ..plain };
        assert_eq!(open_devices(&own, 1).unwrap().accelerators.len(), 1);
        let message = open_devices(&own, 2).unwrap_err().to_string();
        assert!(message.contains("device 2 was requested, but 2 are declared"), "{message}");
    }
}
