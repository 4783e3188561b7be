//! The driver's shell: the one task that gives inputs to [`Driver`], with the time, and carries out its outputs.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use lockstep_api::{BlockFeed, Command, InFlight, Liveness, Metrics};
use lockstep_group::head::{Driver, Input, Output, StreamEnd};
use lockstep_proto::node::from_head;
use lockstep_proto::v1::ClusterStatus;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::answers::Answers;
use super::control::{NodeEvent, NodeStream};
use crate::clock;
use crate::unusable::UnusableModel;

/// Time between two ticks.
const TICK: Duration = Duration::from_millis(50);

/// The driver's ways in and out.
pub(super) struct DriverTask {
    pub driver: Driver,
    pub commands: mpsc::Receiver<Command>,
    pub nodes: mpsc::Receiver<NodeEvent>,
    pub status: watch::Sender<ClusterStatus>,
    pub metrics: Metrics,
    /// Publisher of the prefix cache's changes, if anybody may see them.
    pub block_feed: Option<BlockFeed>,
    /// Sign of life that the driver gives at each tick.
    pub alive: Liveness,
    /// Signal to finish the open requests and then to end.
    pub stop: CancellationToken,
    /// Control streams by their connection.
    pub streams: HashMap<u64, NodeStream>,
    pub answers: Answers,
    /// Channel for the numbers of a drain that has just been asked for.
    pub drain_answer: Option<oneshot::Sender<InFlight>>,
}

impl DriverTask {
    /// Runs until the head has drained. Every node has been told by then.
    ///
    /// # Errors
    /// Fails at once if a rank finds that the model can never be served.
    pub(super) async fn run(mut self) -> Result<(), UnusableModel> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let stop = self.stop.clone();
        let mut is_stopping = false;
        loop {
            let input = tokio::select! {
                Some(event) = self.nodes.recv() => self.node_input(event),
                Some(command) = self.commands.recv() => self.command_input(command),
                _ = tick.tick() => {
                    self.alive.renew();
                    Input::Tick
                }
                () = stop.cancelled(), if !is_stopping => {
                    is_stopping = true;
                    Input::Stop
                }
            };
            if let Some(outcome) = self.process(input) {
                return outcome.map_err(UnusableModel);
            }
        }
    }

    fn node_input(&mut self, event: NodeEvent) -> Input {
        match event {
            NodeEvent::Hello { hello, peer, local, stream } => {
                let connection = stream.connection;
                self.streams.insert(connection, stream);
                Input::Hello { hello, connection, peer, local }
            }
            NodeEvent::Message { node, connection, message } => Input::Message { node, connection, message },
            NodeEvent::Closed { node, connection, reason } => {
                // The outbound half of the stream ends together with the inbound half.
                self.streams.remove(&connection);
                Input::Closed { node, connection, reason }
            }
        }
    }

    fn command_input(&mut self, command: Command) -> Input {
        match command {
            Command::Submit { submission, events, accepted } => {
                self.answers.expect(events, accepted);
                Input::Submit(submission)
            }
            Command::Drain { reason, answer } => {
                self.drain_answer = Some(answer);
                Input::Drain { reason }
            }
        }
    }

    /// Gives an input to the driver, and then whatever follows from its outputs. Returns the outcome if the head ends.
    fn process(&mut self, input: Input) -> Option<Result<(), String>> {
        let mut inputs = VecDeque::new();
        if matches!(input, Input::Tick) {
            inputs.extend(self.answers.find_disconnected());
        }
        inputs.push_back(input);
        while let Some(input) = inputs.pop_front() {
            for output in self.driver.handle(input, Instant::now()) {
                if let Output::End(outcome) = output {
                    return Some(outcome);
                }
                inputs.extend(self.carry_out(output));
            }
        }
        None
    }

    /// Carries out an output. Returns the input that follows if it cannot be done.
    fn carry_out(&mut self, output: Output) -> Option<Input> {
        match output {
            Output::Send { node, connection, message } => return self.send(node, connection, message),
            Output::Close { connection, end } => self.close_stream(connection, end),
            Output::Submitted(decision) => self.answers.answer_submission(decision),
            Output::Draining(in_flight) => {
                // If the operator no longer waits for the answer, the head drains all the same.
                self.drain_answer.take().map(|answer| answer.send(in_flight).ok());
            }
            Output::Event { id, event } => return self.answers.send(id, event),
            Output::Status(status) => {
                self.status.send_replace(*status);
            }
            Output::StepTimes { ranks, step, fan_out } => {
                ranks.for_each(|rank| self.metrics.observe_step(rank, step));
                if !fan_out.is_zero() {
                    self.metrics.observe_fanout(fan_out);
                }
            }
            Output::Preempted(count) => (0..count).for_each(|_| self.metrics.count_preemption()),
            Output::Blocks(changes) => {
                if let Some(feed) = &self.block_feed {
                    feed.publish(changes);
                }
            }
            Output::End(_) => {}
        }
        None
    }

    /// Queues a message for a node.
    fn send(&mut self, node: usize, connection: u64, mut message: from_head::Message) -> Option<Input> {
        if let from_head::Message::Plan(plan) = &mut message {
            plan.sent_nanos = clock::monotonic_nanos();
        }
        // A full queue is no fault at a pulse. The stream of a node that reads nothing ends when the next plan does not
        // fit.
        let may_be_lost = matches!(message, from_head::Message::Pulse(_));
        let sent =
            self.streams.get(&connection).map_or(Err("its control stream has closed"), |stream| stream.send(message));
        let reason = sent.err().filter(|_| !may_be_lost)?;
        Some(Input::Unsent { node, connection, reason })
    }

    fn close_stream(&mut self, connection: u64, end: StreamEnd) {
        let Some(stream) = self.streams.remove(&connection) else { return };
        match end {
            StreamEnd::Refused(reason) => stream.close(Status::failed_precondition(reason)),
            StreamEnd::Evicted(reason) => stream.close(Status::aborted(format!("evicted: {reason}"))),
            StreamEnd::MayReturn(reason) => stream.close(Status::unavailable(reason)),
            // The stream ends once the queued messages have been sent.
            StreamEnd::Released => drop(stream),
        }
    }
}
