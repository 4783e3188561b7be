//! Questions to the nodes of a head that the operator does not hear, and to the Kubernetes nodes below them.
//!
//! Each question has a short deadline, and an answer that does not come in time counts as none. All are asked at once.

use std::net::IpAddr;
use std::time::Duration;

use lockstep_proto::names::port;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Network;
use crate::rollout::NodeWord;

/// Time within which a node or a Kubernetes node must answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest answer of a node that is read, in bytes.
const MAX_ANSWER: u64 = 4096;
/// Port of the kubelet. It need not be open: a refused connection is an answer of the machine, too.
const KUBELET: u16 = 10250;

/// Body of a node's answer to `GET /head`.
#[derive(Deserialize)]
struct Contact {
    silent_ms: u64,
}

/// Asks the nodes at `addresses` for how long they have not heard their head. Returns the words of those that answer.
pub async fn ask_nodes(network: &dyn Network, addresses: impl IntoIterator<Item = IpAddr>) -> Vec<NodeWord> {
    let words = addresses.into_iter().map(|address| network.ask_node(address));
    futures::future::join_all(words).await.into_iter().flatten().collect()
}

/// Returns true if the machine at `address` answers at the port of its kubelet.
pub async fn does_machine_answer(network: &dyn Network, address: IpAddr) -> bool {
    network.does_answer(address, KUBELET).await
}

/// Returns true if the pod at `address` answers at the port of its node's probes.
pub async fn does_pod_answer(network: &dyn Network, address: IpAddr) -> bool {
    network.does_answer(address, port::PROBE).await
}

/// Asks the node at `address`, whose probes listen at `port`.
pub(super) async fn ask_node(address: IpAddr, port: u16) -> Option<NodeWord> {
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, get_head(address, port)).await.ok()?.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    if head.split(' ').nth(1) != Some("200") {
        return None;
    }
    let contact: Contact = serde_json::from_str(body).ok()?;
    Some(NodeWord { silent_for: Duration::from_millis(contact.silent_ms) })
}

/// Sends `GET /head` and returns the whole answer. HTTP 1.0, so the node closes the connection after its answer.
async fn get_head(address: IpAddr, port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((address, port)).await?;
    stream.write_all(b"GET /head HTTP/1.0\r\nHost: node\r\n\r\n").await?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Returns true if a connection is made or refused: something lives at `address`.
pub(super) async fn does_answer(address: IpAddr, port: u16) -> bool {
    let connected = tokio::time::timeout(ANSWER_TIMEOUT, TcpStream::connect((address, port))).await;
    match connected {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use tokio::net::TcpListener;

    use super::*;
    use crate::heads::Tcp;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    /// Returns the word of a node that gives this answer.
    async fn word_of(answer: &'static str) -> Option<NodeWord> {
        let listener = TcpListener::bind((HERE, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let node = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 64];
            let read = stream.read(&mut request).await.unwrap();
            assert!(request[..read].starts_with(b"GET /head HTTP/1.0\r\n"));
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        let word = ask_node(HERE, port).await;
        node.await.unwrap();
        word
    }

    #[tokio::test]
    async fn a_word_is_a_whole_answer() {
        let answer = "HTTP/1.0 200 OK\r\na: b\r\n\r\n{\"attached\":false,\"silent_ms\":6200}";
        assert_eq!(word_of(answer).await, Some(NodeWord { silent_for: Duration::from_millis(6200) }));
        assert_eq!(word_of("HTTP/1.0 404 Not Found\r\n\r\n{\"silent_ms\":1}").await, None, "an older agent");
        assert_eq!(word_of("HTTP/1.0 200 OK\r\n\r\nhello").await, None);
        assert_eq!(word_of("").await, None);
    }

    #[tokio::test]
    async fn a_machine_that_refuses_answers_and_one_without_a_route_does_not() {
        assert!(does_machine_answer(&Tcp, HERE).await);
        // The prefix for documentation is routed nowhere.
        assert!(!does_machine_answer(&Tcp, IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))).await);
    }
}
