//! Answers of a given form, and answers whose tokens weigh on the next ones: over several ranks, and over their loss.

use std::time::Duration;

use lockstep_proto::v1::grammar::Kind;
use lockstep_proto::v1::{FinishReason, GenerateRequest, Grammar, Limits, Sampling};
use lockstep_tests::client::{Answer, Client, sampled};
use lockstep_tests::group::{Group, Spec, Way};
use serde_json::{Value, json};

const MODEL: &str = "builtin://tiny";
const RUNS: u64 = 200;
/// Of them at once.
const TOGETHER: usize = 25;

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": {"enum": ["ada", "grace", "edsger"]},
            "age": {"type": "integer", "minimum": 0, "maximum": 130},
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 4}, "maxItems": 2},
            "ok": {"type": "boolean"},
        },
        "required": ["name", "age", "tags", "ok"],
        "additionalProperties": false,
    })
}

fn meets_schema(text: &str) -> bool {
    let Ok(Value::Object(answer)) = serde_json::from_str(text) else { return false };
    let tags = answer["tags"].as_array();
    let short = |tag: &Value| tag.as_str().is_some_and(|tag| tag.chars().count() <= 4);
    answer.len() == 4
        && ["ada", "grace", "edsger"].iter().any(|name| answer["name"] == *name)
        && answer["age"].as_u64().is_some_and(|age| age <= 130)
        && tags.is_some_and(|tags| tags.len() <= 2 && tags.iter().all(short))
        && answer["ok"].is_boolean()
}

fn guided(kind: Kind, seed: u64, max_tokens: u32) -> GenerateRequest {
    let sampling = Sampling { temperature: Some(1.0), seed: Some(seed), ..Default::default() };
    GenerateRequest {
        sampling: Some(sampling),
        limits: Some(Limits { max_tokens: Some(max_tokens), ..Default::default() }),
        grammar: Some(Grammar { kind: Some(kind) }),
        ..sampled(&[300 + seed as u32], max_tokens, seed)
    }
}

async fn all(client: &Client, requests: Vec<GenerateRequest>) -> Vec<Answer> {
    let answers = requests.into_iter().map(|request| {
        let mut client = client.clone();
        async move { client.generate(request).await.expect("an answer") }
    });
    futures::future::join_all(answers).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_is_met_in_every_run() {
    let mut group = Group::start(Spec::new(Way::MultiNode, 2, MODEL));
    group.ready().await;
    let client = group.client().await;
    let requests: Vec<_> = (0..RUNS).map(|seed| guided(Kind::JsonSchema(schema().to_string()), seed, 200)).collect();
    let mut texts = Vec::new();
    for together in requests.chunks(TOGETHER) {
        for answer in all(&client, together.to_vec()).await {
            assert!(meets_schema(&answer.text) && answer.finish == FinishReason::Stop, "{answer:?}");
            texts.push(answer.text);
        }
    }
    assert_eq!(texts.len() as u64, RUNS);
    texts.sort_unstable();
    texts.dedup();
    assert!(texts.len() > 100, "they differ: {}", texts.len());
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
    let undisturbed = all(&client, requests.clone()).await;
    let form = |text: &str| text.chars().all(|char| "abcdef0123456789".contains(char)) && text.len() >= 500;
    assert!(undisturbed[..3].iter().all(|answer| form(&answer.text) && answer.finish == FinishReason::Stop));

    let streams = tokio::spawn(async move { all(&client, requests).await });
    tokio::time::sleep(Duration::from_millis(250)).await;
    let victim = group.nodes[1].as_mut().expect("a process");
    victim.kill();
    victim.wait();
    group.start_node(1);
    assert_eq!(streams.await.expect("the streams"), undisturbed);
    group.await_status("a recovery", |status| status.ready && status.recoveries == 1).await;
}
