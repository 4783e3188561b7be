//! A persistent pool of compute threads in which the caller takes part.
//!
//! A job is one closure that every thread runs once with its own index. Threads spin briefly for the next job, because
//! a decode step is hundreds of jobs a few microseconds apart. Then they park. Threads that outnumber the cores park at
//! once. The division of work among threads never changes results: each kernel ensures that, so a busy pool can run a
//! job on the caller alone.

mod workers;

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, TryLockError};

use crate::error::Result;
use workers::Workers;

/// Most threads of a pool. No machine has more cores; a larger request is a mistake.
const MAX_THREADS: usize = 1024;

/// A fixed set of threads; see the head of the module.
#[derive(Debug)]
pub struct ThreadPool {
    workers: Mutex<Workers>,
    threads: usize,
}

impl ThreadPool {
    /// Starts `threads - 1` threads (at least none, at most 1023). The caller of a job is the last thread.
    /// `oversubscribed` means that ranks × threads exceed the cores, so waiting threads park instead of spinning.
    pub fn new(threads: usize, oversubscribed: bool) -> Result<Arc<ThreadPool>> {
        let threads = threads.clamp(1, MAX_THREADS);
        let workers = Mutex::new(Workers::start(threads - 1, oversubscribed)?);
        Ok(Arc::new(ThreadPool { workers, threads }))
    }

    /// Returns the number of cores that this process may use: the affinity mask and the cgroup quota (v1 and v2,
    /// rounded down, at least 1), as the standard library reads them.
    pub fn available() -> usize {
        std::thread::available_parallelism().map_or(1, |cores| cores.get())
    }

    /// Returns the number of threads that take part in a job, the caller included.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `job(thread)` once for each thread in `0..threads()`, and returns when all have returned.
    ///
    /// If the pool is busy (with another thread's job, or with the job that makes this call), the caller runs the parts
    /// of all threads. A panic in any part is raised again here once all parts have ended.
    pub fn run(&self, job: &(dyn Fn(usize) + Sync)) {
        let workers = match self.workers.try_lock() {
            Ok(workers) => workers,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return (0..self.threads).for_each(job),
        };
        workers.run(job);
    }

    /// Cuts `0..length` into chunks of `grain`. Threads take the chunks as they become free.
    pub fn for_each_chunk(&self, length: usize, grain: usize, job: &(dyn Fn(Range<usize>) + Sync)) {
        let grain = grain.max(1);
        if length <= grain || self.threads == 1 {
            if length > 0 {
                job(0..length);
            }
            return;
        }
        let next = AtomicUsize::new(0);
        self.run(&|_| {
            loop {
                let start = next.fetch_add(grain, Ordering::Relaxed);
                if start >= length {
                    return;
                }
                job(start..length.min(start + grain));
            }
        });
    }
}

#[cfg(test)]
mod tests;
