//! Log-probabilities of a prompt's tokens: those of transformers, whatever the ranks, the chunks and the company.

use std::collections::HashMap;

use lockstep_schedule::plan::{PromptToken, SamplingParams, SeqId};
use lockstep_schedule::{Request, SchedulerConfig};

use crate::common::{ExpectedOutput, GroupSetup, Ranks, fixtures, load_expected, request, run_to_end, scheduler};
use crate::parity::F32_TOLERANCE;

/// Likeliest tokens to report beside each token.
const TOP: u32 = 5;
/// Greatest distance of a log-probability: that of a logit, and that of the logarithm of the sum.
const TOLERANCE: f32 = 2.0 * F32_TOLERANCE;

/// Returns the log-probabilities of the prompts of `cases`, run together.
fn run_prompts(
    setup: &GroupSetup,
    cases: &[ExpectedOutput],
    change: impl FnOnce(&mut SchedulerConfig),
) -> HashMap<SeqId, Vec<PromptToken>> {
    let ranks = Ranks::start(setup);
    let mut scheduler = scheduler(setup, change);
    scheduler.start_epoch(ranks.epoch(), setup.num_blocks, 0);
    for (id, case) in (0..).zip(cases) {
        let request = request(id, case, SamplingParams::default());
        scheduler.submit(Request { prompt_logprobs: Some(TOP), max_tokens: 1, ..request }, 0).unwrap();
    }
    run_to_end(&mut scheduler, &ranks, &mut HashMap::new())
}

/// Returns the case of which transformers' logits are known after every token of the prompt.
fn whole_case(name: &str) -> ExpectedOutput {
    load_expected(name).into_iter().max_by_key(|case| case.positions.len()).unwrap()
}

/// Checks a token of a prompt by transformers' logits in its place.
fn check_token(token: &PromptToken, id: u32, logits: &[f32], label: &str) {
    let greatest = logits.iter().copied().fold(f32::MIN, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - greatest).exp()).sum();
    let expected = |id: u32| f64::from(logits[id as usize] - greatest) - sum.ln();
    let is_near = |id: u32, got: f32| (expected(id) - f64::from(got)).abs() < f64::from(TOLERANCE);
    assert!(is_near(id, token.logprobs.chosen), "{label}: {token:?}, expected {}", expected(id));
    let count_above = |logit: f32| logits.iter().filter(|other| **other > logit).count() as u32;
    let logit = logits[id as usize];
    let ranks = count_above(logit + TOLERANCE) + 1..=count_above(logit - TOLERANCE);
    assert!(ranks.contains(&token.rank), "{label}: {token:?}, expected {ranks:?}");
    assert_eq!(token.logprobs.top.len(), TOP as usize, "{label}");
    for (place, (id, logprob)) in (1..).zip(&token.logprobs.top) {
        assert!(is_near(*id, *logprob), "{label}: {token:?}, expected {} for {id}", expected(*id));
        assert!(count_above(logits[*id as usize] + TOLERANCE) < place, "{label}: {id} is not among the likeliest");
    }
}

#[test]
fn log_probabilities_of_prompts_match_transformers() {
    for (index, name) in fixtures().enumerate() {
        let case = whole_case(name);
        assert!((0..case.prompt.len()).all(|position| case.positions.contains(&position)), "{name}");
        let sizes = if index < 2 { 1..=3 } else { 1 + index % 3..=1 + index % 3 };
        for world_size in sizes {
            for max_num_batched_tokens in [512, 11] {
                let setup = GroupSetup::new(name, world_size);
                let cases = [whole_case(name)];
                let reported = run_prompts(&setup, &cases, |config| {
                    config.max_num_batched_tokens = max_num_batched_tokens;
                });
                let tokens = &reported[&0];
                assert_eq!(tokens.len(), case.prompt.len() - 1);
                for (position, token) in tokens.iter().enumerate() {
                    let index = case.positions.iter().position(|known| *known == position).unwrap();
                    let label = format!("{name} at {world_size} ranks, token {}", position + 1);
                    check_token(token, case.prompt[position + 1], &case.logits[index], &label);
                }
            }
        }
    }
}

/// In f32, the log-probabilities are the same to the last bit alone and in company, whole, in chunks, after a
/// preemption, and on the stages of a pipeline.
#[test]
fn log_probabilities_of_prompts_do_not_depend_on_the_schedule() {
    for (name, world_size) in [("awkward-gqa", 3), ("qwen3-moe", 2)] {
        let cases = load_expected(name);
        let setup = GroupSetup::new(name, world_size);
        let alone = run_prompts(&setup, &cases, |config| config.max_num_seqs = 1);
        let lengths: Vec<usize> = (0..cases.len() as SeqId).map(|id| alone.get(&id).map_or(0, Vec::len)).collect();
        assert_eq!(lengths, cases.iter().map(|case| case.prompt.len() - 1).collect::<Vec<_>>());
        assert_eq!(run_prompts(&setup, &cases, |_| {}), alone, "{name}, together");
        assert_eq!(
            run_prompts(&setup, &cases, |config| config.max_num_batched_tokens = 13),
            alone,
            "{name}, in chunks"
        );
    }
    let name = "awkward-gqa";
    let cases = load_expected(name);
    let alone = run_prompts(&GroupSetup::new(name, 1), &cases, |_| {});
    for stages in [2, 3] {
        let setup = GroupSetup { stages, ..GroupSetup::new(name, stages) };
        let staged = run_prompts(&setup, &cases, |config| {
            (config.pipeline_stages, config.max_steps_in_flight) = (stages, stages + 1);
            config.max_num_batched_tokens = 11;
        });
        assert_eq!(staged, alone, "{stages} stages");
    }
}
