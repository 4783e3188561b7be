//! A node: its local ranks, and the control stream over which the head directs them.
//!
//! Weights outlive the stream. If the stream breaks, the ranks leave their epoch and the node dials the head again.
//!
//! The process ends in these cases:
//!
//! - It was told to stop, or the head ended and the node belongs to it (a rank of a ring, or the child of a parent here).
//! - The node cannot read its key or its certificates, cannot bind a port, or does not find its ring (`discovery`).
//! - The head refused or evicted the node.
//! - The model cannot be opened, or a rank cannot load its part.
//! - The head sent a message that the node cannot carry out, or a rank's queue of commands is full.
//! - A rank's thread panicked.
//! - A rank has been stuck in one operation for 20 s (`heartbeat`).
//!
//! What a node decides is in [`lockstep_group`]. Start reading at [`run`]: `open_stream` opens a stream to the head, and
//! `serve_stream` gives the session what arrives on it, and carries out its decisions. Each local rank is a thread (`rank`), and another thread sends the heartbeats.

mod devices;
mod dial;
mod discovery;
mod health;
mod heartbeat;
mod load;
mod memory;
mod model;
mod open_stream;
mod probes;
mod rank;
mod ring_ports;
mod serve_stream;

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use lockstep_engine::source::ModelFiles;
pub use lockstep_group::node::NodeEnd;
use lockstep_group::node::{RankEvent, Session, SessionConfig};
use lockstep_proto::names::role;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::auth::{self, GroupKey};
use crate::config::{NodeConfig, RingSetup};
use crate::control_runtime::ControlRuntime;
use crate::tls::Tls;
use dial::FailedDials;
use health::Health;
use model::ModelOpener;
use open_stream::{OpenStreamError, Outbound};
use rank::RankHandle;
use ring_ports::RingPorts;
use serve_stream::StreamEnd;

/// Most events of the ranks that may wait for the node's task.
const MAX_EVENTS: usize = 256;

/// Threads of the control stream.
const CONTROL_THREADS: usize = 1;

/// Cluster id of a ring if the configuration sets none.
pub(crate) const RING_CLUSTER: &str = "ring";

/// Runs the node until `stop` is cancelled, or until the head ends if the node belongs to it.
///
/// # Errors
/// Says why this process cannot be part of the group, and names the remedy.
pub async fn run(config: NodeConfig, stop: CancellationToken) -> anyhow::Result<NodeEnd> {
    let key = config.common.group_key.as_deref().map(GroupKey::read_file).transpose()?;
    let tls = config.common.tls.as_deref().map(|folder| Tls::open(folder, role::NODE)).transpose()?.map(Arc::new);
    let mut node = Node::start(config, key)?;
    if let Some(address) = node.config.probes {
        let counters = node.ranks.iter().map(|rank| rank.counters.clone()).collect();
        probes::start(address, node.health.clone(), counters).await?;
    }
    let control_runtime = ControlRuntime::start(CONTROL_THREADS)?;
    let Some(mut control) = node.find_head(&stop).await? else { return Ok(NodeEnd::Stopped) };
    let mut failed_dials = FailedDials::default();
    loop {
        node.health.extend_loop_deadline(health::LOOP_TIMEOUT);
        let hello = node.hello();
        // The stream's connection stays on the threads that open it.
        let opening = open_stream::open_stream(control.clone(), hello, node.key.clone(), tls.clone());
        let attached = tokio::select! {
            attached = control_runtime.handle().spawn(opening) => attached.context("open a control stream")?,
            () = stop.cancelled() => return Ok(NodeEnd::Stopped),
        };
        let reason = match attached {
            Ok(stream) => {
                failed_dials = FailedDials::default();
                tracing::info!(head = %control, "joined the group");
                node.health.set_attached(true);
                let stream_end = node.serve_stream(stream, &control, &stop).await;
                node.health.set_attached(false);
                match stream_end? {
                    StreamEnd::NodeEnded(end) => return Ok(end),
                    StreamEnd::Broken(reason) => reason,
                }
            }
            Err(OpenStreamError::Refused(reason)) => anyhow::bail!("the head at {control} refuses this node: {reason}"),
            Err(OpenStreamError::Unreachable(reason)) => reason,
        };
        tokio::select! {
            () = tokio::time::sleep(failed_dials.record_failure(&control, &reason)) => (),
            () = stop.cancelled() => return Ok(NodeEnd::Stopped),
        }
        if node.head_may_move() {
            let Some(found) = node.find_head(&stop).await? else { return Ok(NodeEnd::Stopped) };
            control = found;
        }
    }
}

/// State of the node's task.
struct Node {
    config: NodeConfig,
    key: Option<GroupKey>,
    ring_ports: RingPorts,
    /// Addresses of the ring ports, by local rank, as the node advertises them.
    ring_addresses: Vec<String>,
    ranks: Vec<RankHandle>,
    events: mpsc::Receiver<RankEvent>,
    /// Channel to the head, for the heartbeat's thread. `None` while there is no stream.
    outbound: watch::Sender<Option<Outbound>>,
    health: Arc<Health>,
    /// Name of the instruction set.
    isa: &'static str,
    incarnation: u64,
    /// Number of dials so far.
    dials: u64,
    session: Session,
    /// Task that opens the assigned model. `None` once its files are open.
    opener: Option<ModelOpener>,
    /// Opened files of the assigned model, until the ranks load them.
    files: Option<Arc<dyn ModelFiles>>,
    /// Key of the samples by which this process finds that files have changed since the ranks loaded them.
    sample_key: Vec<u8>,
}

impl Node {
    /// Binds the ring ports, and starts the threads of the ranks and of the heartbeat.
    fn start(config: NodeConfig, key: Option<GroupKey>) -> anyhow::Result<Self> {
        let num_ranks = config.local_world_size;
        let (listen, or_free) = match config.ring {
            RingSetup::Auto { listen, or_free } => (listen, or_free),
            RingSetup::Ring { listen, .. } => (listen, false),
        };
        let ring_ports = RingPorts::bind(listen, or_free, num_ranks, key.clone())?;
        let ring_addresses = ring_ports.addresses().iter().map(ToString::to_string).collect();
        let (sender, events) = mpsc::channel(MAX_EVENTS);
        let ranks: Result<Vec<_>, _> =
            (0..num_ranks as usize).map(|rank| RankHandle::start(rank, ring_ports.clone(), sender.clone())).collect();
        let ranks = ranks.context("start a rank's thread")?;
        let (outbound, watcher) = watch::channel(None);
        let health = Arc::new(Health::new(config.ordinal * num_ranks, num_ranks));
        heartbeat::start(ranks.iter().map(|rank| rank.counters.clone()).collect(), watcher, health.clone())
            .context("start the heartbeat's thread")?;
        let isa = lockstep_engine::isa_name(config.common.isa.as_deref())?;
        let incarnation = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64);
        let session_config = SessionConfig {
            local_world_size: num_ranks as usize,
            pipeline: config.pipeline,
            // The ranks of a ring and the processes of a parent on this machine belong to one head.
            outlives_head: matches!(config.ring, RingSetup::Auto { .. }) && !config.common.follow_parent,
        };
        let session = Session::new(session_config, Instant::now());
        Ok(Self {
            config,
            key,
            ring_ports,
            ring_addresses,
            ranks,
            events,
            outbound,
            health,
            isa,
            incarnation,
            dials: 0,
            session,
            opener: None,
            files: None,
            sample_key: auth::nonce(),
        })
    }
}
