//! The shell of a node's process around the real session: streams, heartbeats, the model's files and the process's end.

use std::collections::VecDeque;
use std::net::IpAddr;

use lockstep_group::head::StreamEnd;
use lockstep_group::node::{HeadAddress, Input, NodeEnd, Output, RankEvent, Session, SessionConfig};
use lockstep_proto::backoff::Backoff;
use lockstep_proto::node::{self as pb, from_head, from_node};

use super::ranks::{Command, Rank};
use super::wires::{Connection, Down, Up};
use super::{Event, Property, World};
use crate::group::planted::Planted;
use crate::group::script::{Ailment, MS, Micros, S, Shape};

/// Time between two ticks of a session.
const TICK: Micros = lockstep_group::node::TICK.as_micros() as Micros;
const HEARTBEAT: Micros = 100 * MS;
/// Time between two lookups of the head's name.
const LOOKUP: Micros = 5 * S;
/// Time without progress after which a process ends itself.
const STUCK: Micros = 20 * S;
/// Time for one dial over a wire that is cut, and from Hello to the assignment.
const CONNECT_TIMEOUT: Micros = 2 * S;
const GREETING_TIMEOUT: Micros = 5 * S;
/// Pauses between dials that fail.
const DIAL_BACKOFF: Backoff = Backoff::new(std::time::Duration::from_millis(50), std::time::Duration::from_millis(500));
/// Time after the end of its fault within which a node's process may still end because of it.
const AFTERMATH: Micros = 4 * S;

/// A node's machine, and its process if that is alive.
pub(super) struct Node {
    pub is_alive: bool,
    /// Number of the process.
    pub life: u64,
    pub session: Session,
    pub ranks: Vec<Rank>,
    /// Open stream, from the dial on.
    pub connection: Option<usize>,
    /// Set once the head has sent the assignment.
    pub is_attached: bool,
    /// Events of the ranks and of the opener that wait for a stream.
    waiting: VecDeque<Input>,
    dials: Backoff,
    /// The head's address, from the time when the node joined, and the next lookup.
    address: HeadAddress,
    looks_up_at: Micros,
    pub stopped_until: Micros,
    pub skew: Micros,
    pub beats_late_until: Micros,
    pub powered_off_until: Micros,
    pub ailment: Option<(Ailment, Micros)>,
    /// Remaining deaths of a crash loop.
    pub crashes: u32,
    /// Set if a rank's next step never ends.
    pub hangs: bool,
    pub told_to_stop: bool,
    /// Set once the process could not load. It ends when it has told the head.
    pub has_failed: bool,
    last_progress: (u64, u64),
    last_progress_at: Micros,
    /// Time until which this node's own faults may end its process.
    pub disturbed_until: Micros,
}

impl Node {
    pub(super) fn new(shape: &Shape) -> Self {
        Self {
            is_alive: false,
            life: 0,
            session: new_session(shape, std::time::Instant::now()),
            ranks: Vec::new(),
            connection: None,
            is_attached: false,
            waiting: VecDeque::new(),
            dials: DIAL_BACKOFF,
            address: HeadAddress::new(Vec::new()),
            looks_up_at: 0,
            stopped_until: 0,
            skew: 0,
            beats_late_until: 0,
            powered_off_until: 0,
            ailment: None,
            crashes: 0,
            hangs: false,
            told_to_stop: false,
            has_failed: false,
            last_progress: (0, 0),
            last_progress_at: 0,
            disturbed_until: 0,
        }
    }

    pub(super) fn sleeps_until(&self, now: Micros) -> Option<Micros> {
        Some(self.stopped_until).filter(|until| *until > now)
    }

    pub(super) fn ails(&self, ailment: Ailment, now: Micros) -> bool {
        self.ailment.is_some_and(|(is, until)| is == ailment && until > now)
    }
}

fn new_session(shape: &Shape, now: std::time::Instant) -> Session {
    let local_world_size = shape.local_world_size;
    Session::new(SessionConfig { local_world_size, pipeline: None, outlives_head: true }, now)
}

/// Returns an address that stands for a head.
fn address_of(head: usize) -> IpAddr {
    [10, 0, (head / 256) as u8, (head % 256) as u8].into()
}

impl World {
    pub(super) fn is_current(&self, node: usize, life: u64) -> bool {
        self.nodes[node].is_alive && self.nodes[node].life == life
    }

    /// Starts a node's process.
    pub(super) fn start_node(&mut self, node: usize) {
        if self.nodes[node].is_alive {
            return;
        }
        if self.nodes[node].powered_off_until > self.now {
            return self.at(self.nodes[node].powered_off_until, Event::NodeStart { node });
        }
        let session = new_session(&self.script.shape, self.instant(self.nodes[node].skew));
        let local_world_size = self.script.shape.local_world_size;
        let state = &mut self.nodes[node];
        state.is_alive = true;
        state.life += 1;
        state.session = session;
        state.ranks = (0..local_world_size).map(|_| Rank::default()).collect();
        (state.connection, state.is_attached, state.told_to_stop, state.hangs) = (None, false, false, false);
        state.has_failed = false;
        state.stopped_until = self.now;
        state.waiting.clear();
        state.dials = DIAL_BACKOFF;
        let life = state.life;
        let restart = self.script.shape.load + 6 * S;
        self.trouble(self.now + restart);
        self.log(|| format!("node {node} starts, life {life}"));
        let pause = self.about(20 * MS);
        self.after(pause, Event::Dial { node, life });
        self.after(HEARTBEAT, Event::Heartbeat { node, life });
    }

    /// Dials the head.
    pub(super) fn dial(&mut self, node: usize, life: u64) {
        if !self.is_current(node, life) || self.nodes[node].connection.is_some() {
            return;
        }
        if let Some(wakes) = self.nodes[node].sleeps_until(self.now) {
            return self.at(wakes, Event::Dial { node, life });
        }
        if self.nodes[node].told_to_stop {
            return self.end_process(node, &NodeEnd::Stopped);
        }
        let (wire, head) = (&self.wires[node], self.current_head);
        let is_cut = wire.to_head_cut_until.max(wire.to_node_cut_until) > self.now;
        if is_cut || self.heads[head].has_vanished {
            return self.after(CONNECT_TIMEOUT, Event::Dial { node, life });
        }
        if !self.heads[head].is_alive {
            return self.dial_later(node, life);
        }
        let connection = self.connections.len();
        self.connections.push(Connection::new(node, life, head));
        self.nodes[node].connection = Some(connection);
        self.log(|| format!("node {node} dials head {head}: stream {connection}"));
        let hello = self.hello(node, connection);
        // A process of another version ends as soon as it reads the head's refusal, however late that is.
        self.nodes[node].has_failed |= hello.wire_version != pb::WIRE_VERSION;
        self.send_up(connection, Up::Hello(Box::new(hello)));
        self.after(GREETING_TIMEOUT, Event::DialFails { node, life, connection });
    }

    fn dial_later(&mut self, node: usize, life: u64) {
        let pause = self.nodes[node].dials.next_pause().as_micros() as Micros;
        self.after(pause, Event::Dial { node, life });
    }

    fn hello(&self, node: usize, connection: usize) -> pb::Hello {
        let state = &self.nodes[node];
        let local_world_size = state.ranks.len() as u32;
        let other_version = state.ails(Ailment::OtherVersion, self.now);
        pb::Hello {
            wire_version: pb::WIRE_VERSION + u32::from(other_version),
            node: node as u32,
            local_world_size,
            incarnation: state.life,
            dial: connection as u64,
            pid: state.life as u32,
            ring_addresses: (0..local_world_size).map(|rank| format!("0.0.0.0:{}", 2000 + rank)).collect(),
            backends: vec!["ring".into()],
            last_epoch: match self.planted {
                Some(Planted::ForgetsEpochs) => 0,
                _ => state.session.last_epoch(),
            },
            ..Default::default()
        }
    }

    /// Gives up a dial that the head has not answered.
    pub(super) fn fail_dial(&mut self, node: usize, life: u64, connection: usize) {
        if !self.is_current(node, life)
            || self.nodes[node].connection != Some(connection)
            || self.nodes[node].is_attached
        {
            return;
        }
        if let Some(wakes) = self.nodes[node].sleeps_until(self.now) {
            return self.at(wakes + MS, Event::DialFails { node, life, connection });
        }
        self.hang_up(node, true);
        self.dial_later(node, life);
    }

    /// Gives a node a message of a stream.
    pub(super) fn receive_at_node(&mut self, node: usize, life: u64, connection: usize, message: Down) {
        if !self.is_current(node, life) || self.nodes[node].connection != Some(connection) {
            return;
        }
        let is_attached = self.nodes[node].is_attached;
        match message {
            Down::Message(from_head::Message::Assignment(assignment)) if !is_attached => {
                self.nodes[node].is_attached = true;
                self.nodes[node].dials = DIAL_BACKOFF;
                self.nodes[node].address = HeadAddress::new(vec![address_of(self.connections[connection].head)]);
                self.nodes[node].looks_up_at = self.now + LOOKUP;
                self.log(|| format!("node {node} has joined by stream {connection}"));
                self.give_node(node, Input::Attached(assignment));
                self.after(0, Event::NodeTick { node, life, connection });
                while self.nodes[node].is_attached
                    && let Some(input) = self.nodes[node].waiting.pop_front()
                {
                    self.give_node(node, input);
                }
            }
            Down::Message(message) => self.give_node(node, Input::Head(message)),
            Down::End(StreamEnd::Refused(reason) | StreamEnd::Evicted(reason)) if !is_attached => {
                let reason = format!("the head refuses this node: {reason}");
                self.end_process(node, &NodeEnd::Failed { reason, model_is_unusable: false });
            }
            Down::End(_) | Down::Reset if !is_attached => {
                self.hang_up(node, true);
                self.dial_later(node, life);
            }
            Down::End(StreamEnd::Refused(reason) | StreamEnd::Evicted(reason)) => {
                self.give_node(node, Input::Evicted(reason));
            }
            Down::End(StreamEnd::MayReturn(reason)) => self.give_node(node, Input::StreamBroke(reason)),
            Down::End(StreamEnd::Released) | Down::Reset => {
                self.give_node(node, Input::StreamBroke("the head hung up".into()));
            }
        }
    }

    /// Gives the session an event of this process now, or once there is a stream.
    pub(super) fn give_node_or_wait(&mut self, node: usize, input: Input) {
        match self.nodes[node].is_attached {
            true => self.give_node(node, input),
            false => self.nodes[node].waiting.push_back(input),
        }
    }

    pub(super) fn give_rank_event(&mut self, node: usize, event: RankEvent) {
        self.give_node_or_wait(node, Input::Rank(event));
    }

    pub(super) fn give_node(&mut self, node: usize, input: Input) {
        let now = self.instant(self.nodes[node].skew);
        let life = self.nodes[node].life;
        for output in self.nodes[node].session.handle(input, now) {
            if !self.is_current(node, life) {
                return;
            }
            self.carry_out_for_node(node, output);
        }
    }

    fn carry_out_for_node(&mut self, node: usize, output: Output) {
        let life = self.nodes[node].life;
        match output {
            Output::Send(message) => {
                let is_result = matches!(message, from_node::Message::StepDone(_));
                if is_result && self.planted == Some(Planted::LosesResult) && self.slips() {
                    return;
                }
                if let Some(connection) = self.nodes[node].connection {
                    self.log_report(node, &message);
                    self.send_up(connection, Up::Message(Box::new(message)));
                }
            }
            Output::Open(_) => {
                let time = self.about(10 * MS);
                self.after(time, Event::Opened { node, life });
            }
            Output::Load => self.command_ranks(node, || Command::Load),
            Output::Form(form) => self.command_ranks(node, || Command::Form(form.clone())),
            Output::Step { plan, .. } => self.command_ranks(node, || Command::Step(plan.clone())),
            Output::Abort { epoch, .. } if self.planted != Some(Planted::IgnoresAborts) => {
                self.abort_ranks(node, epoch);
            }
            Output::Abort { .. } | Output::Reached(_) => {}
            Output::Detach(reason) => {
                self.log(|| format!("node {node} leaves its stream: {reason}"));
                self.hang_up(node, true);
                self.dial_later(node, life);
            }
            Output::End(end) => self.end_process(node, &end),
        }
    }

    fn log_report(&self, node: usize, message: &from_node::Message) {
        if let from_node::Message::Fault(fault) = message {
            self.log(|| format!("node {node} reports: {fault:?}"));
        }
    }

    pub(super) fn tick_node(&mut self, node: usize, life: u64, connection: usize) {
        if !self.is_current(node, life) || self.nodes[node].connection != Some(connection) {
            return;
        }
        if let Some(wakes) = self.nodes[node].sleeps_until(self.now) {
            return self.at(wakes, Event::NodeTick { node, life, connection });
        }
        self.give_node(node, Input::Tick);
        self.look_up_head(node);
        self.after(TICK, Event::NodeTick { node, life, connection });
    }

    /// Looks up the head's name, if it is time.
    fn look_up_head(&mut self, node: usize) {
        let state = &mut self.nodes[node];
        if self.now >= state.looks_up_at {
            state.looks_up_at = self.now + LOOKUP;
            if state.is_attached && state.address.has_moved(&[address_of(self.current_head)]) {
                self.give_node(node, Input::StreamBroke("the name leads to another head now".into()));
            }
        }
    }

    /// Sends a heartbeat, and ends a process whose rank is stuck.
    pub(super) fn beat(&mut self, node: usize, life: u64) {
        if !self.is_current(node, life) {
            return;
        }
        let state = &self.nodes[node];
        if let Some(wakes) = state.sleeps_until(self.now).max(Some(state.beats_late_until).filter(|at| *at > self.now))
        {
            return self.at(wakes, Event::Heartbeat { node, life });
        }
        let least = |count: &dyn Fn(&Rank) -> u64| state.ranks.iter().map(count).min().unwrap_or(0);
        let beat = pb::Heartbeat {
            progress: least(&|rank| rank.progress),
            moved: state.ranks.iter().map(|rank| rank.progress).sum(),
            busy: state.ranks.iter().any(Rank::is_busy),
            epoch: least(&|rank| rank.epoch),
            step: least(&|rank| rank.last_step),
        };
        let progress = (beat.progress, beat.moved);
        if !beat.busy || progress != state.last_progress {
            (self.nodes[node].last_progress, self.nodes[node].last_progress_at) = (progress, self.now);
        } else if self.now > state.last_progress_at + STUCK {
            return self.die(node, "a rank has been stuck for 20 s", true);
        }
        if self.nodes[node].is_attached
            && let Some(connection) = self.nodes[node].connection
        {
            self.send_up(connection, Up::Message(Box::new(from_node::Message::Heartbeat(beat))));
        }
        self.after(HEARTBEAT, Event::Heartbeat { node, life });
    }

    /// Lets everything go on that stood still while the process was stopped.
    pub(super) fn wake_node(&mut self, node: usize) {
        if self.nodes[node].sleeps_until(self.now).is_some() {
            return;
        }
        for connection in 0..self.connections.len() {
            if self.connections[connection].node == node {
                self.arrive_at_node(connection);
            }
        }
    }

    /// The model's files are open, or cannot be opened. Nothing is downloaded that the ranks have loaded already.
    pub(super) fn open_model(&mut self, node: usize, life: u64) {
        if !self.is_current(node, life) {
            return;
        }
        if let Some(wakes) = self.nodes[node].sleeps_until(self.now) {
            return self.at(wakes, Event::Opened { node, life });
        }
        let ails = |ailment| self.nodes[node].ails(ailment, self.now);
        let has_loaded = self.nodes[node].ranks.iter().all(|rank| rank.has_loaded);
        let failure = match (ails(Ailment::OtherWeights), ails(Ailment::DiskFull)) {
            (true, _) => Some("a file differs from the head's"),
            (_, true) if !has_loaded => Some("no space left on device"),
            _ => None,
        };
        self.nodes[node].has_failed |= failure.is_some();
        let input = match failure {
            Some(reason) => Input::OpenFailed { source: "simulated".into(), reason: reason.into() },
            None => Input::Opened { content: "content".into() },
        };
        self.give_node_or_wait(node, input);
    }

    /// The node's process ends because its session says so.
    fn end_process(&mut self, node: usize, end: &NodeEnd) {
        let state = &self.nodes[node];
        let may_end = state.told_to_stop || state.has_failed || self.now <= state.disturbed_until + AFTERMATH;
        self.log(|| format!("node {node} ends: {end:?}"));
        if !may_end {
            self.find(Property::WeightsAreKept, format!("healthy node {node} ended: {end:?}"));
        }
        self.die(node, "its session ended", true);
    }

    /// The node's process is gone. Its peers and the head learn of it if `is_told`.
    pub(super) fn die(&mut self, node: usize, why: &'static str, is_told: bool) {
        if !self.nodes[node].is_alive {
            return;
        }
        self.log(|| format!("node {node} is dead: {why}"));
        self.counts.process_ends += 1;
        let life = self.nodes[node].life;
        self.nodes[node].is_alive = false;
        self.hang_up(node, is_told);
        if is_told {
            self.tell_peers_of_death(node, life);
        }
        let restart = self.script.shape.restart;
        let restart = self.about(restart);
        self.trouble(self.now + restart + self.script.shape.load + 6 * S);
        self.after(restart, Event::NodeStart { node });
    }
}
