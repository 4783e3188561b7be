//! A published model, SmolLM2-135M-Instruct in Q4_1, answers like transformers, and predicts a text as well.
//!
//! `TEST_SMOLLM2` names its folder, which `tests/fetch` fills. Without it, these tests judge nothing, and say so.
//! `make test` sets it. `tests/parity/make_smollm2.py` makes the records.

use std::sync::Arc;

use lockstep_api::Tokenizer;
use lockstep_collectives::RankGroup;
use lockstep_collectives::solo::Solo;
use lockstep_engine::{DType, Devices, ModelFiles, Runner, RunnerConfig, describe, open};
use lockstep_proto::v1::GenerateRequest;
use lockstep_proto::v1::generate_request::Prompt;
use lockstep_schedule::plan::{Admission, PlanEntry, PlanTokens, SamplingParams, SeqId, StepPlan};
use lockstep_tests::client::greedy;
use lockstep_tests::group::{Group, Spec, Way};
use sha2::{Digest as _, Sha256};

/// Tokens in a block of the KV cache.
const BLOCK_SIZE: usize = 16;
/// Largest distance of the mean negative log-likelihood to that of transformers, which rounds no activation. Blocks are
/// multiplied by activations in eight bits.
const LIKELIHOOD_BOUND: f64 = 0.01;
/// Text whose likelihood is computed.
const TEXT: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../LICENSE"));

/// Answer of transformers.
#[derive(serde::Deserialize)]
struct Entry {
    text: String,
    /// Token ids of `text`.
    prompt: Vec<u32>,
    /// Greedy tokens up to the first close call.
    greedy: Vec<u32>,
}

/// Likelihood of the text, as transformers computes it.
#[derive(serde::Deserialize)]
struct Likelihood {
    tokens: usize,
    /// Digest of all token ids, each in four bytes, little-endian.
    sha256_of_tokens: String,
    /// Tokens of a window. The first is given, and the others are predicted.
    window: usize,
    /// Number of windows, from the beginning of the text.
    windows: usize,
    /// Number of predicted tokens.
    predicted: usize,
    mean_nll: f64,
}

fn find_model() -> Option<String> {
    let folder = std::env::var("TEST_SMOLLM2").ok();
    if folder.is_none() {
        println!("LEFT OUT: TEST_SMOLLM2 names no folder; tests/fetch makes one");
    }
    folder
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_published_model_answers_like_transformers() {
    let Some(folder) = find_model() else { return };
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

#[test]
fn a_published_model_predicts_a_text_like_transformers() {
    let Some(folder) = find_model() else { return };
    let record = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/parity/smollm2-likelihood.json"));
    let record: Likelihood = serde_json::from_str(record).expect("the record");
    let files = open(&folder).expect("the model");
    let tokenizer = Tokenizer::from_json(&describe(files.as_ref()).expect("the model").tokenizer_json);
    let ids = tokenizer.expect("the tokenizer").encode(TEXT, false).expect("the tokens");
    let digest = Sha256::digest(ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<_>>());
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!((ids.len(), digest), (record.tokens, record.sha256_of_tokens));

    let windows: Vec<&[u32]> = ids.chunks_exact(record.window).take(record.windows).collect();
    let (sum, predicted) = negative_log_likelihood(files, &windows);
    assert_eq!(predicted, record.predicted);
    let mean = sum / predicted as f64;
    println!("mean negative log-likelihood: {mean:.5}, of transformers: {:.5}", record.mean_nll);
    assert!((mean - record.mean_nll).abs() < LIKELIHOOD_BOUND, "{mean} and {}", record.mean_nll);
}

/// Returns the sum over the predicted tokens of all windows, and their number. One rank computes all windows at once.
fn negative_log_likelihood(files: Arc<dyn ModelFiles>, windows: &[&[u32]]) -> (f64, usize) {
    let length = windows[0].len();
    let blocks = (windows.len() * length.div_ceil(BLOCK_SIZE)) as u32;
    let config = RunnerConfig {
        files,
        dtype: Some(DType::F32),
        quantization: None,
        grid: RankGroup::solo().into(),
        block_size: BLOCK_SIZE as u32,
        context_length: None,
        max_num_batched_tokens: windows.len() as u32,
        max_num_seqs: windows.len() as u32,
        threads: 2,
        oversubscribed: false,
        isa: None,
        devices: Devices::default(),
        progress: Arc::default(),
    };
    let mut runner = Runner::load(config, &mut |_, _| {}).expect("a rank");
    runner.start_epoch(1, Solo::new().expect("a communicator"), blocks).expect("an epoch");
    let (mut sum, mut predicted) = (0.0, 0);
    for position in 0..length - 1 {
        let step = runner.step_with_logits(&plan_step(windows, position)).expect("a step");
        for (logits, window) in step.logits.iter().zip(windows) {
            sum -= log_probability(logits, window[position + 1] as usize);
            predicted += 1;
        }
    }
    (sum, predicted)
}

/// Makes the plan of the step that computes the token at `position` of every window.
fn plan_step(windows: &[&[u32]], position: usize) -> StepPlan {
    let per_window = windows[0].len().div_ceil(BLOCK_SIZE) as u32;
    let entry = |(index, window): (usize, &&[u32])| PlanEntry {
        seq: index as SeqId,
        position: position as u32,
        tokens: PlanTokens::Given(vec![window[position]]),
        new_blocks: match position {
            0 => (index as u32 * per_window..(index as u32 + 1) * per_window).collect(),
            _ => Vec::new(),
        },
        sample: true,
        allowed: None,
        prompt_targets: None,
    };
    let admitted = (0..windows.len()).filter(|_| position == 0);
    let admit = admitted.map(|index| Admission::new(index as SeqId, SamplingParams::default())).collect();
    let entries = windows.iter().enumerate().map(entry).collect();
    StepPlan { epoch: 1, step: position as u64 + 1, forget: Vec::new(), admit, entries }
}

fn log_probability(logits: &[f32], id: usize) -> f64 {
    let greatest = logits.iter().copied().fold(f32::MIN, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - greatest).exp()).sum();
    f64::from(logits[id] - greatest) - sum.ln()
}
