//! The context that every kernel is called with: the device, the thread pool and the instruction set. There are no
//! globals.

use std::sync::Arc;

use candle_core::{Device, DeviceLocation};

use crate::error::Result;
use crate::isa::Isa;
use crate::pool::ThreadPool;

/// Device and method of computation. Either kernels compute on the CPU, with a thread pool and an instruction set that
/// this machine has, or the functions of the module `plain` compute on some device. A context is cheap to clone; clones
/// share the pool.
#[derive(Debug, Clone)]
pub struct Context {
    pool: Arc<ThreadPool>,
    isa: Isa,
    /// Device on which plain functions compute; `None` if kernels compute on the CPU.
    plain_device: Option<Device>,
}

impl Context {
    /// Creates a context with `threads` compute threads (the caller's included) and the widest instruction set.
    ///
    /// Threads park at once if they outnumber the cores. A process whose ranks share the machine builds the pool with
    /// [`ThreadPool::new`] and calls [`Context::new`].
    pub fn cpu(threads: usize) -> Result<Context> {
        let pool = ThreadPool::new(threads, threads > ThreadPool::available())?;
        Ok(Context { pool, isa: Isa::detect(), plain_device: None })
    }

    /// Creates a context of a given pool and instruction set. Fails if the machine lacks the set.
    pub fn new(pool: Arc<ThreadPool>, isa: Isa) -> Result<Context> {
        Ok(Context { pool, isa: Isa::force(isa.name())?, plain_device: None })
    }

    /// Returns a context with the same pool and another instruction set, by name. Fails if the machine lacks the set.
    pub fn force_isa(&self, name: &str) -> Result<Context> {
        Ok(Context { isa: Isa::force(name)?, ..self.clone() })
    }

    /// Returns a context that computes on `device` with the functions of the module `plain`, for devices without kernels.
    /// `device` may be the CPU, which then computes what another device would.
    pub fn plain_on(&self, device: Device) -> Context {
        Context { plain_device: Some(device), ..self.clone() }
    }

    /// Returns the device of this context's tensors.
    pub fn device(&self) -> &Device {
        self.plain_device.as_ref().unwrap_or(&Device::Cpu)
    }

    /// Returns true if kernels compute, and false if plain functions do.
    pub fn has_kernels(&self) -> bool {
        self.plain_device.is_none()
    }

    /// Returns true if `other` computes on the same device and with the same method, so that both can share weights.
    pub fn same_place(&self, other: &Context) -> bool {
        self.has_kernels() == other.has_kernels() && self.device().same_device(other.device())
    }

    /// Returns the pool that the kernels run on.
    pub fn pool(&self) -> &Arc<ThreadPool> {
        &self.pool
    }

    /// Returns the instruction set that the kernels use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Returns the number of threads of the pool, the caller's included.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }
}

/// Writes `cpu (avx2)` or `cuda:0`; `cpu (plain)` for plain functions on the CPU.
impl std::fmt::Display for Context {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.device().location(), self.has_kernels()) {
            (DeviceLocation::Cpu, true) => write!(formatter, "cpu ({})", self.isa),
            (DeviceLocation::Cpu, false) => formatter.write_str("cpu (plain)"),
            (DeviceLocation::Cuda { gpu_id }, _) => write!(formatter, "cuda:{gpu_id}"),
            (DeviceLocation::Metal { gpu_id }, _) => write!(formatter, "metal:{gpu_id}"),
        }
    }
}
