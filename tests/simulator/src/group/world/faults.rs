//! The faults of a script, and how long a group may need after them.

use lockstep_group::head::Input as HeadInput;
use lockstep_group::node::Input as NodeInput;

use super::wires::{Down, Up};
use super::{Event, World};
use crate::group::script::{Fault, MS, Micros, S};

/// Time after a fault for which the group may still lose epochs to it.
const AFTERMATH: Micros = 8 * S;
/// Time after which every node has noticed that the head's name leads elsewhere.
const MOVE: Micros = 12 * S;
/// Time after which a hung process ends itself, and the group has formed again without it.
const HANG: Micros = 50 * S;

impl World {
    pub(super) fn begin_fault(&mut self, index: usize) {
        let fault = self.script.faults[index].1;
        self.counts.faults += 1;
        self.log(|| format!("fault: {fault:?}"));
        self.trouble(self.now + fault.time() + AFTERMATH);
        match fault {
            Fault::Kill { node } => {
                self.disturb(node, self.now);
                self.die(node, "killed", true);
            }
            Fault::Stop { node, time } => self.stop_node(node, time),
            Fault::Hang { node } => {
                self.nodes[node].hangs = true;
                self.disturb(node, self.now + HANG);
            }
            Fault::Cut { node, way, time } => self.cut(node, way, time),
            Fault::CutRing { node, time } => {
                let until = self.now + time;
                self.wires[node].ring_cut_until = self.wires[node].ring_cut_until.max(until);
            }
            Fault::ResetAtNode { node } => self.reset(node, true),
            Fault::ResetAtHead { node } => self.reset(node, false),
            Fault::Slow { node, latency, time } => {
                (self.wires[node].slow_until, self.wires[node].latency) = (self.now + time, latency);
            }
            Fault::LateBeats { node, time } => self.nodes[node].beats_late_until = self.now + time,
            Fault::PowerOff { node, time } => {
                self.disturb(node, self.now + time);
                self.nodes[node].powered_off_until = self.now + time;
                self.die(node, "no power", false);
            }
            Fault::Ail { node, ailment, time } => {
                self.nodes[node].ailment = Some((ailment, self.now + time));
                self.disturb(node, self.now + time + self.script.shape.load);
                self.die(node, "killed, and its successor cannot serve", true);
            }
            Fault::CrashLoop { node, times } => {
                self.nodes[node].crashes = times;
                let life = Micros::from(times) * (self.script.shape.load + self.script.shape.restart + 10 * S);
                self.disturb(node, self.now + life);
                self.die(node, "the first death of a crash loop", true);
            }
            Fault::Leave { node } => self.tell_node_to_stop(node),
            Fault::NodeClock { node, by } => self.nodes[node].skew += by,
            Fault::HeadKill
            | Fault::HeadStop { .. }
            | Fault::HeadVanish
            | Fault::TwoHeads
            | Fault::HeadTerm
            | Fault::HeadClock { .. } => {
                self.begin_fault_of_head(fault);
            }
            Fault::Rollout => self.begin_rollout(),
        }
    }

    fn stop_node(&mut self, node: usize, time: Micros) {
        let until = self.now + time;
        self.nodes[node].stopped_until = self.nodes[node].stopped_until.max(until);
        self.at(until, Event::NodeWakes { node });
    }

    /// One end of a node's stream sees a reset.
    fn reset(&mut self, node: usize, at_node: bool) {
        let Some(connection) = self.nodes[node].connection else { return };
        if at_node {
            let is_stopped = self.nodes[node].sleeps_until(self.now).is_some();
            let stream = &mut self.connections[connection];
            stream.down.clear();
            if is_stopped {
                self.send_down(connection, Down::Reset).ok();
            } else {
                stream.is_dead = true;
                let life = stream.life;
                self.receive_at_node(node, life, connection, Down::Reset);
            }
        } else if self.connections[connection].head_open {
            let head = self.connections[connection].head;
            if self.heads[head].is_alive && self.heads[head].sleeps_until(self.now).is_none() {
                self.receive_at_head(head, connection, Up::Closed);
                // The node's next heartbeat is answered by a reset.
                self.send_down(connection, Down::Reset).ok();
            }
        }
    }

    fn tell_node_to_stop(&mut self, node: usize) {
        if !self.nodes[node].is_alive {
            return;
        }
        self.disturb(node, self.now + 30 * S);
        self.nodes[node].told_to_stop = true;
        if self.nodes[node].is_attached && self.nodes[node].sleeps_until(self.now).is_none() {
            self.give_node(node, NodeInput::Stop);
        } else {
            self.die(node, "told to stop without a stream", true);
        }
    }

    fn begin_fault_of_head(&mut self, fault: Fault) {
        let head = self.current_head;
        if !self.heads[head].is_reachable() {
            return;
        }
        match fault {
            Fault::HeadStop { time } => {
                let until = self.now + time;
                self.heads[head].stopped_until = self.heads[head].stopped_until.max(until);
                self.at(until, Event::HeadWakes { head });
            }
            Fault::HeadClock { by } => self.heads[head].skew += by,
            Fault::HeadTerm => self.tell_head_to_stop(head),
            Fault::TwoHeads => {
                self.trouble(self.now + MOVE + AFTERMATH);
                self.add_head();
            }
            Fault::HeadVanish => {
                for connection in &mut self.connections {
                    connection.is_dead |= connection.head == head;
                }
                self.heads[head].has_vanished = true;
                self.break_answers(head);
                let pause = self.rng.range(500..=8_000) * MS;
                self.trouble(self.now + pause + AFTERMATH);
                // Until then, nodes find nobody. The old head lives on, alone.
                self.after(pause, Event::HeadStart);
            }
            _ => {
                self.stop_process_of_head(head, true);
                self.start_head_soon();
            }
        }
    }

    fn tell_head_to_stop(&mut self, head: usize) {
        if let Some(wakes) = self.heads[head].sleeps_until(self.now) {
            return self.at(wakes, Event::RolloutStops { head });
        }
        self.heads[head].draining_since.get_or_insert(self.now);
        let drain = self.script.shape.drain_timeout;
        self.trouble(self.now + drain + AFTERMATH);
        self.give_head(head, HeadInput::Stop);
    }

    /// The operator drains the head, and tells every process to stop once the head has finished its requests.
    fn begin_rollout(&mut self) {
        let head = self.current_head;
        if !self.heads[head].is_reachable() || self.heads[head].sleeps_until(self.now).is_some() {
            return;
        }
        self.rollout = true;
        self.heads[head].draining_since.get_or_insert(self.now);
        self.give_head(head, HeadInput::Drain { reason: "a rollout".into() });
        self.after(6 * S, Event::RolloutStops { head });
    }

    pub(super) fn go_on_with_rollout(&mut self, head: usize) {
        if !std::mem::take(&mut self.rollout) {
            if self.heads[head].is_alive {
                self.tell_head_to_stop(head);
            }
            return;
        }
        if head != self.current_head {
            return;
        }
        for node in 0..self.nodes.len() {
            self.tell_node_to_stop(node);
        }
        if self.heads[head].is_reachable() {
            self.tell_head_to_stop(head);
        }
    }

    /// Returns the longest time from the end of the last fault to a ready group.
    pub(super) fn bound_after_faults(&self) -> Micros {
        let shape = &self.script.shape;
        // A start and a load, each up to a quarter longer; a dial, an epoch that forms, its first token.
        let life = (shape.restart + shape.load) * 5 / 4 + 2 * S;
        let needs = self.script.faults.iter().map(|(_, fault)| match fault {
            // The process ends itself after 20 s. Until then, no epoch forms, and each attempt takes up to 11 s.
            Fault::Hang { .. } => HANG + life,
            Fault::CrashLoop { times, .. } => (Micros::from(*times) + 1) * (life + 2 * S),
            // The process may be in the middle of a load that fails.
            Fault::Ail { .. } => 2 * life,
            Fault::Rollout | Fault::HeadTerm | Fault::Leave { .. } => life + shape.drain_timeout + 10 * S,
            Fault::HeadVanish => life + 8 * S,
            Fault::TwoHeads => MOVE + life + 8 * S,
            Fault::HeadKill => life + 4 * S,
            // A dial that waits for a cut wire, or for an answer that is late.
            Fault::Cut { .. } | Fault::CutRing { .. } | Fault::Stop { .. } | Fault::Slow { .. } => life + 6 * S,
            _ => life,
        });
        // A request of which the ranks die costs six lives before it is found guilty.
        let poison = self.script.asks.iter().any(|(_, ask)| ask.is_poison);
        let deaths = if poison { 7 * (life + 2 * S) } else { 0 };
        needs.max().unwrap_or(life) + deaths
    }
}
