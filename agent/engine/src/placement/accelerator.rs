//! Devices beside the CPU that layers can be placed on.

use candle_core::Device;
use lockstep_kernels::Context;

use crate::EngineError;

/// One device with memory of its own.
#[derive(Debug, Clone)]
pub struct Accelerator {
    device: Device,
    memory: Memory,
}

/// Who says how much memory is free.
#[derive(Debug, Clone, Copy)]
enum Memory {
    /// The device's driver.
    #[cfg(feature = "cuda")]
    Driver,
    /// Nobody: so many bytes were declared, and what is placed is subtracted.
    Declared(u64),
}

impl Accelerator {
    /// How many devices this build computes on and this machine shows (`CUDA_VISIBLE_DEVICES` counts): none in a build
    /// for the CPU, and where there is no driver.
    #[must_use]
    pub fn visible() -> usize {
        #[cfg(feature = "cuda")]
        return cuda::visible();
        #[cfg(not(feature = "cuda"))]
        return 0;
    }

    /// The visible device `ordinal`.
    ///
    /// # Errors
    /// [`EngineError::Usage`] for one that is not visible; the driver's.
    pub fn open(ordinal: usize) -> Result<Self, EngineError> {
        let visible = Self::visible();
        if ordinal >= visible {
            return Err(EngineError::Usage(format!("device {ordinal} was asked for, and {visible} are visible here")));
        }
        #[cfg(feature = "cuda")]
        return Ok(Self { device: cuda::open(ordinal)?, memory: Memory::Driver });
        #[cfg(not(feature = "cuda"))]
        return Err(EngineError::Usage("this build computes on the CPU alone".into()));
    }

    /// This machine's CPU, as if it were a device with `bytes` of memory: its layers are computed as those of a device
    /// without kernels are, by candle's operations, so that a placement can be tried where there is no such device.
    #[must_use]
    pub fn plain(bytes: u64) -> Self {
        Self { device: Device::Cpu, memory: Memory::Declared(bytes) }
    }

    /// What computes on it.
    pub(super) fn context(&self, host: &Context) -> Context {
        host.plain_on(self.device.clone())
    }

    /// Bytes that are free, where `placed` bytes of this process lie on it.
    pub(super) fn free_bytes(&self, placed: u64) -> Result<u64, EngineError> {
        match self.memory {
            #[cfg(feature = "cuda")]
            Memory::Driver => cuda::free_bytes(&self.device),
            Memory::Declared(bytes) => Ok(bytes.saturating_sub(placed)),
        }
    }
}

#[cfg(feature = "cuda")]
mod cuda {
    use candle_core::Device;
    use candle_core::cuda::cudarc::driver::CudaContext;
    use lockstep_kernels::cuda as kernels;

    use crate::EngineError;

    pub fn visible() -> usize {
        if !kernels::has_driver() {
            return 0;
        }
        CudaContext::device_count().ok().and_then(|count| usize::try_from(count).ok()).unwrap_or(0)
    }

    pub fn open(ordinal: usize) -> Result<Device, EngineError> {
        kernels::check_libraries()?;
        Ok(Device::new_cuda(ordinal)?)
    }

    pub fn free_bytes(device: &Device) -> Result<u64, EngineError> {
        let stream = device.as_cuda_device()?.cuda_stream();
        let (free, _) = stream
            .context()
            .mem_get_info()
            .map_err(|error| EngineError::Usage(format!("ask {:?} for its free memory: {error}", device.location())))?;
        Ok(free as u64)
    }
}
