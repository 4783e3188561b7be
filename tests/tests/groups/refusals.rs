//! The process that can know of a fault reports it at once, with the remedy.

use std::fs::Permissions;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, ExitStatus};

use lockstep_proto::names::role;
use lockstep_tests::certificates::{Authority, write_secret};
use lockstep_tests::client::greedy;
use lockstep_tests::group::{Group, Spec, Way, agent};
use lockstep_tests::manifests;
use lockstep_tests::process::{Process, free_port, program};
use lockstep_tests::wrong_models::WRONG_MODELS;

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

#[test]
fn sources_that_name_no_model_are_named() {
    expect_refusal("no folder", &["plain", "-m", "/nowhere/at/all"], &[], "/nowhere/at/all");
    expect_refusal("no such builtin", &["plain", "-m", "builtin://huge"], &[], "huge");
}

/// A process whose model can never be served ends with the status of a wrong command line, whatever it was asked for.
#[test]
fn damaged_models_end_every_program() {
    let folder = tempfile::tempdir().expect("a folder");
    std::thread::scope(|scope| {
        for wrong in WRONG_MODELS {
            let model = folder.path().join(wrong.name);
            wrong.write(&model);
            scope.spawn(move || {
                let model = model.to_str().expect("UTF-8");
                for command in
                    [vec!["plain", "-m", model], vec!["plain", "-i", "-m", model], vec!["bench", "-m", model]]
                {
                    let status = expect_refusal(&command.join(" "), &command, &[], wrong.words);
                    assert_eq!(status.code(), Some(2), "{command:?}");
                }
                expect_up_refusal(wrong.name, model, wrong.words);
            });
        }
    });
}

/// Runs `lockstep up` with a model that can never be served.
fn expect_up_refusal(name: &str, model: &str, expected: &str) {
    let manifest = tempfile::NamedTempFile::new().expect("a file");
    let spec = format!("{{ model: {{ source: 'file://{model}' }}, workers: 1 }}");
    std::fs::write(manifest.path(), manifests::cluster(name, &spec)).expect("write");
    let mut command = Command::new(program("lockstep"));
    command.arg("up").arg(manifest.path()).env("LOCKSTEP_AGENT", program("lockstep-agent"));
    let mut process = Process::start(format!("lockstep up {name}"), command);
    let status = process.wait();
    let output = process.all_output();
    assert!(status.code() == Some(2) && output.contains(expected), "{status}, not `{expected}` in:\n{output}");
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

/// Head and node read their secrets before they bind a port.
#[test]
fn secrets_that_other_users_can_read_are_refused() {
    let folder = Authority::new().folder(role::HEAD);
    let at = |name: &str| folder.path().join(name).display().to_string();
    let (key, keys, certificate) = (at("tls.key"), at("keys"), at("tls.crt"));
    write_secret(keys.as_ref(), b"one\n");
    let worker = [
        ("MISTRALRS_MN_WORKER_ID", "0"),
        ("MISTRALRS_MN_WORKER_SERVER_ADDR", "127.0.0.1:1"),
        ("LOCKSTEP_GROUP_KEY_FILE", key.as_str()),
    ];
    let head = ["plain", "-m", "builtin://tiny", "--host", "127.0.0.1"];
    type Case<'a> = (&'a str, &'a [&'a str], &'a [(&'a str, &'a str)]);
    let cases: [Case<'_>; 5] = [
        (&key, &head, &[("LOCKSTEP_GROUP_KEY_FILE", &key)]),
        (&key, &["plain"], &worker),
        (&key, &head, &[("LOCKSTEP_TLS_DIR", folder.path().to_str().expect("UTF-8"))]),
        (&key, &head, &[("LOCKSTEP_SSL_CERTFILE", &certificate), ("LOCKSTEP_SSL_KEYFILE", &key)]),
        (&keys, &head, &[("LOCKSTEP_API_KEY_FILE", &keys)]),
    ];
    for (secret, arguments, variables) in cases {
        std::fs::set_permissions(secret, Permissions::from_mode(0o640)).expect("a mode");
        let expected = format!("read {secret}: its mode 0640 gives other users access to it; run `chmod 600 {secret}`");
        let expected = match variables.last() {
            Some(("LOCKSTEP_GROUP_KEY_FILE", _)) => expected.replacen("read", "read the group's key", 1),
            Some(("LOCKSTEP_API_KEY_FILE", _)) => expected.replacen("read", "read the API keys of", 1),
            _ => expected,
        };
        expect_refusal("an exposed secret", arguments, variables, &expected);
    }
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
