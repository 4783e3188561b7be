//! Histories of a simulated group.
//!
//! A seed determines a [`Script`]: the group's shape, the faults and the requests. [`run`] plays it against the real
//! [`Driver`](lockstep_group::head::Driver), schedule and node [`Session`](lockstep_group::node::Session)s, over simulated
//! wires, clocks, processes, disks and ranks, and checks each [`Property`]. [`shrink`] makes a failing script small.

#![forbid(unsafe_code)]

mod planted;
mod rng;
mod script;
mod shrink;
#[path = "../../../agent/schedule/tests/simulated/rank.rs"]
#[expect(dead_code, unreachable_pub)]
mod strict_rank;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use planted::Planted;
pub use script::{Ailment, Ask, Fault, Micros, Reader, Script, Shape, Way};
pub use shrink::shrink;
pub use world::{Counts, Finding, Outcome, Property};

/// Plays a script, with a planted mistake if one is asked for. Prints what happens if `trace` is set.
pub fn run(script: &Script, planted: Option<Planted>, trace: bool) -> Outcome {
    let world = world::World::new(script.clone(), planted, trace);
    catch_unwind(AssertUnwindSafe(|| world.run())).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default();
        let finding = Finding { property: Property::NoPanic, at: 0, text };
        Outcome { findings: vec![finding], counts: Counts::default() }
    })
}
