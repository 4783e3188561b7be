//! Groups of real processes over TCP answer like transformers, by each way of telling ranks their places.

use lockstep_kernels::Isa;
use lockstep_tests::client::greedy;
use lockstep_tests::group::{Group, Spec, Way, fixture};
use lockstep_tests::process::Process;

/// Returns the prompts of a fixture and the greedy tokens that follow, as the parity script recorded them.
fn expected(model: &str) -> Vec<(Vec<u32>, Vec<u32>)> {
    let text = std::fs::read_to_string(format!("{}/expected.json", fixture(model))).expect("expected.json");
    let record: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let ids = |value: &serde_json::Value| serde_json::from_value(value.clone()).expect("token ids");
    let prompts = record["prompts"].as_array().expect("prompts");
    prompts.iter().map(|one| (ids(&one["prompt"]), ids(&one["greedy"]))).collect()
}

async fn check(way: Way, world_size: usize, model: &str) {
    check_spec(Spec::new(way, world_size, fixture(model)), model).await;
}

/// Sends all prompts of a fixture at once, and compares the answers.
async fn check_spec(spec: Spec, model: &str) {
    let (way, world_size) = (spec.way, spec.world_size);
    let mut group = Group::start(spec.with("LOCKSTEP_DTYPE", "f32"));
    let status = group.ready().await;
    assert_eq!(status.world_size as usize, world_size);
    let client = group.client().await;
    let answers = expected(model).into_iter().map(|(prompt, tokens)| {
        let mut client = client.clone();
        async move {
            let answer = client.generate(greedy(&prompt, tokens.len() as u32)).await.expect("an answer");
            assert_eq!(answer.tokens, tokens, "{model} over {world_size} ranks, {way:?}, prompt {prompt:?}");
        }
    });
    futures::future::join_all(answers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_matches() {
    check(Way::MultiNode, 1, "llama2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_match() {
    check(Way::MultiNode, 2, "llama3-sharded").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_match() {
    check(Way::MultiNode, 3, "qwen3").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_that_share_experts_match() {
    check(Way::MultiNode, 3, "qwen3-moe").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ring_with_sliding_windows_matches() {
    check(Way::Ring, 2, "gemma3").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ring_of_two_matches() {
    check(Way::Ring, 2, "awkward-gqa").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ring_of_three_matches() {
    check(Way::Ring, 3, "awkward-mha").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ring_from_files_matches() {
    check(Way::RingConfig, 3, "llama3-sharded").await;
}

/// Checks a group of two stages: first with two ranks a stage, then with one. The model has three layers, so one stage
/// has two of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_stages_match() {
    let model = "awkward-gqa";
    let spec = |way, world_size| Spec::new(way, world_size, fixture(model)).with("MISTRALRS_PIPELINE_PARALLEL", 2);
    check_spec(spec(Way::MultiNode, 4), model).await;
    check_spec(spec(Way::Ring, 2), model).await;
}

/// Weights in blocks are the same numbers over three processes as in one. The blocks are read from a file, or made
/// while loading.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quantized_models_match_over_three_processes() {
    let file = format!("{}/parity/gguf/llama.gguf", env!("CARGO_MANIFEST_DIR"));
    let cases = [(file, &["--dtype", "f32"][..], "q6_k"), ("builtin://tiny".into(), &["--isq", "q4k"], "q4_k")];
    for (model, flags, dtype) in cases {
        let mut answers = Vec::new();
        for (way, world_size) in [(Way::MultiNode, 1), (Way::MultiNode, 3), (Way::Ring, 3)] {
            let mut group = Group::prepare(Spec::new(way, world_size, &model));
            for node in 0..world_size {
                let mut command = group.command(node);
                command.args(flags);
                group.nodes[node] = Some(Process::start(format!("node-{node}"), command));
            }
            let status = group.ready().await;
            assert_eq!(status.model_info.expect("a model").dtype, dtype);
            let answer = group.client().await.generate(greedy(&[1, 7, 11, 30, 9], 24)).await.expect("an answer");
            answers.push(answer.tokens);
        }
        assert!(answers.iter().all(|other| *other == answers[0]), "{model}: {answers:?}");
    }
}

/// The test tries each instruction set that this machine has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_instruction_set_matches() {
    for isa in Isa::available() {
        check_spec(Spec::new(Way::MultiNode, 2, fixture("qwen3")).with("LOCKSTEP_ISA", isa.name()), "qwen3").await;
    }
}
