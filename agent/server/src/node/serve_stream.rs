//! The shell around the node's decisions ([`Session`](lockstep_group::node::Session)) while there is a stream to the head:
//! it waits for what happens, and carries out what the session decides.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use lockstep_group::node::{HeadAddress, Input, Milestone, NodeEnd, Output, RankEvent, RankEventKind, TICK};
use lockstep_proto::node::{self as pb, from_node};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::model::{ModelOpener, OpenEvent, OpenModel};
use super::open_stream::{ControlStream, OpenStreamError, Outbound};
use super::rank::RankCommand;
use super::ring_ports::FormSpec;
use super::{Node, health, load};
use crate::unusable::UnusableModel;

/// Time after which a message counts as sent although the head reads nothing.
const SEND_TIMEOUT: Duration = Duration::from_secs(3);
/// Time between two lookups of the head's name.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(5);
/// Pause before the process ends, so that its last message still reaches the head.
const LAST_MESSAGE_PAUSE: Duration = Duration::from_millis(200);

/// Reason why a control stream is over.
pub(super) enum StreamEnd {
    /// The node must end.
    NodeEnded(NodeEnd),
    /// The stream broke. The node dials again.
    Broken(String),
}

impl Node {
    /// Carries out the head's messages until the stream ends.
    ///
    /// # Errors
    /// Says why this process can no longer be part of the group.
    pub(super) async fn serve_stream(
        &mut self,
        stream: ControlStream,
        control: &str,
        stop: &CancellationToken,
    ) -> anyhow::Result<StreamEnd> {
        let ControlStream { mut inbound, outbound, assignment } = stream;
        self.outbound.send_replace(Some(outbound.clone()));
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut head_moves = std::pin::pin!(head_moves(control.to_owned()));
        let mut input = Input::Attached(assignment);
        let stream_end = loop {
            self.health.extend_loop_deadline(health::LOOP_TIMEOUT);
            if let Some(end) = self.process(input, &outbound).await? {
                break end;
            }
            input = tokio::select! {
                message = inbound.message() => head_input(message),
                Some(event) = self.events.recv() => Input::Rank(event),
                event = next_open_event(&mut self.opener) => self.opener_input(event),
                _ = tick.tick() => Input::Tick,
                () = &mut head_moves => Input::StreamBroke(format!("{control} leads to another head now")),
                () = stop.cancelled(), if !self.session.is_leaving() => Input::Stop,
            };
        };
        self.outbound.send_replace(None);
        Ok(stream_end)
    }

    /// Gives an input to the session, and carries out what follows. Returns a value if the stream is over.
    async fn process(&mut self, input: Input, outbound: &Outbound) -> anyhow::Result<Option<StreamEnd>> {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            for output in self.session.handle(input, Instant::now()) {
                match output {
                    Output::Send(message) => send_to_head(outbound, message).await,
                    Output::Open(model) => {
                        let (hub, key) = (self.config.common.hub.clone(), self.sample_key.clone());
                        self.opener = Some(ModelOpener::start(model, hub, key));
                    }
                    Output::Load => inputs.extend(self.load_ranks().err().map(load_failed)),
                    Output::Form(form) => {
                        self.join_epoch(&form)?;
                        self.greet_neighbour()?;
                    }
                    Output::Step { plan, sent_nanos } => {
                        for rank in &self.ranks {
                            rank.send_command(RankCommand::Step { plan: plan.clone(), sent_nanos })?;
                        }
                    }
                    Output::Abort { epoch, reason } => {
                        self.ranks.iter().for_each(|rank| rank.abort_epochs(epoch, &reason));
                    }
                    Output::Reached(milestone) => self.show_milestone(milestone),
                    Output::Detach(reason) => return Ok(Some(StreamEnd::Broken(reason))),
                    Output::End(NodeEnd::Failed { reason, model_is_unusable: true }) => {
                        return Err(UnusableModel(reason).into());
                    }
                    Output::End(NodeEnd::Failed { reason, .. }) => anyhow::bail!(reason),
                    Output::End(end) => return Ok(Some(StreamEnd::NodeEnded(end))),
                }
            }
        }
        // Files that the session did not load are those that the ranks have loaded before.
        self.files = None;
        Ok(None)
    }

    /// Shows the probes what the node has reached.
    fn show_milestone(&self, milestone: Milestone) {
        let health = &self.health;
        match milestone {
            Milestone::Downloading => health.set_downloading(),
            Milestone::Loading => health.set_loading(),
            Milestone::LoadProgress { local_rank, bytes_loaded, bytes_total } => {
                health.set_load_progress(local_rank, bytes_loaded, bytes_total);
            }
            Milestone::Loaded => health.set_loaded(),
            Milestone::Joined { epoch } => health.set_joined(epoch),
            Milestone::NotJoined => health.clear_joined(),
            Milestone::Pulse(pulse) => health.set_pulse(pulse),
            Milestone::Leaving => health.set_leaving(),
        }
    }

    /// Tells every local rank to join an epoch.
    fn join_epoch(&mut self, form: &pb::Form) -> anyhow::Result<()> {
        let assignment = self.session.assignment();
        let spec = FormSpec {
            epoch: form.epoch,
            cluster_id: assignment.cluster_id.clone(),
            first_rank: assignment.first_rank as usize,
            addresses: form.addresses.clone(),
            stages: assignment.pipeline_parallel_size as usize,
            backend: form.backend.clone(),
            num_blocks: form.num_blocks,
            timeout: Duration::from_millis(form.timeout_ms.into()),
            spin: load::num_cores() >= self.ranks_on_machine(),
        };
        self.ranks.iter().try_for_each(|rank| rank.send_command(RankCommand::Form(spec.clone())))
    }

    /// Returns the input for an event of the opener. Keeps the opened files for the ranks.
    fn opener_input(&mut self, event: OpenEvent) -> Input {
        match event {
            OpenEvent::Progress(progress) => Input::Downloaded { bytes: progress.bytes, total: progress.total },
            OpenEvent::Files(OpenModel { files, content }) => {
                (self.opener, self.files) = (None, Some(files));
                Input::Opened { content }
            }
            OpenEvent::Failed(reason) => {
                let source = self.opener.take().map(|opener| opener.source.clone()).unwrap_or_default();
                Input::OpenFailed { source, reason }
            }
        }
    }

    /// Tells every local rank to load its part of the opened model.
    fn load_ranks(&mut self) -> anyhow::Result<()> {
        let files = self.files.take().context("no model is open")?;
        for local_rank in 0..self.ranks.len() {
            let spec = self.load_spec(local_rank, files.clone())?;
            self.ranks[local_rank].send_command(RankCommand::Load(Box::new(spec)))?;
        }
        Ok(())
    }
}

/// Returns the input for the next message of the stream, or for its end.
fn head_input(message: Result<Option<pb::FromHead>, Status>) -> Input {
    match message {
        Ok(Some(pb::FromHead { message: Some(message) })) => Input::Head(message),
        // A message of a later version.
        Ok(Some(_)) => Input::Tick,
        Ok(None) => Input::StreamBroke("the head hung up".into()),
        Err(status) => match OpenStreamError::from_status(&status) {
            OpenStreamError::Refused(reason) => Input::Evicted(reason),
            OpenStreamError::Unreachable(reason) => Input::StreamBroke(reason),
        },
    }
}

/// Returns the input for a model that the ranks cannot be told to load.
fn load_failed(error: anyhow::Error) -> Input {
    let kind = RankEventKind::LoadFailed { reason: format!("{error:#}"), model_is_unusable: false };
    Input::Rank(RankEvent { local_rank: 0, kind })
}

/// Waits until the head's name leads to another address than now. Waits for ever if it is an address itself.
async fn head_moves(control: String) {
    let lookup = async || match tokio::net::lookup_host(&control).await {
        Ok(found) => found.map(|address| address.ip()).collect::<Vec<_>>(),
        Err(_) => Vec::new(),
    };
    if control.parse::<SocketAddr>().is_ok() {
        return std::future::pending().await;
    }
    let mut head = HeadAddress::new(lookup().await);
    loop {
        tokio::time::sleep(LOOKUP_INTERVAL).await;
        if head.has_moved(&lookup().await) {
            return;
        }
    }
}

/// Sends a message to the head.
async fn send_to_head(outbound: &Outbound, message: from_node::Message) {
    let is_last = matches!(&message, from_node::Message::Fault(fault) if fault.fatal);
    // An error means that the stream has closed, or that the head reads nothing. The session notices both.
    let message = pb::FromNode { message: Some(message) };
    tokio::time::timeout(SEND_TIMEOUT, outbound.send(message)).await.ok();
    if is_last {
        tokio::time::sleep(LAST_MESSAGE_PAUSE).await;
    }
}

/// Waits for the next event of the model's opener. Waits for ever if no model is being opened.
async fn next_open_event(opener: &mut Option<ModelOpener>) -> OpenEvent {
    match opener {
        Some(opener) => opener.next_event().await,
        None => std::future::pending().await,
    }
}
