//! Command line and environment → one validated [`Config`], which `main` hands down.
//!
//! `parse` reads the command line as typed. [`Environment`] holds the variables, and [`Build`] the abilities of this
//! program. [`resolve`] turns the three into a configuration, or into an error that names the culprit and the remedy.
//! No other module of the crate reads an argument or a variable. The agent binds no port before this check has passed.

mod args;
mod bench;
mod chat;
mod clients;
mod devices;
mod environment;
mod error;
mod group;
mod hub;
pub mod logging;
mod node;
mod other_spellings;
mod refused;
mod resolve;
mod ring;
mod serving;
mod settings;
mod size_flags;
mod source;
mod values;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use lockstep_hub::HubConfig;

pub use args::{Cli, parse};
pub use bench::BenchConfig;
pub use chat::ChatConfig;
pub use clients::{CertificateFiles, ClientsConfig};
pub use devices::DevicesConfig;
pub use environment::{Build, Environment};
pub use error::ConfigError;
pub(crate) use lockstep_proto::choices::{DType, Quantization};
pub(crate) use lockstep_proto::limits::{MAX_LOCAL_WORLD_SIZE, MAX_STAGES, MAX_WORLD_SIZE};
pub use logging::LogConfig;
pub use resolve::resolve;
pub use serving::ServingConfig;
pub use source::ModelSource;
pub use values::{HostPort, KvCacheMemory};

/// Tokens in a block of the KV cache.
pub(crate) const BLOCK_SIZE: u32 = 16;
/// Most threads of one rank.
pub(crate) const MAX_THREADS: u32 = 1024;

/// Validated configuration of this process.
#[derive(Debug, Clone)]
pub struct Config {
    pub role: Role,
    pub log: LogConfig,
    /// Settings that have no effect, in words. `main` logs each of them once.
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone)]
pub enum Role {
    /// Queues the requests, and runs the group's first ranks in a child process.
    Head(Box<HeadConfig>),
    /// Hosts ranks.
    Node(Box<NodeConfig>),
    /// Prints the models that a source offers, and ends.
    List(Box<ListConfig>),
}

#[derive(Debug, Clone)]
pub struct ListConfig {
    pub source: ModelSource,
    pub hub: HubConfig,
}

#[derive(Debug, Clone)]
pub struct HeadConfig {
    pub topology: Topology,
    pub model: ModelConfig,
    pub serving: ServingConfig,
    /// Address that the client ports bind to.
    pub host: IpAddr,
    /// `None`: the head serves no HTTP; 0: it takes a free port. At least one of HTTP and gRPC is served, or there is a
    /// foreground.
    pub http_port: Option<u16>,
    pub grpc_port: Option<u16>,
    /// Conditions on which the client ports serve.
    pub clients: ClientsConfig,
    /// Address that nodes reach the head at; port 0: a free one.
    pub control: SocketAddr,
    /// Way in which the head's own ranks and the workers' ranks find each other.
    pub ring: RingSetup,
    /// Process that runs the ranks of node 0.
    pub own_ranks: OwnRanks,
    /// Address of the probes of node 0, if node 0 is a child of the head.
    pub probes: Option<SocketAddr>,
    pub advertise: Option<String>,
    pub foreground: Option<Foreground>,
    pub common: CommonConfig,
}

/// Work of the head in its own terminal, beside serving. The head ends when this work ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Foreground {
    Chat(ChatConfig),
    Bench(BenchConfig),
}

/// Process that runs the ranks of node 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnRanks {
    /// A child process of the head.
    Child,
    /// Another process beside the head. That process dials the head like any node.
    Separate,
}

/// Settings that the head and a node share.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommonConfig {
    /// Identity of the group. `None`: the head draws one, and a node joins the group of its head.
    pub cluster_id: Option<String>,
    /// File with the group's key. `None`: control streams and ring are not encrypted.
    pub group_key: Option<PathBuf>,
    /// Folder of the certificates of control streams. `None`: control streams are not encrypted.
    pub tls: Option<PathBuf>,
    /// Threads of each rank. `None`: the threads of this machine divided by its ranks.
    pub threads: Option<u32>,
    /// Instruction set to force.
    pub isa: Option<String>,
    /// Devices that the ranks of this process compute on.
    pub devices: DevicesConfig,
    /// Set if the process ends when its standard input closes.
    pub follow_parent: bool,
    /// Hub that models are fetched from.
    pub hub: HubConfig,
}

/// Number of ranks, and their distribution over nodes. `world_size` = (1 + `num_workers`) × `local_world_size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topology {
    pub world_size: u32,
    pub local_world_size: u32,
    /// Nodes beside node 0.
    pub num_workers: u32,
    /// Pipeline stages: `world_size` / `pipeline` ranks each.
    pub pipeline: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelConfig {
    pub source: ModelSource,
    /// Name that clients call the model by, and that answers have.
    pub name: String,
    /// More names that clients may call it by.
    pub other_names: Vec<String>,
    /// File with the chat template that stands in place of the model's own.
    pub chat_template: Option<PathBuf>,
    pub dtype: DType,
    /// Format that matrices are quantized to while they are loaded.
    pub quantization: Quantization,
}

/// Way in which ranks find each other's ring ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RingSetup {
    /// The head tells each rank the addresses. Local rank i listens on the port of `listen` + i, or on a free one if the
    /// port of `listen` is 0. `or_free`: these ports are a default, so a rank takes a free port in place of a taken one.
    Auto { listen: SocketAddr, or_free: bool },
    /// `RING_*` gives the addresses. This node has one rank, and the port of `listen` is never 0. `right` is the ring port
    /// of the next rank.
    Ring { listen: SocketAddr, right: HostPort, rank: u32, world_size: u32 },
}

/// Configuration of a node: node 0 or a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// Ordinal of the node: 0 is beside the head, worker i is i + 1. Its first rank is `ordinal` × `local_world_size`.
    pub ordinal: u32,
    pub local_world_size: u32,
    /// Ranks of the group, if this node's settings give them.
    pub world_size: Option<u32>,
    /// Pipeline stages, if this node's settings give them.
    pub pipeline: Option<u32>,
    pub control: ControlAddress,
    pub ring: RingSetup,
    /// Address at which the node answers probes. `None`: it answers none.
    pub probes: Option<SocketAddr>,
    /// Host at which other nodes reach this node's ring ports. `None`: the host that its control stream comes from.
    pub advertise: Option<String>,
    pub common: CommonConfig,
}

/// Way in which a node finds the head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlAddress {
    /// A given address. The node resolves its name anew at each dial.
    Known(HostPort),
    /// An address that rank 0 sends round the ring at bootstrap. `master` is the host and port that the file of
    /// `RING_CONFIG` gives on other ranks than 0. The address from the ring must agree with them.
    FromRing { master: Option<HostPort> },
}
