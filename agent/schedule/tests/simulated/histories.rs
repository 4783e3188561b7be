//! Long random histories: new requests, cancellations, lost groups, groups that come back larger or smaller, slow and
//! fast steps, late results, and deadlines.

use std::time::Duration;

use lockstep_schedule::{Request, SchedulerConfig};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::rank::VOCABULARY;
use crate::world::{EventCounts, World};

const NUM_HISTORIES: u32 = 1000;
const MAX_EVENTS: usize = 300;
/// Blocks of the group that forms if a history ends without one. Every request fits into them.
const ENOUGH_BLOCKS: u32 = 128;

#[derive(Debug, Clone)]
struct NewRequest {
    /// Index of the long text that the prompt begins with.
    text: u32,
    /// Tokens of that text in the prompt.
    num_shared: usize,
    suffix: Vec<u32>,
    max_tokens: u32,
    /// Number of stop tokens: the lowest ids.
    num_stop_tokens: u32,
    seed: u64,
    /// Microseconds until the deadline.
    timeout: Option<u64>,
    needs_head: bool,
    prompt_logprobs: bool,
}

#[derive(Debug, Clone)]
enum Event {
    Submit(NewRequest),
    /// A client cancels one of the live requests. The number selects the request.
    Cancel(usize),
    /// The head asks for plans until there is none.
    Plan,
    /// The oldest result arrives, after a step of this many microseconds.
    DeliverResult(u64),
    DeliverStaleResult,
    LoseGroup,
    /// A group of this many blocks forms.
    FormGroup(u32),
    /// This many microseconds pass.
    AdvanceTime(u64),
}

fn new_request() -> impl Strategy<Value = NewRequest> {
    let prompt = (0..3u32, 0..40usize, vec(0..VOCABULARY as u32, 1..12));
    let ends =
        (0..30u32, prop_oneof![2 => Just(0), 1 => 1..4u32], proptest::option::weighted(0.1, 1_000..1_000_000u64));
    let flags = (proptest::bool::weighted(0.15), proptest::bool::weighted(0.3));
    (prompt, ends, 0..3u64, flags).prop_map(
        |((text, num_shared, suffix), (max_tokens, num_stop_tokens, timeout), seed, (needs_head, prompt_logprobs))| {
            NewRequest {
                text,
                num_shared,
                suffix,
                max_tokens,
                num_stop_tokens,
                seed,
                timeout,
                needs_head,
                prompt_logprobs,
            }
        },
    )
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => new_request().prop_map(Event::Submit),
        2 => any::<usize>().prop_map(Event::Cancel),
        40 => Just(Event::Plan),
        40 => (1..20_000u64).prop_map(Event::DeliverResult),
        2 => Just(Event::DeliverStaleResult),
        1 => Just(Event::LoseGroup),
        2 => (4..60u32).prop_map(Event::FormGroup),
        2 => (0..100_000u64).prop_map(Event::AdvanceTime),
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
                block_events: prefix_caching,
                recovery_timeout: Duration::from_millis(150),
            }
        },
    )
}

fn make_request(world: &World, new: NewRequest) -> Request {
    let text = (0..new.num_shared as u32).map(|i| (i * 7 + new.text * 11) % VOCABULARY as u32);
    let mut request = world.request(text.chain(new.suffix).collect(), new.max_tokens);
    request.stop_token_ids = (0..new.num_stop_tokens).collect();
    request.sampling.seed = new.seed;
    request.deadline = new.timeout.map(|timeout| world.now + timeout);
    request.needs_head = new.needs_head;
    // Most histories have requests of one priority, as most groups do.
    request.priority = if new.text == 0 { (new.seed % 5) as i32 - 2 } else { 0 };
    request.prompt_logprobs = new.prompt_logprobs.then_some(0);
    request
}

fn run_history(config: SchedulerConfig, first_blocks: u32, events: Vec<Event>) -> EventCounts {
    let mut world = World::new(config);
    world.form_group(first_blocks);
    for event in events {
        match event {
            Event::Submit(new) => {
                // A refused request changes nothing.
                let _ = world.submit(make_request(&world, new));
            }
            Event::Cancel(index) => world.cancel_nth(index),
            Event::Plan => while world.run_step().is_some() {},
            Event::DeliverResult(micros) => {
                world.deliver_result(micros);
            }
            Event::DeliverStaleResult => world.deliver_stale_result(),
            Event::LoseGroup => world.lose_group(),
            Event::FormGroup(num_blocks) => world.form_group(num_blocks),
            Event::AdvanceTime(micros) => world.advance_time(micros),
        }
    }
    if !world.has_group() {
        world.form_group(ENOUGH_BLOCKS);
    }
    world.drain();
    world.counts
}

fn history() -> impl Strategy<Value = (SchedulerConfig, u32, Vec<Event>)> {
    (config(), 8..60u32, vec(event(), 1..MAX_EVENTS))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: NUM_HISTORIES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_request_gets_the_tokens_that_it_gets_alone((config, blocks, events) in history()) {
        run_history(config, blocks, events);
    }
}

/// Checks that the histories are worth running: every counted event occurs in them. Stale results and passing time are
/// not counted.
#[test]
fn every_counted_event_occurs_in_the_histories() {
    let mut runner = TestRunner::deterministic();
    let mut all = EventCounts::default();
    for _ in 0..60 {
        let (config, blocks, events) = history().new_tree(&mut runner).expect("a history can be drawn").current();
        let counts = run_history(config, blocks, events);
        all.finished += counts.finished;
        all.stopped += counts.stopped;
        all.cancelled += counts.cancelled;
        all.deadlines += counts.deadlines;
        all.timeouts += counts.timeouts;
        all.too_large += counts.too_large;
        all.refused_full += counts.refused_full;
        all.losses += counts.losses;
        all.steps += counts.steps;
        all.last_sampled += counts.last_sampled;
        all.chunks += counts.chunks;
        all.overlaps += counts.overlaps;
        all.preemptions += counts.preemptions;
        all.hits += counts.hits;
        all.targets += counts.targets;
        all.prompt_tokens += counts.prompt_tokens;
    }
    let rare = [
        all.stopped,
        all.cancelled,
        all.deadlines,
        all.timeouts,
        all.too_large,
        all.refused_full,
        all.losses,
        all.preemptions as usize,
    ];
    assert!(all.targets > all.prompt_tokens, "some prompts are computed again: {all:?}");
    let often =
        [all.prompt_tokens, all.finished, all.steps, all.last_sampled, all.chunks, all.overlaps, all.hits as usize];
    assert!(rare.iter().all(|&count| count > 0) && often.iter().all(|&count| count > 50), "{all:?}");
}
