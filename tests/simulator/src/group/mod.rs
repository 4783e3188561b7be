//! Histories of a group: the real [`Driver`](lockstep_group::head::Driver), schedule and node
//! [`Session`](lockstep_group::node::Session)s, over simulated wires, clocks, processes, disks and ranks.

mod planted;
mod script;
#[path = "../../../../agent/schedule/tests/simulated/rank.rs"]
#[expect(dead_code, unreachable_pub)]
mod strict_rank;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

pub use planted::Planted;
pub use script::{Ailment, Ask, Fault, Micros, Reader, Script, Shape, Way};
pub use world::{Counts, Outcome, Property};

use crate::finding::{Finding, panic_message};
use crate::shrink::leave_out;

/// Plays a script, with a planted mistake if one is asked for. Prints what happens if `trace` is set.
pub fn run(script: &Script, planted: Option<Planted>, trace: bool) -> Outcome {
    let world = world::World::new(script.clone(), planted, trace);
    catch_unwind(AssertUnwindSafe(|| world.run())).unwrap_or_else(|panic| {
        let finding = Finding::new(Property::NoPanic, Duration::ZERO, panic_message(panic.as_ref()));
        Outcome { findings: vec![finding], counts: Counts::default() }
    })
}

/// Returns a smaller script in which `property` does not hold either: without faults and requests that it does not need.
pub fn shrink(script: &Script, planted: Option<Planted>, property: &str) -> Script {
    let fails = |script: &Script| run(script, planted, false).findings.iter().any(|found| found.property == property);
    let mut best = script.clone();
    loop {
        let before = best.faults.len() + best.asks.len();
        best.asks = leave_out(&best.asks, |asks| fails(&Script { asks, ..best.clone() }));
        best.faults = leave_out(&best.faults, |faults| fails(&Script { faults, ..best.clone() }));
        if best.faults.len() + best.asks.len() == before {
            return best;
        }
    }
}
