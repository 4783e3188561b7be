//! The shell of a head's process around the real driver.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use lockstep_api::{Event as ClientEvent, ServeError};
use lockstep_group::head::{Driver, DriverConfig, GroupConfig, Input, Output, StreamEnd};
use lockstep_proto::node::{self as pb, from_head};
use lockstep_proto::v1::ModelInfo;
use lockstep_schedule::plan::SeqId;
use lockstep_schedule::{Scheduler, SchedulerConfig};

use super::wires::{Down, Up};
use super::{Event, Property, World};
use crate::group::planted::Planted;
use crate::group::script::{BLOCK_SIZE, CONTEXT, MS, Micros, S, Shape};

/// Time between two ticks of the driver.
const TICK: Micros = 50 * MS;

/// A head's process.
pub(super) struct Head {
    pub driver: Driver,
    pub is_alive: bool,
    /// Set once the head's machine is cut off for good.
    pub has_vanished: bool,
    pub stopped_until: Micros,
    /// How far the process's clock is ahead.
    pub skew: Micros,
    /// Client of each open request, by its sequence.
    pub open: BTreeMap<SeqId, usize>,
    /// Client whose request the driver decides about.
    submitting: Option<usize>,
    /// Time at which the process was told to stop or to drain.
    pub draining_since: Option<Micros>,
    /// Time since which no epoch serves.
    pub lost_since: Option<Micros>,
    recoveries: u64,
}

impl Head {
    pub(super) fn sleeps_until(&self, now: Micros) -> Option<Micros> {
        Some(self.stopped_until).filter(|until| *until > now)
    }

    pub(super) fn is_ready(&self) -> bool {
        self.is_reachable() && self.driver.status().ready
    }

    /// Returns true if others can reach the process.
    pub(super) fn is_reachable(&self) -> bool {
        self.is_alive && !self.has_vanished
    }
}

/// Returns the settings of a head. Each head draws samples of the model's files at places of its own.
fn driver_config(shape: &Shape, head: usize) -> DriverConfig {
    let (source, digest, sample_key) = ("builtin://simulated".into(), "digest".into(), head.to_le_bytes().to_vec());
    let model = pb::Model { source, digest, sample_key, ..Default::default() };
    let assignment = pb::Assignment {
        cluster_id: "simulated".into(),
        world_size: (shape.nodes * shape.local_world_size) as u32,
        pipeline_parallel_size: shape.stages as u32,
        model: Some(model),
        ..Default::default()
    };
    DriverConfig {
        group: GroupConfig {
            nodes: shape.nodes,
            local_world_size: shape.local_world_size as u32,
            backend: "ring",
            assignment,
        },
        model: ModelInfo::default(),
        recovery_timeout: Duration::from_micros(shape.recovery_timeout),
        drain_timeout: Duration::from_micros(shape.drain_timeout),
        has_successor: true,
        // 1 December 2025.
        unix_micros: 1_764_547_200_000_000,
    }
}

fn scheduler_config(shape: &Shape) -> SchedulerConfig {
    SchedulerConfig {
        block_size: BLOCK_SIZE,
        max_num_seqs: 8,
        max_num_batched_tokens: 64,
        context_length: CONTEXT,
        max_waiting: 64,
        max_steps_in_flight: shape.stages + 1,
        pipeline_stages: shape.stages,
        prefix_key: [3; 16],
        recovery_timeout: Duration::from_micros(shape.recovery_timeout),
        ..Default::default()
    }
}

impl World {
    /// Starts a head, which nodes and clients find from now on.
    pub(super) fn start_head(&mut self) {
        if !self.heads.last().is_some_and(Head::is_reachable) {
            self.add_head();
        }
    }

    /// Starts a head as soon as the cluster has seen that the last one is gone.
    pub(super) fn start_head_soon(&mut self) {
        let pause = self.rng.range(100..=1_500) * MS;
        self.after(pause, Event::HeadStart);
    }

    /// Starts a head beside those that live.
    pub(super) fn add_head(&mut self) {
        let scheduler = Scheduler::new(scheduler_config(&self.script.shape));
        let driver = Driver::new(driver_config(&self.script.shape, self.heads.len()), scheduler, self.instant(0));
        self.heads.push(Head {
            driver,
            is_alive: true,
            has_vanished: false,
            stopped_until: 0,
            skew: 0,
            open: BTreeMap::new(),
            submitting: None,
            draining_since: None,
            lost_since: Some(self.now),
            recoveries: 0,
        });
        self.current_head = self.heads.len() - 1;
        self.trouble(self.now + 5 * S);
        self.log(|| format!("head {} starts", self.current_head));
        self.at(self.now, Event::HeadTick { head: self.current_head });
    }

    pub(super) fn tick_head(&mut self, head: usize) {
        if !self.heads[head].is_alive {
            return;
        }
        if let Some(wakes) = self.heads[head].sleeps_until(self.now) {
            return self.at(wakes, Event::HeadTick { head });
        }
        if self.planted != Some(Planted::NoTicks) || self.now < 8 * S {
            self.give_head(head, Input::Tick);
        }
        self.after(TICK, Event::HeadTick { head });
    }

    /// Lets everything arrive that came while the process was stopped.
    pub(super) fn wake_head(&mut self, head: usize) {
        for connection in 0..self.connections.len() {
            if self.connections[connection].head == head {
                self.arrive_at_head(connection);
            }
        }
    }

    /// Returns true if a planted mistake happens now.
    pub(super) fn slips(&mut self) -> bool {
        self.planted.is_some() && self.now > 9 * S && self.rng.chance(2)
    }

    /// Gives a head an input, and carries out what follows.
    pub(super) fn give_head(&mut self, head: usize, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            if !self.heads[head].is_alive {
                return;
            }
            let now = self.instant(self.heads[head].skew);
            for output in self.heads[head].driver.handle(input, now) {
                inputs.extend(self.carry_out_for_head(head, output));
            }
        }
    }

    fn carry_out_for_head(&mut self, head: usize, output: Output) -> Option<Input> {
        match output {
            Output::Send { node, connection, message } => return self.send_to_node(node, connection, message),
            Output::Close { connection, end } => self.close_stream(connection as usize, end),
            Output::Submitted(decision) => {
                let client = self.heads[head].submitting.take().expect("a submitted request");
                self.decide(head, client, decision);
            }
            Output::Event { id, event } => return self.give_client(head, id, event),
            Output::Status(_) => self.check_status(head),
            Output::Draining(_) | Output::StepTimes { .. } | Output::Preempted(_) | Output::Blocks(_) => {}
            Output::End(outcome) => self.end_head(head, outcome),
        }
        None
    }

    fn send_to_node(&mut self, node: usize, connection: u64, message: from_head::Message) -> Option<Input> {
        let may_be_lost = matches!(message, from_head::Message::Pulse(_));
        let stream = &self.connections[connection as usize];
        let sent = match stream.head_open {
            true => self.send_down(connection as usize, Down::Message(message)),
            false => Err("its control stream has closed"),
        };
        let reason = sent.err().filter(|_| !may_be_lost)?;
        Some(Input::Unsent { node, connection, reason })
    }

    fn close_stream(&mut self, connection: usize, end: StreamEnd) {
        if !self.connections[connection].head_open {
            return;
        }
        let end = match end {
            StreamEnd::MayReturn(reason) if self.planted == Some(Planted::EvictsSilentNodes) => {
                StreamEnd::Evicted(reason)
            }
            end => end,
        };
        let node = self.connections[connection].node;
        self.log(|| format!("head closes the stream {connection} of node {node}: {end:?}"));
        self.connections[connection].head_open = false;
        self.send_down(connection, Down::End(end)).ok();
    }

    /// Checks that the status is true, and notes what it says.
    fn check_status(&mut self, head: usize) {
        let status = self.heads[head].driver.status();
        let (ready, recoveries) = (status.ready, status.recoveries);
        if ready {
            let epoch = status.epoch;
            let all_joined = self.epochs.get(&epoch).is_some_and(|epoch| epoch.is_formed);
            if !all_joined {
                self.find(Property::StatusIsTrue, format!("ready in epoch {epoch}, which has not formed"));
            }
        }
        let serves = ready || self.heads[head].driver.status().ranks.iter().all(|rank| rank.phase == SERVING);
        let state = &mut self.heads[head];
        state.lost_since = if serves { None } else { state.lost_since.or(Some(self.now)) };
        if recoveries > state.recoveries {
            state.recoveries = recoveries;
            self.counts.recoveries += 1;
            self.log(|| format!("head {head} lost an epoch"));
            if self.now > self.trouble_until && head == self.current_head {
                self.find(Property::EpochsLast, "the epoch ended although nothing was wrong");
            }
        }
    }

    /// Gives a head a message of a stream.
    pub(super) fn receive_at_head(&mut self, head: usize, connection: usize, message: Up) {
        let node = self.connections[connection].node;
        let number = connection as u64;
        let input = match message {
            Up::Hello(hello) => {
                let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
                Input::Hello { hello, connection: number, peer: address, local: address }
            }
            Up::Message(message) => Input::Message { node, connection: number, message: *message },
            Up::Closed => {
                self.connections[connection].head_open = false;
                Input::Closed { node, connection: number, reason: "its process ended".into() }
            }
        };
        self.give_head(head, input);
    }

    /// Submits a client's request to the current head.
    pub(super) fn submit_to_head(&mut self, head: usize, client: usize) {
        let submission = self.clients[client].submission(client);
        self.heads[head].submitting = Some(client);
        self.give_head(head, Input::Submit(Box::new(submission)));
    }

    /// The head's process ends by itself.
    fn end_head(&mut self, head: usize, outcome: Result<(), String>) {
        self.log(|| format!("head {head} ends: {outcome:?}"));
        if let Err(reason) = outcome {
            self.find(Property::WeightsAreKept, format!("the head calls the model unusable: {reason}"));
        }
        self.stop_process_of_head(head, true);
        if head == self.current_head {
            self.start_head_soon();
        }
    }

    /// Ends a head's process. Its streams close, after what it sent, and its clients' answers break off.
    pub(super) fn stop_process_of_head(&mut self, head: usize, is_told: bool) {
        self.heads[head].is_alive = false;
        for connection in 0..self.connections.len() {
            if self.connections[connection].head == head && self.connections[connection].head_open {
                self.connections[connection].head_open = false;
                if is_told {
                    self.send_down(connection, Down::Reset).ok();
                }
            }
        }
        self.break_answers(head);
    }

    /// Gives a client an event of its request. Returns an input if the event cannot reach the client.
    fn give_client(&mut self, head: usize, id: SeqId, event: ClientEvent) -> Option<Input> {
        let mut client = *self.heads[head].open.get(&id)?;
        let open = self.heads[head].open.len() as u64;
        let slips = self.slips();
        let event = match (self.planted, event) {
            (Some(Planted::LosesEnd), event) if event.is_last() && slips => return None,
            (Some(Planted::BlamesItself), ClientEvent::Failed(_)) => {
                ClientEvent::Failed(ServeError::Internal("a defect".into()))
            }
            (Some(Planted::MixesClients), event) if open > 1 && slips => {
                client = *self.heads[head].open.values().find(|other| **other != client)?;
                event
            }
            (_, event) => event,
        };
        if event.is_last() {
            self.heads[head].open.remove(&id);
        }
        let lost = self.receive_event(head, client, event)?;
        self.heads[head].open.remove(&id);
        Some(Input::ClientLost { id, reason: lost })
    }
}

const SERVING: i32 = lockstep_proto::v1::Phase::Serving as i32;
