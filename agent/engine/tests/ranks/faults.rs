//! Faults of a peer: a rank returns a typed error at once, keeps its weights, and gives the same tokens in the next
//! epoch.

use std::collections::HashMap;
use std::time::Duration;

use crate::common::{GroupSetup, Ranks, load_expected, request, run_to_end, scheduler};
use lockstep_collectives::memory::{Cut, CutKind, Faults, form_group};
use lockstep_collectives::solo::Solo;
use lockstep_engine::{EngineError, Runner};
use lockstep_schedule::plan::{SamplingParams, SeqId, StepPlan};

const FIXTURE: &str = "awkward-gqa";

#[test]
fn tokens_continue_in_the_epoch_after_a_lost_peer() {
    let cases = load_expected(FIXTURE);
    let setup = GroupSetup::new(FIXTURE, 3);
    let mut ranks = Ranks::start(&setup);
    let mut scheduler = scheduler(&setup, |_| {});
    for (index, case) in cases.iter().enumerate() {
        scheduler.submit(request(index as SeqId, case, SamplingParams::default()), 0).unwrap();
    }
    let mut tokens: HashMap<SeqId, Vec<u32>> = HashMap::new();
    for after_bytes in [100_000, 300_000] {
        let cut = Some(Cut { from: 1, to: 2, after_bytes, kind: CutKind::Close });
        let epoch = ranks.start_epoch(&Faults { cut, op_timeout: Duration::from_secs(5), ..Faults::default() });
        scheduler.start_epoch(epoch, setup.num_blocks, 0);
        loop {
            ranks.send(&scheduler.next_plan().unwrap());
            let results = ranks.receive_all();
            if results.iter().any(Result::is_err) {
                // The head tells those ranks that the transport does not. Here the closed links tell all ranks.
                for result in results.iter().filter_map(|result| result.as_ref().err()) {
                    assert!(matches!(result, EngineError::Collective(_)), "{result}");
                }
                break;
            }
            let output = results.into_iter().next().unwrap().unwrap().output;
            for event in scheduler.complete_step(output, 1_000).unwrap() {
                if let lockstep_schedule::RequestOutput::Token { id, token, .. } = event {
                    tokens.entry(id).or_default().push(token);
                }
            }
        }
        scheduler.end_epoch(0);
    }
    let so_far: usize = tokens.values().map(Vec::len).sum();
    assert!(so_far > 0, "the first epochs gave no token");
    let epoch = ranks.start_epoch(&Faults::default());
    scheduler.start_epoch(epoch, setup.num_blocks, 0);
    run_to_end(&mut scheduler, &ranks, &mut tokens);
    for (index, case) in cases.iter().enumerate() {
        assert_eq!(tokens[&(index as SeqId)], case.greedy, "prompt {index}");
    }
}

#[test]
fn a_runner_refuses_wrong_epochs_steps_and_communicators() {
    let setup = GroupSetup::new(FIXTURE, 1);
    let mut runner = Runner::load(setup.config(0), &mut |_, _| {}).unwrap();
    let plan = |epoch, step| StepPlan { epoch, step, ..StepPlan::default() };
    let solo = || Solo::new().unwrap();

    assert!(matches!(runner.step(&plan(1, 1)), Err(EngineError::NotFormed)));
    let stranger = form_group(2, &Faults::default()).unwrap().remove(0);
    assert!(runner.start_epoch(1, stranger, 4).unwrap_err().to_string().contains("a communicator of"));
    assert!(runner.start_epoch(1, solo(), 0).unwrap_err().to_string().contains("at least one KV block"));
    runner.start_epoch(2, solo(), 4).unwrap();
    for (epoch, step, expected) in [(1, 1, "in epoch 2"), (3, 1, "in epoch 2"), (2, 2, "step 1 is due")] {
        let error = runner.step(&plan(epoch, step)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    runner.step(&plan(2, 1)).unwrap();
    assert!(runner.step(&plan(2, 1)).unwrap_err().to_string().contains("step 2 is due"));
    assert!(runner.start_epoch(2, solo(), 4).unwrap_err().to_string().contains("does not follow epoch 2"));
    assert!(
        matches!(runner.step(&plan(2, 2)), Err(EngineError::NotFormed)),
        "a failed start of an epoch ends the last one"
    );
}

#[test]
fn an_aborted_rank_reports_the_reason_and_starts_a_new_epoch() {
    let setup = GroupSetup::new(FIXTURE, 1);
    let case = load_expected(FIXTURE).remove(0);
    let mut runner = Runner::load(setup.config(0), &mut |_, _| {}).unwrap();
    let mut scheduler = scheduler(&setup, |_| {});
    scheduler.submit(request(1, &case, SamplingParams::default()), 0).unwrap();
    scheduler.start_epoch(1, 8, 0);
    let communicator = Solo::new().unwrap();
    let aborter = lockstep_collectives::Communicator::aborter(&communicator);
    runner.start_epoch(1, communicator, 8).unwrap();
    runner.step(&scheduler.next_plan().unwrap()).unwrap();
    aborter.abort("the head said so");
    let error = runner.step(&scheduler.next_plan().unwrap()).unwrap_err().to_string();
    assert_eq!(error, "aborted: the head said so");
    runner.start_epoch(2, Solo::new().unwrap(), 8).unwrap();
}
