//! The NCCL backend with several ranks, over emulated GPUs and the emulated NCCL (`tests/gpu`). The ranks are threads, each with a
//! device. The loader finds the libraries by links in a folder, as it finds the real ones, so the test runs itself again with that
//! folder on its path.
#![cfg(feature = "nccl")]

mod naive;

use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::{Duration, Instant};

use cudarc::driver::CudaContext;
use lockstep_collectives::nccl::{Nccl, NcclConfig, UniqueId, form};
use lockstep_collectives::{AbortSwitch, CollectiveError, Communicator as _, RankGroup, SliceMut};

const RANKS: usize = 3;
/// Tells the copy of this test that the libraries are on its path.
const INSIDE: &str = "LOCKSTEP_TEST_INSIDE_NCCL";
/// Names by which cudarc looks for the libraries, and the files beside the test.
const LIBRARIES: [(&str, &str); 2] = [("libcuda.so.1", "libemulated_cuda.so"), ("libnccl.so", "libemulated_nccl.so")];

#[test]
fn several_ranks_work_over_emulated_gpus() {
    if std::env::var_os(INSIDE).is_some() {
        ranks_agree_with_the_plain_definition();
        a_missing_rank_ends_forming_at_its_deadline();
        an_abort_wakes_a_sum();
        return;
    }
    let program = std::env::current_exe().expect("the path of the test");
    let folder = tempfile::tempdir().expect("a folder");
    for (name, file) in LIBRARIES {
        symlink(program.with_file_name(file), folder.path().join(name)).expect("a link");
    }
    let mut command = Command::new(&program);
    command.args(["--exact", "several_ranks_work_over_emulated_gpus", "--nocapture"]);
    command.env(INSIDE, "1").env("LD_LIBRARY_PATH", folder.path()).env("EMULATED_GPU_DEVICES", RANKS.to_string());
    let output = command.output().expect("a process");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
}

/// Forms a rank of a group.
fn join(
    rank: usize,
    ranks: usize,
    id: UniqueId,
    limit: Duration,
    abort: &AbortSwitch,
) -> Result<Nccl, CollectiveError> {
    let stream = CudaContext::new(rank).expect("a device").new_stream().expect("a stream");
    let group = RankGroup::new(rank, ranks).expect("a rank of the group");
    form(NcclConfig { group, id, stream, op_timeout: limit, form_timeout: limit }, None, abort)
}

/// Forms all ranks of a group.
fn join_all(limit: Duration) -> Vec<Nccl> {
    let id = UniqueId::create().expect("an id");
    std::thread::scope(|scope| {
        let ranks = (0..RANKS).map(|rank| {
            scope.spawn(move || join(rank, RANKS, id, limit, &AbortSwitch::new().expect("a switch")).expect("a group"))
        });
        let ranks: Vec<_> = ranks.collect();
        ranks.into_iter().map(|rank| rank.join().expect("no panic")).collect()
    })
}

fn ranks_agree_with_the_plain_definition() {
    for _epoch in 0..2 {
        let mut group = join_all(Duration::from_secs(60));
        for len in [0, 1, 1000, 40_000] {
            naive::exercise_all(&mut group, len);
        }
    }
}

fn a_missing_rank_ends_forming_at_its_deadline() {
    let limit = Duration::from_secs(1);
    let began = Instant::now();
    let id = UniqueId::create().expect("an id");
    let error = join(0, 2, id, limit, &AbortSwitch::new().expect("a switch")).err().expect("no group of one rank");
    assert!(matches!(error, CollectiveError::Timeout { .. }), "{error}");
    assert!(began.elapsed() >= limit, "the deadline had not come");
}

fn an_abort_wakes_a_sum() {
    let mut group = join_all(Duration::from_secs(60));
    let mut first = group.remove(0);
    let aborter = first.aborter();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            aborter.abort("a rank was lost");
        });
        let mut data = [1.0_f32; 8];
        let summed = first.all_reduce_sum(SliceMut::F32(&mut data));
        assert_eq!(summed, Err(CollectiveError::Aborted("a rank was lost".into())));
    });
}
