//! Logits and greedy tokens against Hugging Face transformers, at every world size and under every schedule.

use std::collections::HashMap;

use crate::common::{
    ExpectedOutput, GroupSetup, Ranks, fixture_folder, fixtures, load_expected, request, run_to_end, scheduler,
};
use candle_core::{Device, Tensor};
use lockstep_schedule::plan::{Admission, PlanEntry, PlanTokens, SamplingParams, SeqId, StepPlan};
use lockstep_schedule::{Scheduler, SchedulerConfig};

/// Greatest distance of an f32 logit from that of transformers.
pub const F32_TOLERANCE: f32 = 1e-4;

/// Returns a plan for the next step of all sequences. `rows[i]` has the position at which sequence `i` continues, and
/// its tokens.
pub fn plan(ranks: &Ranks, step: u64, setup: &GroupSetup, rows: &[(usize, PlanTokens)]) -> StepPlan {
    let blocks_each = setup.num_blocks / u32::try_from(rows.len()).unwrap();
    let entry = |(seq, (position, tokens)): (usize, &(usize, PlanTokens))| {
        let first = u32::try_from(seq).unwrap() * blocks_each;
        let new_blocks = if *position == 0 { (first..first + blocks_each).collect() } else { Vec::new() };
        let position = u32::try_from(*position).unwrap();
        PlanEntry {
            seq: seq as SeqId,
            position,
            tokens: tokens.clone(),
            new_blocks,
            sample: true,
            allowed: None,
            prompt_targets: None,
        }
    };
    let admit = (0..rows.len() as SeqId)
        .filter(|_| step == 1)
        .map(|seq| Admission::new(seq, SamplingParams::default()))
        .collect();
    let entries = rows.iter().enumerate().map(entry).collect();
    StepPlan { epoch: ranks.epoch(), step, forget: Vec::new(), admit, entries }
}

/// Returns the greatest distance between the logits that were computed after token `position` and the expected ones.
pub fn distance(expected: &ExpectedOutput, position: usize, logits: &[f32]) -> f32 {
    let Some(index) = expected.positions.iter().position(|known| *known == position) else { return 0.0 };
    let distances = expected.logits[index].iter().zip(logits).map(|(a, b)| (a - b).abs());
    assert_eq!(expected.logits[index].len(), logits.len());
    distances.fold(0.0, f32::max)
}

/// Prefills all prompts whole in one step, then decodes them together. Returns the greatest distance of a logit. If
/// `greedy` is set, each step continues with the sampled tokens, and they must be the expected ones.
pub fn furthest_logit(name: &str, setup: &GroupSetup, greedy: bool) -> f32 {
    let cases = load_expected(name);
    let ranks = Ranks::start(setup);
    let mut furthest = 0f32;
    for step in 0..cases[0].greedy.len() {
        let row = |case: &ExpectedOutput| match step {
            0 => (0, PlanTokens::Given(case.prompt.clone())),
            _ if greedy => (case.prompt.len() + step - 1, PlanTokens::LastSampled),
            _ => (case.prompt.len() + step - 1, PlanTokens::Given(vec![case.greedy[step - 1]])),
        };
        let rows: Vec<_> = cases.iter().map(row).collect();
        let result = ranks.step(&plan(&ranks, step as u64 + 1, setup, &rows));
        for (seq, case) in cases.iter().enumerate() {
            if greedy {
                assert_eq!(
                    result.output.sampled[seq].token, case.greedy[step],
                    "{setup:?}, prompt {seq}, token {step}"
                );
            }
            furthest = furthest.max(distance(case, case.prompt.len() + step - 1, &result.logits[seq]));
        }
    }
    furthest
}

#[test]
fn f32_logits_and_tokens_match_transformers() {
    for name in fixtures() {
        for world_size in 1..=4 {
            let furthest = furthest_logit(name, &GroupSetup::new(name, world_size), true);
            assert!(furthest < F32_TOLERANCE, "{name} at {world_size} ranks: {furthest}");
        }
    }
}

/// The text part of a multimodal Gemma 3 is the same model with a prefix in its names.
#[test]
fn the_text_part_of_a_multimodal_checkpoint_is_read() {
    let copy = tempfile::tempdir().unwrap();
    let config = std::fs::read(fixture_folder("gemma3").join("config.json")).unwrap();
    let text: serde_json::Value = serde_json::from_slice(&config).unwrap();
    let whole = serde_json::json!({"architectures": ["Gemma3ForConditionalGeneration"], "text_config": text});
    std::fs::write(copy.path().join("config.json"), whole.to_string()).unwrap();
    let weights =
        candle_core::safetensors::load(fixture_folder("gemma3").join("model.safetensors"), &Device::Cpu).unwrap();
    let place = |(name, tensor)| (format!("language_model.{name}"), tensor);
    let weights: HashMap<String, Tensor> = weights.into_iter().map(place).collect();
    candle_core::safetensors::save(&weights, copy.path().join("model.safetensors")).unwrap();
    let setup = GroupSetup { source: copy.path().display().to_string(), ..GroupSetup::new("gemma3", 2) };
    let furthest = furthest_logit("gemma3", &setup, true);
    assert!(furthest < F32_TOLERANCE, "{furthest}");
}

/// A prompt fed token by token gives the logits of every position.
#[test]
fn every_position_of_a_prompt_is_right() {
    for name in fixtures() {
        let case = load_expected(name).into_iter().max_by_key(|case| case.positions.len()).unwrap();
        let setup = GroupSetup::new(name, 3);
        let ranks = Ranks::start(&setup);
        for (position, token) in case.prompt.iter().enumerate() {
            let rows = [(position, PlanTokens::Given(vec![*token]))];
            let result = ranks.step(&plan(&ranks, position as u64 + 1, &setup, &rows));
            let furthest = distance(&case, position, &result.logits[0]);
            assert!(furthest < F32_TOLERANCE, "{name}, position {position}: {furthest}");
        }
    }
}

/// Checks that a schedule changes no token of a fixture.
fn check_schedule(name: &str, setup: &GroupSetup, label: &str, mut scheduler: Scheduler) {
    let cases = load_expected(name);
    let ranks = Ranks::start(setup);
    scheduler.start_epoch(ranks.epoch(), setup.num_blocks, 0);
    let mut tokens = HashMap::new();
    let rounds = if label == "prefixes reused" { 2 } else { 1 };
    for round in 0..rounds {
        for (index, case) in cases.iter().enumerate() {
            let id = round * 100 + index as SeqId;
            scheduler.submit(request(id, case, SamplingParams::default()), 0).unwrap();
        }
        run_to_end(&mut scheduler, &ranks, &mut tokens);
    }
    for (id, got) in tokens {
        let index = usize::try_from(id % 100).unwrap();
        assert_eq!(got, cases[index].greedy, "{name}, {label}, prompt {index}");
    }
    let stats = scheduler.stats();
    assert_eq!(stats.preemptions > 0, label == "preempted", "{stats:?}");
    assert_eq!(stats.prefix_hit_tokens > 0, label == "prefixes reused", "{stats:?}");
}

#[test]
fn no_schedule_changes_a_token() {
    type Change = fn(&mut SchedulerConfig);
    let schedules: [(&str, u32, Change); 6] = [
        ("one at a time", 128, |config| (config.max_num_seqs, config.prefix_caching) = (1, false)),
        ("batched", 128, |config| config.prefix_caching = false),
        ("no step ahead", 128, |config| (config.max_steps_in_flight, config.prefix_caching) = (1, false)),
        ("chunked", 128, |config| (config.max_num_batched_tokens, config.prefix_caching) = (11, false)),
        ("prefixes reused", 128, |_| {}),
        ("preempted", 26, |config| config.prefix_caching = false),
    ];
    for (label, num_blocks, change) in schedules {
        for (name, world_size) in [("awkward-gqa", 3), ("mistral", 1), ("llama3-sharded", 2), ("qwen3-moe", 2)] {
            let setup = GroupSetup { num_blocks, ..GroupSetup::new(name, world_size) };
            check_schedule(name, &setup, label, scheduler(&setup, change));
        }
    }
}

/// Sampled answers depend on seed and prompt, not on the world size, the batch or preemption.
#[test]
fn sampled_answers_depend_on_seed_and_prompt_alone() {
    let name = "awkward-gqa";
    let cases = load_expected(name);
    let kinds = [(0, 1.0), (20, 1.0), (0, 0.9), (7, 0.8)];
    let answers = |world_size, num_blocks, change: fn(&mut SchedulerConfig)| {
        let setup = GroupSetup { num_blocks, ..GroupSetup::new(name, world_size) };
        let ranks = Ranks::start(&setup);
        let mut scheduler = scheduler(&setup, change);
        scheduler.start_epoch(ranks.epoch(), setup.num_blocks, 0);
        for (index, case) in cases.iter().enumerate() {
            let (top_k, top_p) = kinds[index % kinds.len()];
            let params =
                SamplingParams { temperature: 1.3, top_k, top_p, seed: index as u64, ..SamplingParams::default() };
            scheduler.submit(request(index as SeqId, case, params), 0).unwrap();
        }
        let mut tokens = HashMap::new();
        run_to_end(&mut scheduler, &ranks, &mut tokens);
        tokens
    };
    let alone = answers(1, 128, |config| config.max_num_seqs = 1);
    assert!((0..cases.len()).all(|index| alone[&(index as SeqId)] != cases[index].greedy));
    assert_eq!(answers(4, 128, |_| {}), alone);
    assert_eq!(answers(3, 26, |config| config.max_num_batched_tokens = 13), alone);
}

/// In f32, a sequence's logits are the same to the last bit alone and batched, whole and chunked.
#[test]
fn f32_logits_do_not_depend_on_the_batch() {
    for (name, world_size) in [("awkward-mha", 2), ("llama3-sharded", 1), ("qwen3-moe", 3), ("gemma3", 2)] {
        let cases = load_expected(name);
        let setup = GroupSetup::new(name, world_size);
        let ranks = Ranks::start(&setup);
        let rows: Vec<_> = cases.iter().map(|case| (0, PlanTokens::Given(case.prompt.clone()))).collect();
        let together = ranks.step(&plan(&ranks, 1, &setup, &rows)).logits;
        drop(ranks);
        for (case, batched) in cases.iter().zip(&together) {
            let ranks = Ranks::start(&setup);
            let mut logits = Vec::new();
            for (step, chunk) in case.prompt.chunks(7).enumerate() {
                let rows = [(step * 7, PlanTokens::Given(chunk.to_vec()))];
                logits = ranks.step(&plan(&ranks, step as u64 + 1, &setup, &rows)).logits;
            }
            assert!(&logits[0] == batched, "{name}: a prompt of {} tokens", case.prompt.len());
        }
    }
}
