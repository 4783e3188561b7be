//! Answers in a given form, and answers with penalties, which depend on earlier tokens, across the loss of a rank.

use lockstep_proto::v1::grammar::Kind;
use lockstep_proto::v1::{FinishReason, GenerateRequest, Grammar, Limits, Sampling};
use lockstep_tests::client::{Answers, sampled};
use lockstep_tests::group::{Group, Spec, Way};

const MODEL: &str = "builtin://tiny";

fn guided(kind: Kind, seed: u64, max_tokens: u32) -> GenerateRequest {
    let sampling = Sampling { temperature: Some(1.0), seed: Some(seed), ..Default::default() };
    GenerateRequest {
        sampling: Some(sampling),
        limits: Some(Limits { max_tokens: Some(max_tokens), ..Default::default() }),
        grammar: Some(Grammar { kind: Some(kind) }),
        ..sampled(&[300 + seed as u32], max_tokens, seed)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forms_and_penalties_outlive_a_rank() {
    let mut group = Group::start(Spec::new(Way::MultiNode, 2, MODEL).with("LOCKSTEP_DTYPE", "f32"));
    group.ready().await;
    let client = group.client().await;
    let penalized = |seed| {
        let sampling = Sampling {
            repetition_penalty: Some(1.3),
            presence_penalty: Some(0.5),
            frequency_penalty: Some(0.5),
            logit_bias: [(400, 3.0), (401, 3.0)].into(),
            min_p: Some(0.01),
            ..guided(Kind::JsonObject(true), seed, 1).sampling.unwrap_or_default()
        };
        GenerateRequest { sampling: Some(sampling), ..sampled(&[300, 301, 302], 300, seed) }
    };
    let mut requests: Vec<_> =
        (0..3).map(|seed| guided(Kind::Regex("(ab|cde|f[0-9]{2}){250}".into()), seed, 900)).collect();
    requests.extend((3..6).map(penalized));
    let undisturbed = Answers::begin(&client, requests.clone()).all().await.expect("answers");
    let form = |text: &str| text.chars().all(|char| "abcdef0123456789".contains(char)) && text.len() >= 500;
    assert!(undisturbed[..3].iter().all(|answer| form(&answer.text) && answer.finish == FinishReason::Stop));

    let streams = Answers::begin(&client, requests);
    streams.await_tokens(200).await;
    let victim = group.nodes[1].as_mut().expect("a process");
    victim.kill();
    victim.wait();
    group.start_node(1);
    assert_eq!(streams.all().await.expect("answers"), undisturbed);
    group.await_status("a recovery", |status| status.ready && status.recoveries == 1).await;
}
