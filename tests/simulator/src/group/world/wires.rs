//! Wires and the control streams on them. A stream delivers in order; a cut wire holds what was sent, and gives it out
//! some time after it is whole again, as TCP does.

use std::collections::VecDeque;

use lockstep_group::head::StreamEnd;
use lockstep_proto::node::{self as pb, from_head, from_node};

use super::{Event, World};
use crate::group::script::{MS, Micros, S, Way};

/// Longest time after which a sender tries again, on a wire that is whole again.
const LONGEST_RETRY: Micros = 60 * S;
/// Most messages that may wait for a node, in the head's queue and in the system's buffers.
const MAX_OUTBOUND: usize = 400;
/// Time after which the head notices a connection that answers nothing.
const HEAD_KEEP_ALIVE: Micros = 10 * S;

/// The wires between a node and everything else.
#[derive(Debug, Clone, Default)]
pub(super) struct Wire {
    pub to_head_cut_until: Micros,
    pub to_node_cut_until: Micros,
    /// When the cut began.
    pub cut_at: Micros,
    pub ring_cut_until: Micros,
    pub slow_until: Micros,
    pub latency: Micros,
}

/// Message from a node to the head.
#[derive(Debug)]
pub(super) enum Up {
    Hello(Box<pb::Hello>),
    Message(Box<from_node::Message>),
    Closed,
}

/// Message from the head to a node.
#[derive(Debug)]
pub(super) enum Down {
    Message(from_head::Message),
    End(StreamEnd),
    Reset,
}

/// A control stream.
#[derive(Debug)]
pub(super) struct Connection {
    pub node: usize,
    pub life: u64,
    pub head: usize,
    pub up: VecDeque<(Micros, Up)>,
    pub down: VecDeque<(Micros, Down)>,
    /// Set while the node's process has its end of the stream.
    pub node_open: bool,
    /// Set while the head's process has its end of the stream.
    pub head_open: bool,
    /// Set once nothing passes any longer.
    pub is_dead: bool,
}

impl Connection {
    pub(super) fn new(node: usize, life: u64, head: usize) -> Self {
        let (up, down) = (VecDeque::new(), VecDeque::new());
        Self { node, life, head, up, down, node_open: true, head_open: true, is_dead: false }
    }
}

impl World {
    /// Cuts a node off for a time.
    pub(super) fn cut(&mut self, node: usize, way: Way, time: Micros) {
        let until = self.now + time;
        let wire = &mut self.wires[node];
        wire.cut_at = self.now;
        if way != Way::ToHead {
            wire.to_node_cut_until = wire.to_node_cut_until.max(until);
        }
        if way != Way::ToNode {
            wire.to_head_cut_until = wire.to_head_cut_until.max(until);
        }
        if way == Way::Both {
            wire.ring_cut_until = wire.ring_cut_until.max(until);
        }
        if time > HEAD_KEEP_ALIVE {
            for connection in 0..self.connections.len() {
                let stream = &self.connections[connection];
                if stream.node == node && stream.head_open {
                    self.after(HEAD_KEEP_ALIVE, Event::KeepAliveFails { connection });
                }
            }
        }
    }

    /// Tells the head that a connection answers nothing, if its wire is still cut.
    pub(super) fn fail_keep_alive(&mut self, connection: usize) {
        let Connection { node, head, head_open, .. } = self.connections[connection];
        let wire = &self.wires[node];
        let is_cut = wire.to_head_cut_until.max(wire.to_node_cut_until) > self.now;
        if is_cut && head_open && self.heads[head].sleeps_until(self.now).is_none() {
            self.receive_at_head(head, connection, Up::Closed);
        }
    }

    fn latency(&mut self, node: usize) -> Micros {
        let (slow_until, latency) = (self.wires[node].slow_until, self.wires[node].latency);
        let usual = self.rng.range(60..=1_500);
        if slow_until > self.now { usual + self.jitter(latency) } else { usual }
    }

    /// Returns the time at which a message arrives that waits for a wire to be whole.
    fn resumes_at(&mut self, node: usize, cut_until: Micros) -> Micros {
        let outage = cut_until.saturating_sub(self.wires[node].cut_at).min(LONGEST_RETRY);
        cut_until + self.jitter(outage) + MS
    }

    pub(super) fn send_up(&mut self, connection: usize, message: Up) {
        let node = self.connections[connection].node;
        let time = self.now + self.latency(node);
        let lane = &mut self.connections[connection].up;
        let time = lane.back().map_or(time, |(last, _)| time.max(*last));
        lane.push_back((time, message));
        self.at(time, Event::ToHead { connection });
    }

    /// Queues a message for a node. Fails if too many messages wait already.
    pub(super) fn send_down(&mut self, connection: usize, message: Down) -> Result<(), &'static str> {
        let node = self.connections[connection].node;
        let time = self.now + self.latency(node);
        let lane = &mut self.connections[connection].down;
        if lane.len() >= MAX_OUTBOUND && matches!(message, Down::Message(_)) {
            return Err("it reads nothing from its control stream");
        }
        let time = lane.back().map_or(time, |(last, _)| time.max(*last));
        lane.push_back((time, message));
        self.at(time, Event::ToNode { connection });
        Ok(())
    }

    /// Gives the head every message of a stream that is due.
    pub(super) fn arrive_at_head(&mut self, connection: usize) {
        let node = self.connections[connection].node;
        loop {
            let cut_until = self.wires[node].to_head_cut_until;
            let stream = &mut self.connections[connection];
            let Some((due, _)) = stream.up.front() else { return };
            if *due > self.now {
                return;
            }
            if stream.is_dead || !stream.head_open {
                return stream.up.clear();
            }
            if cut_until > self.now {
                let time = self.resumes_at(node, cut_until);
                self.connections[connection].up.iter_mut().for_each(|(due, _)| *due = (*due).max(time));
                return self.at(time, Event::ToHead { connection });
            }
            let head = stream.head;
            if let Some(wakes) = self.heads[head].sleeps_until(self.now) {
                return self.at(wakes, Event::ToHead { connection });
            }
            let (_, message) = self.connections[connection].up.pop_front().expect("a message");
            self.receive_at_head(head, connection, message);
        }
    }

    /// Gives a node every message of a stream that is due.
    pub(super) fn arrive_at_node(&mut self, connection: usize) {
        let (node, life) = (self.connections[connection].node, self.connections[connection].life);
        loop {
            let cut_until = self.wires[node].to_node_cut_until;
            let stream = &mut self.connections[connection];
            let Some((due, _)) = stream.down.front() else { return };
            if *due > self.now {
                return;
            }
            if stream.is_dead || !stream.node_open {
                return stream.down.clear();
            }
            if cut_until > self.now {
                let time = self.resumes_at(node, cut_until);
                self.connections[connection].down.iter_mut().for_each(|(due, _)| *due = (*due).max(time));
                return self.at(time, Event::ToNode { connection });
            }
            if let Some(wakes) = self.nodes[node].sleeps_until(self.now) {
                return self.at(wakes, Event::ToNode { connection });
            }
            let (_, message) = self.connections[connection].down.pop_front().expect("a message");
            self.receive_at_node(node, life, connection, message);
        }
    }

    /// Ends the node's half of its stream. The head learns of it if the wire is whole.
    pub(super) fn hang_up(&mut self, node: usize, is_told: bool) {
        let Some(connection) = self.nodes[node].connection.take() else { return };
        self.nodes[node].is_attached = false;
        self.connections[connection].node_open = false;
        if is_told {
            self.send_up(connection, Up::Closed);
        }
    }

    /// Returns true if the ranks of two nodes reach each other.
    pub(super) fn ring_is_whole(&self, a: usize, b: usize) -> bool {
        a == b || [a, b].iter().all(|node| self.wires[*node].ring_cut_until <= self.now)
    }
}
