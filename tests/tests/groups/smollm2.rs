//! A published model, SmolLM2-135M-Instruct in Q4_1, answers like transformers.
//!
//! `TEST_SMOLLM2` names its folder, which `tests/fetch` fills. Without it, this test judges nothing, and says so.
//! `make test` sets it.

use lockstep_proto::v1::GenerateRequest;
use lockstep_proto::v1::generate_request::Prompt;
use lockstep_tests::client::greedy;
use lockstep_tests::group::{Group, Spec, Way};

/// One entry of the record that `tests/parity/make_smollm2.py` makes.
#[derive(serde::Deserialize)]
struct Entry {
    text: String,
    /// Token ids of `text`.
    prompt: Vec<u32>,
    /// Greedy tokens up to the first close call.
    greedy: Vec<u32>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_published_model_answers_like_transformers() {
    let Ok(folder) = std::env::var("TEST_SMOLLM2") else {
        println!("LEFT OUT: TEST_SMOLLM2 names no folder; tests/fetch makes one");
        return;
    };
    let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/parity/smollm2.json"));
    let entries: Vec<Entry> = serde_json::from_str(text).expect("the record");
    for world_size in 1..=3 {
        let mut group = Group::start(Spec::new(Way::MultiNode, world_size, &folder));
        group.ready().await;
        let client = group.client().await;
        let answers = entries.iter().map(|Entry { text, prompt, greedy: tokens }| {
            let mut client = client.clone();
            async move {
                let by_ids = greedy(prompt, tokens.len() as u32);
                let by_text = GenerateRequest { prompt: Some(Prompt::Text(text.clone())), ..by_ids.clone() };
                for request in [by_ids, by_text] {
                    let answer = client.generate(request).await.expect("an answer");
                    assert_eq!(answer.tokens, *tokens, "{text:?} over {world_size} ranks");
                }
            }
        });
        futures::future::join_all(answers).await;
    }
}
