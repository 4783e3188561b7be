//! Pipeline stages: the tokens and logits of one process, whatever the grid, and steps that overlap.

use std::collections::HashMap;
use std::time::Duration;

use crate::common::{GroupSetup, Ranks, fixtures, load_expected, request, run_to_end, scheduler};
use lockstep_collectives::memory::{Cut, CutKind, Faults};
use lockstep_engine::EngineError;
use lockstep_schedule::plan::{Admission, PlanEntry, PlanTokens, SamplingParams, SeqId, StepPlan};
use lockstep_schedule::{RequestOutput, SchedulerConfig};

/// Ranks and stages: pipelines alone, pipelines with tensor parallelism, and pipelines as long as the three layers of a
/// fixture.
const GRIDS: [(usize, usize); 5] = [(2, 2), (4, 2), (6, 2), (3, 3), (6, 3)];

fn setup(fixture: &str, (world_size, stages): (usize, usize)) -> GroupSetup {
    GroupSetup { stages, ..GroupSetup::new(fixture, world_size) }
}

fn pipelined(setup: &GroupSetup) -> impl FnOnce(&mut SchedulerConfig) {
    let stages = setup.stages;
    move |config| (config.pipeline_stages, config.max_steps_in_flight) = (stages, stages + 1)
}

/// Returns all tokens that the fixture's prompts sample, run together and as far ahead as the scheduler plans.
fn run_prompts(setup: &GroupSetup, fixture: &str, params: impl Fn(u64) -> SamplingParams) -> HashMap<SeqId, Vec<u32>> {
    let ranks = Ranks::start(setup);
    let mut scheduler = scheduler(setup, pipelined(setup));
    scheduler.start_epoch(ranks.epoch(), setup.num_blocks, 0);
    for (index, case) in load_expected(fixture).iter().enumerate() {
        scheduler.submit(request(index as SeqId, case, params(index as u64)), 0).unwrap();
    }
    let mut tokens = HashMap::new();
    run_to_end(&mut scheduler, &ranks, &mut tokens);
    tokens
}

#[test]
fn greedy_tokens_match_transformers() {
    let everywhere = GRIDS.iter().flat_map(|grid| ["awkward-gqa", "llama3-sharded"].map(|fixture| (fixture, *grid)));
    for (fixture, grid) in fixtures().map(|fixture| (fixture, (4, 2))).chain(everywhere) {
        let setup = setup(fixture, grid);
        let layers = lockstep_engine::describe(lockstep_engine::open(&setup.source).unwrap().as_ref())
            .unwrap()
            .config
            .num_layers;
        if setup.stages > layers {
            continue;
        }
        let tokens = run_prompts(&setup, fixture, |_| SamplingParams::default());
        for (index, case) in load_expected(fixture).iter().enumerate() {
            assert_eq!(tokens[&(index as SeqId)], case.greedy, "{fixture} on {grid:?}, prompt {index}");
        }
    }
}

#[test]
fn sampled_tokens_do_not_depend_on_the_grid() {
    let params = |seed| SamplingParams { temperature: 1.3, top_k: 20, seed, logprobs: Some(2), ..Default::default() };
    let name = "awkward-gqa";
    let alone = run_prompts(&setup(name, (1, 1)), name, params);
    for grid in [(2, 2), (4, 2), (3, 3)] {
        assert_eq!(run_prompts(&setup(name, grid), name, params), alone, "{grid:?}");
    }
}

/// Stages change no bit: the residual stream goes from one stage to the next unchanged.
#[test]
fn logits_match_one_process_to_the_last_bit() {
    let name = "awkward-gqa";
    let case = load_expected(name).remove(0);
    let logits = |grid| {
        let setup = setup(name, grid);
        let ranks = Ranks::start(&setup);
        let length = u32::try_from(case.prompt.len()).unwrap();
        let entry = |position, tokens, new_blocks| PlanEntry {
            seq: 1,
            position,
            tokens,
            new_blocks,
            sample: true,
            allowed: None,
            prompt_targets: None,
        };
        let prefill = entry(0, PlanTokens::Given(case.prompt.clone()), (0..16).collect());
        let admit = vec![Admission::new(1, SamplingParams::default())];
        let plan = StepPlan { epoch: 1, step: 1, forget: vec![], admit, entries: vec![prefill] };
        let first = ranks.step(&plan).logits;
        let decode = entry(length, PlanTokens::LastSampled, vec![]);
        let plan = StepPlan { epoch: 1, step: 2, entries: vec![decode], ..StepPlan::default() };
        [first, ranks.step(&plan).logits]
    };
    let alone = logits((1, 1));
    for grid in [(2, 2), (3, 3)] {
        assert_eq!(logits(grid), alone, "{grid:?}");
    }
}

/// The first stage computes steps while the last has not begun. It waits for a token only if a plan needs the token.
#[test]
fn a_stage_computes_ahead_of_later_stages() {
    let name = "awkward-gqa";
    let setup = setup(name, (2, 2));
    let ranks = Ranks::start(&setup);
    let plan = |step: u64| StepPlan {
        epoch: 1,
        step,
        forget: Vec::new(),
        admit: vec![Admission::new(step, SamplingParams::default())],
        entries: vec![PlanEntry {
            seq: step,
            position: 0,
            tokens: PlanTokens::Given(vec![3, 4, 5]),
            new_blocks: vec![u32::try_from(step).unwrap()],
            sample: true,
            allowed: None,
            prompt_targets: None,
        }],
    };
    // The last stage gets no plan yet.
    for step in 1..=3 {
        ranks.send_to(0, &plan(step));
        assert!(ranks.receive_from(0).unwrap().output.sampled.is_empty());
    }
    let decode =
        PlanEntry { tokens: PlanTokens::LastSampled, position: 3, new_blocks: vec![], ..plan(1).entries.remove(0) };
    let decode = StepPlan { admit: Vec::new(), entries: vec![decode], ..plan(4) };
    ranks.send_to(0, &decode);
    for step in 1..=3 {
        ranks.send_to(1, &plan(step));
        assert_eq!(ranks.receive_from(1).unwrap().output.sampled.len(), 1);
    }
    ranks.send_to(1, &decode);
    assert_eq!(ranks.receive().output.sampled[0].seq, 1);
}

#[test]
fn tokens_continue_in_the_epoch_after_a_broken_link_between_stages() {
    let name = "awkward-gqa";
    let cases = load_expected(name);
    let setup = setup(name, (4, 2));
    let mut ranks = Ranks::start(&setup);
    let mut scheduler = scheduler(&setup, pipelined(&setup));
    for (index, case) in cases.iter().enumerate() {
        scheduler.submit(request(index as SeqId, case, SamplingParams::default()), 0).unwrap();
    }
    let mut tokens: HashMap<SeqId, Vec<u32>> = HashMap::new();
    // The cuts are forwards, where activations go, and backwards, where tokens go.
    for (from, to, after_bytes) in [(0, 1, 15_000), (1, 0, 60), (0, 1, 20_000)] {
        let cut = Some(Cut { from, to, after_bytes, kind: CutKind::Close });
        let epoch = ranks.start_epoch(&Faults { cut, op_timeout: Duration::from_secs(5), ..Faults::default() });
        scheduler.start_epoch(epoch, setup.num_blocks, 0);
        loop {
            let sent = std::iter::from_fn(|| scheduler.next_plan()).map(|plan| ranks.send(&plan)).count();
            assert!(sent > 0 || scheduler.stats().steps_in_flight > 0, "no link broke");
            let results = ranks.receive_all();
            if let Some(error) = results.iter().find_map(|result| result.as_ref().err()) {
                assert!(matches!(error, EngineError::Collective(_) | EngineError::NotFormed), "{error}");
                let rest = scheduler.stats().steps_in_flight - 1;
                (0..rest).for_each(|_| drop(ranks.receive_all()));
                break;
            }
            let output = results.into_iter().next_back().unwrap().unwrap().output;
            for event in scheduler.complete_step(output, 1_000).unwrap() {
                if let RequestOutput::Token { id, token, .. } = event {
                    tokens.entry(id).or_default().push(token);
                }
            }
        }
        scheduler.end_epoch(0);
    }
    assert!(!tokens.is_empty(), "the first epochs gave no token");
    let epoch = ranks.start_epoch(&Faults::default());
    scheduler.start_epoch(epoch, setup.num_blocks, 0);
    run_to_end(&mut scheduler, &ranks, &mut tokens);
    for (index, case) in cases.iter().enumerate() {
        assert_eq!(tokens[&(index as SeqId)], case.greedy, "prompt {index}");
    }
}
