//! Command line, variables and build → a validated configuration.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use lockstep_api::{ReasoningStyle, StyleChoice, ToolStyle};
use lockstep_proto::choices::{DType, LogFormat, UnknownChoice};
use lockstep_proto::limits::{
    DEFAULT_KV_CACHE_PERCENT, DEFAULT_NUM_BATCHED_TOKENS, DEFAULT_NUM_SEQS, DEFAULT_RECOVERY_TIMEOUT_S,
};
use lockstep_proto::names::{env, port};

use super::args::{self, AgentCommand, Cli, Flag, GlobalArgs};
use super::environment::{Build, Environment};
use super::error::ConfigError;
use super::group::{self, GroupInputs, GroupPlace, HeadPlace};
use super::hub;
use super::logging::{self, LogConfig};
use super::node::{self, NodeAddresses};
use super::values::{KvCacheMemory, Setting};
use super::{
    CommonConfig, Config, Foreground, HeadConfig, MAX_CONTEXT_LENGTH, MAX_NUM_BATCHED_TOKENS, MAX_NUM_SEQS,
    MAX_THREADS, ModelConfig, ModelSource, OwnRanks, RingSetup, Role, ServingConfig,
};
use super::{bench, chat, devices};

const DEFAULT_WAITING: u32 = 1024;
const DEFAULT_RECOVERY: Duration = Duration::from_secs(DEFAULT_RECOVERY_TIMEOUT_S);
const DEFAULT_DRAIN: Duration = Duration::from_secs(30);
/// Default on the CPU. A rank shares this memory with everything else on the machine, so the default is small.
const DEFAULT_KV_CPU: KvCacheMemory = KvCacheMemory::Bytes(1 << 30);
/// Default on a device. A device's memory belongs to the rank alone.
const DEFAULT_KV_DEVICE: KvCacheMemory = KvCacheMemory::Fraction(DEFAULT_KV_CACHE_PERCENT as f32 / 100.0);
/// Log filter beside a conversation that shows the placement of the layers.
const PLACEMENT_FILTER: &str = "warn,lockstep_agent::node::rank=info";
/// Longest name of a model or of a group, in bytes.
const MAX_NAME: usize = 256;

/// Turns a command line and the variables into a configuration. The only file it reads is that of `RING_CONFIG`.
///
/// # Errors
/// The first broken rule.
pub fn resolve(cli: &Cli, variables: &Environment, build: &Build) -> Result<Config, ConfigError> {
    let settings = Settings { options: &cli.options, variables };
    let common = settings.common(build)?;
    let build = &Build { visible_devices: common.devices.visible, ..*build };
    let group_host = settings.setting(&cli.options.group_host, args::GROUP_HOST)?.map(|ip| ip.ip()).transpose()?;
    let own_ranks = settings.own_ranks()?;
    let addresses = settings.node_addresses()?;
    let mut warnings = unknown_variables(variables);
    let role = match &cli.command {
        AgentCommand::Node(node) => Role::Node(Box::new(node::from_arguments(node, addresses, common)?)),
        AgentCommand::Plain(_) | AgentCommand::Bench(_) => {
            let separate = own_ranks == OwnRanks::Separate;
            let (addresses, common) = (&addresses, &common);
            let group = GroupInputs { variables, build, group_host, separate, addresses, common };
            match group::find_place(&group, &mut warnings)? {
                GroupPlace::Head(place) => {
                    if separate {
                        warnings.extend(settings.unused_node_addresses());
                    }
                    Role::Head(Box::new(settings.head(&cli.command, place, &group)?))
                }
                GroupPlace::Node(node) => {
                    warnings.extend(settings.unused_client_ports());
                    Role::Node(node)
                }
            }
        }
    };
    match &role {
        Role::Node(node) => check_advertised_host(&node.ring, node.advertise.as_deref())?,
        Role::Head(head) => warnings.extend(chat::unused_throughput(&cli.options, head)),
    }
    // Log lines would disturb a conversation or a report in the same terminal.
    let is_quiet = matches!(&role, Role::Head(head) if head.foreground.is_some());
    let log = settings.log(match is_quiet {
        true if settings.logs_placement()? => PLACEMENT_FILTER,
        true => "warn",
        false => "info",
    })?;
    Ok(Config { role, log, warnings })
}

/// Flags and variables of this process.
struct Settings<'a> {
    options: &'a GlobalArgs,
    variables: &'a Environment,
}

impl Settings<'_> {
    /// Returns the flag's value, or else the variable's.
    fn setting(&self, typed: &Option<String>, flag: Flag) -> Result<Option<Setting>, ConfigError> {
        self.variables.flag_or_variable(typed, flag)
    }

    fn integer(
        &self,
        typed: &Option<String>,
        flag: Flag,
        range: RangeInclusive<u32>,
    ) -> Result<Option<u32>, ConfigError> {
        self.setting(typed, flag)?.map(|setting| setting.integer(range)).transpose()
    }

    /// Returns true if the program places the layers by itself, so that the user wants to see the placement.
    fn logs_placement(&self) -> Result<bool, ConfigError> {
        self.variables.switch(env::NO_NCCL)
    }

    fn log(&self, default: &str) -> Result<LogConfig, ConfigError> {
        let forms = LogFormat::ALL.iter().map(|form| (form.as_str(), *form)).collect::<Vec<_>>();
        let format = self.setting(&self.options.log_format, args::LOG_FORMAT)?;
        let format = format.map(|setting| setting.choice(&forms)).transpose()?.unwrap_or_default();
        let Some(filter) = self.setting(&self.options.log, args::LOG)? else {
            return Ok(LogConfig { format, filter: default.into() });
        };
        match logging::parse_filter(&filter.value) {
            Ok(_) => Ok(LogConfig { format, filter: filter.value }),
            Err(problem) => {
                Err(filter
                    .invalid(format!("{problem}; give a level, or `module=level` pairs with commas between them")))
            }
        }
    }

    fn common(&self, build: &Build) -> Result<CommonConfig, ConfigError> {
        let options = self.options;
        let sets = ["portable", "avx2", "avx512"].map(|name| (name, name));
        let cluster_id = self.setting(&options.cluster_id, args::CLUSTER_ID)?;
        let isa = self.setting(&options.isa, args::ISA)?.map(|isa| isa.choice(&sets)).transpose()?;
        Ok(CommonConfig {
            cluster_id: cluster_id.map(|id| id.word(MAX_NAME)).transpose()?,
            group_key: self.setting(&options.group_key, args::GROUP_KEY)?.map(|path| PathBuf::from(path.value)),
            tls: self.setting(&options.tls_dir, args::TLS_DIR)?.map(|path| PathBuf::from(path.value)),
            threads: self.integer(&options.threads, args::THREADS, 1..=MAX_THREADS)?,
            isa: isa.map(str::to_owned),
            devices: devices::from_variables(self.variables, build)?,
            follow_parent: self.variables.switch(env::FOLLOW_PARENT)?,
            hub: hub::from_variables(self.variables)?,
        })
    }

    fn own_ranks(&self) -> Result<OwnRanks, ConfigError> {
        let choices = [("child", OwnRanks::Child), ("separate", OwnRanks::Separate)];
        let choice =
            self.setting(&self.options.head_node, args::HEAD_NODE)?.map(|who| who.choice(&choices)).transpose()?;
        Ok(choice.unwrap_or(OwnRanks::Child))
    }

    fn host(&self) -> Result<IpAddr, ConfigError> {
        let host = self.setting(&self.options.host, args::HOST)?.map(|host| host.ip()).transpose()?;
        Ok(host.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)))
    }

    fn node_addresses(&self) -> Result<NodeAddresses, ConfigError> {
        let host = self.host()?;
        let port =
            self.setting(&self.options.probe_port, args::PROBE_PORT)?.map(|port| port.port(false)).transpose()?;
        let advertise = self.setting(&self.options.advertise, args::ADVERTISE)?;
        Ok(NodeAddresses {
            probes: port.map(|port| SocketAddr::new(host, port)),
            advertise: advertise.map(|host| host.reachable_host()).transpose()?,
        })
    }

    /// Returns a warning if a head without ranks is given an address that only a node has.
    fn unused_node_addresses(&self) -> Option<String> {
        let name = [env::PROBE_PORT, env::ADVERTISE].into_iter().find(|name| self.variables.is_set(name))?;
        Some(format!("{name} has no effect here: the ranks of this head run in a process of their own"))
    }

    fn head(
        &self,
        command: &AgentCommand,
        place: HeadPlace,
        group: &GroupInputs<'_>,
    ) -> Result<HeadConfig, ConfigError> {
        let serving = self.serving(group.build)?;
        let (source, foreground) = match command {
            AgentCommand::Bench(bench) => {
                (&bench.plain.model, Some(Foreground::Bench(bench::from_arguments(bench, self.options, &serving)?)))
            }
            AgentCommand::Plain(plain) => {
                (&plain.model, chat::from_options(self.options, self.variables, group.common)?.map(Foreground::Chat))
            }
            // The command `node` never makes a head.
            AgentCommand::Node(_) => (&None, None),
        };
        // A head with a foreground serves clients only on the ports that are set.
        let default = |port: u16| foreground.is_none().then_some(port);
        let head = HeadConfig {
            topology: place.topology,
            model: self.model(source)?,
            serving,
            host: self.host()?,
            http_port: self.client_port(&self.options.http_port, args::HTTP_PORT, default(port::HTTP))?,
            grpc_port: self.client_port(&self.options.grpc_port, args::GRPC_PORT, default(port::GRPC))?,
            control: place.control,
            ring: place.ring,
            own_ranks: if group.separate { OwnRanks::Separate } else { OwnRanks::Child },
            probes: group.addresses.probes,
            advertise: group.addresses.advertise.clone(),
            foreground,
            common: group.common.clone(),
        };
        check_ports(&head)?;
        if !group.separate {
            check_advertised_host(&head.ring, head.advertise.as_deref())?;
        }
        Ok(head)
    }

    fn client_port(
        &self,
        typed: &Option<String>,
        flag: Flag,
        default: Option<u16>,
    ) -> Result<Option<u16>, ConfigError> {
        match self.setting(typed, flag)? {
            Some(setting) => setting.client_port(),
            None => Ok(default),
        }
    }

    fn model(&self, source: &Option<String>) -> Result<ModelConfig, ConfigError> {
        let Some(source) = self.setting(source, args::MODEL)? else {
            return Err(ConfigError::missing(
                "--model",
                format!(
                    "give -m SOURCE or set {}; SOURCE is a folder, org/name on the hub, or builtin://tiny",
                    env::MODEL_SOURCE
                ),
            ));
        };
        let revision = self.setting(&self.options.revision, args::REVISION)?;
        let parsed = ModelSource::from_settings(&source, revision.as_ref())?;
        let name = match self.setting(&self.options.name, args::NAME)? {
            Some(name) => name.word(MAX_NAME)?,
            None => parsed.name().ok_or_else(|| {
                source.invalid("the source has no last part to name the model by; give --served-model-name")
            })?,
        };
        let dtypes = DType::ALL.iter().map(|dtype| (dtype.as_str(), *dtype)).collect::<Vec<_>>();
        let dtype = self.setting(&self.options.dtype, args::DTYPE)?.map(|dtype| dtype.choice(&dtypes)).transpose()?;
        let quantization = self.setting(&self.options.isq, args::ISQ)?;
        let quantization =
            quantization.map(|isq| isq.value.parse().map_err(|error: UnknownChoice| isq.invalid(error.to_string())));
        let quantization = quantization.transpose()?.unwrap_or_default();
        Ok(ModelConfig { source: parsed, name, dtype: dtype.unwrap_or_default(), quantization })
    }

    fn serving(&self, build: &Build) -> Result<ServingConfig, ConfigError> {
        let options = self.options;
        let kv_default = if build.visible_devices > 0 { DEFAULT_KV_DEVICE } else { DEFAULT_KV_CPU };
        let kv_cache =
            self.setting(&options.kv_cache_memory, args::KV_MEMORY)?.map(|memory| memory.memory()).transpose()?;
        let recovery = self.setting(&options.recovery_timeout, args::RECOVERY)?;
        let recovery = recovery.map(|time| time.duration(Duration::from_secs(1))).transpose()?;
        let drain = self.setting(&options.drain_timeout, args::DRAIN)?;
        let drain = drain.map(|time| time.duration(Duration::ZERO)).transpose()?;
        let waiting = self.integer(&options.max_waiting, args::MAX_WAITING, 1..=super::MAX_WAITING)?;
        let seqs =
            self.integer(&options.max_num_seqs, args::MAX_NUM_SEQS, 1..=MAX_NUM_SEQS)?.unwrap_or(DEFAULT_NUM_SEQS);
        let tokens = self.integer(&options.max_num_batched_tokens, args::MAX_TOKENS, 1..=MAX_NUM_BATCHED_TOKENS)?;
        let tokens = tokens.unwrap_or(DEFAULT_NUM_BATCHED_TOKENS.max(seqs));
        if tokens < seqs {
            return Err(ConfigError::contradiction(
                format!("--max-num-batched-tokens is {tokens}"),
                format!("--max-seqs is {seqs}"),
                "each running sequence needs a token in every step; raise the first or lower the second",
            ));
        }
        Ok(ServingConfig {
            max_num_seqs: seqs,
            max_num_batched_tokens: tokens,
            context_length: self.integer(&options.context_length, args::CONTEXT, 1..=MAX_CONTEXT_LENGTH)?,
            kv_cache: kv_cache.unwrap_or(kv_default),
            recovery_timeout: recovery.unwrap_or(DEFAULT_RECOVERY),
            drain_timeout: drain.unwrap_or(DEFAULT_DRAIN),
            max_waiting: waiting.unwrap_or(DEFAULT_WAITING),
            tool_style: self.style(&options.tool_call_parser, args::TOOL_PARSER, ToolStyle::NAMES)?,
            reasoning_style: self.style(&options.reasoning_parser, args::REASONING_PARSER, ReasoningStyle::NAMES)?,
        })
    }

    /// Returns a style by its name, or `auto`, or `none`.
    fn style<T: Copy>(
        &self,
        typed: &Option<String>,
        flag: Flag,
        names: &[(&'static str, T)],
    ) -> Result<StyleChoice<T>, ConfigError> {
        let Some(setting) = self.setting(typed, flag)? else { return Ok(StyleChoice::Auto) };
        let styles = names.iter().map(|(name, style)| (*name, StyleChoice::Is(*style)));
        let all: Vec<_> = [("auto", StyleChoice::Auto), ("none", StyleChoice::Off)].into_iter().chain(styles).collect();
        setting.choice(&all)
    }

    /// Returns a warning if a flag gives a client port to a worker. Variables give none: all nodes may share a pod
    /// template that sets them.
    fn unused_client_ports(&self) -> Option<String> {
        let typed = [(&self.options.http_port, args::HTTP_PORT), (&self.options.grpc_port, args::GRPC_PORT)];
        let (_, flag) = typed.into_iter().find(|(port, _)| port.is_some())?;
        Some(format!("--{} has no effect here: only the head binds client ports", flag.flag))
    }
}

/// Refuses an advertised address that this node does not listen on.
fn check_advertised_host(ring: &RingSetup, advertise: Option<&str>) -> Result<(), ConfigError> {
    let (RingSetup::Auto { listen, .. } | RingSetup::Ring { listen, .. }) = ring;
    let Some(host) = advertise.filter(|_| listen.ip().is_loopback()) else { return Ok(()) };
    let is_outside = host.parse::<IpAddr>().map_or(host != "localhost", |ip| !ip.is_loopback());
    if !is_outside {
        return Ok(());
    }
    Err(ConfigError::contradiction(
        format!("{}={host}", env::ADVERTISE),
        format!("the ring port listens only on {}", listen.ip()),
        format!("set {} (or --ring-listen) to 0.0.0.0 or to the advertised address", env::GROUP_HOST),
    ))
}

/// Refuses a head without a client port or a foreground, and a head with the same port twice.
fn check_ports(head: &HeadConfig) -> Result<(), ConfigError> {
    if head.http_port.is_none() && head.grpc_port.is_none() && head.foreground.is_none() {
        return Err(ConfigError::contradiction(
            "--http-port is off",
            "--grpc-port is off too",
            "no client could reach the head; give one of them a port",
        ));
    }
    let (ring, ranks) = match head.ring {
        RingSetup::Auto { listen, .. } => (listen.port(), head.topology.local_world_size),
        RingSetup::Ring { listen, .. } => (listen.port(), 1),
    };
    let named = [
        ("HTTP", head.http_port.unwrap_or(0)),
        ("gRPC", head.grpc_port.unwrap_or(0)),
        ("control", head.control.port()),
        ("probe", head.probes.map_or(0, |probes| probes.port())),
    ];
    let ring_ports = (0..ranks).filter(|_| ring > 0).map(|rank| ("ring", u32::from(ring) + rank));
    let mut taken: Vec<(&str, u32)> = Vec::new();
    for (name, port) in named.into_iter().map(|(name, port)| (name, u32::from(port))).chain(ring_ports) {
        if let Some((other, _)) = taken.iter().find(|(_, other)| *other == port && port > 0) {
            return Err(ConfigError::contradiction(
                format!("the {name} port is {port}"),
                format!("the {other} port is {port} too"),
                "give each a port of its own",
            ));
        }
        taken.push((name, port));
    }
    Ok(())
}

/// Returns a warning for each variable with a prefix of ours that does not exist. It most likely is a typing error.
fn unknown_variables(variables: &Environment) -> Vec<String> {
    let ours = |name: &str| name.starts_with("MISTRALRS_") || name.starts_with("LOCKSTEP_");
    // Kubernetes sets variables of such names for a Service that is called `lockstep-…`.
    let link = |name: &str, value: &str| {
        value.contains("://")
            || ["_SERVICE_HOST", "_SERVICE_PORT", "_TCP", "_UDP"].iter().any(|part| name.contains(part))
    };
    variables
        .iter()
        .filter(|(name, value)| ours(name) && !env::ALL.contains(name) && !link(name, value))
        .map(|(name, _)| format!("{name} has no effect: the agent knows no variable of this name; check the spelling"))
        .collect()
}
