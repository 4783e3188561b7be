//! A history's script: the group's shape, the faults and the requests, each with its time. A seed determines it.

use std::fmt;

use crate::rng::Rng;

/// Time in microseconds since the history began.
pub type Micros = u64;

pub(crate) const MS: Micros = 1_000;
pub(crate) const S: Micros = 1_000_000;

/// Size and speed of the group.
#[derive(Debug, Clone)]
pub struct Shape {
    pub nodes: usize,
    pub local_world_size: usize,
    pub stages: usize,
    /// KV cache blocks of each rank, of [`BLOCK_SIZE`] tokens.
    pub num_blocks: u32,
    /// Time that a rank needs to load its weights.
    pub load: Micros,
    /// Time from the end of a process to its next start.
    pub restart: Micros,
    pub recovery_timeout: Micros,
    pub drain_timeout: Micros,
}

/// Tokens in a KV cache block.
pub(crate) const BLOCK_SIZE: u32 = 4;
/// Most tokens of a sequence.
pub(crate) const CONTEXT: u32 = 120;

/// Directions of a cut wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Both,
    ToHead,
    ToNode,
}

/// What is wrong with a process after its next start, for a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ailment {
    OtherWeights,
    OtherVersion,
    DiskFull,
    NoMemory,
}

/// A fault. Times are in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL of a node's process.
    Kill {
        node: usize,
    },
    /// SIGSTOP of a node's process, and SIGCONT after a time.
    Stop {
        node: usize,
        time: Micros,
    },
    /// One rank of the node never comes back from its next step.
    Hang {
        node: usize,
    },
    /// Nothing passes between a node and everything else.
    Cut {
        node: usize,
        way: Way,
        time: Micros,
    },
    /// Nothing passes between a node's ranks and other nodes' ranks.
    CutRing {
        node: usize,
        time: Micros,
    },
    /// The node sees a reset of its control stream, and the head sees nothing.
    ResetAtNode {
        node: usize,
    },
    /// The head sees a reset of the node's control stream.
    ResetAtHead {
        node: usize,
    },
    /// Messages between node and head take up to `latency`.
    Slow {
        node: usize,
        latency: Micros,
        time: Micros,
    },
    /// The node's heartbeat thread gets no CPU.
    LateBeats {
        node: usize,
        time: Micros,
    },
    /// The node's machine loses power, and has it again after a time.
    PowerOff {
        node: usize,
        time: Micros,
    },
    /// The node's process is killed, and its successors cannot serve for a time.
    Ail {
        node: usize,
        ailment: Ailment,
        time: Micros,
    },
    /// The node dies as soon as the group has formed, several times.
    CrashLoop {
        node: usize,
        times: u32,
    },
    /// SIGTERM of a node's process.
    Leave {
        node: usize,
    },
    /// A node's clock jumps ahead.
    NodeClock {
        node: usize,
        by: Micros,
    },
    HeadKill,
    HeadStop {
        time: Micros,
    },
    /// The head's machine vanishes without a word, and lives on alone. Another head starts elsewhere.
    HeadVanish,
    /// The cluster gives the head up, which lives on and reaches nodes. Clients and new streams find another head.
    TwoHeads,
    /// SIGTERM of the head.
    HeadTerm,
    /// The head's clock jumps ahead.
    HeadClock {
        by: Micros,
    },
    /// The operator drains the head, and then replaces all processes.
    Rollout,
}

impl Fault {
    /// Returns for how long the fault lasts.
    pub(crate) fn time(self) -> Micros {
        match self {
            Self::Stop { time, .. }
            | Self::Cut { time, .. }
            | Self::CutRing { time, .. }
            | Self::Slow { time, .. }
            | Self::LateBeats { time, .. }
            | Self::PowerOff { time, .. }
            | Self::Ail { time, .. }
            | Self::HeadStop { time } => time,
            _ => 0,
        }
    }

    fn generate(rng: &mut Rng, nodes: usize) -> Self {
        let node = rng.below(nodes as u64) as usize;
        let time = match rng.below(3) {
            0 => rng.range(50..=700) * MS,
            1 => rng.range(800..=3_000) * MS,
            _ => rng.range(3..=25) * S,
        };
        match rng.below(100) {
            0..=24 => Self::Kill { node },
            25..=34 => Self::Stop { node, time },
            35..=36 => Self::Hang { node },
            37..=44 => Self::Cut { node, way: rng.pick(&[Way::Both, Way::Both, Way::ToHead, Way::ToNode]), time },
            45..=48 => Self::CutRing { node, time },
            49..=52 => Self::ResetAtNode { node },
            53..=55 => Self::ResetAtHead { node },
            56..=58 => Self::Slow { node, latency: rng.range(5..=400) * MS, time },
            59..=61 => Self::LateBeats { node, time },
            62..=64 => Self::PowerOff { node, time },
            65..=68 => {
                let ailments = [Ailment::OtherWeights, Ailment::OtherVersion, Ailment::DiskFull, Ailment::NoMemory];
                Self::Ail { node, ailment: rng.pick(&ailments), time: time.min(8 * S) }
            }
            69..=71 => Self::CrashLoop { node, times: rng.range(2..=9) as u32 },
            72..=76 => Self::Leave { node },
            77..=78 => Self::NodeClock { node, by: time },
            79..=83 => Self::HeadKill,
            84..=88 => Self::HeadStop { time: time.min(12 * S) },
            89..=90 => Self::HeadVanish,
            91 => Self::TwoHeads,
            92..=94 => Self::HeadTerm,
            95..=96 => Self::HeadClock { by: time },
            _ => Self::Rollout,
        }
    }
}

/// How a client reads its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    Steady,
    /// Reads nothing after this many events.
    Slow {
        after: usize,
    },
    /// Goes away after this many events.
    Vanishes {
        after: usize,
    },
}

/// A client's request.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    pub prompt: Vec<u32>,
    pub max_tokens: u32,
    pub seed: u64,
    pub stop_token_ids: Vec<u32>,
    pub deadline: Option<Micros>,
    pub scores_prompt: bool,
    pub reader: Reader,
    /// Set if the ranks die of this request.
    pub is_poison: bool,
}

impl Ask {
    fn generate(rng: &mut Rng) -> Self {
        let len = if rng.chance(10) { rng.range(30..=90) } else { rng.range(1..=30) };
        let max_tokens = rng.range(1..=80).min(u64::from(CONTEXT) - 1 - len) as u32;
        Self {
            prompt: (0..len).map(|_| rng.below(40) as u32).collect(),
            max_tokens,
            seed: rng.below(5),
            stop_token_ids: if rng.chance(20) { vec![rng.below(40) as u32] } else { Vec::new() },
            deadline: rng.chance(12).then(|| rng.range(50..=20_000) * MS),
            scores_prompt: rng.chance(8),
            reader: match rng.below(100) {
                0..=3 => Reader::Slow { after: rng.below(12) as usize },
                4..=8 => Reader::Vanishes { after: rng.below(12) as usize },
                _ => Reader::Steady,
            },
            is_poison: false,
        }
    }
}

/// Everything that happens to a group from outside.
#[derive(Debug, Clone)]
pub struct Script {
    pub seed: u64,
    pub shape: Shape,
    pub faults: Vec<(Micros, Fault)>,
    pub asks: Vec<(Micros, Ask)>,
}

impl Script {
    /// Returns the script of a seed.
    pub fn generate(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let shape = generate_shape(&mut rng);
        let mut faults = Vec::new();
        let mut at = shape.load + S;
        for _ in 0..rng.range(1..=9) {
            at += match rng.below(4) {
                0 => rng.range(0..=60) * MS,
                1 => rng.range(50..=900) * MS,
                _ => rng.range(1..=9) * S,
            };
            faults.push((at, Fault::generate(&mut rng, shape.nodes)));
        }
        let last = at + 2 * S;
        let mut asks = Vec::new();
        let mut at = rng.below(shape.load + S);
        let pace = rng.range(100..=900);
        while at < last {
            asks.push((at, Ask::generate(&mut rng)));
            at += rng.range(5..=pace) * MS;
        }
        if rng.chance(4) && !asks.is_empty() {
            let poison = rng.below(asks.len() as u64) as usize;
            asks[poison].1 = Ask { is_poison: true, deadline: None, reader: Reader::Steady, ..asks[poison].1.clone() };
        }
        Self { seed, shape, faults, asks }
    }
}

fn generate_shape(rng: &mut Rng) -> Shape {
    // Nodes, ranks of each, pipeline stages.
    let (nodes, local_world_size, stages) =
        rng.pick(&[(1, 1, 1), (2, 1, 1), (2, 1, 1), (3, 1, 1), (4, 1, 1), (2, 2, 1), (2, 1, 2), (4, 1, 2), (2, 2, 2)]);
    Shape {
        nodes,
        local_world_size,
        stages,
        num_blocks: rng.pick(&[32, 40, 60, 200]),
        load: rng.range(50..=4_000) * MS,
        restart: rng.range(20..=1_500) * MS,
        recovery_timeout: rng.pick(&[20 * S, 120 * S]),
        drain_timeout: rng.pick(&[S, 30 * S]),
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {:?}", self.seed, self.shape)?;
        for (at, fault) in &self.faults {
            writeln!(f, "{:10.3} {fault:?}", *at as f64 / 1e6)?;
        }
        for (at, ask) in &self.asks {
            writeln!(f, "{:10.3} {ask:?}", *at as f64 / 1e6)?;
        }
        Ok(())
    }
}
