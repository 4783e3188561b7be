//! What was typed, the variables and the build → a validated configuration.

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

use super::args::{self, Cli, Command, Flag, Options};
use super::environment::{Build, Environment};
use super::error::ConfigError;
use super::group::{self, HeadPart, NodePart, Part, Surroundings};
use super::hub;
use super::logging::{self, LogConfig};
use super::node::{self, Outward};
use super::values::{KvCacheMemory, Setting};
use super::{
    CommonConfig, Config, Foreground, HeadConfig, MAX_CONTEXT_LENGTH, MAX_NUM_BATCHED_TOKENS, MAX_NUM_SEQS,
    MAX_THREADS, ModelConfig, ModelSource, NodeConfig, OwnRanks, RingSetup, Role, ServingConfig,
};
use super::{bench, chat, devices};

const DEFAULT_WAITING: u32 = 1024;
const DEFAULT_RECOVERY: Duration = Duration::from_secs(DEFAULT_RECOVERY_TIMEOUT_S);
const DEFAULT_DRAIN: Duration = Duration::from_secs(30);
/// On the CPU a rank shares its memory with everything else on the machine, so its cache is bounded unless asked.
const DEFAULT_KV_CPU: KvCacheMemory = KvCacheMemory::Bytes(1 << 30);
/// A device's memory is the rank's own.
const DEFAULT_KV_DEVICE: KvCacheMemory = KvCacheMemory::Fraction(DEFAULT_KV_CACHE_PERCENT as f32 / 100.0);
/// Beside the conversation: where the layers were placed.
const PLACEMENT_TOLD: &str = "warn,lockstep_agent::node::rank=info";
/// Longest name of a model or of a group, in bytes.
const MAX_NAME: usize = 256;

/// Turns a command line and the variables into a configuration; reads nothing else but the file of `RING_CONFIG`.
///
/// # Errors
/// The first rule that is broken.
pub fn resolve(cli: &Cli, variables: &Environment, build: &Build) -> Result<Config, ConfigError> {
    let said = Said { options: &cli.options, variables };
    let common = said.common(build)?;
    let build = &Build { visible_devices: common.devices.visible, ..*build };
    let group_host = said.of(&cli.options.group_host, args::GROUP_HOST)?.map(|ip| ip.ip()).transpose()?;
    let own_ranks = said.own_ranks()?;
    let outward = said.outward()?;
    let mut warnings = unknown_variables(variables);
    let around = Surroundings { variables, build, group_host, separate: own_ranks == OwnRanks::Separate };
    let role = match &cli.command {
        Command::Node(node) => Role::Node(Box::new(node::from_arguments(node, outward, common)?)),
        Command::Plain(_) | Command::Bench(_) => match group::part(&around, &mut warnings)? {
            Part::Head(part) => {
                if own_ranks == OwnRanks::Separate {
                    warnings.extend(said.outward_in_vain());
                }
                Role::Head(Box::new(said.head(&cli.command, (part, own_ranks), outward, common, build)?))
            }
            Part::Node(part) => {
                warnings.extend(said.client_ports_in_vain());
                let NodePart { ordinal, local_world_size, world_size, pipeline, control, ring } = part;
                let Outward { probes, advertise } = outward;
                Role::Node(Box::new(NodeConfig {
                    ordinal,
                    local_world_size,
                    world_size,
                    pipeline,
                    control,
                    ring,
                    probes,
                    advertise,
                    common,
                }))
            }
        },
    };
    match &role {
        Role::Node(node) => reachable(&node.ring, node.advertise.as_deref())?,
        Role::Head(head) => warnings.extend(chat::in_vain(&cli.options, head)),
    }
    // What is said in the foreground is not to be drowned.
    let quiet = matches!(&role, Role::Head(head) if head.foreground.is_some());
    let log = said.log(match quiet {
        true if said.wants_placement()? => PLACEMENT_TOLD,
        true => "warn",
        false => "info",
    })?;
    Ok(Config { role, log, warnings })
}

/// Everything that was said, by flag or by variable.
struct Said<'a> {
    options: &'a Options,
    variables: &'a Environment,
}

impl Said<'_> {
    fn of(&self, typed: &Option<String>, flag: Flag) -> Result<Option<Setting>, ConfigError> {
        self.variables.or(typed, flag)
    }

    fn integer(
        &self,
        typed: &Option<String>,
        flag: Flag,
        range: RangeInclusive<u32>,
    ) -> Result<Option<u32>, ConfigError> {
        self.of(typed, flag)?.map(|setting| setting.integer(range)).transpose()
    }

    /// Who leaves it to the program where layers go is told where they went.
    fn wants_placement(&self) -> Result<bool, ConfigError> {
        self.variables.switch(env::NO_NCCL)
    }

    fn log(&self, default: &str) -> Result<LogConfig, ConfigError> {
        let forms = LogFormat::ALL.iter().map(|form| (form.as_str(), *form)).collect::<Vec<_>>();
        let format = self.of(&self.options.log_format, args::LOG_FORMAT)?;
        let format = format.map(|setting| setting.choice(&forms)).transpose()?.unwrap_or_default();
        let Some(filter) = self.of(&self.options.log, args::LOG)? else {
            return Ok(LogConfig { format, filter: default.into() });
        };
        match logging::parse_filter(&filter.value) {
            Ok(_) => Ok(LogConfig { format, filter: filter.value }),
            Err(problem) => Err(filter.invalid(format!("{problem}; give a level, or `module=level` with commas"))),
        }
    }

    fn common(&self, build: &Build) -> Result<CommonConfig, ConfigError> {
        let options = self.options;
        let sets = ["portable", "avx2", "avx512"].map(|name| (name, name));
        let cluster_id = self.of(&options.cluster_id, args::CLUSTER_ID)?;
        let isa = self.of(&options.isa, args::ISA)?.map(|isa| isa.choice(&sets)).transpose()?;
        Ok(CommonConfig {
            cluster_id: cluster_id.map(|id| id.word(MAX_NAME)).transpose()?,
            group_key: self.of(&options.group_key, args::GROUP_KEY)?.map(|path| PathBuf::from(path.value)),
            tls: self.of(&options.tls_dir, args::TLS_DIR)?.map(|path| PathBuf::from(path.value)),
            threads: self.integer(&options.threads, args::THREADS, 1..=MAX_THREADS)?,
            isa: isa.map(str::to_owned),
            devices: devices::from_variables(self.variables, build)?,
            follow_parent: self.variables.switch(env::FOLLOW_PARENT)?,
            hub: hub::from_variables(self.variables)?,
        })
    }

    fn own_ranks(&self) -> Result<OwnRanks, ConfigError> {
        let choices = [("child", OwnRanks::Child), ("separate", OwnRanks::Separate)];
        let said = self.of(&self.options.head_node, args::HEAD_NODE)?.map(|who| who.choice(&choices)).transpose()?;
        Ok(said.unwrap_or(OwnRanks::Child))
    }

    fn host(&self) -> Result<IpAddr, ConfigError> {
        let host = self.of(&self.options.host, args::HOST)?.map(|host| host.ip()).transpose()?;
        Ok(host.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)))
    }

    fn outward(&self) -> Result<Outward, ConfigError> {
        let host = self.host()?;
        let port = self.of(&self.options.probe_port, args::PROBE_PORT)?.map(|port| port.port(false)).transpose()?;
        let advertise = self.of(&self.options.advertise, args::ADVERTISE)?;
        Ok(Outward {
            probes: port.map(|port| SocketAddr::new(host, port)),
            advertise: advertise.map(|host| host.reachable_host()).transpose()?,
        })
    }

    /// What to say where a head that runs no ranks is told what only ranks have.
    fn outward_in_vain(&self) -> Option<String> {
        let said = [env::PROBE_PORT, env::ADVERTISE].into_iter().find(|name| self.variables.is_set(name))?;
        Some(format!("{said} changes nothing here: the ranks of this head run in a process of their own"))
    }

    fn head(
        &self,
        command: &Command,
        (part, own_ranks): (HeadPart, OwnRanks),
        outward: Outward,
        common: CommonConfig,
        build: &Build,
    ) -> Result<HeadConfig, ConfigError> {
        let serving = self.serving(build)?;
        let (source, foreground) = match command {
            Command::Bench(bench) => {
                (&bench.plain.model, Some(Foreground::Bench(bench::of_head(bench, self.options, &serving)?)))
            }
            Command::Plain(plain) => {
                (&plain.model, chat::of_head(self.options, self.variables, &common)?.map(Foreground::Chat))
            }
            // Never the head.
            Command::Node(_) => (&None, None),
        };
        // What runs in the foreground serves nobody else unless that was asked for.
        let default = |port: u16| foreground.is_none().then_some(port);
        let head = HeadConfig {
            topology: part.topology,
            model: self.model(source)?,
            serving,
            host: self.host()?,
            http_port: self.client_port(&self.options.http_port, args::HTTP_PORT, default(port::HTTP))?,
            grpc_port: self.client_port(&self.options.grpc_port, args::GRPC_PORT, default(port::GRPC))?,
            control: part.control,
            ring: part.ring,
            own_ranks,
            probes: outward.probes,
            advertise: outward.advertise,
            foreground,
            common,
        };
        ports(&head)?;
        if own_ranks == OwnRanks::Child {
            reachable(&head.ring, head.advertise.as_deref())?;
        }
        Ok(head)
    }

    fn client_port(
        &self,
        typed: &Option<String>,
        flag: Flag,
        default: Option<u16>,
    ) -> Result<Option<u16>, ConfigError> {
        match self.of(typed, flag)? {
            Some(setting) => setting.client_port(),
            None => Ok(default),
        }
    }

    fn model(&self, source: &Option<String>) -> Result<ModelConfig, ConfigError> {
        let Some(source) = self.of(source, args::MODEL)? else {
            return Err(ConfigError::missing(
                "--model",
                format!("give -m SOURCE or {}: a folder, org/name on the hub, or builtin://tiny", env::MODEL_SOURCE),
            ));
        };
        let revision = self.of(&self.options.revision, args::REVISION)?;
        let parsed = ModelSource::read(&source, revision.as_ref())?;
        let name = match self.of(&self.options.name, args::NAME)? {
            Some(name) => name.word(MAX_NAME)?,
            None => parsed
                .name()
                .ok_or_else(|| source.invalid("it has no last part to call the model by; give --served-model-name"))?,
        };
        let dtypes = DType::ALL.iter().map(|dtype| (dtype.as_str(), *dtype)).collect::<Vec<_>>();
        let dtype = self.of(&self.options.dtype, args::DTYPE)?.map(|dtype| dtype.choice(&dtypes)).transpose()?;
        let quantization = self.of(&self.options.isq, args::ISQ)?;
        let quantization =
            quantization.map(|isq| isq.value.parse().map_err(|error: UnknownChoice| isq.invalid(error.to_string())));
        let quantization = quantization.transpose()?.unwrap_or_default();
        Ok(ModelConfig { source: parsed, name, dtype: dtype.unwrap_or_default(), quantization })
    }

    fn serving(&self, build: &Build) -> Result<ServingConfig, ConfigError> {
        let options = self.options;
        let kv_default = if build.visible_devices > 0 { DEFAULT_KV_DEVICE } else { DEFAULT_KV_CPU };
        let kv_cache = self.of(&options.kv_cache_memory, args::KV_MEMORY)?.map(|memory| memory.memory()).transpose()?;
        let recovery = self.of(&options.recovery_timeout, args::RECOVERY)?;
        let recovery = recovery.map(|time| time.duration(Duration::from_secs(1))).transpose()?;
        let drain = self.of(&options.drain_timeout, args::DRAIN)?;
        let drain = drain.map(|time| time.duration(Duration::ZERO)).transpose()?;
        let waiting = self.integer(&options.max_waiting, args::MAX_WAITING, 1..=super::MAX_WAITING)?;
        let seqs = self.integer(&options.max_num_seqs, args::MAX_SEQS, 1..=MAX_NUM_SEQS)?.unwrap_or(DEFAULT_NUM_SEQS);
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

    /// A style by its name, or `auto`, or `none`.
    fn style<T: Copy>(
        &self,
        typed: &Option<String>,
        flag: Flag,
        names: &[(&'static str, T)],
    ) -> Result<StyleChoice<T>, ConfigError> {
        let Some(setting) = self.of(typed, flag)? else { return Ok(StyleChoice::Auto) };
        let styles = names.iter().map(|(name, style)| (*name, StyleChoice::Is(*style)));
        let all: Vec<_> = [("auto", StyleChoice::Auto), ("none", StyleChoice::Off)].into_iter().chain(styles).collect();
        setting.choice(&all)
    }

    /// What to say where a node that is not the head's was given client ports by flag. By variable they may stand in a
    /// template that all nodes share.
    fn client_ports_in_vain(&self) -> Option<String> {
        let typed = [(&self.options.http_port, args::HTTP_PORT), (&self.options.grpc_port, args::GRPC_PORT)];
        let (_, flag) = typed.into_iter().find(|(port, _)| port.is_some())?;
        Some(format!("--{} changes nothing here: only the head binds client ports", flag.flag))
    }
}

/// Refuses to tell others of an address that this node does not listen on.
fn reachable(ring: &RingSetup, advertise: Option<&str>) -> Result<(), ConfigError> {
    let (RingSetup::Auto { listen, .. } | RingSetup::Ring { listen, .. }) = ring;
    let Some(host) = advertise.filter(|_| listen.ip().is_loopback()) else { return Ok(()) };
    let outside = host.parse::<IpAddr>().map_or(host != "localhost", |ip| !ip.is_loopback());
    if !outside {
        return Ok(());
    }
    Err(ConfigError::contradiction(
        format!("{}={host}", env::ADVERTISE),
        format!("the ring port listens on {} alone", listen.ip()),
        format!("set {} (or --ring-listen) to 0.0.0.0 or to that address", env::GROUP_HOST),
    ))
}

/// Refuses a head that nobody could reach, or two of whose ports are one.
fn ports(head: &HeadConfig) -> Result<(), ConfigError> {
    if head.http_port.is_none() && head.grpc_port.is_none() && head.foreground.is_none() {
        return Err(ConfigError::contradiction(
            "--http-port is off",
            "--grpc-port is off too",
            "then nobody can ask anything; give one of them a port",
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
                "give each its own",
            ));
        }
        taken.push((name, port));
    }
    Ok(())
}

/// Names of ours that do not exist: most likely a slip of the pen.
fn unknown_variables(variables: &Environment) -> Vec<String> {
    let ours = |name: &str| name.starts_with("MISTRALRS_") || name.starts_with("LOCKSTEP_");
    // Kubernetes makes variables of such names for a Service that is called so.
    let link = |name: &str, value: &str| {
        value.contains("://")
            || ["_SERVICE_HOST", "_SERVICE_PORT", "_TCP", "_UDP"].iter().any(|part| name.contains(part))
    };
    variables
        .iter()
        .filter(|(name, value)| ours(name) && !env::ALL.contains(name) && !link(name, value))
        .map(|(name, _)| format!("{name} changes nothing: there is no variable of this name"))
        .collect()
}
