//! Pipeline stages: the steps that are in flight at the same time.

use std::collections::HashSet;

use lockstep_schedule::SchedulerConfig;
use lockstep_schedule::plan::{PlanTokens, StepPlan};

use crate::world::World;

fn world(stages: usize) -> World {
    let mut world = World::new(SchedulerConfig {
        block_size: 4,
        context_length: 1024,
        pipeline_stages: stages,
        max_steps_in_flight: stages + 1,
        prefix_caching: false,
        ..SchedulerConfig::default()
    });
    world.form_group(1024);
    world
}

fn sequence_ids(plan: &StepPlan) -> HashSet<u64> {
    plan.entries.iter().map(|entry| entry.seq).collect()
}

#[test]
fn steps_in_flight_share_no_sequence() {
    for (stages, requests) in [(2, 2), (2, 5), (3, 3), (3, 8), (4, 64)] {
        let mut world = world(stages);
        for first in 0..requests {
            world.submit(world.request(vec![first], 40)).expect("there is room");
        }
        // Run until all sequences have begun.
        while world.scheduler.stats().waiting > 0 || world.counts.steps < 3 * stages {
            while world.run_step().is_some() {}
            world.deliver_result(1);
        }
        let mut window: Vec<StepPlan> = Vec::new();
        for _ in 0..4 * stages {
            while let Some(plan) = world.run_step() {
                let share = (requests as usize).div_ceil(stages);
                assert!(plan.entries.len() <= share, "{} of {requests} in {stages} stages", plan.entries.len());
                for earlier in window.iter().rev().take(stages - 1) {
                    assert!(sequence_ids(earlier).is_disjoint(&sequence_ids(&plan)), "{earlier:?} and {plan:?}");
                }
                window.push(plan);
            }
            assert_eq!(world.scheduler.stats().steps_in_flight, stages + 1);
            world.deliver_result(1);
        }
        let planned_ahead =
            window.iter().flat_map(|plan| &plan.entries).all(|entry| entry.tokens == PlanTokens::LastSampled);
        assert!(planned_ahead, "the head plans every step before it knows the token that the step needs");
        world.drain();
    }
}

#[test]
fn a_sequence_alone_runs_one_step_ahead() {
    let mut world = world(4);
    world.submit(world.request(vec![1, 2], 9)).expect("there is room");
    while world.run_step().is_some() {}
    assert_eq!(world.scheduler.stats().steps_in_flight, 2);
    world.drain();
    assert_eq!(world.counts.steps, 9);
}

#[test]
fn a_long_prompt_fills_all_stages_at_once() {
    for (stages, chunks) in [(1, 8), (2, 8), (3, 8)] {
        let mut world = world(stages);
        world.submit(world.request(vec![1; 500], 1)).expect("there is room");
        let mut steps_in_flight = 0;
        while world.run_step().is_some() {
            steps_in_flight += 1;
        }
        assert_eq!(steps_in_flight, (stages + 1).min(chunks), "{stages} stages");
        world.drain();
        assert!(world.counts.steps <= chunks, "{} steps", world.counts.steps);
    }
}
