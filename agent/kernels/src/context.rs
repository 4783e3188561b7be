//! What every kernel is called with: the thread pool and the instruction set. There are no globals.

use crate::error::{Error, Result};
use crate::isa::Isa;
use crate::pool::ThreadPool;
use std::sync::Arc;

/// A thread pool and an instruction set that this machine has. Cheap to clone; clones share the pool.
#[derive(Debug, Clone)]
pub struct Context {
    pool: Arc<ThreadPool>,
    isa: Isa,
}

impl Context {
    /// `threads` compute threads (the caller's included) and the widest instruction set.
    ///
    /// Threads park at once when there are more of them than cores. Where several ranks share the
    /// machine, build the pool oneself with [`ThreadPool::new`] and use [`Context::new`].
    pub fn cpu(threads: usize) -> Result<Context> {
        let pool = ThreadPool::new(threads, threads > ThreadPool::available())?;
        Ok(Context { pool, isa: Isa::detect() })
    }

    /// A context of a given pool and instruction set; fails if the machine lacks the set.
    pub fn new(pool: Arc<ThreadPool>, isa: Isa) -> Result<Context> {
        Ok(Context { pool, isa: Isa::force(isa.name())? })
    }

    /// The same pool with another instruction set, by name; fails if the machine lacks it.
    pub fn force_isa(&self, name: &str) -> Result<Context> {
        Ok(Context { pool: self.pool.clone(), isa: Isa::force(name)? })
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

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Error {
        Error::Thread(error)
    }
}
