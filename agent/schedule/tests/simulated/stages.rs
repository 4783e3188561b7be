//! Ranks in several pipeline stages: what is in flight together.

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
    world.form(1024);
    world
}

fn sequences(plan: &StepPlan) -> HashSet<u64> {
    plan.entries.iter().map(|entry| entry.seq).collect()
}

#[test]
fn steps_in_flight_together_share_no_sequence() {
    for (stages, requests) in [(2, 2), (2, 5), (3, 3), (3, 8), (4, 64)] {
        let mut world = world(stages);
        for first in 0..requests {
            world.submit(world.request(vec![first], 40)).expect("there is room");
        }
        // Until all have begun.
        while world.scheduler.stats().waiting > 0 || world.seen.steps < 3 * stages {
            while world.plan() {}
            world.complete(1);
        }
        let mut window: Vec<StepPlan> = Vec::new();
        for _ in 0..4 * stages {
            while let Some(plan) = world.next_plan() {
                let share = (requests as usize).div_ceil(stages);
                assert!(plan.entries.len() <= share, "{} of {requests} in {stages} stages", plan.entries.len());
                for other in window.iter().rev().take(stages - 1) {
                    assert!(sequences(other).is_disjoint(&sequences(&plan)), "{other:?} and {plan:?}");
                }
                window.push(plan);
            }
            assert_eq!(world.scheduler.stats().steps_in_flight, stages + 1);
            world.complete(1);
        }
        let ahead = window.iter().flat_map(|plan| &plan.entries).all(|entry| entry.tokens == PlanTokens::LastSampled);
        assert!(ahead, "every step is planned before the token before it is known");
        world.drain();
    }
}

#[test]
fn one_sequence_alone_runs_one_step_ahead_and_no_further() {
    let mut world = world(4);
    world.submit(world.request(vec![1, 2], 9)).expect("there is room");
    while world.plan() {}
    assert_eq!(world.scheduler.stats().steps_in_flight, 2);
    world.drain();
    assert_eq!(world.seen.steps, 9);
}

#[test]
fn a_long_prompt_is_in_all_stages_at_once() {
    for (stages, chunks) in [(1, 8), (2, 8), (3, 8)] {
        let mut world = world(stages);
        world.submit(world.request(vec![1; 500], 1)).expect("there is room");
        let mut together = 0;
        while world.plan() {
            together += 1;
        }
        assert_eq!(together, (stages + 1).min(chunks), "{stages} stages");
        world.drain();
        assert!(world.seen.steps <= chunks, "{} steps", world.seen.steps);
    }
}
