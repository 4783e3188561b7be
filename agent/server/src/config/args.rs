//! The command line as typed: one clap struct, nothing validated.
//!
//! Each flag has an environment variable, and the flag wins over the variable. clap does not read the variables, for two
//! reasons. The configuration is a function of the arguments of `resolve`, so that tests can check every rule. And an
//! error names the variable if the value came from the variable.

use std::ffi::OsString;
use std::sync::LazyLock;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use lockstep_proto::names::env;

use super::error::ConfigError;
use super::refused;

/// Names of a flag and of its variable.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flag {
    pub flag: &'static str,
    pub env: &'static str,
}

macro_rules! flags {
    ($($name:ident = $flag:literal / $env:expr;)*) => {
        $(pub(super) const $name: Flag = Flag { flag: $flag, env: $env };)*
        const FLAGS: &[Flag] = &[$($name),*];
    };
}

flags! {
    MODEL = "model" / env::MODEL_SOURCE;
    REVISION = "revision" / env::MODEL_REVISION;
    NAME = "served-model-name" / env::MODEL_NAME;
    DTYPE = "dtype" / env::DTYPE;
    ISQ = "isq" / env::QUANTIZATION;
    HOST = "host" / env::HOST;
    HTTP_PORT = "http-port" / env::HTTP_PORT;
    GRPC_PORT = "grpc-port" / env::GRPC_PORT;
    MAX_SEQS = "max-seqs" / env::MAX_NUM_SEQS;
    MAX_TOKENS = "max-num-batched-tokens" / env::MAX_NUM_BATCHED_TOKENS;
    MAX_WAITING = "max-waiting" / env::MAX_WAITING;
    CONTEXT = "context-length" / env::CONTEXT_LENGTH;
    TOOL_PARSER = "tool-call-parser" / env::TOOL_CALL_PARSER;
    REASONING_PARSER = "reasoning-parser" / env::REASONING_PARSER;
    KV_MEMORY = "kv-cache-memory" / env::KV_CACHE_MEMORY;
    RECOVERY = "recovery-timeout" / env::RECOVERY_TIMEOUT;
    DRAIN = "drain-timeout" / env::DRAIN_TIMEOUT;
    CLUSTER_ID = "cluster-id" / env::CLUSTER_ID;
    GROUP_KEY = "group-key-file" / env::GROUP_KEY_FILE;
    GROUP_HOST = "group-host" / env::GROUP_HOST;
    HEAD_NODE = "head-node" / env::HEAD_NODE;
    TLS_DIR = "tls-dir" / env::TLS_DIR;
    PROBE_PORT = "probe-port" / env::PROBE_PORT;
    ADVERTISE = "advertise" / env::ADVERTISE;
    THREADS = "threads" / env::THREADS;
    ISA = "isa" / env::ISA;
    LOG_FORMAT = "log-format" / env::LOG_FORMAT;
    LOG = "log" / env::LOG;
}

/// Serve a model that is sharded over many ranks, from one endpoint.
///
/// Every node of a group runs this same command. The environment gives each node its role:
/// MISTRALRS_MN_HEAD_NUM_WORKERS makes it the head, MISTRALRS_MN_WORKER_ID a worker, RING_RANK a rank of a ring. With
/// none of them, this machine is the whole group.
#[derive(Debug, Clone, Parser)]
#[command(name = "lockstep-agent", max_term_width = 120)]
pub struct Cli {
    #[command(flatten)]
    pub(super) options: GlobalArgs,
    #[command(subcommand)]
    pub(super) command: AgentCommand,
}

#[derive(Debug, Clone, Subcommand)]
pub(super) enum AgentCommand {
    /// Serve a text model from its Hugging Face files (config.json, safetensors, tokenizer.json)
    Plain(PlainArgs),
    /// Measure prefill and decode by batch size, on the group that the environment describes
    Bench(BenchArgs),
    /// Run one node's ranks under a head. The head starts its own ranks by this command. With
    /// `LOCKSTEP_HEAD_NODE=separate` it does not, and this command runs in a container beside the head's
    Node(NodeArgs),
}

#[derive(Debug, Clone, Args)]
pub(super) struct PlainArgs {
    /// Location of the model: a folder (`/models/llama`), a GGUF file, `file://` and a folder or file, `hf://org/name` on
    /// the hub (or `org/name` if no folder has this name), or `builtin://` and a name (`builtin://tiny` is part of the
    /// program). Only the head needs it; workers learn it from the head
    #[arg(short = 'm', long = MODEL.flag, alias = "model-id", value_name = "SOURCE")]
    pub model: Option<String>,
}

#[derive(Debug, Clone, Args)]
pub(super) struct BenchArgs {
    #[command(flatten)]
    pub plain: PlainArgs,
    /// Numbers of sequences that run at once, measured one after another. Default: 1,2,4,8
    #[arg(long, value_name = "N,N,…")]
    pub batch_sizes: Option<String>,
    /// Tokens of each prompt in the measurement of prefill. Default: 512
    #[arg(long, value_name = "N")]
    pub prompt_tokens: Option<String>,
    /// Tokens that each sequence decodes. Default: 32
    #[arg(long, value_name = "N")]
    pub answer_tokens: Option<String>,
    /// Measured rounds, after one that warms up. Default: 5
    #[arg(long, value_name = "N")]
    pub rounds: Option<String>,
    /// Print JSON instead of text
    #[arg(long)]
    pub json: bool,
}

/// Arguments of a node. They give everything about the group, and the node reads no variable of the group.
#[derive(Debug, Clone, Args)]
pub(super) struct NodeArgs {
    /// Address of the head's control port
    #[arg(long, value_name = "HOST:PORT")]
    pub control: String,
    /// Ordinal of this node: 0 is beside the head, worker i is i + 1
    #[arg(long, value_name = "N")]
    pub ordinal: String,
    /// Ranks on this node
    #[arg(long, value_name = "N")]
    pub local_world_size: String,
    /// Ranks of the whole group. Default: the node learns them from the head
    #[arg(long, value_name = "N")]
    pub world_size: Option<String>,
    /// Address of the first local rank's ring port; the other ranks listen on the ports after it. Port 0: free ports.
    /// With `,0` behind the port: a free port in place of each one that is taken
    #[arg(long, value_name = "IP:PORT")]
    pub ring_listen: String,
    /// Ring port of the right neighbour, if RING_* describes the group
    #[arg(long, value_name = "HOST:PORT")]
    pub ring_right: Option<String>,
    /// End when standard input closes
    #[arg(long)]
    pub follow_parent: bool,
}

/// Flags that may stand before the command or after it.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct GlobalArgs {
    /// Talk with the model in this terminal, or over a pipe. The head then serves only the ports that you ask for. A
    /// worker ignores this flag
    #[arg(short = 'i', long = "interactive-mode", global = true)]
    pub interactive: bool,
    /// With -i: print tokens per second after each answer
    #[arg(long, global = true)]
    pub throughput: bool,
    /// Branch, tag or commit of a model of the hub. Default: main
    #[arg(long = REVISION.flag, visible_alias = "hf-revision", global = true, value_name = "REVISION")]
    pub revision: Option<String>,
    /// Name that clients call the model by; `default` always works too. Default: the last part of the source
    #[arg(long = NAME.flag, global = true, value_name = "NAME")]
    pub name: Option<String>,
    /// Number format of the weights: auto (the checkpoint's own), f32, bf16 or f16. Default: auto
    #[arg(long = DTYPE.flag, global = true, value_name = "DTYPE")]
    pub dtype: Option<String>,
    /// Format that matrices are quantized to while they are loaded: Q8_0 (or 8), Q4_K (or 4) or none. Default: none
    #[arg(long = ISQ.flag, visible_alias = "in-situ-quant", global = true, value_name = "FORMAT")]
    pub isq: Option<String>,
    /// IP address that the client ports bind to. Default: 0.0.0.0
    #[arg(long = HOST.flag, global = true, value_name = "IP")]
    pub host: Option<String>,
    /// Port of the OpenAI-compatible HTTP endpoint; 0 takes a free one, `off` serves no HTTP. Default: 1234
    #[arg(long = HTTP_PORT.flag, visible_alias = "port", global = true, value_name = "PORT")]
    pub http_port: Option<String>,
    /// Port of the gRPC endpoint; 0 takes a free one, `off` serves no gRPC. Default: 50051
    #[arg(long = GRPC_PORT.flag, global = true, value_name = "PORT")]
    pub grpc_port: Option<String>,
    /// Most sequences that run at once; more wait in the queue. Default: 64
    #[arg(long = MAX_SEQS.flag, visible_alias = "max-num-seqs", global = true, value_name = "N")]
    pub max_num_seqs: Option<String>,
    /// Most tokens, of all sequences together, that one step computes; longer prompts take several steps. Default: 4096
    #[arg(long = MAX_TOKENS.flag, global = true, value_name = "N")]
    pub max_num_batched_tokens: Option<String>,
    /// Most requests that wait in the queue; the head refuses more until there is room. Default: 1024
    #[arg(long = MAX_WAITING.flag, global = true, value_name = "N")]
    pub max_waiting: Option<String>,
    /// Most tokens of one sequence, prompt and answer together. Default: the length that the model was trained for
    #[arg(long = CONTEXT.flag, global = true, value_name = "N")]
    pub context_length: Option<String>,
    /// Spelling of tool calls: auto (found from the chat template), none, hermes, llama3_json, mistral, pythonic
    /// or qwen3_coder. Default: auto
    #[arg(long = TOOL_PARSER.flag, global = true, value_name = "STYLE")]
    pub tool_call_parser: Option<String>,
    /// Marks around the model's reasoning: auto (found from the chat template), none, think or mistral. Default: auto
    #[arg(long = REASONING_PARSER.flag, global = true, value_name = "STYLE")]
    pub reasoning_parser: Option<String>,
    /// Memory of each rank's KV cache: bytes (512Mi, 2Gi) or a share of the free memory (90%). Default: 1Gi; with CUDA 90%
    #[arg(long = KV_MEMORY.flag, global = true, value_name = "SIZE")]
    pub kv_cache_memory: Option<String>,
    /// Time that a request waits for a group that lost a rank, before it fails. Default: 120s
    #[arg(long = RECOVERY.flag, global = true, value_name = "TIME")]
    pub recovery_timeout: Option<String>,
    /// Time that running requests have to end after a shutdown was requested. Default: 30s
    #[arg(long = DRAIN.flag, global = true, value_name = "TIME")]
    pub drain_timeout: Option<String>,
    /// Identity of the group; the head refuses nodes of another group. Default: drawn by the head
    #[arg(long = CLUSTER_ID.flag, global = true, value_name = "ID")]
    pub cluster_id: Option<String>,
    /// File with the group's key (16 bytes or more, the same on every node); it keeps strangers out. Default: none
    #[arg(long = GROUP_KEY.flag, global = true, value_name = "PATH")]
    pub group_key: Option<String>,
    /// IP address that the group's own ports (control and ring) listen on. Default: 127.0.0.1 if all ranks are on
    /// this machine, else 0.0.0.0
    #[arg(long = GROUP_HOST.flag, global = true, value_name = "IP")]
    pub group_host: Option<String>,
    /// Process that runs the head's own ranks: child (the head starts it) or separate (you start it, with the command
    /// `node`). Default: child
    #[arg(long = HEAD_NODE.flag, global = true, value_name = "WHO")]
    pub head_node: Option<String>,
    /// Folder with ca.crt, tls.crt and tls.key, for mutual TLS on control streams. Default: no TLS
    #[arg(long = TLS_DIR.flag, global = true, value_name = "PATH")]
    pub tls_dir: Option<String>,
    /// Port of a node's probes: /startup, /live, /ready, /metrics. Default: none
    #[arg(long = PROBE_PORT.flag, global = true, value_name = "PORT")]
    pub probe_port: Option<String>,
    /// IP address or name that other nodes reach this node at. Default: the address that its control stream comes from
    #[arg(long = ADVERTISE.flag, global = true, value_name = "HOST")]
    pub advertise: Option<String>,
    /// Threads of each rank. Default: the threads of this machine, divided by its ranks
    #[arg(long = THREADS.flag, global = true, value_name = "N")]
    pub threads: Option<String>,
    /// Instruction set to compute with: portable, avx2 or avx512. Default: the best that this machine has
    #[arg(long = ISA.flag, global = true, value_name = "NAME", hide = true)]
    pub isa: Option<String>,
    /// Form of the log lines: text or json. Default: text
    #[arg(long = LOG_FORMAT.flag, global = true, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Filter of the log lines: a level (error, warn, info, debug, trace) or levels by module
    /// (info,lockstep_agent::head=debug). Default: info
    #[arg(long = LOG.flag, global = true, value_name = "FILTER")]
    pub log: Option<String>,
}

/// Reads a command line. The first argument is the program's own name.
///
/// # Errors
/// `Usage` for a wrong flag and for `--help` and `--version`; `Refused` for a flag or command that only mistral.rs has.
pub fn parse(argv: impl IntoIterator<Item = impl Into<OsString>>) -> Result<Cli, ConfigError> {
    let argv: Vec<OsString> = argv.into_iter().map(Into::into).collect();
    refused::check(&argv)?;
    let matches = command().try_get_matches_from(argv)?;
    Ok(Cli::from_arg_matches(&matches)?)
}

/// Text of `--version`. A program that starts agents reads the wire version from it first.
static VERSION: LazyLock<String> =
    LazyLock::new(|| format!("{} (wire {})", env!("CARGO_PKG_VERSION"), lockstep_proto::node::WIRE_VERSION));

/// Builds the command, with each flag's variable in the flag's help.
pub(super) fn command() -> clap::Command {
    let name_variable = |arg: clap::Arg| {
        let Some(flag) = FLAGS.iter().find(|flag| arg.get_long() == Some(flag.flag)) else { return arg };
        let help = format!("{} [env: {}]", arg.get_help().map(ToString::to_string).unwrap_or_default(), flag.env);
        arg.help(help).long_help(None::<&str>)
    };
    Cli::command()
        .version(VERSION.as_str())
        .mut_args(name_variable)
        .mut_subcommand("plain", |plain| plain.mut_args(name_variable))
        .mut_subcommand("bench", |bench| bench.mut_args(name_variable))
}
