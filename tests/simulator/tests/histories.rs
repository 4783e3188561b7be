//! The simulator's own tests: a seed replays, planted mistakes are found, and histories hold.

use lockstep_simulator::group;
use lockstep_simulator::operator::{self, Fault, Kind, Planted, Shape};

#[test]
fn a_seed_determines_its_history() {
    for seed in 0..20 {
        let script = group::Script::generate(seed);
        let (once, again) = (group::run(&script, None, false), group::run(&script, None, false));
        assert_eq!(once.counts, again.counts, "seed {seed}");
        assert!(once.counts.faults > 0 && once.counts.digest != 0);
    }
}

#[test]
fn each_planted_mistake_is_found() {
    for planted in group::Planted::ALL {
        let fails = |seed: &u64| !group::run(&group::Script::generate(*seed), Some(planted), false).findings.is_empty();
        assert!((0..500).any(|seed| fails(&seed)), "{planted:?} is not found");
    }
}

#[test]
fn a_failing_script_is_made_small() {
    let planted = Some(group::Planted::EvictsSilentNodes);
    let failing =
        (0..500).map(group::Script::generate).find(|script| !group::run(script, planted, false).findings.is_empty());
    let script = failing.expect("a failing script");
    let property = group::run(&script, planted, false).findings[0].property.clone();
    let small = group::shrink(&script, planted, &property);
    assert_eq!(group::run(&small, planted, false).findings[0].property, property);
    assert!(small.faults.len() <= 2 && small.asks.len() <= 1, "{small}");
}

#[test]
fn a_seed_determines_its_history_of_the_operator() {
    for seed in 0..3 {
        let script = operator::Script::generate(seed);
        let (once, again) = (operator::run(&script, None, false), operator::run(&script, None, false));
        assert_eq!(once.counts, again.counts, "seed {seed}");
        assert!(once.counts.faults > 0 && once.counts.digest != 0);
    }
}

/// A change of the spec, an end of the operator, a lost watch, and a crash.
#[test]
fn each_mistake_around_the_operator_is_found() {
    let shape = Shape {
        replicas: 1,
        workers: 1,
        max_unavailable: 1,
        partition: 0,
        machines: 3,
        room: 1,
        load: 500,
        start: 500,
        drain_timeout: 20_000,
    };
    let change = (20_000, Fault::ChangeEnv);
    let end = (30_000, Fault::OperatorEnds { time: 1_000 });
    let lost = (30_000, Fault::LostWatch { kind: Kind::Sets, list: 20_000 });
    let crash = (40_000, Fault::Crash { group: 0, ordinal: 1, times: 1 });
    let partition = |partition| Shape { partition, ..shape.clone() };
    for (planted, shape, faults) in [
        (Planted::ListsEarly, partition(1), vec![change, end, lost, crash]),
        (Planted::SilencesMachine, partition(0), vec![change]),
        (Planted::HidesRequests, partition(0), vec![change]),
        (Planted::IgnoresDeletions, partition(0), vec![change]),
        (Planted::LosesStatus, partition(0), vec![change]),
        (Planted::StaysAway, partition(0), vec![change, end, (30_000, Fault::ChangeEnv)]),
    ] {
        let script = operator::Script { seed: 1, shape, faults };
        assert_eq!(operator::run(&script, None, false).findings, [], "without {planted:?}");
        assert!(!operator::run(&script, Some(planted), false).findings.is_empty(), "{planted:?} is not found");
    }
}
