//! The simulator's own tests: a seed replays, planted mistakes are found, and histories hold.

use lockstep_simulator::{Planted, Script, run, shrink};

#[test]
fn a_seed_determines_its_history() {
    for seed in 0..20 {
        let script = Script::generate(seed);
        let (once, again) = (run(&script, None, false), run(&script, None, false));
        assert_eq!(once.counts, again.counts, "seed {seed}");
        assert!(once.counts.faults > 0 && once.counts.digest != 0);
    }
}

#[test]
fn each_planted_mistake_is_found() {
    for planted in Planted::ALL {
        let fails = |seed: &u64| !run(&Script::generate(*seed), Some(planted), false).findings.is_empty();
        assert!((0..500).any(|seed| fails(&seed)), "{planted:?} is not found");
    }
}

#[test]
fn a_failing_script_is_made_small() {
    let planted = Some(Planted::EvictsSilentNodes);
    let failing = (0..500).map(Script::generate).find(|script| !run(script, planted, false).findings.is_empty());
    let script = failing.expect("a failing script");
    let property = run(&script, planted, false).findings[0].property;
    let small = shrink(&script, planted, property);
    assert_eq!(run(&small, planted, false).findings[0].property, property);
    assert!(small.faults.len() <= 2 && small.asks.len() <= 1, "{small}");
}
