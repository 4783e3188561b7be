//! Arguments and environment → one validated [`Config`], handed down from `main`.
//!
//! `parse` takes the command line as typed, [`Environment`] the variables, [`Build`] what this program was built with;
//! [`resolve`] turns the three into a configuration or an error that names the culprit and the remedy. Nothing else in
//! the crate reads an argument or a variable, and no port is bound before all of this has been checked.

mod args;
mod bench;
mod chat;
mod devices;
mod environment;
mod error;
mod group;
mod hub;
pub mod logging;
mod node;
mod refused;
mod resolve;
mod ring;
mod source;
mod values;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use lockstep_api::{ReasoningStyle, StyleChoice, ToolStyle};
use lockstep_hub::HubConfig;

pub use args::{Cli, parse};
pub use bench::BenchConfig;
pub use chat::ChatConfig;
pub use devices::DevicesConfig;
pub use environment::{Build, Environment};
pub use error::ConfigError;
pub use lockstep_proto::choices::{DType, LogFormat, Quantization};
pub use lockstep_proto::limits::{
    MAX_CONTEXT_LENGTH, MAX_LOCAL_WORLD_SIZE, MAX_NUM_BATCHED_TOKENS, MAX_NUM_SEQS, MAX_STAGES, MAX_WORLD_SIZE,
};
pub use logging::LogConfig;
pub use resolve::resolve;
pub use source::ModelSource;
pub use values::{HostPort, KvCacheMemory};

/// Most requests that may wait.
pub const MAX_WAITING: u32 = 1 << 16;
/// Tokens in a block of the KV cache.
pub const BLOCK_SIZE: u32 = 16;
/// Most threads of one rank.
pub const MAX_THREADS: u32 = 1024;

/// What this process is to do.
#[derive(Debug, Clone)]
pub struct Config {
    pub role: Role,
    pub log: LogConfig,
    /// What was said and changes nothing; to be logged once.
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone)]
pub enum Role {
    /// Holds the requests and, as a child process, the group's first ranks.
    Head(Box<HeadConfig>),
    /// Holds ranks.
    Node(Box<NodeConfig>),
}

#[derive(Debug, Clone)]
pub struct HeadConfig {
    pub topology: Topology,
    pub model: ModelConfig,
    pub serving: ServingConfig,
    /// Where the client ports bind.
    pub host: IpAddr,
    /// `None`: not served; 0: a free one. At least one of the two is served, or there is a foreground.
    pub http_port: Option<u16>,
    pub grpc_port: Option<u16>,
    /// Where nodes reach the head; port 0: a free one.
    pub control: SocketAddr,
    /// How the head's own ranks and the others find each other.
    pub ring: RingSetup,
    /// Who runs the head's own ranks, node 0.
    pub own_ranks: OwnRanks,
    /// What node 0 is told where it is a child.
    pub probes: Option<SocketAddr>,
    pub advertise: Option<String>,
    pub foreground: Option<Foreground>,
    pub common: CommonConfig,
}

/// What the head does in its own terminal, beside serving; when that ends, so does the head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Foreground {
    Chat(ChatConfig),
    Bench(BenchConfig),
}

/// Who runs the ranks of node 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnRanks {
    /// A child process of the head.
    Child,
    /// Another process beside it, which dials in like any node.
    Separate,
}

/// What the head and a node are told alike.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommonConfig {
    /// `None`: the head draws one; a node joins whichever group the head is of.
    pub cluster_id: Option<String>,
    /// File with the group's key; `None`: control streams and ring run in the clear.
    pub group_key: Option<PathBuf>,
    /// Folder of the certificates of control streams; `None`: they run in the clear.
    pub tls: Option<PathBuf>,
    /// Threads of each rank; `None`: this machine's divided by its ranks.
    pub threads: Option<u32>,
    /// Instruction set to force.
    pub isa: Option<String>,
    /// What its ranks compute on.
    pub devices: DevicesConfig,
    /// Ends when standard input closes.
    pub follow_parent: bool,
    /// Where models of a hub come from.
    pub hub: HubConfig,
}

/// How many ranks there are and where. `world_size` = (1 + `num_workers`) × `local_world_size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topology {
    pub world_size: u32,
    pub local_world_size: u32,
    /// Nodes beside the head's own.
    pub num_workers: u32,
    /// Pipeline stages: `world_size` / `pipeline` ranks each.
    pub pipeline: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelConfig {
    pub source: ModelSource,
    /// What clients call it.
    pub name: String,
    pub dtype: DType,
    /// What matrices are quantized to while they are loaded.
    pub quantization: Quantization,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ServingConfig {
    pub max_num_seqs: u32,
    /// At least `max_num_seqs`, so that every running sequence can take its token in one step.
    pub max_num_batched_tokens: u32,
    /// `None`: what the model was trained for.
    pub context_length: Option<u32>,
    pub kv_cache: KvCacheMemory,
    /// How long a request waits for the group to form again.
    pub recovery_timeout: Duration,
    pub drain_timeout: Duration,
    /// Requests in the queue.
    pub max_waiting: u32,
    /// How the model spells tool calls and reasoning.
    pub tool_style: StyleChoice<ToolStyle>,
    pub reasoning_style: StyleChoice<ReasoningStyle>,
}

/// How ranks find each other's ring ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RingSetup {
    /// The head tells: local rank i listens on the port of `listen` + i, or all on free ones where that is 0. `or_free`:
    /// nobody asked for these ports, so where one is taken, a free one does as well.
    Auto { listen: SocketAddr, or_free: bool },
    /// By `RING_*`: one rank on this node, on the port of `listen`, which never is 0; `right` is the next rank's.
    Ring { listen: SocketAddr, right: HostPort, rank: u32, world_size: u32 },
}

/// A node: the head's own or a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// 0 is the head's own; worker i is i + 1. The first rank is `ordinal` × `local_world_size`.
    pub ordinal: u32,
    pub local_world_size: u32,
    /// Ranks in all, as far as the node was told.
    pub world_size: Option<u32>,
    /// Pipeline stages, as far as the node was told.
    pub pipeline: Option<u32>,
    pub control: ControlAddress,
    pub ring: RingSetup,
    /// Where probes are answered; `None`: nowhere.
    pub probes: Option<SocketAddr>,
    /// Host that others reach this node's ring ports at; `None`: where its control stream comes from.
    pub advertise: Option<String>,
    pub common: CommonConfig,
}

/// Where a node finds the head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlAddress {
    /// Resolved anew at each dial.
    Known(HostPort),
    /// It travels round the ring at bootstrap. `master` is its port, and its host off rank 0, where `RING_CONFIG` said
    /// them: what travels must agree.
    FromRing { master: Option<HostPort> },
}
