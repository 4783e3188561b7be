//! Log-probabilities of prompts, computed by groups of real processes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use lockstep_proto::v1::{GenerateRequest, PromptToken};
use lockstep_tests::client::{Client, greedy};
use lockstep_tests::group::{Group, Spec, Way};
use lockstep_tests::process::LONGEST_WAIT;
use tonic::Status;

const MODEL: &str = "builtin://tiny";
const REQUESTS: u32 = 6;
const PROMPT: u32 = 500;

/// Returns the tokens of all prompts, and adds each one to `count` when it comes.
async fn score_prompts(client: Client, count: Arc<AtomicUsize>) -> Result<Vec<Vec<PromptToken>>, Status> {
    let score = |number: u32| {
        let prompt: Vec<u32> = (0..PROMPT).map(|i| 300 + (i * 7 + i * i + number * 31) % 900).collect();
        let request = GenerateRequest { prompt_logprobs: Some(2), ..greedy(&prompt, 0) };
        let (mut client, count) = (client.clone(), count.clone());
        async move {
            let mut stream = client.stream(request).await?;
            let mut tokens = Vec::new();
            while let Some(part) = stream.message().await? {
                assert!(part.token_ids.is_empty() && part.text.is_empty(), "no answer is asked for");
                count.fetch_add(part.prompt.len(), Ordering::Relaxed);
                tokens.extend(part.prompt);
            }
            let ids: Vec<u32> = tokens.iter().map(|token| token.token_id).collect();
            assert_eq!(ids, prompt[1..], "each token of the prompt comes once");
            Ok(tokens)
        }
    };
    try_join_all((0..REQUESTS).map(score)).await
}

/// A rank dies while prompts are computed. Clients keep what they have, and get the rest from the next epoch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rank_dies_and_no_token_of_a_prompt_is_lost_or_told_twice() {
    let spec = Spec::new(Way::MultiNode, 3, MODEL).with("LOCKSTEP_DTYPE", "f32");
    // Small steps, so that the rank dies between two chunks of a prompt.
    let spec = spec.with("LOCKSTEP_MAX_NUM_SEQS", 16).with("LOCKSTEP_MAX_NUM_BATCHED_TOKENS", 16);
    let mut group = Group::start(spec);
    group.ready().await;
    let client = group.client().await;
    let undisturbed = score_prompts(client.clone(), Arc::default()).await.expect("log-probabilities");
    for after in [50, 1200] {
        let count = Arc::<AtomicUsize>::default();
        let scores = tokio::spawn(score_prompts(client.clone(), count.clone()));
        let began = Instant::now();
        while count.load(Ordering::Relaxed) < after {
            assert!(!scores.is_finished() && began.elapsed() < LONGEST_WAIT, "{after} tokens have not come");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let victim = group.nodes[2].as_mut().expect("a process");
        victim.kill();
        victim.wait();
        assert!(!scores.is_finished(), "the rank died too late");
        group.start_node(2);
        assert_eq!(scores.await.expect("the task").expect("log-probabilities"), undisturbed, "after {after} tokens");
    }
}
