//! Many clients at once, some of them leaving early.

use lockstep_tests::client::{greedy, sampled};
use lockstep_tests::group::{Group, Spec, Way};

const CLIENTS: u32 = 32;

fn request(client: u32) -> lockstep_proto::v1::GenerateRequest {
    let prompt: Vec<u32> = (0..1 + client * 5).map(|i| 300 + (i * 13 + client * 17) % 1200).collect();
    let tokens = 4 + (client * 7) % 60;
    if client.is_multiple_of(3) { sampled(&prompt, tokens, client.into()) } else { greedy(&prompt, tokens) }
}

/// Returns true for every fourth client, which leaves after its first tokens.
fn leaves(client: u32) -> bool {
    client % 4 == 3
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_two_clients_get_what_each_gets_alone() {
    let mut group = Group::start(Spec::new(Way::MultiNode, 3, "builtin://tiny").with("LOCKSTEP_DTYPE", "f32"));
    group.ready().await;
    let client = group.client().await;
    let together = (0..CLIENTS).map(|number| {
        let mut client = client.clone();
        tokio::spawn(async move {
            if leaves(number) {
                let mut stream = client.stream(request(number)).await.expect("a stream");
                stream.message().await.expect("a message");
                return None;
            }
            Some(client.generate(request(number)).await.expect("an answer"))
        })
    });
    let together = futures::future::join_all(together).await;
    let mut alone = client.clone();
    for (number, answer) in (0..CLIENTS).zip(together) {
        if let Some(answer) = answer.expect("the client's task") {
            assert_eq!(answer, alone.generate(request(number)).await.expect("an answer"), "client {number}");
        }
    }
    let idle = group.await_status("idleness", |status| status.running + status.waiting == 0).await;
    assert_eq!(idle.kv_blocks_used, 0, "no block leaks");
}
