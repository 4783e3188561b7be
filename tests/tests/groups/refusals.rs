//! The process that can know of a fault reports it at once, with the remedy.

use std::net::TcpListener;
use std::path::Path;
use std::process::ExitStatus;

use lockstep_proto::names::role;
use lockstep_tests::certificates::Authority;
use lockstep_tests::client::greedy;
use lockstep_tests::group::{Group, Spec, Way, agent, fixture};
use lockstep_tests::process::{Process, free_port};

/// Runs an agent that must end by itself, and asserts that its output contains `expected`.
fn expect_refusal(name: &str, arguments: &[&str], variables: &[(&str, &str)], expected: &str) -> ExitStatus {
    let mut command = agent();
    command.args(arguments).envs(variables.iter().copied());
    for port in ["LOCKSTEP_HTTP_PORT", "LOCKSTEP_GRPC_PORT"] {
        if !variables.iter().any(|(name, _)| *name == port) {
            command.env(port, "0");
        }
    }
    let mut process = Process::start(name, command);
    let status = process.wait();
    let output = process.all_output();
    assert!(!status.success() && output.contains(expected), "{name}: {status}, not `{expected}` in:\n{output}");
    assert!(!output.contains("panicked"), "{output}");
    status
}

/// Makes a damaged copy of a fixture.
fn spoil_fixture(name: &str, spoil: impl FnOnce(&Path)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for file in std::fs::read_dir(fixture(name)).expect("the fixture").flatten() {
        std::fs::copy(file.path(), folder.path().join(file.file_name())).expect("copy");
    }
    spoil(folder.path());
    folder
}

fn expect_model_refusal(name: &str, expected: &str, spoil: impl FnOnce(&Path)) {
    let folder = spoil_fixture("llama2", spoil);
    let status = expect_refusal(name, &["plain", "-m", folder.path().to_str().expect("UTF-8")], &[], expected);
    assert_eq!(status.code(), Some(2), "{name}: the model can never be served");
}

#[test]
fn damaged_models_are_named() {
    let write = |path: &Path, name: &str, text: &str| std::fs::write(path.join(name), text).expect("write");
    expect_refusal("no folder", &["plain", "-m", "/nowhere/at/all"], &[], "/nowhere/at/all");
    expect_refusal("no such builtin", &["plain", "-m", "builtin://huge"], &[], "huge");
    expect_model_refusal("no config", "config.json", |path| {
        std::fs::remove_file(path.join("config.json")).expect("remove")
    });
    expect_model_refusal("bad config", "config.json", |path| write(path, "config.json", "{"));
    expect_model_refusal("no weights", "model.safetensors", |path| {
        std::fs::remove_file(path.join("model.safetensors")).expect("remove");
    });
    expect_model_refusal("cut weights", "model.safetensors", |path| {
        let file = path.join("model.safetensors");
        let bytes = std::fs::read(&file).expect("read");
        std::fs::write(file, &bytes[..bytes.len() / 2]).expect("write");
    });
    expect_model_refusal("another shape", "gate_proj.weight` in model.safetensors has shape", |path| {
        let file = path.join("config.json");
        let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).expect("read")).expect("JSON");
        config["intermediate_size"] = serde_json::json!(config["intermediate_size"].as_u64().expect("a size") + 1);
        std::fs::write(file, config.to_string()).expect("write");
    });
    expect_model_refusal("bad tokenizer", "tokenizer.json", |path| write(path, "tokenizer.json", "[]"));
    expect_model_refusal("unknown architecture", "MambaForCausalLM", |path| {
        let config = std::fs::read_to_string(path.join("config.json")).expect("read");
        write(path, "config.json", &config.replace("LlamaForCausalLM", "MambaForCausalLM"));
    });
}

/// The head reads no weights, so only a rank can find that a number is wrong. The head ends for the rank's reason.
#[test]
fn numbers_that_only_a_rank_reads_are_named() {
    let folder = spoil_fixture("../quantized/fp8-channel", |path| {
        let file = path.join("model.safetensors");
        let mut bytes = std::fs::read(&file).expect("read");
        let data = 8 + u64::from_le_bytes(*bytes.first_chunk().expect("a length")) as usize;
        let header: serde_json::Value = serde_json::from_slice(&bytes[8..data]).expect("JSON");
        let range = &header["model.layers.1.mlp.up_proj.weight_scale"]["data_offsets"];
        let offset = |index: usize| data + range[index].as_u64().expect("an offset") as usize;
        bytes[offset(0)..offset(1)].fill(0xFF);
        std::fs::write(file, bytes).expect("write");
    });
    let model = folder.path().to_str().expect("UTF-8");
    for command in [vec!["plain", "-m", model], vec!["plain", "-i", "-m", model], vec!["bench", "-m", model]] {
        let expected = "model.layers.1.mlp.up_proj.weight: a scale is not finite";
        let status = expect_refusal(&command.join(" "), &command, &[], expected);
        assert_eq!(status.code(), Some(2), "{command:?}");
    }
}

#[test]
fn groups_that_a_model_does_not_fit_are_refused() {
    let stages = [("MISTRALRS_PIPELINE_PARALLEL", "64"), ("MISTRALRS_MN_LOCAL_WORLD_SIZE", "64")];
    expect_refusal("too many stages", &["plain", "-m", "builtin://tiny"], &stages, "a stage needs at least one");
    let ranks = [("MISTRALRS_PIPELINE_PARALLEL", "2"), ("MISTRALRS_MN_LOCAL_WORLD_SIZE", "64")];
    expect_refusal("too many ranks", &["plain", "-m", "builtin://tiny"], &ranks, "each pipeline stage has 32 ranks");
}

#[test]
fn taken_ports_are_named() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = taken.local_addr().expect("its address").port().to_string();
    let plain = ["plain", "-m", "builtin://tiny", "--host", "127.0.0.1"];
    for variable in ["LOCKSTEP_HTTP_PORT", "LOCKSTEP_GRPC_PORT"] {
        expect_refusal("a client port", &plain, &[(variable, &port)], variable);
    }
    let head = [
        ("MISTRALRS_MN_HEAD_NUM_WORKERS", "1"),
        ("MISTRALRS_MN_HEAD_PORT", &port),
        ("LOCKSTEP_GROUP_HOST", "127.0.0.1"),
    ];
    expect_refusal("the control port", &plain, &head, "MISTRALRS_MN_HEAD_PORT");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_turns_misfits_away() {
    let spec = Spec::new(Way::MultiNode, 3, "builtin://tiny").with("LOCKSTEP_CLUSTER_ID", "right");
    let mut group = Group::prepare(spec);
    group.start_node(0);
    group.client().await;
    let head = format!("127.0.0.1:{}", group.control_port());
    let worker = |id: &str, more: &[(&str, &str)], expected: &str| {
        let mut variables = vec![
            ("MISTRALRS_MN_WORKER_ID", id),
            ("MISTRALRS_MN_WORKER_SERVER_ADDR", head.as_str()),
            ("LOCKSTEP_RING_PORT", "0"),
        ];
        variables.extend(more);
        expect_refusal(expected, &["plain"], &variables, expected);
    };
    worker("2", &[], "there is no node 3");
    worker("0", &[("LOCKSTEP_CLUSTER_ID", "wrong")], "belongs to cluster `wrong`");
    worker("0", &[("MISTRALRS_MN_GLOBAL_WORLD_SIZE", "2")], "world size");
    worker("0", &[("MISTRALRS_MN_LOCAL_WORLD_SIZE", "2")], "MISTRALRS_MN_LOCAL_WORLD_SIZE");
    worker("0", &[("MISTRALRS_PIPELINE_PARALLEL", "3")], "MISTRALRS_PIPELINE_PARALLEL=3, but the head's group has 1");
    let key = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(key.path(), "a key of the group, secret").expect("write");
    worker("0", &[("LOCKSTEP_GROUP_KEY_FILE", key.path().to_str().expect("UTF-8"))], "the head has none");
    let status = group.client().await.status().await.expect("a status");
    assert!(!status.ready && status.pending.iter().any(|line| line.contains("rank 1")), "{:?}", status.pending);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyed_groups_form_and_unkeyed_strangers_stay_out() {
    let key = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(key.path(), "a key of the group, secret").expect("write");
    let spec = Spec::new(Way::MultiNode, 2, "builtin://tiny");
    let mut group = Group::start(spec.with("LOCKSTEP_GROUP_KEY_FILE", key.path().display()));
    group.ready().await;
    let answer = group.client().await.generate(greedy(&[300], 3)).await.expect("an answer");
    assert_eq!(answer.tokens.len(), 3);
    let head = format!("127.0.0.1:{}", group.control_port());
    let stranger = [
        ("MISTRALRS_MN_WORKER_ID", "0"),
        ("MISTRALRS_MN_WORKER_SERVER_ADDR", head.as_str()),
        ("LOCKSTEP_RING_PORT", "0"),
    ];
    expect_refusal("an unkeyed stranger", &["plain"], &stranger, "has a group key");
    assert!(group.ready().await.ready);
}

/// The agent finds faults of certificates before it binds a port.
#[test]
fn unusable_certificates_are_named() {
    let plain = ["plain", "-m", "builtin://tiny", "--host", "127.0.0.1"];
    expect_refusal("no folder", &plain, &[("LOCKSTEP_TLS_DIR", "/nowhere")], "read /nowhere/ca.crt");
    let folder = Authority::new().folder(role::NODE);
    let path = folder.path().to_str().expect("UTF-8");
    expect_refusal("a node's", &plain, &[("LOCKSTEP_TLS_DIR", path)], "tls.crt is not for `head.lockstep`");
    let folder = Authority::new().folder(role::HEAD);
    let path = folder.path().to_str().expect("UTF-8");
    expect_refusal("a head's alone", &plain, &[("LOCKSTEP_TLS_DIR", path)], "tls.crt is not for `node.lockstep`");
    let worker = [
        ("MISTRALRS_MN_WORKER_ID", "0"),
        ("MISTRALRS_MN_WORKER_SERVER_ADDR", "127.0.0.1:1"),
        ("LOCKSTEP_RING_PORT", "0"),
        ("LOCKSTEP_TLS_DIR", path),
    ];
    expect_refusal("no node's", &["plain"], &worker, "tls.crt is not for `node.lockstep`");
}

#[test]
fn a_worker_waits_for_an_absent_head_and_says_so() {
    let mut command = agent();
    let head = format!("127.0.0.1:{}", free_port());
    command.arg("plain").env("MISTRALRS_MN_WORKER_ID", "0").env("MISTRALRS_MN_WORKER_SERVER_ADDR", &head);
    command.env("LOCKSTEP_RING_PORT", "0").env("LOCKSTEP_GROUP_HOST", "127.0.0.1");
    let mut worker = Process::start("worker", command);
    worker.await_output("no stream to the head");
    assert!(worker.all_output().contains(&head), "{}", worker.all_output());
    worker.signal("TERM");
    assert!(worker.wait().success());
}
