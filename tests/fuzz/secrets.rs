//! Certificates and keys: the files of an agent, and the Secrets of an operator.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use futures::StreamExt as _;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use lockstep_agent::auth::{GroupKey, Side};
use lockstep_agent::tls::{Tls, accept_connections, connect};
use lockstep_collectives::ring;
use lockstep_operator::certificates::{CertificateRole, data, decide_secrets, secret_name};
use lockstep_operator::heads::Credentials;
use lockstep_operator::plan::ClusterNames;
use lockstep_operator::reconcile::validate::{Defaults, Validated, validate};
use lockstep_proto::names::role;
use lockstep_proto::v1::GetStatusRequest;
use lockstep_proto::v1::cluster_client::ClusterClient;
use lockstep_tests::certificates::{Authority, write_secret};
use lockstep_tests::manifests;
use tempfile::{NamedTempFile, TempDir};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tonic::transport::Channel;

use crate::block_on;
use crate::driver::END_TIMEOUT;
use crate::parts::{expand_part, split_parts};

/// Longest error.
const BRIEF: usize = 1024;
/// Time at which the operator looks at the Secrets, in seconds of Unix time.
const NOW: i64 = 1_700_000_000;
/// Number of looks after which all Secrets must be in order: a new CA arrives in steps.
const LOOKS: usize = 4;

/// Reads the files of `LOCKSTEP_TLS_DIR`: `ca.crt`, `tls.crt`, `tls.key`. A file that the input leaves out is good. One
/// agent reads the files at its start, another one while it has good files.
pub fn tls_files(bytes: &[u8]) {
    let folder = authority().folder(role::HEAD);
    let served = Arc::new(Tls::open(folder.path(), role::HEAD).expect("good files"));
    for (name, part) in ["ca.crt", "tls.crt", "tls.key"].into_iter().zip(split_parts(bytes)) {
        write_secret(&folder.path().join(name), &expand_part(part));
    }
    match Tls::open(folder.path(), role::HEAD).map(Arc::new) {
        // The handshake decides if the files suit each other.
        Ok(opened) => drop(block_on(connect_pair(&served, &opened))),
        Err(error) => {
            assert!(error.to_string().len() < BRIEF, "{error}");
            block_on(connect_pair(&served, &good_node())).expect("the agent keeps the good files");
        }
    }
}

/// Reads the file of `LOCKSTEP_GROUP_KEY_FILE`.
pub fn group_key(bytes: &[u8]) {
    let file = write_temp_file(&expand_part(bytes));
    match GroupKey::read_file(file.path()) {
        Ok(key) => {
            ring::LinkKey::new(key.bytes()).expect("the ring accepts each key that control streams accept");
            let proof = key.prove(Side::Node, "fuzz", b"node", b"head");
            assert!(key.accepts(&proof, Side::Node, "fuzz", b"node", b"head"));
        }
        Err(error) => assert!(error.to_string().len() < BRIEF, "{error}"),
    }
}

/// Gives the operator a cluster's Secrets. Each part of the input is one entry, after a line with its role and key.
pub fn secrets(bytes: &[u8]) {
    let names = ClusterNames::new(&cluster().identity.name);
    let mut held: Vec<Secret> = Vec::new();
    for part in split_parts(bytes) {
        let text = String::from_utf8_lossy(part);
        let Some((role, key)) = text.lines().next().and_then(|line| line.split_once(' ')) else { continue };
        let Some(role) = CertificateRole::ALL.into_iter().find(|known| known.as_str() == role) else { continue };
        let value = part.iter().position(|byte| *byte == b'\n').map_or(&[][..], |end| &part[end + 1..]);
        edit_secret(&mut held, &secret_name(&names, role)).insert(key.to_owned(), ByteString(expand_part(value)));
    }
    read_credentials(&held, &secret_name(&names, CertificateRole::Operator)).ok();
    let now = Timestamp::from_second(NOW).expect("a time");
    for look in 0.. {
        let decision = decide_secrets(&cluster().identity, &held, now).expect("the operator can make Secrets");
        assert!(decision.look_again > now);
        if decision.write.is_empty() {
            break;
        }
        assert!(look < LOOKS, "the operator writes at each look");
        for secret in decision.write {
            held.retain(|old| old.metadata.name != secret.metadata.name);
            held.push(secret);
        }
    }
    read_credentials(&held, &secret_name(&names, CertificateRole::Operator))
        .expect("the operator can use the Secrets that it makes");
    for (role, name) in [(CertificateRole::Head, role::HEAD), (CertificateRole::Node, role::NODE)] {
        let secret = held.iter().find(|secret| secret.metadata.name == Some(secret_name(&names, role)));
        assert_usable(secret.expect("each role has a Secret"), name);
    }
}

/// Asserts that an agent accepts the files that a pod's Secret holds.
fn assert_usable(secret: &Secret, role: &'static str) {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, value) in secret.data.iter().flatten() {
        write_secret(&folder.path().join(name), &value.0);
    }
    Tls::open(folder.path(), role).expect("files that agents accept");
    GroupKey::read_file(&folder.path().join(data::GROUP_KEY)).expect("a key that agents accept");
}

fn read_credentials(held: &[Secret], name: &str) -> Result<Credentials, Box<dyn std::error::Error>> {
    let secret = held.iter().find(|secret| secret.metadata.name.as_deref() == Some(name));
    let data = secret.and_then(|secret| secret.data.clone()).unwrap_or_default();
    let bytes = |key: &str| data.get(key).map(|value| value.0.as_slice()).unwrap_or_default();
    Ok(Credentials::new(bytes(data::CA_CERTIFICATE), bytes(data::CERTIFICATE), bytes(data::KEY))?)
}

/// Returns the data of the Secret `name`, and makes the Secret if it is missing.
fn edit_secret<'a>(held: &'a mut Vec<Secret>, name: &str) -> &'a mut BTreeMap<String, ByteString> {
    let at = held.iter().position(|secret| secret.metadata.name.as_deref() == Some(name)).unwrap_or_else(|| {
        let mut secret = Secret::default();
        secret.metadata.name = Some(name.to_owned());
        held.push(secret);
        held.len() - 1
    });
    held[at].data.get_or_insert_default()
}

fn cluster() -> &'static Validated {
    static CLUSTER: OnceLock<Validated> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let manifest = manifests::cluster("llama", "{ model: { source: 'builtin://tiny' } }");
        let mut cluster = lockstep_operator::resource::parse(&manifest, "fuzz").expect("a cluster");
        cluster.metadata.uid = Some("6d1e".into());
        validate(&cluster, &Defaults { agent_image: "agent:1".into(), operator_pods: None }).expect("a cluster")
    })
}

pub fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(Authority::new)
}

/// Returns a caller with good files.
pub fn good_node() -> Arc<Tls> {
    static NODE: OnceLock<(TempDir, Arc<Tls>)> = OnceLock::new();
    let opened = NODE.get_or_init(|| {
        let folder = authority().folder(role::NODE);
        let tls = Arc::new(Tls::open(folder.path(), role::NODE).expect("good files"));
        (folder, tls)
    });
    Arc::clone(&opened.1)
}

/// Opens one connection. The error names the end at which it failed.
async fn connect_pair(server: &Arc<Tls>, caller: &Arc<Tls>) -> Result<(), String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("its address"));
    let mut accepted = accept_connections(listener, Some(Arc::clone(server)));
    let endpoint = Channel::from_shared(endpoint).expect("an address");
    let called = async {
        let channel = connect(&endpoint, Arc::clone(caller)).await.map_err(|error| format!("{error:?}"))?;
        // A caller learns that its certificate was refused only when it reads an answer.
        ClusterClient::new(channel).get_status(GetStatusRequest {}).await.map(drop).map_err(|error| error.to_string())
    };
    let met = async {
        tokio::select! {
            biased;
            accepted = accepted.next() => accepted.map(drop).ok_or_else(|| "the port accepts no caller".to_owned()),
            called = called => called,
        }
    };
    timeout(END_TIMEOUT, met).await.expect("a handshake does not end")
}

/// Writes a temporary file.
pub fn write_temp_file(bytes: &[u8]) -> NamedTempFile {
    let file = NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), bytes).expect("write");
    file
}
