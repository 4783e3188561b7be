//! The threads of a pool, and the hand-over of one borrowed closure to all of them.
//!
//! Protocol: the caller stores the closure's address, sets `running` to the number of threads and increments `round`
//! (release). A thread reads the new round (acquire), runs the closure with its index and decrements `running`
//! (release). The caller leaves only when `running` is 0 (acquire), even while unwinding, so no thread can touch the
//! closure after its borrow ends.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{JoinHandle, Thread};

use crate::error::{Error, Result};

/// Number of times that a waiting thread checks before it parks: some tens of microseconds, which covers the gap
/// between two kernels of a step.
const MAX_SPINS: usize = 4000;

type Job<'a> = dyn Fn(usize) + Sync + 'a;

/// State state by the caller and the threads.
struct PoolState {
    round: AtomicU64,
    running: AtomicUsize,
    stop: AtomicBool,
    panicked: AtomicBool,
    caller: UnsafeCell<Option<Thread>>,
    job: UnsafeCell<Option<*const Job<'static>>>,
    parked: Vec<AtomicBool>,
    spins: usize,
}

// SAFETY: only the caller that holds the pool's lock writes `job` and `caller`, while `running` is 0 and before it
// increments `round` with release order. Threads read them after an acquire load of `round` and before their release
// decrement of `running`. All else is atomic or constant.
unsafe impl Sync for PoolState {}
// SAFETY: the raw pointer in `job` is to a `Sync` closure that outlives its use (see `Workers::run`).
unsafe impl Send for PoolState {}

/// Threads of a pool. Dropping them joins them.
pub(super) struct Workers {
    state: Arc<PoolState>,
    threads: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Workers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Workers({})", self.threads.len())
    }
}

impl Workers {
    pub(super) fn start(threads: usize, oversubscribed: bool) -> Result<Workers> {
        let state = Arc::new(PoolState {
            round: AtomicU64::new(0),
            running: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            caller: UnsafeCell::new(None),
            job: UnsafeCell::new(None),
            parked: (0..threads).map(|_| AtomicBool::new(false)).collect(),
            spins: if oversubscribed { 0 } else { MAX_SPINS },
        });
        let mut workers = Workers { state, threads: Vec::with_capacity(threads) };
        for index in 0..threads {
            let state = workers.state.clone();
            let builder = std::thread::Builder::new().name(format!("kernel-{}", index + 1));
            let thread = builder.spawn(move || state.run_rounds(index)).map_err(Error::Thread)?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    /// Runs `job` with index 0 on the calling thread and with 1… on the others. The pool's lock excludes other callers.
    pub(super) fn run(&self, job: &Job<'_>) {
        if self.threads.is_empty() {
            return job(0);
        }
        let job_address: *const Job<'_> = job;
        // SAFETY: only the lifetime changes. `WaitForRound` below keeps this frame, and so the borrow, alive until no
        // thread uses the address.
        let job_address: *const Job<'static> = unsafe { std::mem::transmute(job_address) };
        // SAFETY: `running` is 0 (the last job ended) and callers exclude each other, so no thread reads these cells
        // until `round` is incremented below.
        unsafe {
            *self.state.job.get() = Some(job_address);
            *self.state.caller.get() = Some(std::thread::current());
        }
        self.state.panicked.store(false, Ordering::Relaxed);
        self.state.running.store(self.threads.len(), Ordering::Relaxed);
        self.start_round();
        let wait = WaitForRound(&self.state);
        job(0);
        drop(wait);
        if self.state.panicked.swap(false, Ordering::Relaxed) {
            std::panic::resume_unwind(Box::new("a compute thread panicked"));
        }
    }

    /// Starts a round and wakes the threads that are parked.
    fn start_round(&self) {
        self.state.round.fetch_add(1, Ordering::SeqCst);
        for (thread, parked) in self.threads.iter().zip(&self.state.parked) {
            if parked.load(Ordering::SeqCst) {
                thread.thread().unpark();
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        self.start_round();
        for thread in self.threads.drain(..) {
            // A thread catches its jobs' panics, so joining cannot fail.
            _ = thread.join();
        }
    }
}

/// Guard that waits, when it is dropped, until every thread has finished the round.
struct WaitForRound<'a>(&'a PoolState);

impl Drop for WaitForRound<'_> {
    fn drop(&mut self) {
        let mut spins = 0;
        while self.0.running.load(Ordering::Acquire) != 0 {
            if spins < self.0.spins {
                spins += 1;
                std::hint::spin_loop();
            } else {
                // The last thread to finish unparks this one. Its token makes a late park return at once.
                std::thread::park();
            }
        }
    }
}

impl PoolState {
    /// Waits for rounds and runs their jobs until the pool stops.
    fn run_rounds(&self, index: usize) {
        let mut last_round = 0;
        loop {
            self.await_round(index, last_round);
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            last_round += 1;
            // SAFETY: the acquire load of `round` showed this round. Its cells were written before it and stay as they
            // are until `running` reaches 0, which needs the decrement below.
            let (job, caller) = unsafe { (*self.job.get(), (*self.caller.get()).clone()) };
            if let Some(job) = job {
                // SAFETY: the caller keeps the closure alive until the decrement below.
                let job = unsafe { &*job };
                if catch_unwind(AssertUnwindSafe(|| job(index + 1))).is_err() {
                    self.panicked.store(true, Ordering::Relaxed);
                }
            }
            if self.running.fetch_sub(1, Ordering::AcqRel) == 1 {
                // This wakes a caller that parks. A caller that spins just keeps the token.
                caller.iter().for_each(Thread::unpark);
            }
        }
    }

    fn await_round(&self, index: usize, last_round: u64) {
        let mut spins = 0;
        while self.round.load(Ordering::SeqCst) == last_round && !self.stop.load(Ordering::SeqCst) {
            if spins < self.spins {
                spins += 1;
                std::hint::spin_loop();
                continue;
            }
            // The order is: set the flag, check again, park. `start_round` increments the round before it reads the
            // flag.
            self.parked[index].store(true, Ordering::SeqCst);
            if self.round.load(Ordering::SeqCst) == last_round && !self.stop.load(Ordering::SeqCst) {
                std::thread::park();
            }
            self.parked[index].store(false, Ordering::SeqCst);
        }
    }
}
