//! Compares the algorithms with the plain definition, over links that delay, reorder and cut writes short, and with
//! faults.

mod naive;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lockstep_collectives::memory::{Cut, CutKind, Faults, form_group};
use lockstep_collectives::{CollectiveError, Communicator, Mesh, SliceMut, Tuning};
use naive::{exercise_all, on_ranks};
use proptest::prelude::*;

/// Sizes with which small messages reach every path.
const SMALL: Tuning = Tuning { direct_up_to: 64, segment: 96, min_part: 4 };

#[test]
fn every_operation_is_right_at_every_small_size_and_world_size() {
    for ranks in 1..=8 {
        let mut group = form_group(ranks, &Faults { tuning: SMALL, ..Faults::default() }).unwrap();
        for len in [0, 1, 2, 3, 5, 7, 8, 9, 16, 17, 24, 31, 33, 48, 49, 127, 1000] {
            exercise_all(&mut group, len);
        }
    }
}

#[test]
fn the_default_tuning_is_right_on_both_sides_of_the_crossover() {
    let crossover = Tuning::default().direct_up_to / 2 / size_of::<f32>();
    for ranks in [2, 3] {
        let mut group = form_group(ranks, &Faults::default()).unwrap();
        for len in [crossover, crossover + 1, 2 * crossover + 1, 300_001] {
            exercise_all(&mut group, len);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_operation_is_right_with_random_sizes_and_faults(
        ranks in 1usize..=8, len in 0usize..700, seed: u64, delay in 0u32..6, short: bool,
        direct in 0usize..512, segment in 1usize..512,
    ) {
        let tuning = Tuning { direct_up_to: direct, segment, min_part: 1 };
        let faults = Faults { seed, max_delay: delay, short_writes: short, tuning, ..Faults::default() };
        exercise_all(&mut form_group(ranks, &faults).unwrap(), len);
    }
}

/// Calls the all-reduce until the group breaks. Returns each rank's last result.
fn run_until_broken(group: &mut [Mesh], calls: usize, elements: usize) -> Vec<Result<(), CollectiveError>> {
    on_ranks(group, |comm| {
        let mut data = vec![1.0f32; elements];
        let result = (0..calls).try_for_each(|_| comm.all_reduce_sum(SliceMut::F32(&mut data)));
        assert_eq!(comm.barrier(), result, "a failed communicator stays failed");
        result
    })
}

#[test]
fn a_link_that_ends_is_a_typed_error_on_every_rank() {
    for kind in [CutKind::Close, CutKind::Drop] {
        for after_bytes in [0, 7, 16, 20, 5000] {
            let cut = Some(Cut { from: 1, to: 0, after_bytes, kind });
            let op_timeout = Duration::from_millis(100);
            let faults = Faults {
                seed: 3,
                max_delay: 2,
                short_writes: true,
                cut,
                op_timeout,
                tuning: SMALL,
                ..Faults::default()
            };
            let results = run_until_broken(&mut form_group(3, &faults).unwrap(), 50, 200);
            let typed = |result: &Result<(), CollectiveError>| {
                matches!(result, Err(CollectiveError::PeerLost { .. } | CollectiveError::Timeout { .. }))
            };
            assert!(results.iter().all(typed), "{kind:?} after {after_bytes}: {results:?}");
        }
    }
}

#[test]
fn a_rank_that_leaves_is_noticed() {
    let mut group = form_group(3, &Faults::default()).unwrap();
    group.pop();
    let results = run_until_broken(&mut group, 1, 8);
    let lost = |result: &Result<(), CollectiveError>| match result {
        Err(CollectiveError::PeerLost { rank, .. }) => *rank,
        other => panic!("{other:?}"),
    };
    // The rank that notices first closes its own links. Its peer may see that first.
    let blamed: Vec<usize> = results.iter().map(lost).collect();
    assert!(blamed.contains(&2) && [[2, 2], [1, 2], [2, 0]].contains(&[blamed[0], blamed[1]]), "{blamed:?}");
}

#[test]
fn operations_grow_the_progress_counter_of_their_rank() {
    let progress: Vec<Arc<AtomicU64>> = (0..2).map(|_| Arc::default()).collect();
    let mut group = form_group(2, &Faults { progress: progress.clone(), ..Faults::default() }).unwrap();
    let mut last = [0; 2];
    for _ in 0..3 {
        assert_eq!(on_ranks(&mut group, Communicator::barrier), [Ok(()), Ok(())]);
        for (last, progress) in last.iter_mut().zip(&progress) {
            let now = progress.load(Ordering::Relaxed);
            assert!(now > std::mem::replace(last, now));
        }
    }
}

#[test]
fn an_abort_wakes_a_blocked_rank() {
    let mut group = form_group(2, &Faults::default()).unwrap();
    let aborter = group[1].aborter();
    let result = std::thread::scope(|scope| {
        let blocked = scope.spawn(|| group[1].barrier());
        std::thread::sleep(Duration::from_millis(20));
        aborter.abort("rank 0 is gone");
        aborter.abort("too late");
        blocked.join().unwrap()
    });
    assert_eq!(result, Err(CollectiveError::Aborted("rank 0 is gone".into())));
    assert_eq!(group[1].barrier(), result, "an aborted communicator stays aborted");
}

#[test]
fn an_aborted_rank_fails_the_ranks_that_wait_for_it() {
    let mut group = form_group(2, &Faults::default()).unwrap();
    let aborter = group[1].aborter();
    let results = on_ranks(&mut group, |comm| {
        if comm.group().rank() == 1 {
            std::thread::sleep(Duration::from_millis(20));
            aborter.abort("the head aborts the epoch");
        }
        comm.barrier()
    });
    assert_eq!(results[1], Err(CollectiveError::Aborted("the head aborts the epoch".into())));
    assert!(matches!(results[0], Err(CollectiveError::PeerLost { rank: 1, .. })), "{:?}", results[0]);
}

#[test]
fn an_error_names_both_calls_of_ranks_in_different_calls() {
    let mut group = form_group(2, &Faults::default()).unwrap();
    let results = on_ranks(&mut group, |comm| {
        let mut data = vec![0i32; 2 + comm.group().rank()];
        comm.all_reduce_sum(SliceMut::I32(&mut data))
    });
    let reason = "this rank is in call 1, all_reduce_sum of i32, 8 bytes, \
                  that rank in call 1, all_reduce_sum of i32, 12 bytes";
    assert!(results.contains(&Err(CollectiveError::Mismatch { rank: 1, reason: reason.into() })), "{results:?}");
}

#[test]
fn wrong_arguments_are_named() {
    type Call = fn(&mut Mesh) -> Result<(), CollectiveError>;
    let calls: [(Call, &str); 5] = [
        (|comm| comm.broadcast(2, SliceMut::F32(&mut [])), "rank 2 is outside the group of 2"),
        (|comm| comm.recv(0, SliceMut::F32(&mut [])), "rank 0 cannot send to or receive from itself"),
        (
            |comm| comm.all_gather(lockstep_collectives::Slice::F32(&[]), &[0], SliceMut::F32(&mut [])),
            "all_gather got 1 counts for 2 ranks",
        ),
        (
            |comm| comm.all_gather(lockstep_collectives::Slice::F32(&[]), &[0, 1], SliceMut::F32(&mut [])),
            "all_gather: the counts add up to 1, but out holds 0 elements",
        ),
        (
            |comm| comm.all_gather(lockstep_collectives::Slice::F32(&[]), &[0, 0], SliceMut::I32(&mut [])),
            "all_gather of F32 into I32: give both one type",
        ),
    ];
    for (call, message) in calls {
        let mut group = form_group(2, &Faults::default()).unwrap();
        assert_eq!(call(&mut group[0]), Err(CollectiveError::Usage(message.into())));
    }
}
