//! Command line, variables and build → a validated configuration.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use lockstep_proto::choices::{DType, LogFormat, UnknownChoice};
use lockstep_proto::names::{env, port};

use super::args::{self, AgentCommand, BenchArgs, Cli, Flag};
use super::clients::ClientsConfig;
use super::environment::{Build, Environment};
use super::error::ConfigError;
use super::group::{self, GroupInputs, GroupPlace, HeadPlace};
use super::hub;
use super::logging::{self, LogConfig};
use super::node::{self, NodeAddresses};
use super::serving::ServingConfig;
use super::settings::Settings;
use super::size_flags;
use super::values::Setting;
use super::{
    CommonConfig, Config, Foreground, HeadConfig, ListConfig, MAX_THREADS, ModelConfig, ModelSource, OwnRanks,
    RingSetup, Role,
};
use super::{bench, chat, devices};

/// Log filter beside a conversation that shows the placement of the layers.
const PLACEMENT_FILTER: &str = "warn,lockstep_agent::node::rank=info";
/// Longest name of a model or of a group, in bytes.
const MAX_NAME: usize = 256;

/// Turns a command line and the variables into a configuration. The only file it reads is that of `RING_CONFIG`.
///
/// # Errors
/// The first broken rule.
pub fn resolve(cli: &Cli, variables: &Environment, build: &Build) -> Result<Config, ConfigError> {
    let variables = &size_flags::apply(&cli.options, variables)?;
    let settings = Settings { options: &cli.options, variables };
    let common = settings.common(build)?;
    let build = &Build { visible_devices: common.devices.visible, ..*build };
    let group_host = settings.setting(&cli.options.group_host, args::GROUP_HOST)?.map(|ip| ip.ip()).transpose()?;
    let own_ranks = settings.own_ranks()?;
    let addresses = settings.node_addresses()?;
    let mut warnings = unknown_variables(variables);
    let role = match &cli.command {
        AgentCommand::Node(node) => Role::Node(Box::new(node::from_arguments(node, addresses, common)?)),
        AgentCommand::Plain(plain) | AgentCommand::Bench(BenchArgs { plain, .. }) if plain.list_files => {
            let (_, source) = settings.source(&plain.model)?;
            Role::List(Box::new(ListConfig { source, hub: common.hub }))
        }
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
        Role::List(_) => {}
    }
    // Log lines would disturb a conversation or a report in the same terminal.
    let is_quiet = match &role {
        Role::Head(head) => head.foreground.is_some(),
        Role::List(_) => true,
        Role::Node(_) => false,
    };
    let log = settings.log(match is_quiet {
        true if settings.logs_placement()? => PLACEMENT_FILTER,
        true => "warn",
        false => "info",
    })?;
    Ok(Config { role, log, warnings })
}

impl Settings<'_> {
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
        let serving = ServingConfig::resolve(self, group.build)?;
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
            clients: ClientsConfig::resolve(self)?,
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

    /// Returns the source as the user gave it, and its meaning.
    fn source(&self, source: &Option<String>) -> Result<(Setting, ModelSource), ConfigError> {
        let Some(source) = self.setting(source, args::MODEL)? else {
            return Err(ConfigError::missing(
                "--model",
                format!(
                    "give -m SOURCE or set {}; SOURCE is a folder, a GGUF file, org/name on the hub, or builtin://tiny",
                    env::MODEL_SOURCE
                ),
            ));
        };
        let revision = self.setting(&self.options.revision, args::REVISION)?;
        let parsed = ModelSource::from_settings(&source, revision.as_ref())?;
        Ok((source, parsed))
    }

    fn model(&self, source: &Option<String>) -> Result<ModelConfig, ConfigError> {
        let (source, parsed) = self.source(source)?;
        let names = self.setting(&self.options.name, args::NAME)?.map(|names| names.words(MAX_NAME)).transpose()?;
        let mut names = names.unwrap_or_default().into_iter();
        let name = names.next().or_else(|| parsed.name()).ok_or_else(|| {
            source.invalid("the source has no last part to name the model by; give --served-model-name")
        })?;
        let chat_template = self.setting(&self.options.chat_template, args::CHAT_TEMPLATE)?;
        let dtypes = DType::ALL.iter().map(|dtype| (dtype.as_str(), *dtype)).collect::<Vec<_>>();
        let dtype = self.setting(&self.options.dtype, args::DTYPE)?.map(|dtype| dtype.choice(&dtypes)).transpose()?;
        let quantization = self.setting(&self.options.isq, args::ISQ)?;
        let quantization =
            quantization.map(|isq| isq.value.parse().map_err(|error: UnknownChoice| isq.invalid(error.to_string())));
        let quantization = quantization.transpose()?.unwrap_or_default();
        Ok(ModelConfig {
            source: parsed,
            name,
            other_names: names.collect(),
            chat_template: chat_template.map(|file| PathBuf::from(file.value)),
            dtype: dtype.unwrap_or_default(),
            quantization,
        })
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
