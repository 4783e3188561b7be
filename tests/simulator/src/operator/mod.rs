//! Histories of the operator: the real controller, from its watches to its requests, in a simulated Kubernetes.
//!
//! What is real: `lockstep_operator`, with `kube`'s controller, stores and client. What is simulated: the API server with its
//! watches, the controllers and kubelets of Kubernetes, machines, the network, and the processes in pods, as far as the
//! operator sees them. Everything runs in one thread, on a Tokio runtime whose clock stands still while anybody has
//! something to do.

mod checks;
mod faults;
mod kubelet;
mod kubernetes;
mod network;
mod objects;
mod processes;
mod script;
mod server;
mod watches;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lockstep_operator::observe::Scope;
use lockstep_operator::operate::Controller;
use lockstep_operator::reconcile::validate::Defaults;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::finding::{Finding, panic_message};
use crate::rng::Rng;
use crate::shrink::leave_out;
use kubelet::Container;
use kubernetes::Machine;
use objects::Objects;
use processes::Process;
use watches::{WatchState, Watched};

pub use script::{Fault, Kind, Millis, Script, Shape};

/// Name of the cluster.
const CLUSTER: &str = "chat";
/// Time between two looks of the world.
const TICK: Millis = 100;
/// Time that a settled cluster goes on at the end, so that late mistakes show.
const EPILOGUE: Millis = 20_000;

/// A property that does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Property {
    /// A group that serves is drained before its pods go, and its requests are finished.
    DrainsFirst,
    /// Only pods that nobody can reach are deleted by force.
    ForcesOnlyTheLost,
    /// The operator takes no more groups out of service than allowed.
    KeepsServing,
    /// Groups below the partition keep their revision.
    KeepsRevisions,
    /// Nothing is made for a cluster that is gone.
    EndsWithItsCluster,
    /// The status does not say that groups serve which do not.
    StatusIsTrue,
    /// All groups serve as the spec asks, and the status says so, within a bound after the last fault.
    ServesAgain,
    /// A cluster at rest costs no writes.
    RestsInPeace,
    /// Nothing panics.
    NoPanic,
}

/// Mistakes that the simulator can make on purpose, each of which breaks one property.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// A watch counts as complete before it has listed anything.
    ListsEarly,
    /// The first machine seems dead, to the operator and to the nodes that it asks.
    SilencesMachine,
    /// Heads that drain hide their requests.
    HidesRequests,
    /// Pods are not deleted.
    IgnoresDeletions,
    /// The status is not written.
    LosesStatus,
    /// The operator does not start again.
    StaysAway,
}

/// Numbers of a history.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    pub faults: u64,
    /// Requests to the API server, and those that write.
    pub requests: u64,
    pub writes: u64,
    /// Pods that the operator deleted, and those of them by force.
    pub deletions: u64,
    pub forced: u64,
    /// Time from the end of the last fault until everything was as the spec asks.
    pub return_time: Millis,
    pub simulated: Millis,
    /// Digest of all requests, to compare two runs of one seed.
    pub digest: u64,
}

/// The result of a history.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub findings: Vec<Finding>,
    pub counts: Counts,
}

/// The simulated world.
struct World {
    script: Script,
    planted: Option<Planted>,
    trace: bool,
    rng: Rng,
    now: Millis,
    objects: Objects,
    watches: [WatchState; Kind::ALL.len()],
    machines: Vec<Machine>,
    /// Processes by the uid of their pod.
    processes: BTreeMap<String, Process>,
    /// Uids of processes that ended with the power of their machine.
    vanished: BTreeSet<String>,
    /// Containers by the uid of their pod.
    containers: BTreeMap<String, Container>,
    addresses: u32,
    errors_until: Millis,
    errors_percent: u64,
    slow_until: Millis,
    latency: Millis,
    down_until: Millis,
    operator_cut_until: Millis,
    operator_until: Option<Millis>,
    operator_since: Millis,
    deleted_at: Millis,
    recreate_at: Option<Millis>,
    lowest_partition: u32,
    /// Whether each group serves, and since when.
    service: BTreeMap<u32, (bool, Millis)>,
    /// Time until which a fault hides something from the operator.
    blind_until: Millis,
    lies_since: Millis,
    /// Uids of heads' pods that the operator may take down, because their drain took too long.
    condemned: BTreeSet<String>,
    /// Time at which the last fault of the script is over.
    quiet_from: Millis,
    /// Time after the last fault within which everything must be as the spec asks.
    bound: Millis,
    settled_at: Option<Millis>,
    writes_then: u64,
    findings: Vec<Finding>,
    counts: Counts,
}

/// The world, as all tasks share it.
#[derive(Clone)]
struct Shared(Arc<Mutex<World>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Plays a script, with a planted mistake if one is asked for. Prints what happens if `trace` is set.
pub fn run(script: &Script, planted: Option<Planted>, trace: bool) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let world = Shared(Arc::new(Mutex::new(World::new(script.clone(), planted, trace))));
    let played = runtime.expect("a runtime").block_on(tokio::task::LocalSet::new().run_until(play(world.clone())));
    let mut world = world.lock();
    if let Err(text) = played {
        world.find(Property::NoPanic, text);
    }
    Outcome { findings: world.findings.clone(), counts: world.counts.clone() }
}

/// Returns a smaller script in which `property` does not hold either: without faults that it does not need.
pub fn shrink(script: &Script, planted: Option<Planted>, property: &str) -> Script {
    let fails = |script: &Script| run(script, planted, false).findings.iter().any(|found| found.property == property);
    let faults = leave_out(&script.faults, |faults| fails(&Script { faults, ..script.clone() }));
    Script { faults, ..script.clone() }
}

/// Plays the history to its end. Returns the message of a panic of the operator.
async fn play(world: Shared) -> Result<(), String> {
    lockstep_operator::clock::simulate(objects::time_of_day(0));
    let mut operator = Some(start_operator(&world));
    loop {
        tokio::time::sleep(Duration::from_millis(TICK)).await;
        if let Some(running) = operator.take_if(|running| running.is_finished()) {
            let panic = running.await.err().and_then(|error| error.try_into_panic().ok());
            return Err(panic.map_or_else(|| "the controller has ended".into(), |panic| panic_message(panic.as_ref())));
        }
        let wants_operator = {
            let mut world = world.lock();
            world.tick();
            if !world.findings.is_empty() || world.is_over() {
                return Ok(());
            }
            world.operator_until.is_none()
        };
        match (&operator, wants_operator) {
            (Some(running), false) => {
                running.abort();
                operator = None;
            }
            (None, true) => operator = Some(start_operator(&world)),
            _ => {}
        }
    }
}

fn start_operator(world: &Shared) -> JoinHandle<()> {
    let controller = Controller {
        client: server::client(world),
        scope: Scope::All,
        source: Arc::new(Watched(world.clone())),
        network: Arc::new(network::Simulated(world.clone())),
        defaults: Defaults { agent_image: "agent:1".into(), operator_pods: None },
        pod_monitors: false,
        concurrency: 4,
        pod_name: None,
        metrics: Arc::default(),
    };
    tokio::spawn(controller.run(CancellationToken::new()))
}

impl World {
    fn new(script: Script, planted: Option<Planted>, trace: bool) -> Self {
        let shape = &script.shape;
        let ends = script.faults.iter().map(|(at, fault)| at + fault.time());
        let change = u64::from(shape.replicas.max(3)) * (shape.drain_timeout + 2 * (shape.load + shape.start) + 10_000);
        let mut world = Self {
            rng: Rng::new(!script.seed),
            planted,
            trace,
            now: 0,
            objects: Objects::default(),
            watches: Default::default(),
            machines: (0..shape.machines).map(|_| Machine::default()).collect(),
            processes: BTreeMap::new(),
            vanished: BTreeSet::new(),
            containers: BTreeMap::new(),
            addresses: 0,
            errors_until: 0,
            errors_percent: 0,
            slow_until: 0,
            latency: 1,
            down_until: 0,
            operator_cut_until: 0,
            operator_until: None,
            operator_since: 0,
            deleted_at: 0,
            recreate_at: None,
            lowest_partition: shape.partition,
            service: BTreeMap::new(),
            blind_until: 0,
            lies_since: 0,
            condemned: BTreeSet::new(),
            quiet_from: ends.max().unwrap_or(0),
            bound: 90_000 + change,
            settled_at: None,
            writes_then: 0,
            findings: Vec::new(),
            counts: Counts::default(),
            script,
        };
        world.make_nodes();
        world.make_cluster();
        world
    }

    fn tick(&mut self) {
        self.now += TICK;
        while let Some((_, fault)) =
            self.script.faults.get(self.counts.faults as usize).filter(|(at, _)| *at <= self.now)
        {
            let fault = *fault;
            self.counts.faults += 1;
            self.log(|| format!("FAULT {fault:?}"));
            self.begin_fault(fault);
        }
        self.end_faults();
        self.tick_kubernetes();
        self.check_state();
    }

    /// Returns true once the history has shown everything.
    fn is_over(&mut self) -> bool {
        self.counts.simulated = self.now;
        let is_over = self.settled_at.is_some_and(|at| self.now > at + EPILOGUE);
        if is_over {
            self.check_rest();
        }
        is_over
    }

    fn find(&mut self, property: Property, text: impl Into<String>) {
        let finding = Finding::new(property, Duration::from_millis(self.now), text);
        self.log(|| format!("FOUND {finding}"));
        self.findings.push(finding);
    }

    fn log(&self, text: impl FnOnce() -> String) {
        if self.trace {
            println!("{:10.3} {}", seconds(self.now), text());
        }
    }

    fn digest(&mut self, value: u64) {
        let mixed = (self.counts.digest ^ value ^ self.now).wrapping_mul(0x0000_0100_0000_01b3);
        self.counts.digest = mixed ^ (mixed >> 29);
    }
}

fn seconds(time: Millis) -> f64 {
    time as f64 / 1e3
}
