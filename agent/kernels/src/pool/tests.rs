//! Every part of a job runs once, also with nested jobs, several callers and panics.

use super::*;
use std::sync::atomic::AtomicU64;

fn sums(pool: &ThreadPool, length: usize, grain: usize) -> u64 {
    let sum = AtomicU64::new(0);
    pool.for_each_chunk(length, grain, &|range| {
        let part: u64 = range.map(|i| i as u64 + 1).sum();
        sum.fetch_add(part, Ordering::Relaxed);
    });
    sum.into_inner()
}

#[test]
fn every_index_is_visited_once() {
    for (threads, oversubscribed) in [(1, false), (2, false), (2, true), (5, true)] {
        let pool = ThreadPool::new(threads, oversubscribed).unwrap();
        for round in 0..300 {
            let length = round % 37;
            let expected = (length * (length + 1) / 2) as u64;
            assert_eq!(sums(&pool, length, round % 5), expected, "{threads} threads");
        }
    }
}

#[test]
fn a_nested_job_runs_on_its_caller() {
    let pool = ThreadPool::new(3, true).unwrap();
    let count = AtomicUsize::new(0);
    pool.run(&|_| pool.run(&|_| _ = count.fetch_add(1, Ordering::Relaxed)));
    assert_eq!(count.into_inner(), 9);
}

#[test]
fn two_callers_share_a_pool() {
    let pool = ThreadPool::new(2, true).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| (0..200).for_each(|_| assert_eq!(sums(&pool, 10, 1), 55)));
        }
    });
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_stays_usable() {
    let pool = ThreadPool::new(2, true).unwrap();
    for culprit in 0..2 {
        let job = |thread: usize| assert_ne!(thread, culprit, "on purpose");
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pool.run(&job)));
        assert!(caught.is_err());
        assert_eq!(sums(&pool, 10, 1), 55);
    }
}
