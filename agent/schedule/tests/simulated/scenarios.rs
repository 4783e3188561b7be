//! Single situations. Each situation shows one rule of the scheduler.

use lockstep_schedule::plan::{PlanTokens, PromptLogprobs, Sampled, StepOutput};
use lockstep_schedule::{CompleteError, Request, RequestOutput, Scheduler, SchedulerConfig, SubmitError};

use crate::world::World;

fn config() -> SchedulerConfig {
    SchedulerConfig { block_size: 4, context_length: 64, max_waiting: 2, ..SchedulerConfig::default() }
}

fn world_with_group(config: SchedulerConfig, num_blocks: u32) -> World {
    let mut world = World::new(config);
    world.form_group(num_blocks);
    world
}

#[test]
fn a_request_that_can_never_be_answered_is_refused() {
    let mut world = world_with_group(config(), 5);
    let mut check = |prompt: usize, max_tokens: u32, expected: SubmitError| {
        let request = world.request(vec![1; prompt], max_tokens);
        assert_eq!(world.submit(request), Err(expected));
    };
    check(0, 1, SubmitError::EmptyPrompt);
    check(64, 1, SubmitError::PromptTooLong { tokens: 64, limit: 64 });
    check(20, 2, SubmitError::TooManyBlocks { needed: 6, total: 5 });
    assert_eq!(world.scheduler.max_sequence_tokens(), 21);
    let request = world.request(vec![1; 20], 1);
    assert_eq!(world.submit(request.clone()), Ok(1));
    assert_eq!(world.scheduler.submit(request, 0), Err(SubmitError::DuplicateId { id: 1 }));
    world.drain();
}

#[test]
fn the_queue_is_bounded_and_does_not_count_requests_that_have_run() {
    let mut world = world_with_group(SchedulerConfig { max_num_seqs: 2, ..config() }, 32);
    let submit = |world: &mut World| world.submit(world.request(vec![1, 2, 3], 5));
    assert_eq!((submit(&mut world), submit(&mut world)), (Ok(1), Ok(2)));
    assert_eq!(submit(&mut world), Err(SubmitError::QueueFull { limit: 2 }));
    world.run_step();
    assert_eq!((submit(&mut world), submit(&mut world)), (Ok(3), Ok(4)));
    assert_eq!(submit(&mut world), Err(SubmitError::QueueFull { limit: 2 }));
    world.lose_group();
    assert_eq!(world.scheduler.stats().waiting, 4);
    assert_eq!(submit(&mut world), Err(SubmitError::QueueFull { limit: 2 }));
    world.cancel(4);
    assert_eq!(submit(&mut world), Ok(5));
    world.form_group(32);
    world.drain();
}

#[test]
fn an_equal_prefix_is_computed_once_except_for_the_last_token() {
    for (prefix_caching, hits) in [(true, 8), (false, 0)] {
        let mut world = world_with_group(SchedulerConfig { prefix_caching, ..config() }, 32);
        let prompt: Vec<u32> = (0..12).collect();
        world.submit(world.request(prompt.clone(), 3)).expect("there is room");
        world.drain();
        world.submit(world.request(prompt, 3)).expect("there is room");
        world.drain();
        assert_eq!(world.counts.hits, hits);
    }
}

/// A cached block holds no log-probabilities. A sequence takes such blocks again once it has sent those of their tokens.
#[test]
fn log_probabilities_of_a_prompt_are_computed_in_spite_of_the_prefix_cache() {
    let mut world = world_with_group(config(), 32);
    let prompt: Vec<u32> = (0..20).collect();
    world.submit(world.request(prompt.clone(), 3)).expect("there is room");
    world.drain();
    let request = Request { prompt_logprobs: Some(0), ..world.request(prompt, 3) };
    world.submit(request).expect("there is room");
    world.run_step();
    world.deliver_result(1);
    assert_eq!((world.counts.prompt_tokens, world.scheduler.stats().prefix_hit_tokens), (19, 0));
    world.lose_group();
    world.form_group(32);
    world.drain();
    assert_eq!((world.counts.targets, world.counts.prompt_tokens), (19, 19), "none is computed twice");
}

/// A sequence is preempted within its prompt and admitted again while results of its first chunks are in flight. So the
/// ranks compute some log-probabilities twice.
#[test]
fn a_preempted_prompt_is_reported_once() {
    let sizes = SchedulerConfig { max_num_batched_tokens: 5, max_steps_in_flight: 16, ..config() };
    let mut world = world_with_group(SchedulerConfig { prefix_caching: false, ..sizes }, 12);
    world.submit(world.request(vec![1; 3], 30)).expect("there is room");
    let request = Request { prompt_logprobs: Some(0), ..world.request((0..40).collect(), 0) };
    world.submit(request).expect("there is room");
    while world.scheduler.stats().preemptions == 0 {
        if world.run_step().is_none() {
            world.deliver_result(1);
        }
    }
    world.cancel(1);
    world.drain();
    assert_eq!(world.counts.prompt_tokens, 39);
    assert!(world.counts.targets > 39, "{:?}", world.counts);
}

#[test]
fn a_request_for_no_token_ends_with_its_prompt() {
    let mut world = world_with_group(config(), 32);
    world.submit(world.request((0..10).collect(), 0)).expect("there is room");
    world.drain();
    assert_eq!((world.counts.finished, world.counts.steps), (1, 1));
}

#[test]
fn a_step_shares_a_prefix_that_the_step_before_fills() {
    let mut world = world_with_group(config(), 32);
    for _ in 0..2 {
        world.submit(world.request((0..9).collect(), 3)).expect("there is room");
    }
    world.run_step();
    assert_eq!(world.scheduler.stats().prefix_hit_tokens, 0, "a step does not share a prefix that it fills itself");
    world.submit(world.request((0..9).collect(), 3)).expect("there is room");
    world.run_step();
    assert_eq!(world.scheduler.stats().prefix_hit_tokens, 8, "the first step is still in flight");
    world.drain();
}

#[test]
fn requests_with_different_salts_share_no_blocks() {
    for (salts, hits) in [(["", "a"], 0), (["a", "b"], 0), (["a", "a"], 8)] {
        let mut world = world_with_group(config(), 32);
        for salt in salts {
            let request = Request { cache_salt: salt.into(), ..world.request((0..9).collect(), 3) };
            world.submit(request).expect("there is room");
            world.drain();
        }
        assert_eq!(world.counts.hits, hits, "{salts:?}");
    }
}

/// A router that follows the reports knows which blocks a prompt finds.
#[test]
fn reports_say_which_blocks_are_cached() {
    let mut world = world_with_group(SchedulerConfig { block_events: true, ..config() }, 4);
    let prompt: Vec<u32> = (0..9).collect();
    world.submit(world.request(prompt.clone(), 3)).expect("there is room");
    let salted = Request { cache_salt: "a".into(), ..world.request((0..4).collect(), 1) };
    world.submit(salted).expect("there is room");
    world.drain();
    assert_eq!((world.count_reported(&prompt), world.follow_block_events()), (2, 2), "none with a salt");
    assert_eq!(world.count_reported(&[0, 1, 2, 3, 9, 9, 9, 9]), 1);
    world.submit(world.request((20..33).collect(), 3)).expect("there is room");
    world.drain();
    assert_eq!((world.count_reported(&prompt), world.count_reported(&[20, 21, 22, 23])), (0, 1), "evicted");
    world.lose_group();
    assert_eq!(world.follow_block_events(), 0);
}

/// A lower priority comes first. Requests that arrive later overtake a request only a bounded number of times.
#[test]
fn priorities_move_a_request_in_the_queue() {
    let first_of = |priorities: &[i32]| {
        let mut scheduler = Scheduler::new(SchedulerConfig { max_num_seqs: 1, max_waiting: 64, ..config() });
        for (id, priority) in (1..).zip(priorities) {
            let request = Request { id, priority: *priority, ..World::new(config()).request(vec![1, 2], 3) };
            assert_eq!(scheduler.submit(request, 0), Ok(()));
        }
        scheduler.start_epoch(1, 8, 0);
        scheduler.next_plan().expect("a plan").entries[0].seq
    };
    assert_eq!(first_of(&[0, 0, 0]), 1);
    assert_eq!(first_of(&[0, -1, 0]), 2);
    assert_eq!(first_of(&[5, 0, 5]), 2);
    assert_eq!(first_of(&[i32::MAX, i32::MIN]), 2);
    let first_with_a_late_one = |arrival: usize| {
        let mut priorities = vec![1; arrival];
        priorities[arrival - 1] = 0;
        first_of(&priorities)
    };
    assert_eq!((first_with_a_late_one(32), first_with_a_late_one(33)), (32, 1), "one step is worth 32 places");
}

#[test]
fn a_request_survives_any_number_of_lost_groups() {
    let mut world = world_with_group(config(), 32);
    world.submit(world.request((0..10).collect(), 30)).expect("there is room");
    for _ in 0..20 {
        world.run_step();
        world.deliver_result(1);
        world.run_step();
        world.lose_group();
        world.deliver_stale_result();
        world.form_group(16);
    }
    world.drain();
    assert_eq!((world.counts.finished, world.counts.losses), (1, 20));
}

#[test]
fn the_last_request_to_arrive_is_preempted_when_blocks_run_out() {
    let mut world = world_with_group(SchedulerConfig { prefix_caching: false, ..config() }, 8);
    for first in [1, 2] {
        world.submit(world.request(vec![first; 4], 24)).expect("each fits alone");
    }
    world.drain();
    assert_eq!(world.counts.finished, 2);
    assert!(world.counts.preemptions > 0);
}

#[test]
fn steps_are_planned_ahead_unless_the_head_must_know_each_token() {
    for (max_steps_in_flight, needs_head, steps) in [(1, false, 1), (2, false, 2), (3, false, 3), (2, true, 1)] {
        let mut world = world_with_group(SchedulerConfig { max_steps_in_flight, ..config() }, 32);
        let request = Request { needs_head, ..world.request(vec![1, 2], 9) };
        world.submit(request).expect("there is room");
        while world.run_step().is_some() {}
        assert_eq!(world.scheduler.stats().steps_in_flight, steps);
        world.drain();
        assert_eq!(world.counts.steps, 9, "no step is planned after the last token");
    }
}

#[test]
fn a_stop_token_ends_the_sequence_and_drops_the_step_ahead() {
    let mut scheduler = Scheduler::new(config());
    scheduler.start_epoch(1, 8, 0);
    let request = Request { stop_token_ids: vec![9], ..World::new(config()).request(vec![1, 2, 3], 5) };
    assert_eq!(scheduler.submit(request, 0), Ok(()));
    assert_eq!(scheduler.next_plan().map(|plan| plan.step), Some(1));
    let step_ahead = scheduler.next_plan().expect("the head plans one step ahead");
    assert_eq!(step_ahead.entries[0].tokens, PlanTokens::LastSampled);
    let result = |step| StepOutput {
        epoch: 1,
        step,
        sampled: vec![Sampled { seq: 1, token: 9, logprobs: None }],
        prompts: Vec::new(),
    };
    let outputs = scheduler.complete_step(result(1), 1).expect("step 1 is due");
    assert!(
        matches!(outputs[..], [RequestOutput::Started { .. }, RequestOutput::Finished { id: 1, .. }]),
        "{outputs:?}"
    );
    assert_eq!(scheduler.stats().blocks_used, 0);
    assert_eq!(scheduler.complete_step(result(2), 1), Ok(Vec::new()));
    let request = World::new(config()).request(vec![4], 1);
    assert_eq!(scheduler.submit(Request { id: 2, ..request }, 0), Ok(()));
    assert_eq!(scheduler.next_plan().map(|plan| plan.forget), Some(vec![1]));
}

#[test]
fn a_result_that_is_not_due_is_an_error_and_changes_nothing() {
    let mut scheduler = Scheduler::new(config());
    scheduler.start_epoch(3, 8, 0);
    let result = |epoch, step, seq| StepOutput {
        epoch,
        step,
        sampled: vec![Sampled { seq, token: 5, logprobs: None }],
        prompts: Vec::new(),
    };
    assert_eq!(scheduler.complete_step(result(3, 1, 1), 1), Err(CompleteError::NothingInFlight { got: 1 }));
    assert_eq!(scheduler.submit(World::new(config()).request(vec![1, 2], 5), 0), Ok(()));
    assert!(scheduler.next_plan().is_some());
    let mut check = |output: StepOutput, expected: CompleteError| {
        assert_eq!(scheduler.complete_step(output, 1), Err(expected));
    };
    check(result(4, 1, 1), CompleteError::FutureEpoch { got: 4, current: 3 });
    check(result(3, 2, 1), CompleteError::OutOfOrder { got: 2, expected: 1 });
    check(result(3, 1, 8), CompleteError::OtherSequences { step: 1, got: vec![8], expected: vec![1] });
    let prompts = vec![PromptLogprobs { seq: 1, tokens: Vec::new() }];
    let expected = CompleteError::OtherPrompts { step: 1, got: vec![(1, 0)], expected: Vec::new() };
    check(StepOutput { prompts, ..result(3, 1, 1) }, expected);
    assert_eq!(scheduler.complete_step(result(2, 1, 1), 1), Ok(Vec::new()), "older epochs are ignored");
    assert_eq!(scheduler.complete_step(result(3, 1, 1), 1).map(|outputs| outputs.len()), Ok(2));
}
