//! The simulated world: one event after the other, in the order of time. The head's driver, its schedule and the nodes'
//! sessions are the real ones. Processes, wires, clocks, ranks, weights and clients are simulated.

mod clients;
mod faults;
mod heads;
mod nodes;
mod ranks;
mod ring;
mod wires;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, Instant};

use crate::finding::Finding;
use crate::group::planted::Planted;
use crate::group::script::{MS, Micros, S, Script};
use crate::rng::Rng;
use clients::Client;
use heads::Head;
use nodes::Node;
use ring::Epoch;
use wires::{Connection, Wire};

/// Longest time after the last fault, or after the last end of a request, until one more request ends. A group with few
/// blocks may have a long queue.
const LIMIT: Micros = 240 * S;
/// Time that a quiet group goes on at the end, so that late mistakes show.
const EPILOGUE: Micros = 2 * S;

/// Something that happens at its time.
#[derive(Debug, Clone)]
enum Event {
    HeadStart,
    HeadTick { head: usize },
    HeadWakes { head: usize },
    NodeStart { node: usize },
    NodeTick { node: usize, life: u64, connection: usize },
    Dial { node: usize, life: u64 },
    DialFails { node: usize, life: u64, connection: usize },
    Heartbeat { node: usize, life: u64 },
    NodeWakes { node: usize },
    Opened { node: usize, life: u64 },
    Loaded { node: usize, life: u64, local_rank: usize },
    FormTimeout { epoch: u64, node: usize, life: u64 },
    StageDone { epoch: u64, stage: usize, step: u64 },
    RetryJoin { epoch: u64 },
    ToHead { connection: usize },
    KeepAliveFails { connection: usize },
    ToNode { connection: usize },
    Fault { index: usize },
    Die { node: usize, life: u64, why: &'static str },
    Submit { client: usize },
    RolloutStops { head: usize },
}

/// A property that does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Property {
    /// Each answer is the one of an undisturbed run: no token is lost, doubled, foreign or wrong.
    TokensAreRight,
    /// A request ends once, within its bound.
    RequestsEnd,
    /// The reason of each end and of each refusal is true.
    ReasonsAreTrue,
    /// Ranks compute the plans of one epoch in their order, all of them the same.
    EpochsAreApart,
    /// No block and no sequence is held for a request that has ended.
    NothingLeaks,
    /// No process ends that is healthy and was not told to.
    WeightsAreKept,
    /// The group serves within a bound once enough of it is well.
    ServesAgain,
    /// A group without a fault keeps its epoch.
    EpochsLast,
    /// The status says what is.
    StatusIsTrue,
    /// Nothing panics.
    NoPanic,
}

/// Numbers of a history, so that a test can see that something happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    pub faults: u64,
    pub requests: u64,
    pub finished: u64,
    pub failed: u64,
    pub broken: u64,
    pub refused: u64,
    pub tokens: u64,
    pub steps: u64,
    pub epochs: u64,
    pub recoveries: u64,
    pub process_ends: u64,
    /// Longest time from the last fault's end to a ready group.
    pub slowest_return: Micros,
    pub simulated: Micros,
    /// Digest of everything that happened, to compare two runs of one seed.
    pub digest: u64,
}

/// The result of a history.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub findings: Vec<Finding>,
    pub counts: Counts,
}

pub(crate) struct World {
    script: Script,
    planted: Option<Planted>,
    trace: bool,
    rng: Rng,
    base: Instant,
    now: Micros,
    queue: BinaryHeap<Reverse<(Micros, u64)>>,
    events: BTreeMap<u64, Event>,
    next_event: u64,
    heads: Vec<Head>,
    /// The head that nodes and clients find now.
    current_head: usize,
    nodes: Vec<Node>,
    wires: Vec<Wire>,
    connections: Vec<Connection>,
    epochs: BTreeMap<u64, Epoch>,
    clients: Vec<Client>,
    findings: Vec<Finding>,
    counts: Counts,
    /// Time until which some fault is in force, or its consequences are.
    trouble_until: Micros,
    /// Time at which the last fault of the script is over.
    quiet_from: Micros,
    /// Time at which the group was ready and the last request had ended.
    over_at: Option<Micros>,
    /// Time at which the last request ended.
    last_end: Micros,
    rollout: bool,
}

impl World {
    pub(crate) fn new(script: Script, planted: Option<Planted>, trace: bool) -> Self {
        let nodes = (0..script.shape.nodes).map(|_| Node::new(&script.shape)).collect();
        let wires = (0..script.shape.nodes).map(|_| Wire::default()).collect();
        let ends = script.faults.iter().map(|(at, fault)| at + fault.time());
        let quiet_from = ends.chain(script.asks.last().map(|(at, _)| *at)).max().unwrap_or(0);
        Self {
            rng: Rng::new(!script.seed),
            planted,
            trace,
            base: Instant::now(),
            now: 0,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            next_event: 0,
            heads: Vec::new(),
            current_head: 0,
            nodes,
            wires,
            connections: Vec::new(),
            epochs: BTreeMap::new(),
            clients: script.asks.iter().map(|(_, ask)| Client::new(ask)).collect(),
            findings: Vec::new(),
            counts: Counts::default(),
            trouble_until: 5 * S,
            quiet_from,
            over_at: None,
            last_end: 0,
            rollout: false,
            script,
        }
    }

    pub(crate) fn run(mut self) -> Outcome {
        self.start_head();
        for node in 0..self.nodes.len() {
            self.at(0, Event::NodeStart { node });
        }
        for index in 0..self.script.faults.len() {
            self.at(self.script.faults[index].0, Event::Fault { index });
        }
        for client in 0..self.clients.len() {
            self.at(self.script.asks[client].0, Event::Submit { client });
        }
        while let Some(Reverse((time, key))) = self.queue.pop() {
            self.now = time;
            let event = self.events.remove(&key).expect("an event of the queue");
            self.digest(time ^ key);
            self.happen(event);
            if !self.findings.is_empty() || self.is_over() {
                break;
            }
        }
        self.counts.simulated = self.now;
        Outcome { findings: self.findings, counts: self.counts }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::HeadStart => self.start_head(),
            Event::HeadTick { head } => self.tick_head(head),
            Event::HeadWakes { head } => self.wake_head(head),
            Event::NodeStart { node } => self.start_node(node),
            Event::NodeTick { node, life, connection } => self.tick_node(node, life, connection),
            Event::Dial { node, life } => self.dial(node, life),
            Event::DialFails { node, life, connection } => self.fail_dial(node, life, connection),
            Event::Heartbeat { node, life } => self.beat(node, life),
            Event::NodeWakes { node } => self.wake_node(node),
            Event::Opened { node, life } => self.open_model(node, life),
            Event::Loaded { node, life, local_rank } => self.finish_loading(node, life, local_rank),
            Event::FormTimeout { epoch, node, life } => self.time_out_join(epoch, node, life),
            Event::StageDone { epoch, stage, step } => self.finish_stage(epoch, stage, step),
            Event::RetryJoin { epoch } => self.try_join(epoch),
            Event::ToHead { connection } => self.arrive_at_head(connection),
            Event::KeepAliveFails { connection } => self.fail_keep_alive(connection),
            Event::ToNode { connection } => self.arrive_at_node(connection),
            Event::Fault { index } => self.begin_fault(index),
            Event::Die { node, life, why } => {
                if self.nodes[node].life == life {
                    self.disturb(node, self.now);
                    self.die(node, why, true);
                }
            }
            Event::Submit { client } => self.submit(client),
            Event::RolloutStops { head } => self.go_on_with_rollout(head),
        }
    }

    /// Returns true once the history has shown everything, or adds a finding if that takes too long.
    fn is_over(&mut self) -> bool {
        if self.now <= self.quiet_from {
            return false;
        }
        let is_ready = self.heads[self.current_head].is_ready();
        if is_ready && self.counts.slowest_return == 0 {
            self.counts.slowest_return = self.now - self.quiet_from;
            self.check_return(self.now - self.quiet_from);
        }
        let all_ended = self.clients.iter().all(Client::has_ended);
        if is_ready && all_ended && !self.rollout {
            let over_at = *self.over_at.get_or_insert(self.now);
            if self.now > over_at + EPILOGUE {
                self.check_leaks();
                return true;
            }
        } else if self.now > self.quiet_from.max(self.last_end) + LIMIT {
            match is_ready {
                true => self.find_open_requests(),
                false => self.find(Property::ServesAgain, "the group has not served for 240 s"),
            }
            return true;
        }
        false
    }

    /// Checks the time from the last fault's end to a ready group.
    fn check_return(&mut self, time: Micros) {
        let bound = self.bound_after_faults();
        if time > bound {
            let text = format!("served again {:.3} s after the last fault, not {:.3}", secs(time), secs(bound));
            self.find(Property::ServesAgain, text);
        }
    }

    fn check_leaks(&mut self) {
        let status = self.heads[self.current_head].driver.status();
        let (running, waiting, blocks) = (status.running, status.waiting, status.kv_blocks_used);
        if (running, waiting, blocks) != (0, 0, 0) {
            let text = format!("{running} running, {waiting} waiting, {blocks} blocks in use, and no request is open");
            self.find(Property::NothingLeaks, text);
        }
    }

    fn at(&mut self, time: Micros, event: Event) {
        let key = self.next_event;
        self.next_event += 1;
        self.queue.push(Reverse((time.max(self.now), key)));
        self.events.insert(key, event);
    }

    fn after(&mut self, time: Micros, event: Event) {
        self.at(self.now + time, event);
    }

    fn find(&mut self, property: Property, text: impl Into<String>) {
        let finding = Finding::new(property, Duration::from_micros(self.now), text);
        self.log(|| format!("FOUND {finding}"));
        self.findings.push(finding);
    }

    fn log(&self, text: impl FnOnce() -> String) {
        if self.trace {
            println!("{:10.3} {}", secs(self.now), text());
        }
    }

    fn digest(&mut self, value: u64) {
        let mixed = (self.counts.digest ^ value).wrapping_mul(0x0000_0100_0000_01b3);
        self.counts.digest = mixed ^ (mixed >> 29);
    }

    /// Returns the time as a process sees it whose clock is ahead by `skew`.
    fn instant(&self, skew: Micros) -> Instant {
        self.base + Duration::from_micros(self.now + skew)
    }

    /// Notes that the group is in trouble until some time, so that an epoch may end.
    fn trouble(&mut self, until: Micros) {
        self.trouble_until = self.trouble_until.max(until);
    }

    /// Notes that a node's own process or machine is at fault until some time, so that its process may end.
    fn disturb(&mut self, node: usize, until: Micros) {
        let disturbed = &mut self.nodes[node].disturbed_until;
        *disturbed = (*disturbed).max(until);
        self.trouble(until);
    }

    /// Returns a random number of microseconds.
    fn jitter(&mut self, most: Micros) -> Micros {
        self.rng.below(most + 1)
    }

    /// Returns a random time around `time`.
    fn about(&mut self, time: Micros) -> Micros {
        time + self.jitter(time / 4 + MS)
    }
}

fn secs(time: Micros) -> f64 {
    time as f64 / 1e6
}
