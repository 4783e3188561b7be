//! Devices beyond the CPU that layers can be placed on.

use candle_core::Device;
use lockstep_kernels::Context;

use crate::EngineError;

/// One device with memory of its own.
#[derive(Debug, Clone)]
pub struct Accelerator {
    device: Device,
    memory: Memory,
}

/// Source of the number of free bytes.
#[derive(Debug, Clone, Copy)]
enum Memory {
    /// The device's driver.
    #[cfg(feature = "cuda")]
    Driver,
    /// A declared number of bytes, less the bytes that are placed on the device.
    Declared(u64),
}

impl Accelerator {
    /// Returns the number of devices that this build can use and this machine shows (`CUDA_VISIBLE_DEVICES` counts). It is 0
    /// in a build for the CPU, and on a machine without a driver.
    #[must_use]
    pub fn count_visible() -> usize {
        #[cfg(feature = "cuda")]
        return cuda::count_visible();
        #[cfg(not(feature = "cuda"))]
        return 0;
    }

    /// Opens the visible device `ordinal`.
    ///
    /// # Errors
    /// [`EngineError::Usage`] if there is no such device, and those of the driver.
    pub fn open(ordinal: usize) -> Result<Self, EngineError> {
        let visible = Self::count_visible();
        if ordinal >= visible {
            return Err(EngineError::Usage(format!("device {ordinal} was asked for, and {visible} are visible here")));
        }
        #[cfg(feature = "cuda")]
        return Ok(Self { device: cuda::open(ordinal)?, memory: Memory::Driver });
        #[cfg(not(feature = "cuda"))]
        return Err(EngineError::Usage("this build computes on the CPU alone".into()));
    }

    /// Returns this machine's CPU as if it were a device with `bytes` of memory. candle's operations compute its layers, as
    /// on a device without kernels. So a placement can be tried on a machine without such a device.
    #[must_use]
    pub fn plain(bytes: u64) -> Self {
        Self { device: Device::Cpu, memory: Memory::Declared(bytes) }
    }

    /// Returns the context that computes on the device.
    pub(super) fn context(&self, host: &Context) -> Context {
        host.plain_on(self.device.clone())
    }

    /// Returns the free bytes of the device. `placed` bytes of this process lie on it already.
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

    pub fn count_visible() -> usize {
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
