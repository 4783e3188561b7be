//! Plan of a campaign: the kinds of faults, the shapes of the groups, and how often each kind comes.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// Arrangement of a group's ranks, one rank to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub name: &'static str,
    pub world_size: usize,
    pub stages: usize,
}

pub const SHAPES: [Shape; 3] = [
    Shape { name: "2", world_size: 2, stages: 1 },
    Shape { name: "3", world_size: 3, stages: 1 },
    Shape { name: "2x2", world_size: 4, stages: 2 },
];

/// Way in which a node's wire is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    BothWays,
    /// The node hears the others or is heard by them, as chance has it.
    OneWay,
}

/// Least and most milliseconds.
pub type Millis = (usize, usize);

/// Fault, as it is done to a group.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    Kill,
    /// SIGSTOP for a time.
    Stop(Millis),
    /// The freezer of control groups for a time.
    Freeze(Millis),
    /// All ranks and the head get a tenth of a core each, for a time.
    Throttle(Duration),
    Wire(Cut, Duration),
    Reset,
    Slow,
    FullDisk,
    LittleMemory,
    HeadKill,
    WorkerDrain,
    HeadDrain,
}

/// Surroundings that a fault needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    Loopback,
    /// Network namespaces with a wire to each node.
    Wires,
    /// Small disk on which the nodes work.
    SmallDisk,
    /// Control group with a memory limit for each worker.
    Memory,
}

/// Kind of faults: a row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    pub name: &'static str,
    pub title: &'static str,
    pub fault: Fault,
    /// Number of cases on each shape in a campaign of [`KILLS`] kills.
    pub cases: usize,
}

/// Number of kills in a full campaign, over all shapes.
pub const KILLS: usize = 1_000;

const fn kind(name: &'static str, title: &'static str, fault: Fault, cases: usize) -> Kind {
    Kind { name, title, fault, cases }
}

const fn wire(name: &'static str, title: &'static str, cut: Cut, millis: u64, cases: usize) -> Kind {
    kind(name, title, Fault::Wire(cut, Duration::from_millis(millis)), cases)
}

pub const KINDS: [Kind; 19] = [
    kind(
        "kill",
        "a rank is killed (SIGKILL), in one of four cases another one soon after",
        Fault::Kill,
        KILLS.div_ceil(SHAPES.len()),
    ),
    kind("stop-short", "a rank is stopped for 0.3 s", Fault::Stop((300, 300)), 12),
    kind("stop-middle", "a rank is stopped for 1–2 s", Fault::Stop((1_000, 2_000)), 15),
    kind("stop-long", "a rank is stopped for 5–10 s", Fault::Stop((5_000, 10_000)), 6),
    kind("freeze", "a rank is frozen by its control group for 0.5–4 s", Fault::Freeze((500, 4_000)), 8),
    kind("throttle", "every process gets a tenth of a core for 10 s", Fault::Throttle(Duration::from_secs(10)), 5),
    wire("cut-short", "a node's wire is cut for 0.5 s", Cut::BothWays, 500, 8),
    wire("cut-middle", "a node's wire is cut for 2 s", Cut::BothWays, 2_000, 8),
    wire("cut-long", "a node's wire is cut for 10 s", Cut::BothWays, 10_000, 4),
    wire("one-way-short", "a node's wire is cut one way for 0.5 s", Cut::OneWay, 500, 8),
    wire("one-way-middle", "a node's wire is cut one way for 2 s", Cut::OneWay, 2_000, 8),
    wire("one-way-long", "a node's wire is cut one way for 10 s", Cut::OneWay, 10_000, 4),
    kind("reset", "a node's connections get RSTs for 0.12 s", Fault::Reset, 10),
    kind("slow", "a node's wire carries 1 Mbit/s for 3 s", Fault::Slow, 4),
    kind("disk", "a rank is killed while the disk of logs and caches is full", Fault::FullDisk, 6),
    kind("memory", "a worker is killed again and again by its memory limit for 2–4 s", Fault::LittleMemory, 6),
    kind("head-kill", "the head is killed and started again", Fault::HeadKill, 12),
    kind("drain-worker", "a worker is told to stop (SIGTERM)", Fault::WorkerDrain, 12),
    kind("drain-head", "the head is told to stop (SIGTERM) and started again", Fault::HeadDrain, 8),
];

impl Fault {
    pub fn setting(self) -> Setting {
        match self {
            Self::Wire(..) | Self::Reset | Self::Slow => Setting::Wires,
            Self::FullDisk => Setting::SmallDisk,
            Self::LittleMemory => Setting::Memory,
            _ => Setting::Loopback,
        }
    }
}

/// Number of cases of one kind on one shape.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    pub kind: Kind,
    pub shape: Shape,
    pub cases: usize,
}

/// Whole campaign.
pub struct Plan {
    pub rounds: Vec<Round>,
    /// Seed of each round's first case. Each later case has the next seed.
    pub seed: u64,
    /// True if all kinds and shapes are in the plan.
    pub is_whole: bool,
}

impl Plan {
    /// Reads `KILLS`, `KINDS`, `SHAPES` and `SEED`.
    ///
    /// # Errors
    /// A value that is none, or a name that no kind or shape has.
    pub fn from_environment() -> Result<Self> {
        let kills = number("KILLS")?.unwrap_or(KILLS as u64) as usize;
        let kinds = selected("KINDS", &KINDS, |kind| kind.name)?;
        let shapes = selected("SHAPES", &SHAPES, |shape| shape.name)?;
        let seed = number("SEED")?.unwrap_or(1);
        let is_whole = kinds.len() == KINDS.len() && shapes.len() == SHAPES.len();
        let cases = |kind: Kind| ((kind.cases * kills + KILLS / 2) / KILLS).max(1);
        let rounds = shapes
            .into_iter()
            .flat_map(|shape| kinds.clone().into_iter().map(move |kind| Round { kind, shape, cases: cases(kind) }));
        Ok(Self { rounds: rounds.collect(), seed, is_whole })
    }

    /// Leaves out the faults for which `missing` gives a reason, and prints it.
    pub fn leave_out(&mut self, missing: impl Fn(Fault) -> Option<String>) {
        let all = self.rounds.len();
        self.rounds.retain(|round| {
            let reason = missing(round.kind.fault);
            if let Some(reason) = &reason {
                eprintln!("left out: {} on {}: {reason}", round.kind.name, round.shape.name);
            }
            reason.is_none()
        });
        self.is_whole &= self.rounds.len() == all;
    }

    /// Returns the plan of the short campaign that `make test` runs: two kills and a stop.
    pub fn short() -> Self {
        let round = |name: &str, cases| {
            let kind = *KINDS.iter().find(|kind| kind.name == name).expect("a kind");
            Round { kind, shape: SHAPES[0], cases }
        };
        Self { rounds: vec![round("kill", 2), round("stop-middle", 1)], seed: 1, is_whole: false }
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn number(name: &str) -> Result<Option<u64>> {
    variable(name).map(|value| value.parse().with_context(|| format!("{name}={value} is no number"))).transpose()
}

/// Returns those of `all` that a variable names, separated by commas; all if it is not set. A name selects also the
/// kinds that it begins: `cut` selects `cut-short`.
fn selected<T: Copy>(variable_name: &str, all: &[T], name: impl Fn(&T) -> &'static str) -> Result<Vec<T>> {
    let Some(value) = variable(variable_name) else { return Ok(all.to_vec()) };
    let names: Vec<&str> = value.split(',').map(str::trim).collect();
    let matches = |own: &str, wanted: &str| own == wanted || own.starts_with(&format!("{wanted}-"));
    if let Some(unknown) = names.iter().find(|wanted| !all.iter().any(|one| matches(name(one), wanted))) {
        let known: Vec<&str> = all.iter().map(&name).collect();
        bail!("{variable_name}={unknown}: there are {}", known.join(", "));
    }
    Ok(all.iter().filter(|one| names.iter().any(|wanted| matches(name(one), wanted))).copied().collect())
}
