//! A history of either kind.

use std::fmt;
use std::time::Duration;

use crate::finding::Finding;
use crate::{group, operator};

/// One in so many seeds is of the operator. A history of the operator takes as long as dozens of a group.
const OPERATOR_SHARE: u64 = 128;

/// What a seed stands for.
#[derive(Debug, Clone)]
pub enum History {
    Group(group::Script),
    Operator(operator::Script),
}

/// Numbers of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Counts {
    Group(group::Counts),
    Operator(operator::Counts),
}

/// A history that was played.
#[derive(Debug, Clone)]
pub struct Played {
    pub findings: Vec<Finding>,
    pub counts: Counts,
}

impl History {
    /// Returns the history of a seed.
    pub fn of(seed: u64) -> Self {
        if seed.is_multiple_of(OPERATOR_SHARE) {
            Self::Operator(operator::Script::generate(seed))
        } else {
            Self::Group(group::Script::generate(seed))
        }
    }

    /// Plays the history. Prints what happens if `trace` is set.
    pub fn play(&self, trace: bool) -> Played {
        match self {
            Self::Group(script) => {
                let outcome = group::run(script, None, trace);
                Played { findings: outcome.findings, counts: Counts::Group(outcome.counts) }
            }
            Self::Operator(script) => {
                let outcome = operator::run(script, None, trace);
                Played { findings: outcome.findings, counts: Counts::Operator(outcome.counts) }
            }
        }
    }

    /// Returns a smaller history in which `property` does not hold either.
    #[must_use]
    pub fn shrink(&self, property: &str) -> Self {
        match self {
            Self::Group(script) => Self::Group(group::shrink(script, None, property)),
            Self::Operator(script) => Self::Operator(operator::shrink(script, None, property)),
        }
    }
}

impl Counts {
    /// Returns the simulated time.
    pub fn simulated(&self) -> Duration {
        match self {
            Self::Group(counts) => Duration::from_micros(counts.simulated),
            Self::Operator(counts) => Duration::from_millis(counts.simulated),
        }
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Group(script) => script.fmt(f),
            Self::Operator(script) => script.fmt(f),
        }
    }
}
