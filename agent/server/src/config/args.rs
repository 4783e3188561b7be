//! The command line as typed: one clap struct, nothing validated.
//!
//! Each flag of [`GlobalArgs`], and `--model`, has an environment variable, and the flag wins over the variable. The
//! other flags (those of `bench` and `node`, `-i` and `--throughput`) have none. clap does not read the variables, for
//! two reasons. The configuration is a function of the arguments of `resolve`, so that tests can check every rule. And
//! an error names the variable if the value came from the variable.

use std::ffi::OsString;
use std::sync::LazyLock;

use clap::error::ContextKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use lockstep_proto::names::env;

use super::error::ConfigError;
use super::{other_spellings, refused};

/// Names of a flag and of its variable.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flag {
    pub flag: &'static str,
    pub env: &'static str,
}

pub(super) const MODEL: Flag = Flag { flag: "model", env: env::MODEL_SOURCE };

pub(super) const ALLOWED_ORIGINS: Flag = Flag { flag: "allowed-origins", env: env::ALLOWED_ORIGINS };
pub(super) const API_KEY: Flag = Flag { flag: "api-key", env: env::API_KEY };

/// Serve a model that is sharded over many ranks, from one endpoint.
///
/// Every node of a group runs the command `plain`. The environment gives each node its role:
/// MISTRALRS_MN_HEAD_NUM_WORKERS makes it the head, MISTRALRS_MN_WORKER_ID a worker, RING_RANK a rank of a ring. With
/// none of them, this machine is the whole group. (The command `node` takes its role from its arguments instead.)
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
    /// Serve a text model from its Hugging Face files (config.json, safetensors, tokenizer.json) or a GGUF file
    Plain(PlainArgs),
    /// Measure prefill and decode by batch size, on the group that the environment describes
    Bench(BenchArgs),
    /// Run one node's ranks under a head. The head runs this command itself for its own ranks. With
    /// `LOCKSTEP_HEAD_NODE=separate`, start this yourself in the container next to the head
    Node(NodeArgs),
}

#[derive(Debug, Clone, Args)]
pub(super) struct PlainArgs {
    /// Location of the model: a folder (`/models/llama`), a GGUF file, `file://` and a folder or file, `hf://org/name`
    /// on the hub (or `org/name` if no folder has this name), one GGUF file of the hub by its tag or name
    /// (`hf://org/name:Q4_K_M`, `hf://org/name/FILE.gguf`), or `builtin://` and a name (`builtin://tiny` is part of
    /// the program). Only the head needs it; workers learn it from the head
    #[arg(short = 'm', long = MODEL.flag, alias = "model-id", value_name = "SOURCE")]
    pub model: Option<String>,
    /// Print the models that the source offers, each GGUF file with its tag, its size and its parts, and end
    #[arg(long)]
    pub list_files: bool,
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

/// Arguments of a node. They give its place in the group, so the node reads no `MISTRALRS_MN_*` or `RING_*`. It does
/// read the variables of [`GlobalArgs`], such as `LOCKSTEP_TLS_DIR` and `LOCKSTEP_GROUP_KEY_FILE`.
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
    /// `IP:PORT,0`: a free port replaces each taken one
    #[arg(long, value_name = "IP:PORT")]
    pub ring_listen: String,
    /// Ring port of the right neighbour, if RING_* describes the group
    #[arg(long, value_name = "HOST:PORT")]
    pub ring_right: Option<String>,
    /// End when standard input closes
    #[arg(long)]
    pub follow_parent: bool,
}

/// Declares [`GlobalArgs`]. Each field that the macro does not write out has an entry. A field's entry has its
/// constant, its flag, its variable, and the name of its value in help texts; settings of clap may follow. The constant
/// has the name of the field in capitals.
macro_rules! global_args {
    ($($(#[$doc:meta])* $field:ident: $name:ident = $flag:literal / $env:expr, $value:literal
       $(, $key:ident = $setting:expr)*;)*) => {
        $(pub(super) const $name: Flag = Flag { flag: $flag, env: $env };)*
        const FLAGS: &[Flag] = &[MODEL, ALLOWED_ORIGINS, API_KEY, $($name),*];

        /// Flags that may stand before the command or after it.
        #[derive(Debug, Clone, Default, Args)]
        pub(super) struct GlobalArgs {
            /// Talk with the model in this terminal, or over a pipe. The head then serves only the ports that you ask
            /// for. A worker ignores this flag
            #[arg(short = 'i', long = "interactive-mode", global = true)]
            pub interactive: bool,
            /// With -i: print tokens per second after each answer
            #[arg(long, global = true)]
            pub throughput: bool,
            /// Ranks of each pipeline stage, all on this machine (as vLLM's flag). Variables describe groups of several
            /// nodes. Default: one, or with CUDA one for each device
            #[arg(long, global = true, value_name = "N", visible_alias = "tp")]
            pub tensor_parallel_size: Option<String>,
            /// Pipeline stages of the group. Default: 1 [env: MISTRALRS_PIPELINE_PARALLEL]
            #[arg(long, global = true, value_name = "N", visible_alias = "pp")]
            pub pipeline_parallel_size: Option<String>,
            /// Origins of web pages whose scripts may use the HTTP endpoint, with commas between them (or repeat the
            /// flag): https://chat.example.com, `loopback` for pages of this machine, `*` for all, `none`. Default:
            /// loopback
            #[arg(long = ALLOWED_ORIGINS.flag, global = true, value_name = "ORIGIN,…")]
            pub allowed_origins: Vec<String>,
            /// Key that clients must send; repeat the flag for several. Other users of this machine can see it in the
            /// list of processes, so prefer --api-key-file. Default: none, and the client ports serve everybody
            #[arg(long = API_KEY.flag, global = true, value_name = "KEY")]
            pub api_key: Vec<String>,
            $($(#[$doc])*
            #[arg(long = $flag, global = true, value_name = $value $(, $key = $setting)*)]
            pub $field: Option<String>,)*
        }
    };
}

global_args! {
    /// Branch, tag or commit of a model of the hub. Default: main
    revision: REVISION = "revision" / env::MODEL_REVISION, "REVISION", visible_alias = "hf-revision";
    /// Name that clients call the model by, or several with commas between: the first is the model's name in answers.
    /// `default` always works too. Default: the last part of the source
    name: NAME = "served-model-name" / env::MODEL_NAME, "NAME", visible_alias = "alias";
    /// File with the chat template, in Jinja. Default: the template of the model's files
    chat_template: CHAT_TEMPLATE = "chat-template" / env::CHAT_TEMPLATE, "FILE", visible_alias = "chat-template-file";
    /// Number format of the weights: auto (the checkpoint's own), f32, bf16 or f16. Default: auto
    dtype: DTYPE = "dtype" / env::DTYPE, "DTYPE";
    /// Format that matrices are quantized to while they are loaded: Q8_0 (or 8), Q6_K (6), Q5_K (5), Q5_1, Q5_0, Q4_K (4),
    /// Q4_1, Q4_0, IQ4_NL, IQ4_XS, MXFP4, Q3_K (3), Q2_K (2), TQ2_0, TQ1_0 or none. Default: none
    isq: ISQ = "isq" / env::QUANTIZATION, "FORMAT", visible_alias = "in-situ-quant";
    /// IP address that the client ports bind to. Default: 0.0.0.0
    host: HOST = "host" / env::HOST, "IP";
    /// Port of the OpenAI-compatible HTTP endpoint; 0 takes a free one, `off` serves no HTTP. Default: 1234
    http_port: HTTP_PORT = "http-port" / env::HTTP_PORT, "PORT", visible_alias = "port";
    /// Port of the gRPC endpoint; 0 takes a free one, `off` serves no gRPC. Default: 50051
    grpc_port: GRPC_PORT = "grpc-port" / env::GRPC_PORT, "PORT";
    /// File with the keys that clients may send, one on each line; the head reads it again when it changes. Default: none
    api_key_file: API_KEY_FILE = "api-key-file" / env::API_KEY_FILE, "PATH";
    /// File with the certificate of the client ports and those above it, in PEM; the head reads it again when it changes.
    /// Default: none, and the client ports speak plain text
    ssl_certfile: SSL_CERTFILE = "ssl-certfile" / env::SSL_CERTFILE, "PATH";
    /// File with the key of that certificate. Default: the file of the certificate
    ssl_keyfile: SSL_KEYFILE = "ssl-keyfile" / env::SSL_KEYFILE, "PATH";
    /// Most sequences that run at once; more wait in the queue. Default: 64
    max_num_seqs: MAX_NUM_SEQS = "max-seqs" / env::MAX_NUM_SEQS, "N", visible_alias = "max-num-seqs",
        visible_alias = "parallel";
    /// Most tokens, of all sequences together, that one step computes; longer prompts take several steps. Default: 4096
    max_num_batched_tokens: MAX_NUM_BATCHED_TOKENS = "max-num-batched-tokens" / env::MAX_NUM_BATCHED_TOKENS, "N";
    /// Most requests that wait in the queue; the head refuses more until there is room. Default: 1024
    max_waiting: MAX_WAITING = "max-waiting" / env::MAX_WAITING, "N";
    /// Most tokens of one sequence, prompt and answer together. Default: the length that the model was trained for
    context_length: CONTEXT_LENGTH = "context-length" / env::CONTEXT_LENGTH, "N", visible_alias = "max-model-len",
        visible_alias = "ctx-size";
    /// Spelling of tool calls: auto (found from the chat template), none, hermes, llama3_json, mistral, pythonic
    /// or qwen3_coder. Default: auto
    tool_call_parser: TOOL_CALL_PARSER = "tool-call-parser" / env::TOOL_CALL_PARSER, "STYLE";
    /// Marks around the model's reasoning: auto (found from the chat template), none, think or mistral. Default: auto
    reasoning_parser: REASONING_PARSER = "reasoning-parser" / env::REASONING_PARSER, "STYLE";
    /// Refuse HTTP requests with a field that nobody knows, instead of leaving the field out of account. Default: off
    strict_fields: STRICT_FIELDS = "strict-fields" / env::STRICT_FIELDS, "ON", num_args = 0..=1,
        require_equals = true, default_missing_value = "1";
    /// Send the events of the prefix cache to routers that subscribe (gRPC SubscribeKvEvents). They have the tokens of all
    /// prompts. Default: off
    kv_events: KV_EVENTS = "kv-events" / env::KV_EVENTS, "ON", num_args = 0..=1,
        require_equals = true, default_missing_value = "1";
    /// Memory of each rank's KV cache: bytes (512Mi, 2Gi) or a share of the free memory (90%). Default: 1Gi; with CUDA
    /// 90%
    kv_cache_memory: KV_CACHE_MEMORY = "kv-cache-memory" / env::KV_CACHE_MEMORY, "SIZE";
    /// Time that a request waits for a group that lost a rank, before it fails. Default: 120s
    recovery_timeout: RECOVERY_TIMEOUT = "recovery-timeout" / env::RECOVERY_TIMEOUT, "TIME";
    /// Time that running requests have to end after a shutdown was requested. Default: 30s
    drain_timeout: DRAIN_TIMEOUT = "drain-timeout" / env::DRAIN_TIMEOUT, "TIME";
    /// Identity of the group; the head refuses nodes of another group. Default: `ring` for a
    /// ring, else a random id
    cluster_id: CLUSTER_ID = "cluster-id" / env::CLUSTER_ID, "ID";
    /// File with the group's key (16 bytes or more, the same on every node); it keeps strangers out. Default: none
    group_key: GROUP_KEY = "group-key-file" / env::GROUP_KEY_FILE, "PATH";
    /// IP address that the group's own ports (control and ring) listen on. Default: 127.0.0.1 if all ranks are on
    /// this machine, else 0.0.0.0
    group_host: GROUP_HOST = "group-host" / env::GROUP_HOST, "IP";
    /// Process that runs the head's own ranks: child (the head starts it) or separate (you start it, with the command
    /// `node`). Default: child
    head_node: HEAD_NODE = "head-node" / env::HEAD_NODE, "WHO";
    /// Folder with ca.crt, tls.crt and tls.key, for mutual TLS on control streams. Default: no TLS
    tls_dir: TLS_DIR = "tls-dir" / env::TLS_DIR, "PATH";
    /// Port of a node's probes: /startup, /live, /ready, /metrics. Default: none
    probe_port: PROBE_PORT = "probe-port" / env::PROBE_PORT, "PORT";
    /// IP address or name that other nodes reach this node at. Default: the address that its control stream comes from
    advertise: ADVERTISE = "advertise" / env::ADVERTISE, "HOST";
    /// Threads of each rank. Default: the threads of this machine, divided by its ranks
    threads: THREADS = "threads" / env::THREADS, "N";
    /// Instruction set to compute with: portable, avx2 or avx512. Default: the best that this machine has
    isa: ISA = "isa" / env::ISA, "NAME", hide = true;
    /// Form of the log lines: text or json. Default: text
    log_format: LOG_FORMAT = "log-format" / env::LOG_FORMAT, "FORMAT";
    /// Filter of the log lines: a level (error, warn, info, debug, trace) or levels by module
    /// (info,lockstep_agent::head=debug,lockstep_api=debug). Default: info
    log: LOG = "log" / env::LOG, "FILTER";
}

/// Reads a command line. The first argument is the program's own name.
///
/// # Errors
/// `Usage` for a wrong flag and for `--help` and `--version`; `Refused` for a flag or command of another program that has no
/// meaning here.
pub fn parse(argv: impl IntoIterator<Item = impl Into<OsString>>) -> Result<Cli, ConfigError> {
    let argv: Vec<OsString> = argv.into_iter().map(Into::into).collect();
    refused::check(&argv)?;
    let argv = other_spellings::translate(argv)?;
    let matches = command().try_get_matches_from(argv).map_err(without_guesses)?;
    Ok(Cli::from_arg_matches(&matches)?)
}

/// Takes the suggestion out of an error: flags that are spelled alike mean other things.
fn without_guesses(mut error: clap::Error) -> clap::Error {
    if error.remove(ContextKind::SuggestedArg).is_some() {
        // The line of usage has the guess too.
        error.remove(ContextKind::Usage);
    }
    error
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
