//! Whole groups that serve a model of a hub.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use lockstep_proto::v1::Phase;
use lockstep_tests::client::{Answer, greedy};
use lockstep_tests::group::{Group, Spec, Way, fixture};
use lockstep_tests::hub::{COMMIT, Hub, Trick};
use lockstep_tests::manifests;
use lockstep_tests::process::{LONGEST_WAIT, Process, program};

const PROMPT: [u32; 4] = [5, 17, 40, 8];

pub async fn answer(group: &mut Group) -> Answer {
    group.ready().await;
    group.client().await.generate(greedy(&PROMPT, 24)).await.expect("an answer")
}

pub fn spec(world_size: usize, model: &str, hub: &Hub, home: &Path) -> Spec {
    Spec::new(Way::MultiNode, world_size, model)
        .with("LOCKSTEP_DTYPE", "f32")
        .with("HF_ENDPOINT", hub.endpoint())
        .with("HF_HOME", home.display())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_ranks_from_a_hub_answer_as_from_the_folder() {
    let folder = fixture("llama3-sharded");
    let expected = answer(&mut Group::start(Spec::new(Way::MultiNode, 2, &folder).with("LOCKSTEP_DTYPE", "f32"))).await;

    let hub = Hub::start("org/name", Path::new(&folder)).await;
    hub.add("consolidated.safetensors", vec![0; 5000]);
    hub.play_storage("model-00002", 3, Trick::Cut(2000));
    let homes = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut spec = spec(2, "org/name", &hub, homes[0].path());
    // The worker has a cache of its own, as on another machine.
    spec.node_variables.push(("HF_HOME".into(), homes[1].path().display().to_string()));
    let mut group = Group::start(spec);
    assert_eq!(answer(&mut group).await, expected);
    assert_eq!(group.ready().await.model, "name");
    let asked = hub.asked();
    let listed = asked.iter().filter(|asked| asked.path.starts_with("/api/")).count();
    assert_eq!(listed, 1, "the head alone asks what main is");
    let paths: BTreeSet<&str> = asked.iter().map(|asked| asked.path.as_str()).collect();
    assert!(!paths.iter().any(|path| path.contains("consolidated")), "the index names other files: {paths:?}");
    let snapshot = |home: &Path| home.join("hub/models--org--name/snapshots").join(COMMIT);
    let tokenizer = |home: &Path| snapshot(home).join("tokenizer.json").exists();
    assert!(tokenizer(homes[0].path()) && !tokenizer(homes[1].path()), "ranks need no tokenizer");
    drop(group);

    // All files are in the caches, so a group starts without the hub. The revision is now the commit that the branch
    // named.
    let mut spec = self::spec(2, "hf://org/name", &hub, homes[0].path());
    spec = spec.with("HF_HUB_OFFLINE", 1).with("LOCKSTEP_MODEL_REVISION", COMMIT);
    assert_eq!(answer(&mut Group::start(spec)).await, expected);
    assert_eq!(hub.asked(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_is_reported_and_outlives_its_head() {
    let hub = Hub::start("org/name", Path::new(&fixture("llama3-sharded"))).await;
    let home = tempfile::tempdir().unwrap();
    let mut spec = spec(2, "org/name", &hub, home.path());
    let worker_home = tempfile::tempdir().unwrap();
    spec.node_variables.push(("HF_HOME".into(), worker_home.path().display().to_string()));
    let mut group = Group::prepare(spec);
    group.start_node(0);
    group.client().await;
    // The download takes twenty seconds, unless the tricks are forgotten before.
    hub.play_storage("model-00002", 1000, Trick::Slow(Duration::from_millis(200)));
    group.start_node(1);
    let status = group
        .await_status("a download", |status| {
            let halfway = |rank: &lockstep_proto::v1::RankStatus| {
                rank.phase() == Phase::Downloading && rank.bytes_loaded > 0 && rank.bytes_loaded < rank.bytes_total
            };
            status.ranks.iter().any(|rank| rank.rank == 1 && halfway(rank))
        })
        .await;
    assert!(status.pending.iter().any(|line| line.contains("Downloading ") && line.contains('%')), "{status:?}");
    let pid = status.ranks[1].pid;
    group.nodes[0].as_mut().expect("the head").kill();
    group.nodes[0].as_mut().expect("the head").wait();
    group.start_node(0);
    hub.forget_tricks();
    let status = group.ready().await;
    assert_eq!(status.ranks[1].pid, pid, "the worker went on");
}

/// `script` gives the head a terminal. The terminal echoes typed text, and the newline ends the line that the head
/// writes over and over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_shows_the_progress_of_a_download() {
    let hub = Hub::start("org/name", Path::new(&fixture("llama3-sharded"))).await;
    let home = tempfile::tempdir().unwrap();
    hub.play_storage("model-00002", 1000, Trick::Slow(Duration::from_millis(30)));
    let line = format!("exec {} -i plain -m org/name", program("lockstep-agent").display());
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--flush", "--command", &line, "/dev/null"]);
    command.env("HF_ENDPOINT", hub.endpoint()).env("HF_HOME", home.path()).env_remove("HF_HUB_OFFLINE");
    command.env("HOME", home.path());
    let mut head = Process::start("a head in a terminal", command);
    let began = Instant::now();
    while !head.all_output().contains("waiting for rank 0 (node 0) Downloading ") {
        assert!(head.is_running() && began.elapsed() < LONGEST_WAIT, "{}", head.all_output());
        head.write_line("");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_head_names_a_missing_model() {
    let hub = Hub::start("org/name", Path::new(&fixture("llama2"))).await;
    let home = tempfile::tempdir().unwrap();
    let mut group = Group::start(spec(1, "org/other", &hub, home.path()));
    let head = group.nodes[0].as_mut().expect("the head");
    assert!(!head.wait().success());
    let output = head.all_output();
    assert!(output.contains("read the model hf://org/other") && output.contains("none of that name"), "{output}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lockstep_up_takes_a_model_of_the_hub() {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/engine/builtin/tiny");
    let hub = Hub::start("org/small", &tiny).await;
    let home = tempfile::tempdir().unwrap();
    let manifest = home.path().join("cluster.yaml");
    let spec = "{ model: { source: 'hf://org/small', revision: main }, workers: 1 }";
    std::fs::write(&manifest, manifests::cluster("small", spec)).unwrap();
    let mut command = Command::new(program("lockstep"));
    command.arg("up").arg(&manifest).args(["--prompt", "What happens when a worker dies?", "--temperature", "0"]);
    command.env("LOCKSTEP_AGENT", program("lockstep-agent"));
    command.env("HF_ENDPOINT", hub.endpoint()).env("HF_HOME", home.path()).env_remove("HF_HUB_OFFLINE");
    let mut up = Process::start("lockstep up", command);
    let status = up.wait();
    let output = up.all_output();
    assert!(status.success(), "{output}");
    for part in ["small serves on 2 ranks", "head", "tokens/s"] {
        assert!(output.contains(part), "no `{part}` in:\n{output}");
    }
}
