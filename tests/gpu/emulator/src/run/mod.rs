//! Launches: the blocks of a grid, on the cores of this machine.

mod atomic;
mod block;
mod collective;
mod compute;
mod matrix;
mod shared;
mod transfer;
mod warp;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::compile::Kernel;
use crate::memory::Memory;
use block::Block;

/// Most threads of a block.
pub const MAX_THREADS: u32 = 1024;
/// Most bytes of shared memory of a block, as on an H100.
pub const MAX_SHARED: u32 = 227 << 10;
/// Warps from which a launch is worth more than one core.
const WORTH_THREADS: u64 = 64;

/// A launch of a kernel.
pub struct Launch<'a> {
    pub kernel: &'a Kernel,
    /// Number of blocks, by x, y and z.
    pub grid: [u32; 3],
    /// Number of threads of a block, by x, y and z.
    pub block: [u32; 3],
    /// Bytes of shared memory beyond those that the kernel declares.
    pub dynamic_shared: u32,
    /// Bytes of the parameters, each at its offset.
    pub params: &'a [u8],
    pub memory: &'a Memory,
    /// Order of the warps: 0 is their own, and each other seed another one.
    pub seed: u64,
}

/// A fault of a kernel.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("{kernel}: block {block:?}{}: {what}{}", at_lane(*.warp, *.lane), in_line(.instruction))]
pub struct Fault {
    pub kernel: String,
    pub block: [u32; 3],
    pub warp: Option<usize>,
    pub lane: Option<usize>,
    pub what: String,
    pub instruction: String,
}

fn at_lane(warp: Option<usize>, lane: Option<usize>) -> String {
    let number = |name: &str, at: Option<usize>| at.map_or(String::new(), |at| format!(", {name} {at}"));
    number("warp", warp) + &number("lane", lane)
}

fn in_line(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

/// Use of an allocation by a launch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Use {
    pub reads: bool,
    pub writes: bool,
}

/// Result of a launch.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Number of instructions, each of one warp.
    pub instructions: u64,
    /// Allocations that the launch used, by their addresses.
    pub uses: BTreeMap<u64, Use>,
}

impl Use {
    pub const READS: Self = Self { reads: true, writes: false };
    pub const WRITES: Self = Self { reads: false, writes: true };
    pub const UPDATES: Self = Self { reads: true, writes: true };

    /// Returns both uses together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { reads: self.reads | other.reads, writes: self.writes | other.writes }
    }
}

impl Outcome {
    fn add(&mut self, other: Self) {
        self.instructions += other.instructions;
        for (start, used) in other.uses {
            let all = self.uses.entry(start).or_default();
            *all = all.and(used);
        }
    }
}

impl Launch<'_> {
    fn threads(&self) -> u32 {
        self.block.iter().product()
    }

    /// Checks the sizes of the launch, as a driver does.
    ///
    /// # Errors
    /// Names the size that is refused.
    pub fn check(&self) -> Result<(), Fault> {
        let threads = self.block.iter().map(|size| u64::from(*size)).product::<u64>();
        let most = self.kernel.max_threads.unwrap_or(MAX_THREADS).min(MAX_THREADS);
        let shared = self.kernel.shared_bytes.saturating_add(self.dynamic_shared);
        let what = if self.grid.contains(&0) || threads == 0 {
            format!("a launch of {:?} blocks of {:?} threads", self.grid, self.block)
        } else if threads > most.into() {
            format!("{threads} threads a block, and at most {most} are allowed")
        } else if shared > MAX_SHARED {
            format!("{shared} bytes of shared memory a block, and at most {MAX_SHARED} are there")
        } else {
            return Ok(());
        };
        let (kernel, instruction) = (self.kernel.name.clone(), String::new());
        Err(Fault { kernel, block: [0; 3], warp: None, lane: None, what, instruction })
    }
}

/// Runs a launch to its end.
///
/// # Errors
/// Returns the first fault. Other blocks may have run.
pub fn run(launch: &Launch<'_>) -> Result<Outcome, Fault> {
    launch.check()?;
    let blocks = launch.grid.iter().map(|size| u64::from(*size)).product::<u64>();
    let warps = blocks * u64::from(launch.threads().div_ceil(32));
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let workers = if warps < WORTH_THREADS { 1 } else { cores.min(blocks) };
    let (next, total) = (AtomicU64::new(0), Mutex::new(Ok(Outcome::default())));
    let work = || {
        let mut block = Block::new(launch);
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= blocks {
                break;
            }
            let [x, y] = [u64::from(launch.grid[0]), u64::from(launch.grid[1])];
            let place = [(index % x) as u32, (index / x % y) as u32, (index / x / y) as u32];
            if let Err(fault) = block.run(place) {
                // The other workers stop after their block.
                next.store(blocks, Ordering::Relaxed);
                let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                if total.is_ok() {
                    *total = Err(fault);
                }
                return;
            }
        }
        if let Ok(total) = &mut *total.lock().unwrap_or_else(PoisonError::into_inner) {
            total.add(block.into_outcome());
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..workers {
            scope.spawn(work);
        }
        work();
    });
    total.into_inner().unwrap_or_else(PoisonError::into_inner)
}
