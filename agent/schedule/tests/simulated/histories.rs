//! Long random histories: arrivals, cancellations, losses, groups that come back larger or smaller, slow and fast
//! steps, late results, deadlines.

use std::time::Duration;

use lockstep_schedule::{Request, SchedulerConfig};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::rank::VOCABULARY;
use crate::world::{Seen, World};

const NUM_HISTORIES: u32 = 1000;
const MAX_EVENTS: usize = 300;
/// Blocks of the last group, in which every request that is left fits.
const AMPLE_BLOCKS: u32 = 128;

#[derive(Debug, Clone)]
struct Arrival {
    /// Which of a few long texts the prompt begins with, and how much of it.
    text: u32,
    shared: usize,
    suffix: Vec<u32>,
    max_tokens: u32,
    stop_tokens: u32,
    seed: u64,
    patience: Option<u64>,
    needs_head: bool,
}

#[derive(Debug, Clone)]
enum Event {
    Arrive(Arrival),
    Cancel(usize),
    /// Ask for plans until there is none.
    Plan,
    /// The oldest result comes, after a step of so many microseconds.
    Complete(u64),
    Stale,
    Lose,
    Form(u32),
    Advance(u64),
}

fn arrival() -> impl Strategy<Value = Arrival> {
    let prompt = (0..3u32, 0..40usize, vec(0..VOCABULARY as u32, 1..12));
    let ends =
        (1..30u32, prop_oneof![2 => Just(0), 1 => 1..4u32], proptest::option::weighted(0.1, 1_000..1_000_000u64));
    (prompt, ends, 0..3u64, proptest::bool::weighted(0.15)).prop_map(
        |((text, shared, suffix), (max_tokens, stop_tokens, patience), seed, needs_head)| Arrival {
            text,
            shared,
            suffix,
            max_tokens,
            stop_tokens,
            seed,
            patience,
            needs_head,
        },
    )
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => arrival().prop_map(Event::Arrive),
        2 => any::<usize>().prop_map(Event::Cancel),
        40 => Just(Event::Plan),
        40 => (1..20_000u64).prop_map(Event::Complete),
        2 => Just(Event::Stale),
        1 => Just(Event::Lose),
        2 => (4..60u32).prop_map(Event::Form),
        2 => (0..100_000u64).prop_map(Event::Advance),
    ]
}

fn config() -> impl Strategy<Value = SchedulerConfig> {
    let sizes = (1..8u32, 1..9usize, prop_oneof![1..24usize, 24..200usize], 30..80u32);
    let steps = (prop_oneof![2 => Just(1usize), 1 => 2..5usize], 0..3usize);
    (sizes, 3..20usize, steps, 1..40u64, any::<bool>()).prop_map(
        |((block_size, seqs, batched, context_length), max_waiting, (stages, ahead), target, prefix_caching)| {
            SchedulerConfig {
                block_size,
                max_num_seqs: seqs,
                max_num_batched_tokens: batched,
                context_length,
                max_waiting,
                max_steps_in_flight: stages + ahead,
                pipeline_stages: stages,
                target_step: Duration::from_millis(target),
                prefix_key: [3; 16],
                prefix_caching,
                recovery_timeout: Duration::from_millis(150),
            }
        },
    )
}

fn request(world: &World, arrival: Arrival) -> Request {
    let text = (0..arrival.shared as u32).map(|i| (i * 7 + arrival.text * 11) % VOCABULARY as u32);
    let mut request = world.request(text.chain(arrival.suffix).collect(), arrival.max_tokens);
    request.stop_token_ids = (0..arrival.stop_tokens).collect();
    request.sampling.seed = arrival.seed;
    request.deadline = arrival.patience.map(|patience| world.now + patience);
    request.needs_head = arrival.needs_head;
    request
}

fn run(config: SchedulerConfig, first_blocks: u32, events: Vec<Event>) -> Seen {
    let mut world = World::new(config);
    world.form(first_blocks);
    for event in events {
        match event {
            Event::Arrive(arrival) => {
                // A refusal changes nothing: the client goes elsewhere.
                let _ = world.submit(request(&world, arrival));
            }
            Event::Cancel(index) => world.cancel_nth(index),
            Event::Plan => while world.plan() {},
            Event::Complete(micros) => {
                world.complete(micros);
            }
            Event::Stale => world.complete_stale(),
            Event::Lose => world.lose(),
            Event::Form(num_blocks) => world.form(num_blocks),
            Event::Advance(micros) => world.advance(micros),
        }
    }
    if !world.has_group() {
        world.form(AMPLE_BLOCKS);
    }
    world.drain();
    world.seen
}

fn history() -> impl Strategy<Value = (SchedulerConfig, u32, Vec<Event>)> {
    (config(), 8..60u32, vec(event(), 1..MAX_EVENTS))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: NUM_HISTORIES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_every_request_gets_its_own_tokens((config, blocks, events) in history()) {
        run(config, blocks, events);
    }
}

/// The histories are worth something: each thing that can happen does.
#[test]
fn histories_see_everything() {
    let mut runner = TestRunner::deterministic();
    let mut all = Seen::default();
    for _ in 0..60 {
        let (config, blocks, events) = history().new_tree(&mut runner).expect("a history can be drawn").current();
        let seen = run(config, blocks, events);
        all.finished += seen.finished;
        all.stopped += seen.stopped;
        all.cancelled += seen.cancelled;
        all.deadlines += seen.deadlines;
        all.timeouts += seen.timeouts;
        all.outgrown += seen.outgrown;
        all.refused_full += seen.refused_full;
        all.losses += seen.losses;
        all.steps += seen.steps;
        all.last_sampled += seen.last_sampled;
        all.chunks += seen.chunks;
        all.overlaps += seen.overlaps;
        all.preemptions += seen.preemptions;
        all.hits += seen.hits;
    }
    let rare = [
        all.stopped,
        all.cancelled,
        all.deadlines,
        all.timeouts,
        all.outgrown,
        all.refused_full,
        all.losses,
        all.preemptions as usize,
    ];
    let often = [all.finished, all.steps, all.last_sampled, all.chunks, all.overlaps, all.hits as usize];
    assert!(rare.iter().all(|&count| count > 0) && often.iter().all(|&count| count > 50), "{all:?}");
}
