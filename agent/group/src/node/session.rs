//! What a node decides: how it answers the head's messages, the events of its ranks, silence, and its own end.
//!
//! A session outlives its control streams, as the ranks' weights do. Between two streams the shell dials, and gives the
//! session no input but [`Input::Attached`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_proto::names::env;
use lockstep_proto::node::{self as pb, from_head, from_node};
use lockstep_proto::v1::Phase;
use lockstep_schedule::plan::StepPlan;

use super::head_silence::HeadSilence;
use super::reports::RankEvent;
use super::steps::StepResults;
use crate::wire;

/// Time between two ticks.
pub const TICK: Duration = Duration::from_millis(500);
/// Time within which the head must answer a node that asks to leave. After this time, the node ends without an answer.
/// The time is shorter than the 30 s after which Kubernetes kills a worker's pod.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(25);

/// Something that happened, for the session to act on.
#[derive(Debug)]
pub enum Input {
    /// A control stream has opened, and the head sent this assignment on it.
    Attached(pb::Assignment),
    /// The head sent another message.
    Head(from_head::Message),
    /// The control stream broke, for this reason.
    StreamBroke(String),
    /// The head ended the stream for good, for this reason.
    Evicted(String),
    /// A local rank did something.
    Rank(RankEvent),
    /// The download of the model has come so far.
    Downloaded { bytes: u64, total: u64 },
    /// The model's files are open, and they are those that the head resolved. `content` is a digest of samples of them, at
    /// places that this process drew at its start.
    Opened { content: String },
    /// The model's files cannot be opened. `source` says which.
    OpenFailed { source: String, reason: String },
    /// This process was told to stop.
    Stop,
    /// Time has passed. A tick comes every [`TICK`] while there is a stream.
    Tick,
}

/// A task for the session's shell. The shell carries out outputs in their order.
#[derive(Debug)]
pub enum Output {
    /// Send a message to the head.
    Send(from_node::Message),
    /// Begin to open a model, in place of an earlier one, and check that its files are those that the head resolved.
    Open(pb::Model),
    /// Load the opened model on every local rank.
    Load,
    /// Join an epoch with every local rank.
    Form(pb::Form),
    /// Run a step on every local rank. `sent_nanos` is the time on the head's monotonic clock at which it was sent.
    Step { plan: Arc<StepPlan>, sent_nanos: u64 },
    /// Drop all plans up to this epoch on every local rank, and wake blocked collectives.
    Abort { epoch: u64, reason: String },
    /// Show this to the probes.
    Reached(Milestone),
    /// Leave the stream and dial again, for this reason.
    Detach(String),
    /// End this process. It is the last output.
    End(NodeEnd),
}

/// What a node has reached, as its probes show it.
#[derive(Debug)]
pub enum Milestone {
    Downloading,
    Loading,
    LoadProgress {
        local_rank: usize,
        bytes_loaded: u64,
        bytes_total: u64,
    },
    Loaded,
    /// All local ranks have joined an epoch.
    Joined {
        epoch: u64,
    },
    /// The epoch is over, or a new one forms.
    NotJoined,
    /// The head says if the epoch serves.
    Pulse(pb::Pulse),
    /// This process was told to stop.
    Leaving,
}

/// Reason why a node ends.
#[derive(Debug, PartialEq, Eq)]
pub enum NodeEnd {
    /// The head released the node, or ended.
    Drained,
    /// This process was told to stop.
    Stopped,
    /// This process cannot be part of the group. `model_is_unusable`: no process could load the model.
    Failed { reason: String, model_is_unusable: bool },
}

/// Settings of a node.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// Number of local ranks.
    pub local_world_size: usize,
    /// Number of pipeline stages that the node's own configuration expects, if it does.
    pub pipeline: Option<u32>,
    /// Set if the node waits for the next head when its own one ends.
    pub outlives_head: bool,
}

/// State of a node.
pub struct Session {
    config: SessionConfig,
    pub(super) last_epoch: u64,
    pub(super) assignment: pb::Assignment,
    /// Digest of the model that the head assigned last.
    pub(super) model_digest: String,
    /// Set while the model's files are being opened. The ranks may have loaded them before.
    pub(super) is_opening: bool,
    /// Digest of samples of the files that the ranks load or have loaded.
    content: String,
    /// Report of each local rank that has loaded.
    pub(super) loaded: Vec<Option<pb::Loaded>>,
    /// Number of local ranks that have joined the epoch.
    pub(super) num_joined: usize,
    /// Results of steps that some local ranks have not finished yet.
    pub(super) step_results: StepResults,
    head: HeadSilence,
    /// Time by which a node that asked to leave ends without an answer.
    leave_deadline: Option<Instant>,
    /// Time of the current input.
    now: Instant,
    /// Outputs of the current input so far.
    pub(super) outputs: Vec<Output>,
}

impl Session {
    pub fn new(config: SessionConfig, now: Instant) -> Self {
        Self {
            loaded: vec![None; config.local_world_size],
            config,
            last_epoch: 0,
            assignment: pb::Assignment::default(),
            model_digest: String::new(),
            is_opening: false,
            content: String::new(),
            num_joined: 0,
            step_results: StepResults::default(),
            head: HeadSilence::new(now),
            leave_deadline: None,
            now,
            outputs: Vec::new(),
        }
    }

    /// Returns the last epoch that the node was told to join, for its next Hello.
    pub fn last_epoch(&self) -> u64 {
        self.last_epoch
    }

    /// Returns the last assignment, or an empty one before the first.
    pub fn assignment(&self) -> &pb::Assignment {
        &self.assignment
    }

    /// Acts on one input at the time `now`. Times never go back from one input to the next.
    pub fn handle(&mut self, input: Input, now: Instant) -> Vec<Output> {
        self.now = now;
        match input {
            Input::Attached(assignment) => {
                self.head = HeadSilence::new(now);
                self.accept_assignment(assignment);
            }
            Input::Head(message) => {
                self.head.record_message(now);
                self.receive_message(message);
            }
            Input::StreamBroke(_) | Input::Evicted(_) if self.is_leaving() => self.end(NodeEnd::Stopped),
            Input::StreamBroke(reason) => self.detach(reason),
            Input::Evicted(reason) => self.fail(format!("the head ended this node: {reason}")),
            Input::Rank(event) => self.report_rank_event(event),
            Input::Downloaded { bytes, total } => {
                self.outputs.push(Output::Reached(Milestone::Downloading));
                let ranks = 0..self.config.local_world_size;
                ranks.for_each(|local_rank| self.report_progress(local_rank, Phase::Downloading, bytes, total));
            }
            Input::Opened { content } => self.use_files(content),
            Input::OpenFailed { source, reason } => {
                self.fail_for_good(0, format!("open the model {source}: {reason}"), false);
            }
            Input::Stop => self.ask_to_leave(),
            Input::Tick => self.tick(),
        }
        std::mem::take(&mut self.outputs)
    }

    /// Returns true if this process was told to stop.
    pub fn is_leaving(&self) -> bool {
        self.leave_deadline.is_some()
    }

    fn tick(&mut self) {
        if self.leave_deadline.is_some_and(|deadline| self.now >= deadline) {
            self.end(NodeEnd::Stopped);
        } else if self.head.is_over(self.now) {
            self.detach("no word from the head for 3 s".into());
        }
    }

    fn ask_to_leave(&mut self) {
        if !self.is_leaving() {
            self.leave_deadline = Some(self.now + LEAVE_TIMEOUT);
            self.outputs.push(Output::Reached(Milestone::Leaving));
            let leaving = pb::Leaving { reason: "its process was told to stop".into() };
            self.send(from_node::Message::Leaving(leaving));
        }
    }

    pub(super) fn send(&mut self, message: from_node::Message) {
        self.outputs.push(Output::Send(message));
    }

    fn end(&mut self, end: NodeEnd) {
        self.abort_epochs(self.last_epoch, "the stream to the head broke");
        self.outputs.push(Output::End(end));
    }

    /// Ends this process because of an error that the head knows of, or need not know.
    fn fail(&mut self, reason: String) {
        self.end(NodeEnd::Failed { reason, model_is_unusable: false });
    }

    /// Tells the head that this process ends, and ends it.
    pub(super) fn fail_for_good(&mut self, local_rank: usize, message: String, model_is_unusable: bool) {
        let rank = self.assignment.first_rank + local_rank as u32;
        let reason = format!("rank {rank}: {message}");
        let epoch = self.last_epoch;
        let fault = pb::Fault { epoch, rank, message, fatal: true, model_is_unusable, seq: None };
        self.send(from_node::Message::Fault(fault));
        self.end(NodeEnd::Failed { reason, model_is_unusable });
    }

    fn detach(&mut self, reason: String) {
        self.abort_epochs(self.last_epoch, "the stream to the head broke");
        self.outputs.push(Output::Detach(reason));
    }

    /// Begins to open the assigned model. If the ranks have this model already, reports that they have loaded it. A new head
    /// has samples of its own, so the node opens the files again before it reports to that head.
    fn accept_assignment(&mut self, assignment: pb::Assignment) {
        let Some(model) = assignment.model.clone() else {
            return self.fail("the head's assignment names no model".into());
        };
        if let Some(configured) = self.config.pipeline.filter(|stages| *stages != assignment.pipeline_parallel_size) {
            return self.fail(format!(
                "{}={configured}, but the head's group has {} stages: set the same value everywhere, or set it on the \
                 head alone",
                env::PIPELINE_PARALLEL,
                assignment.pipeline_parallel_size
            ));
        }
        let is_same = model.digest == self.model_digest
            && assignment.first_rank == self.assignment.first_rank
            && assignment.world_size == self.assignment.world_size
            && assignment.pipeline_parallel_size == self.assignment.pipeline_parallel_size;
        let old_model = std::mem::replace(&mut self.assignment, assignment).model.unwrap_or_default();
        if is_same {
            if model.sample_key == old_model.sample_key {
                return self.report_loaded();
            }
            self.is_opening = true;
            return self.outputs.push(Output::Open(model));
        }
        tracing::info!(
            source = model.source,
            first_rank = self.assignment.first_rank,
            world_size = self.assignment.world_size,
            stages = self.assignment.pipeline_parallel_size,
            "loading"
        );
        self.model_digest.clone_from(&model.digest);
        self.forget_weights();
        self.is_opening = true;
        self.outputs.extend([Output::Reached(Milestone::Loading), Output::Open(model)]);
    }

    /// Loads the opened files. If the ranks have them in memory already, reports that instead: the files are the head's, and
    /// they have not changed since the ranks read them.
    fn use_files(&mut self, content: String) {
        self.is_opening = false;
        if content == self.content {
            return self.report_loaded();
        }
        if !self.content.is_empty() {
            tracing::warn!("the model's files have changed since the ranks loaded them: loading again");
        }
        self.forget_weights();
        self.content = content;
        self.outputs.extend([Output::Reached(Milestone::Loading), Output::Load]);
    }

    /// Notes that the ranks' weights, if they have any, are not those of the assigned model.
    fn forget_weights(&mut self) {
        self.loaded.fill(None);
        self.content.clear();
    }

    /// Carries out a message of the head.
    fn receive_message(&mut self, message: from_head::Message) {
        match message {
            from_head::Message::Plan(wire) => {
                let sent_nanos = wire.sent_nanos;
                match wire::plan_from_wire(wire) {
                    Ok(plan) => self.outputs.push(Output::Step { plan: Arc::new(plan), sent_nanos }),
                    Err(malformed) => self.fail(malformed.to_string()),
                }
            }
            from_head::Message::Form(form) => {
                self.abort_epochs(form.epoch.saturating_sub(1), "a newer epoch forms");
                self.last_epoch = form.epoch;
                self.outputs.push(Output::Form(form));
            }
            from_head::Message::Abort(abort) => {
                tracing::warn!(epoch = abort.epoch, reason = abort.reason, "the epoch is over");
                self.abort_epochs(abort.epoch, &abort.reason);
            }
            from_head::Message::Pulse(pulse) => self.outputs.push(Output::Reached(Milestone::Pulse(pulse))),
            from_head::Message::Drain(drain) => {
                let outlives_head = drain.head_ends && !self.is_leaving() && self.config.outlives_head;
                tracing::info!(reason = drain.reason, outlives_head, "drained");
                match outlives_head {
                    true => self.detach("the head has ended".into()),
                    false => self.end(NodeEnd::Drained),
                }
            }
            from_head::Message::Assignment(_) | from_head::Message::Challenge(_) => {
                self.fail("the head sent a second assignment or challenge".into());
            }
        }
    }

    /// Aborts all epochs up to `epoch`. Epochs after the last Form are not aborted, so a wrong number cannot block the next
    /// epoch.
    fn abort_epochs(&mut self, epoch: u64, reason: &str) {
        let epoch = epoch.min(self.last_epoch);
        self.num_joined = 0;
        self.step_results.clear();
        self.outputs.push(Output::Abort { epoch, reason: reason.to_owned() });
        self.outputs.push(Output::Reached(Milestone::NotJoined));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::RankEventKind;

    /// A node of one rank.
    struct Node(Session);

    impl Node {
        fn new() -> Self {
            let config = SessionConfig { local_world_size: 1, pipeline: None, outlives_head: true };
            Self(Session::new(config, Instant::now()))
        }

        /// Returns the outputs that matter for loading, as words.
        fn handle(&mut self, input: Input) -> Vec<&'static str> {
            let outputs = self.0.handle(input, Instant::now());
            let word = |output| match output {
                Output::Open(_) => Some("open"),
                Output::Load => Some("load"),
                Output::Send(from_node::Message::Loaded(_)) => Some("report"),
                Output::End(NodeEnd::Failed { .. }) => Some("fail"),
                _ => None,
            };
            outputs.into_iter().filter_map(word).collect()
        }

        /// Attaches to a head that draws its samples by `key`.
        fn attach(&mut self, key: u8) -> Vec<&'static str> {
            let model = pb::Model { digest: "digest".into(), sample_key: vec![key], ..Default::default() };
            self.handle(Input::Attached(pb::Assignment { world_size: 1, model: Some(model), ..Default::default() }))
        }

        fn open(&mut self, content: &str) -> Vec<&'static str> {
            self.handle(Input::Opened { content: content.into() })
        }

        fn load(&mut self) -> Vec<&'static str> {
            let kind = RankEventKind::Loaded { loaded: pb::Loaded::default() };
            self.handle(Input::Rank(RankEvent { local_rank: 0, kind }))
        }
    }

    #[test]
    fn a_new_head_gets_weights_that_are_its_own() {
        let mut node = Node::new();
        assert_eq!((node.attach(1), node.open("content"), node.load()), (vec!["open"], vec!["load"], vec!["report"]));
        assert_eq!(node.attach(1), ["report"], "the same head");
        assert_eq!((node.attach(2), node.open("content")), (vec!["open"], vec!["report"]), "a new head");
        assert_eq!((node.attach(3), node.attach(3), node.open("content")), (vec!["open"], vec![], vec!["report"]));
        // The files have changed since, and the new head has the changed ones.
        assert_eq!((node.attach(4), node.open("changed"), node.load()), (vec!["open"], vec!["load"], vec!["report"]));
        let refusal = Input::OpenFailed { source: "file://x".into(), reason: "it differs".into() };
        assert_eq!(
            (node.attach(5), node.handle(refusal)),
            (vec!["open"], vec!["fail"]),
            "files that are not the head's"
        );
    }

    #[test]
    fn a_head_that_comes_while_the_node_loads_has_samples_too() {
        let mut node = Node::new();
        assert_eq!((node.attach(1), node.attach(2), node.open("content")), (vec!["open"], vec!["open"], vec!["load"]));
        assert_eq!((node.attach(3), node.load(), node.open("content")), (vec!["open"], vec![], vec!["report"]));
    }
}
