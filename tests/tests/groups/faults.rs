//! Ranks die, hang and come back under load. No stream ends, and every stream has the tokens of an undisturbed run.

use std::time::{Duration, Instant};

use lockstep_proto::v1::{ClusterStatus, Phase};
use lockstep_tests::client::{Answer, Answers, Client, greedy, sampled};
use lockstep_tests::group::{Group, Spec, Way, fixture};
use lockstep_tests::process::{LONGEST_WAIT, children, is_alive, signal_process};

const MODEL: &str = "builtin://tiny";
/// Number of requests that run while ranks are killed: greedy and sampled ones, of several lengths.
const STREAMS: u64 = 6;
const TOKENS: u32 = 600;

fn request(stream: u64) -> lockstep_proto::v1::GenerateRequest {
    let prompt: Vec<u32> = (0..5 + 11 * stream as u32).map(|i| 300 + (i * 7 + stream as u32 * 31) % 900).collect();
    if stream.is_multiple_of(2) { greedy(&prompt, TOKENS) } else { sampled(&prompt, TOKENS, stream) }
}

/// Begins the answers to all of these requests.
fn answers(client: &Client) -> Answers {
    Answers::begin(client, (0..STREAMS).map(request))
}

/// Returns all answers, and the same ones again as they begin to come.
async fn load(group: &mut Group) -> (Vec<Answer>, Answers) {
    let client = group.client().await;
    let undisturbed = answers(&client).all().await.expect("answers");
    let streams = answers(&client);
    streams.await_tokens(300).await;
    (undisturbed, streams)
}

/// Starts a node again whose process died, as its supervisor would.
async fn replace(group: &mut Group, node: usize) {
    group.nodes[node].as_mut().expect("a process").wait();
    group.start_node(node);
}

fn read_by(status: &ClusterStatus, rank: u32) -> u64 {
    status.ranks.iter().find(|line| line.rank == rank).expect("a rank").bytes_read
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_kills_under_load_lose_nothing() {
    let mut group = Group::start(Spec::new(Way::MultiNode, 3, MODEL).with("LOCKSTEP_DTYPE", "f32"));
    let before = group.ready().await;
    let client = group.client().await;
    let undisturbed = answers(&client).all().await.expect("answers");
    for kill in 0..10 {
        let victim = 1 + kill % 2;
        let streams = answers(&client);
        streams.await_tokens(10 + 150 * kill).await;
        group.nodes[victim].as_mut().expect("a process").kill();
        replace(&mut group, victim).await;
        let disturbed = streams.all().await.expect("answers");
        assert_eq!(disturbed, undisturbed, "kill {kill} of node {victim}");
    }
    let after = group.await_status("ten recoveries", |status| status.ready && status.recoveries >= 10).await;
    assert_eq!(after.recoveries - before.recoveries, 10);
    assert_eq!(read_by(&after, 0), read_by(&before, 0), "rank 0 has read its weights once");
}

/// Returns how often all ranks have joined an epoch, by the head's log.
fn joins(group: &Group) -> usize {
    group.nodes[0].as_ref().expect("a head").all_output().matches("all ranks have joined").count()
}

/// The worker dies each time before the ranks have computed a token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rank_in_a_crash_loop_costs_no_request() {
    let mut group = Group::start(Spec::new(Way::MultiNode, 2, MODEL).with("LOCKSTEP_DTYPE", "f32"));
    group.ready().await;
    let (undisturbed, streams) = load(&mut group).await;
    for _ in 0..12 {
        let before = joins(&group);
        group.nodes[1].as_mut().expect("a process").kill();
        replace(&mut group, 1).await;
        let began = Instant::now();
        while joins(&group) == before {
            assert!(began.elapsed() < LONGEST_WAIT, "the ranks do not join");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    assert_eq!(streams.all().await.expect("answers"), undisturbed);
}

/// A request whose logits are not finite ends alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poisonous_request_ends_and_the_others_go_on() {
    const POISON: u32 = 251;
    let model = tempfile::tempdir().expect("a folder");
    poison_token(model.path(), POISON);
    let mut group = Group::start(Spec::new(Way::MultiNode, 2, model.path().display().to_string()));
    let before = group.ready().await;
    let client = group.client().await;
    let requests = || (0..4).map(|stream| greedy(&[20 + stream, 30, 40], 60));
    let undisturbed = Answers::begin(&client, requests()).all().await.expect("answers");
    let streams = Answers::begin(&client, requests());
    streams.await_tokens(4).await;
    let error = group.client().await.generate(greedy(&[20, POISON], 60)).await.expect_err("logits that are no numbers");
    assert_eq!(error.code(), tonic::Code::Internal);
    assert!(error.message().contains("not finite"), "{error:?}");
    assert_eq!(streams.all().await.expect("answers"), undisturbed);
    let after = group.ready().await;
    assert_eq!(after.recoveries, before.recoveries + 1);
    assert_eq!(after.ranks[1].pid, before.ranks[1].pid);
}

/// Writes a copy of a small model to `folder` in which the embedding of a token is not a number.
fn poison_token(folder: &std::path::Path, token: u32) {
    for file in std::fs::read_dir(fixture("llama2")).expect("a fixture") {
        let file = file.expect("a file").path();
        std::fs::copy(&file, folder.join(file.file_name().expect("a name"))).expect("copy");
    }
    let file = folder.join("model.safetensors");
    let mut bytes = std::fs::read(&file).expect("read");
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).expect("a header");
    let table = &header["model.embed_tokens.weight"];
    let number = |value: &serde_json::Value| value.as_u64().expect("a number") as usize;
    let (begin, end) = (number(&table["data_offsets"][0]), number(&table["data_offsets"][1]));
    let row = (end - begin) / number(&table["shape"][0]);
    let at = 8 + length + begin + token as usize * row;
    bytes[at..at + row].fill(0xFF);
    std::fs::write(&file, bytes).expect("write");
}

/// The test kills a rank of the last stage, which samples, and of the first stage, which embeds, in turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rank_of_each_stage_dies_and_streams_go_on() {
    let spec = Spec::new(Way::MultiNode, 4, MODEL).with("LOCKSTEP_DTYPE", "f32");
    let mut group = Group::start(spec.with("MISTRALRS_PIPELINE_PARALLEL", 2));
    let before = group.ready().await;
    assert_eq!((before.pipeline_parallel_size, before.tensor_parallel_size), (2, 2));
    let client = group.client().await;
    let undisturbed = answers(&client).all().await.expect("answers");
    for victim in [3, 1] {
        let streams = answers(&client);
        streams.await_tokens(300).await;
        group.nodes[victim].as_mut().expect("a process").kill();
        replace(&mut group, victim).await;
        assert_eq!(streams.all().await.expect("answers"), undisturbed, "after the death of node {victim}");
    }
    let after = group.await_status("two recoveries", |status| status.ready && status.recoveries >= 2).await;
    assert_eq!(read_by(&after, 2), read_by(&before, 2), "rank 2 has read its weights once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_heads_own_rank_is_replaced_by_the_head() {
    let mut group = Group::start(Spec::new(Way::MultiNode, 2, MODEL).with("LOCKSTEP_DTYPE", "f32"));
    let before = group.ready().await;
    let (undisturbed, streams) = load(&mut group).await;
    signal_process(before.ranks[0].pid, "KILL");
    assert_eq!(streams.all().await.expect("answers"), undisturbed);
    let killed = before.ranks[0].pid;
    let after = group.await_status("a new rank 0", |status| status.ready && status.ranks[0].pid != killed).await;
    assert_eq!(after.recoveries, before.recoveries + 1);
    assert_eq!(read_by(&after, 1), read_by(&before, 1), "the worker has read its weights once");
    assert_eq!(after.ranks[1].pid, before.ranks[1].pid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_worker_is_noticed_and_ends_when_another_has_its_place() {
    let mut group = Group::start(Spec::new(Way::MultiNode, 2, MODEL));
    let before = group.ready().await;
    let worker = group.nodes[1].as_ref().expect("a worker").id();
    signal_process(worker, "STOP");
    let suspect = group.await_status("the suspicion", |status| !status.ready).await;
    assert_eq!((suspect.ranks[1].phase(), suspect.epoch), (Phase::Serving, before.epoch), "{:?}", suspect.pending);
    assert!(suspect.accepting, "the group still takes requests");
    let told = |line: &String| line.starts_with("rank 1 (node 1) Serving: no heartbeat for 0.8 s");
    assert!(suspect.pending.iter().any(told), "{:?}", suspect.pending);
    // A newer process takes the node's place while the old process sleeps. When the old process wakes, the head tells
    // it to end.
    let stopped = group.nodes[1].take();
    group.start_node(1);
    let newer = group.nodes[1].as_ref().expect("a worker").id();
    let after = group.await_status("a new epoch", |status| status.ready && status.epoch > before.epoch).await;
    assert_eq!(after.ranks[1].pid, newer, "the newcomer has the place at its first try");
    let mut stopped = stopped.expect("a worker");
    stopped.signal("CONT");
    assert!(!stopped.wait().success());
    assert!(group.ready().await.ready);
}

/// A process that is short of CPU, or paused, holds its step up and no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_waits_for_ranks_that_pause() {
    let mut group = Group::start(Spec::new(Way::MultiNode, 2, MODEL).with("LOCKSTEP_DTYPE", "f32"));
    let before = group.ready().await;
    let client = group.client().await;
    let undisturbed = answers(&client).all().await.expect("answers");
    let own = children(group.nodes[0].as_ref().expect("a head").id());
    let worker = group.nodes[1].as_ref().expect("a worker").id();
    for paused in [vec![worker], own.clone(), [own, vec![worker]].concat()] {
        let streams = answers(&client);
        streams.await_tokens(300).await;
        paused.iter().for_each(|pid| signal_process(*pid, "STOP"));
        group.await_status("the suspicion", |status| !status.ready).await;
        tokio::time::sleep(Duration::from_millis(700)).await;
        paused.iter().for_each(|pid| signal_process(*pid, "CONT"));
        assert_eq!(streams.all().await.expect("answers"), undisturbed);
    }
    let after = group.ready().await;
    assert_eq!((after.epoch, after.recoveries), (before.epoch, before.recoveries));
}

/// A head that is cut off or stopped for a while loses its nodes, and they keep their weights.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_dial_again_when_the_head_is_silent() {
    let mut group = Group::start(Spec::new(Way::MultiNode, 2, MODEL).with("LOCKSTEP_DTYPE", "f32"));
    let before = group.ready().await;
    let (undisturbed, streams) = load(&mut group).await;
    let head = group.nodes[0].as_ref().expect("a head").id();
    signal_process(head, "STOP");
    tokio::time::sleep(Duration::from_secs(6)).await;
    signal_process(head, "CONT");
    assert_eq!(streams.all().await.expect("answers"), undisturbed);
    let after = group.await_status("a new epoch", |status| status.ready && status.epoch > before.epoch).await;
    for rank in 0..2 {
        let (then, now) = (&before.ranks[rank], &after.ranks[rank]);
        assert_eq!((now.pid, now.bytes_read), (then.pid, then.bytes_read), "rank {rank}");
    }
}

/// Nobody else can kill the head's own ranks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_heads_own_ranks_are_killed_when_they_hang() {
    let mut group = Group::start(Spec::new(Way::MultiNode, 2, MODEL));
    let before = group.ready().await;
    signal_process(before.ranks[0].pid, "STOP");
    let hung = before.ranks[0].pid;
    let after = group.await_status("a new rank 0", |status| status.ready && status.ranks[0].pid != hung).await;
    assert!(!is_alive(hung));
    assert_eq!(after.ranks[1].pid, before.ranks[1].pid);
}

/// Nobody takes the place of a worker that is silent for a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_was_silent_comes_back_with_its_weights() {
    let mut group = Group::start(Spec::new(Way::MultiNode, 2, MODEL));
    let before = group.ready().await;
    let worker = group.nodes[1].as_ref().expect("a worker").id();
    signal_process(worker, "STOP");
    group.await_status("the loss", |status| status.ranks[1].phase() == Phase::Lost).await;
    signal_process(worker, "CONT");
    let after = group.await_status("a new epoch", |status| status.ready && status.epoch > before.epoch).await;
    assert_eq!((after.ranks[1].pid, after.recoveries), (worker, before.recoveries + 1));
    assert_eq!(read_by(&after, 1), read_by(&before, 1), "the worker has read its weights once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_head_leaves_no_orphan() {
    let mut group = Group::start(Spec::new(Way::MultiNode, 2, MODEL));
    group.ready().await;
    let mut stream = group.client().await.stream(greedy(&[300, 301], 900)).await.expect("a stream");
    let head = group.nodes[0].as_mut().expect("a head");
    let own = children(head.id());
    assert_eq!(own.len(), 1, "the head's own rank");
    assert!(stream.message().await.expect("a first message").is_some());
    head.kill();
    while stream.message().await.is_ok_and(|part| part.is_some()) {}
    let began = Instant::now();
    while own.iter().any(|pid| is_alive(*pid)) {
        assert!(began.elapsed() < LONGEST_WAIT, "the head's rank outlives it");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The worker keeps its weights and serves the next head.
    let worker = group.nodes[1].as_ref().expect("a worker").id();
    group.start_node(0);
    let status = group.ready().await;
    assert_eq!(status.ranks[1].pid, worker);
    let prompt = [300, 301, 302];
    let answer = group.client().await.generate(greedy(&prompt, 4)).await.expect("an answer");
    assert_eq!(answer.tokens.len(), 4);
}

/// In a ring a new rank knows only its right neighbour. The neighbour tells it the head's address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranks_and_head_come_back_into_a_ring() {
    for way in [Way::Ring, Way::RingConfig] {
        let mut group = Group::start(Spec::new(way, 3, MODEL).with("LOCKSTEP_DTYPE", "f32"));
        group.ready().await;
        let undisturbed = group.client().await.generate(request(0)).await.expect("an answer");
        for node in [2, 0, 1] {
            let before = group.ready().await.epoch;
            group.nodes[node].as_mut().expect("a process").kill();
            replace(&mut group, node).await;
            group.await_status("a new epoch", |status| status.ready && status.epoch > before).await;
            let answer = group.client().await.generate(request(0)).await.expect("an answer");
            assert_eq!(answer, undisturbed, "{way:?}, node {node}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_finishes_running_requests() {
    let mut group = Group::start(Spec::new(Way::MultiNode, 2, MODEL));
    group.ready().await;
    let mut client = group.client().await;
    let mut stream = client.stream(greedy(&[300, 301], 100)).await.expect("a stream");
    let mut tokens = stream.message().await.expect("a message").map_or(0, |part| part.token_ids.len());
    group.nodes[0].as_ref().expect("a head").signal("TERM");
    while let Some(part) = stream.message().await.expect("no error") {
        tokens += part.token_ids.len();
    }
    assert_eq!(tokens, 100);
    for node in group.nodes.iter_mut().flatten() {
        let status = node.wait();
        assert!(status.success(), "{}: {status}\n{}", node.name, node.all_output());
    }
}

/// A supervisor of their own starts workers and head, as the kubelet does. Then a head's end costs no weights.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_outlive_a_head_that_is_told_to_stop() {
    let mut group = Group::start(Spec::new(Way::MultiNode, 2, MODEL).with("LOCKSTEP_FOLLOW_PARENT", "0"));
    let before = group.ready().await;
    for _ in 0..3 {
        let head = group.nodes[0].as_mut().expect("a head");
        head.signal("TERM");
        assert!(head.wait().success(), "{}", head.all_output());
        group.start_node(0);
        let after = group.ready().await;
        assert_eq!(after.ranks[1].pid, before.ranks[1].pid);
        assert_eq!(read_by(&after, 1), read_by(&before, 1), "the worker has read its weights once");
    }
    let worker = group.nodes[1].as_mut().expect("a worker");
    worker.signal("TERM");
    assert!(worker.wait().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_cannot_go_on_gets_an_error() {
    let spec = Spec::new(Way::MultiNode, 2, MODEL).with("LOCKSTEP_RECOVERY_TIMEOUT", "2s");
    let mut group = Group::start(spec);
    group.ready().await;
    let streams = answers(&group.client().await);
    streams.await_tokens(10).await;
    group.nodes[1].as_mut().expect("a worker").kill();
    let error = streams.all().await.expect_err("no worker came back");
    assert_eq!(error.code(), tonic::Code::Unavailable, "{error:?}");
    assert!(error.metadata().contains_key("retry-after"), "{error:?}");
    let status = group.await_status("the head's refusal", |status| !status.accepting).await;
    assert!(!status.ready);
    group.nodes[1] = None;
    group.start_node(1);
    assert!(group.ready().await.accepting);
}
