//! Nodes that have the group's key and lie, and handshakes that somebody else plays again.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use futures::channel::mpsc::{UnboundedSender, unbounded};
use lockstep_agent::auth::{GroupKey, Side};
use lockstep_proto::node::control_client::ControlClient;
use lockstep_proto::node::{Answer, Challenge, FromHead, FromNode, Hello, WIRE_VERSION, from_head, from_node};
use lockstep_tests::client::greedy;
use lockstep_tests::group::{Group, Spec, Way};
use tempfile::NamedTempFile;
use tonic::{Code, Status, Streaming};

/// A stream to a head from something that is no agent.
struct Impostor {
    outbound: UnboundedSender<FromNode>,
    inbound: Streaming<FromHead>,
}

impl Impostor {
    async fn attach(group: &Group, hello: Hello) -> Self {
        let url = format!("http://127.0.0.1:{}", group.control_port());
        let mut client = ControlClient::connect(url).await.expect("a connection");
        let (outbound, messages) = unbounded();
        send(&outbound, from_node::Message::Hello(hello));
        Self { outbound, inbound: client.attach(messages).await.expect("a stream").into_inner() }
    }

    async fn next(&mut self) -> Result<from_head::Message, Status> {
        Ok(self.inbound.message().await?.and_then(|envelope| envelope.message).expect("a message"))
    }

    async fn challenge(&mut self) -> Challenge {
        match self.next().await.expect("a challenge") {
            from_head::Message::Challenge(challenge) => challenge,
            other => panic!("{other:?}"),
        }
    }

    /// Sends a proof, and asserts that the head does not believe it.
    async fn fail_to_prove(mut self, proof: Vec<u8>) {
        send(&self.outbound, from_node::Message::Answer(Answer { proof }));
        let refused = self.next().await.expect_err("a refusal");
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
        assert!(refused.message().contains("did not prove the group's key"), "{refused}");
    }
}

fn send(outbound: &UnboundedSender<FromNode>, message: from_node::Message) {
    outbound.unbounded_send(FromNode { message: Some(message) }).expect("an open stream");
}

/// Returns the Hello of the first worker of a group with a key.
fn hello(last_epoch: u64) -> Hello {
    Hello {
        wire_version: WIRE_VERSION,
        node: 1,
        local_world_size: 1,
        incarnation: 1,
        dial: 1,
        ring_addresses: vec!["127.0.0.1:9".into()],
        backends: vec!["ring".into()],
        nonce: vec![7; 32],
        last_epoch,
        ..Default::default()
    }
}

fn prove(key: &Path, challenge: &Challenge, hello: &Hello) -> Vec<u8> {
    let key = GroupKey::read_file(key).expect("a key");
    key.prove(Side::Node, &challenge.cluster_id, &hello.nonce, &challenge.nonce)
}

/// Joins as the worker that states this epoch.
async fn join(group: &Group, key: &Path, last_epoch: u64) -> Result<Impostor, Status> {
    let hello = hello(last_epoch);
    let mut impostor = Impostor::attach(group, hello.clone()).await;
    let proof = prove(key, &impostor.challenge().await, &hello);
    send(&impostor.outbound, from_node::Message::Answer(Answer { proof }));
    let answer = impostor.next().await?;
    assert!(matches!(answer, from_head::Message::Assignment(_)), "{answer:?}");
    Ok(impostor)
}

fn make_key() -> NamedTempFile {
    let key = NamedTempFile::new().expect("a file");
    std::fs::write(key.path(), "a key of the group, secret").expect("write");
    key
}

/// Starts the head of a group of two, and not yet the worker.
async fn start_head(key: &NamedTempFile) -> Group {
    let spec = Spec::new(Way::MultiNode, 2, "builtin://tiny").with("LOCKSTEP_DTYPE", "f32");
    let mut group = Group::prepare(spec.with("LOCKSTEP_GROUP_KEY_FILE", key.path().display()));
    group.start_node(0);
    group.client().await;
    group
}

/// The head refuses an epoch that no group can have reached. A lower one leaves numbers enough for this head, and for the
/// next one that finds the group's nodes loaded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_states_a_huge_epoch_stops_no_group() {
    let key = make_key();
    let mut group = start_head(&key).await;
    for epoch in [u64::MAX, (1 << 48) * 1000] {
        let refused = join(&group, key.path(), epoch).await.err().expect("a refusal");
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        assert!(refused.message().contains("no group can have reached more than"), "{refused}");
    }
    // The highest number that the head believes, but for a second.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_micros() as u64;
    drop(join(&group, key.path(), now - 1_000_000).await.expect("the head believes this number"));
    group.start_all();
    let first = group.ready().await;
    assert!(first.epoch >= now - 1_000_000, "{}", first.epoch);
    let expected = group.client().await.generate(greedy(&[300], 8)).await.expect("an answer");
    group.nodes[0].as_mut().expect("a head").kill();
    group.start_node(0);
    let second = group.ready().await;
    assert!(second.epoch > first.epoch, "{} after {}", second.epoch, first.epoch);
    assert_eq!((second.ranks[1].pid, second.ranks[1].bytes_read), (first.ranks[1].pid, first.ranks[1].bytes_read));
    let answer = group.client().await.generate(greedy(&[300], 8)).await.expect("an answer");
    assert_eq!(answer, expected);
}

/// Whoever hears a handshake can send it again, and cannot prove the key with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_proves_the_key_once() {
    let key = make_key();
    let group = start_head(&key).await;
    let hello = hello(0);
    let mut heard = Impostor::attach(&group, hello.clone()).await;
    let challenge = heard.challenge().await;
    let proof = prove(key.path(), &challenge, &hello);
    // The head draws a nonce for each stream.
    let mut replay = Impostor::attach(&group, hello.clone()).await;
    assert_ne!(replay.challenge().await.nonce, challenge.nonce);
    replay.fail_to_prove(proof.clone()).await;
    // The head's own proof is no node's.
    let mut reflection = Impostor::attach(&group, hello.clone()).await;
    let of_head = reflection.challenge().await.proof;
    reflection.fail_to_prove(of_head).await;
    // A node's proof for a head of another group with the same key.
    let other = start_head(&key).await;
    let mut relayed = Impostor::attach(&other, hello.clone()).await;
    let of_other = relayed.challenge().await;
    assert_ne!(of_other.cluster_id, challenge.cluster_id);
    let mixed = Challenge { cluster_id: challenge.cluster_id.clone(), ..of_other };
    relayed.fail_to_prove(prove(key.path(), &mixed, &hello)).await;
    // The handshake that was heard goes on where it was.
    send(&heard.outbound, from_node::Message::Answer(Answer { proof }));
    assert!(matches!(heard.next().await, Ok(from_head::Message::Assignment(_))));
}
