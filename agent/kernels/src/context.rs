//! What every kernel is called with: the device, the thread pool and the instruction set. There are no globals.

use crate::error::{Error, Result};
use crate::isa::Isa;
use crate::pool::ThreadPool;
use candle_core::{Device, DeviceLocation};
use std::sync::Arc;

/// Where and by what functions compute: on the CPU by kernels, with a thread pool and an instruction set that this
/// machine has, or on some device by their twins. Cheap to clone; clones share the pool.
#[derive(Debug, Clone)]
pub struct Context {
    pool: Arc<ThreadPool>,
    isa: Isa,
    /// Where the twins compute; `None`: kernels do, on the CPU.
    twins_on: Option<Device>,
}

impl Context {
    /// `threads` compute threads (the caller's included) and the widest instruction set.
    ///
    /// Threads park at once when there are more of them than cores. Where several ranks share the
    /// machine, build the pool oneself with [`ThreadPool::new`] and use [`Context::new`].
    pub fn cpu(threads: usize) -> Result<Context> {
        let pool = ThreadPool::new(threads, threads > ThreadPool::available())?;
        Ok(Context { pool, isa: Isa::detect(), twins_on: None })
    }

    /// A context of a given pool and instruction set; fails if the machine lacks the set.
    pub fn new(pool: Arc<ThreadPool>, isa: Isa) -> Result<Context> {
        Ok(Context { pool, isa: Isa::force(isa.name())?, twins_on: None })
    }

    /// The same pool with another instruction set, by name; fails if the machine lacks it.
    pub fn force_isa(&self, name: &str) -> Result<Context> {
        Ok(Context { isa: Isa::force(name)?, ..self.clone() })
    }

    /// `device`, with the twins of [`crate::plain`]: for devices without kernels. The CPU is one too, by this way: what
    /// another device computes can be had without one.
    pub fn twins_on(&self, device: Device) -> Context {
        Context { twins_on: Some(device), ..self.clone() }
    }

    /// Where tensors of this context lie.
    pub fn device(&self) -> &Device {
        self.twins_on.as_ref().unwrap_or(&Device::Cpu)
    }

    /// Whether kernels compute; else their twins do.
    pub fn has_kernels(&self) -> bool {
        self.twins_on.is_none()
    }

    /// Whether `other` computes in the same place and way, so that both can share weights.
    pub fn same_place(&self, other: &Context) -> bool {
        self.has_kernels() == other.has_kernels() && self.device().same_device(other.device())
    }

    /// The pool that the kernels run on.
    pub fn pool(&self) -> &Arc<ThreadPool> {
        &self.pool
    }

    /// The instruction set that the kernels use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Threads of the pool, the caller's included.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }
}

/// `cpu (avx2)`, `cuda:0`; `cpu (plain)` for twins on the CPU.
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

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Error {
        Error::Thread(error)
    }
}
