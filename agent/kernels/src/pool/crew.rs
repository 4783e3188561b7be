//! The threads behind a pool, and the hand-over of one borrowed closure to all of them.
//!
//! Protocol: the caller stores the closure's address, sets `running` to the number of threads and
//! bumps `round` (release). A thread sees the new round (acquire), runs the closure with its index and
//! decrements `running` (release). The caller leaves only when `running` is 0 (acquire), even while
//! unwinding, so no thread can touch the closure after its borrow ends.

use crate::error::{Error, Result};
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{JoinHandle, Thread};

/// How often a waiting thread looks before it parks: some tens of microseconds, which covers the gap
/// between two kernels of a step.
const SPINS: usize = 4000;

type Job<'a> = dyn Fn(usize) + Sync + 'a;

/// State shared by the caller and the threads.
struct Shared {
    round: AtomicU64,
    running: AtomicUsize,
    stop: AtomicBool,
    panicked: AtomicBool,
    caller: UnsafeCell<Option<Thread>>,
    job: UnsafeCell<Option<*const Job<'static>>>,
    parked: Vec<AtomicBool>,
    spins: usize,
}

// SAFETY: `job` and `caller` are written only by the one caller that holds the pool's lock, while
// `running` is 0 and before `round` is bumped with release order; threads read them after an acquire
// load of `round` and before their release decrement of `running`. All else is atomic or constant.
unsafe impl Sync for Shared {}
// SAFETY: the raw pointer in `job` is to a `Sync` closure that outlives its use (see `Crew::run`).
unsafe impl Send for Shared {}

/// The threads; joined when dropped.
pub(super) struct Crew {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Crew {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Crew({})", self.threads.len())
    }
}

impl Crew {
    pub(super) fn start(threads: usize, oversubscribed: bool) -> Result<Crew> {
        let shared = Arc::new(Shared {
            round: AtomicU64::new(0),
            running: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            caller: UnsafeCell::new(None),
            job: UnsafeCell::new(None),
            parked: (0..threads).map(|_| AtomicBool::new(false)).collect(),
            spins: if oversubscribed { 0 } else { SPINS },
        });
        let mut crew = Crew { shared, threads: Vec::with_capacity(threads) };
        for index in 0..threads {
            let shared = crew.shared.clone();
            let builder = std::thread::Builder::new().name(format!("kernel-{}", index + 1));
            let thread = builder.spawn(move || shared.serve(index)).map_err(Error::Thread)?;
            crew.threads.push(thread);
        }
        Ok(crew)
    }

    /// Runs `job` with index 0 here and with 1… on the threads. The pool's lock makes callers exclusive.
    pub(super) fn run(&self, job: &Job<'_>) {
        if self.threads.is_empty() {
            return job(0);
        }
        let job_address: *const Job<'_> = job;
        // SAFETY: only the lifetime changes; `Wait` below keeps this frame, and so the borrow, alive
        // until no thread uses the address.
        let job_address: *const Job<'static> = unsafe { std::mem::transmute(job_address) };
        // SAFETY: `running` is 0 (the last job ended) and callers exclude each other, so nobody reads
        // these cells until `round` is bumped below.
        unsafe {
            *self.shared.job.get() = Some(job_address);
            *self.shared.caller.get() = Some(std::thread::current());
        }
        self.shared.panicked.store(false, Ordering::Relaxed);
        self.shared.running.store(self.threads.len(), Ordering::Relaxed);
        self.announce();
        let wait = Wait(&self.shared);
        job(0);
        drop(wait);
        if self.shared.panicked.swap(false, Ordering::Relaxed) {
            std::panic::resume_unwind(Box::new("a compute thread panicked"));
        }
    }

    /// Starts a round and wakes the threads that sleep.
    fn announce(&self) {
        self.shared.round.fetch_add(1, Ordering::SeqCst);
        for (thread, parked) in self.threads.iter().zip(&self.shared.parked) {
            if parked.load(Ordering::SeqCst) {
                thread.thread().unpark();
            }
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.announce();
        for thread in self.threads.drain(..) {
            // A thread catches its jobs' panics, so joining cannot fail.
            _ = thread.join();
        }
    }
}

/// Waits, when dropped, until every thread has finished the round.
struct Wait<'a>(&'a Shared);

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let mut spins = 0;
        while self.0.running.load(Ordering::Acquire) != 0 {
            if spins < self.0.spins {
                spins += 1;
                std::hint::spin_loop();
            } else {
                // The last thread to finish unparks us; its token makes a late park return at once.
                std::thread::park();
            }
        }
    }
}

impl Shared {
    /// A thread's life: wait for a round, run its job, report, again.
    fn serve(&self, index: usize) {
        let mut seen = 0;
        loop {
            self.await_round(index, seen);
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            seen += 1;
            // SAFETY: the acquire load of `round` showed this round, whose cells were written before
            // it and stay as they are until `running` reaches 0, which needs our decrement below.
            let (job, caller) = unsafe { (*self.job.get(), (*self.caller.get()).clone()) };
            if let Some(job) = job {
                // SAFETY: the caller keeps the closure alive until our decrement below.
                let job = unsafe { &*job };
                if catch_unwind(AssertUnwindSafe(|| job(index + 1))).is_err() {
                    self.panicked.store(true, Ordering::Relaxed);
                }
            }
            if self.running.fetch_sub(1, Ordering::AcqRel) == 1 {
                // Wakes a caller that parks; for one that spins this only leaves a token behind.
                caller.iter().for_each(Thread::unpark);
            }
        }
    }

    fn await_round(&self, index: usize, seen: u64) {
        let mut spins = 0;
        while self.round.load(Ordering::SeqCst) == seen && !self.stop.load(Ordering::SeqCst) {
            if spins < self.spins {
                spins += 1;
                std::hint::spin_loop();
                continue;
            }
            // Flag first, look again, then park: `announce` bumps the round before it reads the flag.
            self.parked[index].store(true, Ordering::SeqCst);
            if self.round.load(Ordering::SeqCst) == seen && !self.stop.load(Ordering::SeqCst) {
                std::thread::park();
            }
            self.parked[index].store(false, Ordering::SeqCst);
        }
    }
}
