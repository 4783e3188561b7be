//! A history's script: the cluster, the machines, and what happens to them, each with its time. A seed determines it.

use std::fmt;

use crate::rng::Rng;

/// Time in milliseconds since the history began.
pub type Millis = u64;

/// The cluster and the machines below it.
#[derive(Debug, Clone)]
pub struct Shape {
    pub replicas: u32,
    pub workers: u32,
    pub max_unavailable: u32,
    pub partition: u32,
    pub machines: usize,
    /// Pods for which a machine has room.
    pub room: usize,
    /// Time that a process needs to load its weights.
    pub load: Millis,
    /// Time that a kubelet needs to start a pod.
    pub start: Millis,
    pub drain_timeout: Millis,
}

/// Kinds of watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Clusters,
    Pods,
    Sets,
    Nodes,
    Owned,
}

impl Kind {
    pub const ALL: [Self; 5] = [Self::Clusters, Self::Pods, Self::Sets, Self::Nodes, Self::Owned];
}

/// Something that happens to the cluster, its machines or its operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The operator's process ends, and another one starts after a time.
    OperatorEnds {
        time: Millis,
    },
    /// The operator hears of changes of one kind late.
    LateWatch {
        kind: Kind,
        lag: Millis,
        time: Millis,
    },
    /// The operator loses a watch. The next list of the kind takes a time.
    LostWatch {
        kind: Kind,
        list: Millis,
    },
    /// The connection of a watch breaks. The watch goes on where it was.
    BrokenWatch {
        kind: Kind,
    },
    /// A share of the requests fails, before or after they had their effect.
    Errors {
        percent: u64,
        time: Millis,
    },
    /// Requests to the API server take up to `latency`.
    SlowServer {
        latency: Millis,
        time: Millis,
    },
    /// The API server does not answer, and all watches are lost.
    NoServer {
        time: Millis,
    },
    /// The container of a pod ends, `times` in a row.
    Crash {
        group: u32,
        ordinal: u32,
        times: u32,
    },
    /// Somebody deletes a pod.
    DeletePod {
        group: u32,
        ordinal: u32,
    },
    /// A machine loses power, and has it again after a time.
    PowerOff {
        machine: usize,
        time: Millis,
    },
    /// Nothing passes between a machine and everything else.
    CutMachine {
        machine: usize,
        time: Millis,
    },
    /// The operator reaches no pod and no machine, only the API server.
    CutOperator {
        time: Millis,
    },
    /// Somebody changes the environment of all ranks.
    ChangeEnv,
    Scale {
        replicas: u32,
    },
    SetPartition {
        partition: u32,
    },
    /// Somebody scales a StatefulSet of a group to zero.
    EditSet {
        group: u32,
        head: bool,
    },
    /// Somebody deletes the StatefulSet of a group's workers, with its pods.
    DeleteSet {
        group: u32,
    },
    /// Somebody deletes the Service of a group.
    DeleteService {
        group: u32,
    },
    /// The cluster is deleted, and another one of its name made.
    Recreate,
}

impl Fault {
    /// Returns for how long the fault lasts.
    pub(crate) fn time(self) -> Millis {
        match self {
            Self::OperatorEnds { time }
            | Self::LateWatch { time, .. }
            | Self::Errors { time, .. }
            | Self::SlowServer { time, .. }
            | Self::NoServer { time }
            | Self::PowerOff { time, .. }
            | Self::CutMachine { time, .. }
            | Self::CutOperator { time } => time,
            Self::LostWatch { list, .. } => list,
            _ => 0,
        }
    }

    fn generate(rng: &mut Rng, shape: &Shape) -> Self {
        let group = rng.below(shape.replicas.into()) as u32;
        let ordinal = rng.below(u64::from(shape.workers) + 1) as u32;
        let machine = rng.below(shape.machines as u64) as usize;
        let kind = rng.pick(&Kind::ALL);
        let time = match rng.below(3) {
            0 => rng.range(100..=2_000),
            1 => rng.range(2_000..=10_000),
            _ => rng.range(10_000..=60_000),
        };
        match rng.below(100) {
            0..=9 => Self::OperatorEnds { time: time.min(20_000) },
            10..=17 => Self::LateWatch { kind, lag: rng.range(500..=15_000), time },
            18..=23 => Self::LostWatch { kind, list: time.min(40_000) },
            24..=26 => Self::BrokenWatch { kind },
            27..=31 => Self::Errors { percent: rng.range(10..=70), time },
            32..=34 => Self::SlowServer { latency: rng.range(200..=5_000), time },
            35..=37 => Self::NoServer { time },
            38..=44 => Self::Crash { group, ordinal, times: rng.range(1..=3) as u32 },
            45..=51 => Self::DeletePod { group, ordinal },
            52..=62 => Self::PowerOff { machine, time: time.max(3_000) },
            63..=68 => Self::CutMachine { machine, time },
            69..=72 => Self::CutOperator { time },
            73..=82 => Self::ChangeEnv,
            83..=88 => Self::Scale { replicas: rng.range(1..=3) as u32 },
            89..=91 => Self::SetPartition { partition: rng.below(u64::from(shape.replicas) + 1) as u32 },
            92..=94 => Self::EditSet { group, head: rng.chance(50) },
            95..=96 => Self::DeleteSet { group },
            97..=98 => Self::DeleteService { group },
            _ => Self::Recreate,
        }
    }
}

/// Everything that happens from outside.
#[derive(Debug, Clone)]
pub struct Script {
    pub seed: u64,
    pub shape: Shape,
    pub faults: Vec<(Millis, Fault)>,
}

impl Script {
    /// Returns the script of a seed.
    pub fn generate(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let (replicas, workers) = rng.pick(&[(1, 1), (1, 2), (2, 1), (2, 1), (2, 0), (3, 1), (1, 0)]);
        let room = rng.pick(&[1, 2, 2, 4]);
        // As many machines as three groups need, and one more.
        let machines = (3 * (1 + workers as usize)).div_ceil(room).max(2) + 1;
        let shape = Shape {
            replicas,
            workers,
            max_unavailable: rng.pick(&[1, 1, 1, 2]),
            partition: if rng.chance(15) { rng.below(u64::from(replicas) + 1) as u32 } else { 0 },
            machines,
            room,
            load: rng.range(100..=6_000),
            start: rng.range(300..=2_000),
            drain_timeout: rng.pick(&[4_000, 20_000]),
        };
        let mut faults = Vec::new();
        let mut at = 15_000;
        for _ in 0..rng.range(1..=6) {
            at += match rng.below(3) {
                0 => rng.range(0..=500),
                1 => rng.range(500..=8_000),
                _ => rng.range(8_000..=40_000),
            };
            faults.push((at, Fault::generate(&mut rng, &shape)));
        }
        Self { seed, shape, faults }
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {:?}", self.seed, self.shape)?;
        self.faults.iter().try_for_each(|(at, fault)| writeln!(f, "{:10.3} {fault:?}", *at as f64 / 1e3))
    }
}
