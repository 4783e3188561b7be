//! The place of this process in its group, from the environment alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lockstep_proto::names::{env, port};

use super::environment::{Build, Environment};
use super::error::ConfigError;
use super::node::NodeAddresses;
use super::ring::{self, RingPlace};
use super::values::{HostPort, Setting};
use super::{
    CommonConfig, ControlAddress, MAX_LOCAL_WORLD_SIZE, MAX_STAGES, MAX_WORLD_SIZE, NodeConfig, RingSetup, Topology,
};

/// Variables that only the head of a multi-node group reads.
const HEAD_VARIABLES: &[&str] = &[env::HEAD_NUM_WORKERS, env::HEAD_PORT];
/// Variables that only a worker reads.
const WORKER_VARIABLES: &[&str] = &[env::WORKER_ID, env::WORKER_SERVER_ADDR, env::WORKER_SERVER_ADDR_ALIAS];
/// Variables that the head and the workers read.
const SHARED_VARIABLES: &[&str] = &[env::GLOBAL_WORLD_SIZE, env::LOCAL_WORLD_SIZE];

/// Place of this process in its group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum GroupPlace {
    Head(HeadPlace),
    Node(Box<NodeConfig>),
}

/// Addresses and size of the group that a head leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HeadPlace {
    pub topology: Topology,
    pub control: SocketAddr,
    pub ring: RingSetup,
}

/// Settings that decide the place of this process.
pub(super) struct GroupInputs<'a> {
    pub variables: &'a Environment,
    pub build: &'a Build,
    /// Address that the group's own ports listen on, if it is set.
    pub group_host: Option<IpAddr>,
    /// True if a process beside the head runs the head's own ranks.
    pub separate: bool,
    /// Probe address and advertised host, if this process is a node.
    pub addresses: &'a NodeAddresses,
    pub common: &'a CommonConfig,
}

/// Finds the place of this process, and adds a warning for each setting without effect.
///
/// # Errors
/// The environment breaks a rule.
pub(super) fn find_place(inputs: &GroupInputs<'_>, warnings: &mut Vec<String>) -> Result<GroupPlace, ConfigError> {
    let variables = inputs.variables;
    let ring = first_ring_variable(variables);
    let multi_node = first_set_variable(variables, &[HEAD_VARIABLES, WORKER_VARIABLES, SHARED_VARIABLES]);
    if let (Some(ring), Some(multi_node)) = (ring, multi_node) {
        return Err(conflict(
            ring,
            multi_node,
            "describe the group by RING_* or by MISTRALRS_MN_*, not by both; unset one of the two",
        ));
    }
    let one_rank = gives_devices_to_one_rank(inputs, multi_node, warnings)?;
    let place = match ring::find_ring(variables)? {
        Some(ring_place) => place_in_ring(ring_place, inputs, warnings)?,
        None => place_among_nodes(inputs, one_rank, warnings)?,
    };
    check_build(&place, inputs.build, ring.is_some())?;
    if let GroupPlace::Head(head) = &place
        && inputs.separate
    {
        check_separate_ranks(head)?;
    }
    Ok(place)
}

/// Refuses separate ranks if they could not find their head.
fn check_separate_ranks(head: &HeadPlace) -> Result<(), ConfigError> {
    let separate = format!("{}=separate", env::HEAD_NODE);
    if matches!(head.ring, RingSetup::Ring { .. }) {
        return Err(ConfigError::contradiction(
            separate,
            "RING_* describes the group as a ring",
            "describe it by MISTRALRS_MN_*, or let the head start its rank",
        ));
    }
    match head.control.port() {
        0 => Err(ConfigError::contradiction(
            separate,
            "the control port is a free one, so the ranks cannot know it",
            format!("set the port by {} or {}", env::HEAD_PORT, env::CONTROL_PORT),
        )),
        _ => Ok(()),
    }
}

fn first_ring_variable(variables: &Environment) -> Option<&'static str> {
    first_set_variable(variables, &[&[env::RING_CONFIG], ring::VARIABLES])
}

/// Returns the first variable that is set and that describes a group of several nodes.
pub(super) fn first_variable_of_several_nodes(variables: &Environment) -> Option<&'static str> {
    let multi_node = || first_set_variable(variables, &[HEAD_VARIABLES, WORKER_VARIABLES, &[env::GLOBAL_WORLD_SIZE]]);
    first_ring_variable(variables).or_else(multi_node)
}

fn first_set_variable(variables: &Environment, groups: &[&[&'static str]]) -> Option<&'static str> {
    groups.iter().copied().flatten().copied().find(|name| variables.is_set(name))
}

fn conflict(first: &str, second: &str, remedy: &'static str) -> ConfigError {
    ConfigError::Conflict { first: first.into(), second: second.into(), remedy }
}

/// Returns the number of pipeline stages that is set. All stages must have the same number of ranks. Either a stage takes
/// whole nodes, or a node holds whole stages: a tensor-parallel group with a part of another node would wait for the
/// slower link in every layer.
fn pipeline_stages(variables: &Environment, world_size: Option<u32>, local: u32) -> Result<Option<u32>, ConfigError> {
    let Some(setting) = variables.setting(env::PIPELINE_PARALLEL)? else { return Ok(None) };
    let stages = setting.integer(1..=MAX_STAGES)?;
    let Some(world_size) = world_size else { return Ok(Some(stages)) };
    if !world_size.is_multiple_of(stages) {
        return Err(setting.invalid(format!(
            "the group has {world_size} ranks, and they do not make {stages} equal stages; change the number of stages or \
             of ranks ({} sets the ranks of each node)",
            env::LOCAL_WORLD_SIZE
        )));
    }
    let size = world_size / stages;
    match size.is_multiple_of(local) || local.is_multiple_of(size) {
        true => Ok(Some(stages)),
        false => Err(setting.invalid(format!(
            "{world_size} ranks / {stages} stages = {size} ranks in a stage, and nodes have {local} each, so a stage would \
             share a node with a part of another stage; give a number of stages for which {local} is a multiple or a \
             divisor of a stage's ranks"
        ))),
    }
}

/// Returns true if `MISTRALRS_NO_NCCL` gives all devices of this machine to one rank.
fn gives_devices_to_one_rank(
    inputs: &GroupInputs<'_>,
    multi_node: Option<&'static str>,
    warnings: &mut Vec<String>,
) -> Result<bool, ConfigError> {
    if !inputs.variables.switch(env::NO_NCCL)? {
        return Ok(false);
    }
    if inputs.build.visible_devices == 0 {
        warnings.push(format!(
            "{}=1 changes nothing: this build sees no GPU and places all layers on the CPU",
            env::NO_NCCL
        ));
        return Ok(false);
    }
    match multi_node {
        Some(other) => Err(conflict(
            env::NO_NCCL,
            other,
            "without NCCL the local CUDA devices make one rank, and it is the whole group; unset one of the two",
        )),
        None => Ok(true),
    }
}

/// Refuses a group if this build cannot connect its ranks.
fn check_build(place: &GroupPlace, build: &Build, is_ring: bool) -> Result<(), ConfigError> {
    let is_alone = match place {
        GroupPlace::Head(head) => head.topology.world_size == 1,
        GroupPlace::Node(_) => false,
    };
    if is_alone {
        return Ok(());
    }
    if build.visible_devices == 0 || is_ring || build.nccl {
        return Ok(());
    }
    Err(ConfigError::NotBuilt {
        what: format!("the cargo feature `nccl`, needed for {} CUDA devices,", build.visible_devices),
        remedy: format!("build with `--features nccl`, or set {}=1 for one rank", env::NO_NCCL),
    })
}

/// Returns the place of a rank of a ring: rank 0 is the head with one rank, any other rank is a node.
fn place_in_ring(
    place: RingPlace,
    inputs: &GroupInputs<'_>,
    warnings: &mut Vec<String>,
) -> Result<GroupPlace, ConfigError> {
    let variables = inputs.variables;
    if variables.is_set(env::LOCKSTEP_RING_PORT) {
        let name = first_ring_variable(variables).unwrap_or(env::RING_PORT);
        return Err(conflict(
            env::LOCKSTEP_RING_PORT,
            name,
            "a ring takes its port from RING_PORT or RING_CONFIG; unset LOCKSTEP_RING_PORT",
        ));
    }
    let control_port = variables.setting(env::CONTROL_PORT)?;
    let port = control_port.as_ref().map(|setting| setting.port(true)).transpose()?;
    if let (Some(setting), Some(master)) = (&control_port, place.master_port)
        && port != Some(master)
    {
        return Err(setting.invalid(format!("`master_port` in {} is {master}; unset one of the two", env::RING_CONFIG)));
    }
    let host = inputs.group_host.unwrap_or(if place.right.is_loopback() { loopback_of(&place.right) } else { ANY });
    let ring = RingSetup::Ring {
        listen: SocketAddr::new(host, place.port),
        right: place.right,
        rank: place.rank,
        world_size: place.world_size,
    };
    let world_size = place.world_size;
    let stages = pipeline_stages(variables, Some(world_size), 1)?;
    if place.rank == 0 {
        let control = SocketAddr::new(host, place.master_port.or(port).unwrap_or(0));
        let pipeline = stages.unwrap_or(1);
        let topology = Topology { world_size, local_world_size: 1, num_workers: world_size - 1, pipeline };
        return Ok(GroupPlace::Head(HeadPlace { topology, control, ring }));
    }
    if control_port.is_some() && place.master_port.is_none() {
        warnings.push(format!("{} has no effect here: only rank 0 reads it", env::CONTROL_PORT));
    }
    let master = place.master_host.zip(place.master_port).map(|(host, port)| HostPort { host, port });
    let control = ControlAddress::FromRing { master };
    let node = NodeSize { ordinal: place.rank, local_world_size: 1, world_size: Some(world_size), pipeline: stages };
    Ok(GroupPlace::Node(Box::new(node_config(inputs, node, control, ring))))
}

const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn loopback_of(right: &HostPort) -> IpAddr {
    match right.host.parse() {
        Ok(IpAddr::V6(_)) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        _ => LOOPBACK,
    }
}

/// Returns the place of a single node, of a multi-node group's head or of one of its workers.
fn place_among_nodes(
    inputs: &GroupInputs<'_>,
    one_rank: bool,
    warnings: &mut Vec<String>,
) -> Result<GroupPlace, ConfigError> {
    let variables = inputs.variables;
    let head = first_set_variable(variables, &[HEAD_VARIABLES]);
    let worker = first_set_variable(variables, &[WORKER_VARIABLES]);
    if let (Some(head), Some(worker)) = (head, worker) {
        return Err(conflict(
            head,
            worker,
            "the first makes this node the head, the second makes it a worker; unset one of the two",
        ));
    }
    let local = local_world_size(inputs, one_rank)?;
    let global = SizeSetting::from_variable(variables, env::GLOBAL_WORLD_SIZE)?;
    if let Some(global) = &global
        && !global.size.is_multiple_of(local)
    {
        return Err(ConfigError::contradiction(
            global.to_string(),
            format!("each node has {local} ranks, and {} is no multiple of {local}", global.size),
            format!("correct one of the two; {} sets the ranks of each node", env::LOCAL_WORLD_SIZE),
        ));
    }
    match (head, worker) {
        (_, Some(_)) => place_of_worker(inputs, local, global),
        (Some(_), None) => place_of_head(inputs, local, global),
        (None, None) => place_of_single_node(inputs, local, global),
    }
    .inspect(|place| warn_of_unused_control_port(variables, place, warnings))
}

/// A world size, and the variable that gives it.
struct SizeSetting {
    name: &'static str,
    size: u32,
}

impl SizeSetting {
    fn from_variable(variables: &Environment, name: &'static str) -> Result<Option<Self>, ConfigError> {
        let setting = variables.setting(name)?;
        setting.map(|setting| Ok(Self { name, size: setting.integer(1..=MAX_WORLD_SIZE)? })).transpose()
    }
}

impl std::fmt::Display for SizeSetting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.name, self.size)
    }
}

fn local_world_size(inputs: &GroupInputs<'_>, one_rank: bool) -> Result<u32, ConfigError> {
    let devices = u32::try_from(inputs.build.visible_devices).unwrap_or(u32::MAX);
    let Some(setting) = inputs.variables.setting(env::LOCAL_WORLD_SIZE)? else {
        return Ok(if one_rank { 1 } else { devices.clamp(1, MAX_LOCAL_WORLD_SIZE) });
    };
    let local = setting.integer(1..=MAX_LOCAL_WORLD_SIZE)?;
    if devices > 0 && local > devices {
        return Err(setting.invalid(format!(
            "each rank needs a CUDA device, and {devices} are visible here; give at most {devices}"
        )));
    }
    Ok(local)
}

fn warn_of_unused_control_port(variables: &Environment, place: &GroupPlace, warnings: &mut Vec<String>) {
    let is_read = matches!(place, GroupPlace::Head(head) if head.topology.num_workers == 0);
    if variables.is_set(env::CONTROL_PORT) && !is_read {
        warnings.push(format!("{} has no effect here: {} sets the head's port", env::CONTROL_PORT, env::HEAD_PORT));
    }
}

fn place_of_single_node(
    inputs: &GroupInputs<'_>,
    local: u32,
    global: Option<SizeSetting>,
) -> Result<GroupPlace, ConfigError> {
    if let Some(global) = global.filter(|global| global.size != local) {
        return Err(ConfigError::contradiction(
            global.to_string(),
            format!("this node has {local} ranks, and no variable names another node"),
            format!("set {} on the head, {} on a worker", env::HEAD_NUM_WORKERS, env::WORKER_ID),
        ));
    }
    let port = inputs.variables.setting(env::CONTROL_PORT)?.map(|setting| setting.port(true)).transpose()?;
    let pipeline = pipeline_stages(inputs.variables, Some(local), local)?.unwrap_or(1);
    let topology = Topology { world_size: local, local_world_size: local, num_workers: 0, pipeline };
    let host = inputs.group_host.unwrap_or(LOOPBACK);
    let control = SocketAddr::new(host, port.unwrap_or(0));
    let ring = auto_ring(inputs.variables, host, 0, local)?;
    Ok(GroupPlace::Head(HeadPlace { topology, control, ring }))
}

fn place_of_head(inputs: &GroupInputs<'_>, local: u32, global: Option<SizeSetting>) -> Result<GroupPlace, ConfigError> {
    let variables = inputs.variables;
    let Some(workers) = variables.setting(env::HEAD_NUM_WORKERS)? else {
        return Err(ConfigError::missing(
            env::HEAD_NUM_WORKERS,
            format!("{} makes this node the head; give the number of worker nodes that it waits for", env::HEAD_PORT),
        ));
    };
    let num_workers = workers.integer(0..=MAX_WORLD_SIZE - 1)?;
    let product = (u64::from(num_workers) + 1) * u64::from(local);
    let arithmetic = format!("(1 + {num_workers} workers) × {local} = {product}");
    if let Some(global) = global.filter(|global| u64::from(global.size) != product) {
        let needed = global.size / local - 1;
        return Err(ConfigError::contradiction(
            global.to_string(),
            format!("{}={num_workers} and {local} ranks on each node make {arithmetic}", env::HEAD_NUM_WORKERS),
            format!(
                "{global} needs {} / {local} - 1 = {needed} workers; correct one of them or {}",
                global.size,
                env::LOCAL_WORLD_SIZE
            ),
        ));
    }
    let world_size = u32::try_from(product).ok().filter(|size| *size <= MAX_WORLD_SIZE);
    let world_size = world_size.ok_or_else(|| {
        workers.invalid(format!("{arithmetic} ranks; give fewer, a group has at most {MAX_WORLD_SIZE}"))
    })?;
    let port =
        variables.setting(env::HEAD_PORT)?.map(|setting| setting.port(true)).transpose()?.unwrap_or(port::CONTROL);
    let alone = num_workers == 0 && !inputs.separate;
    let host = inputs.group_host.unwrap_or(if alone { LOOPBACK } else { ANY });
    let pipeline = pipeline_stages(variables, Some(world_size), local)?.unwrap_or(1);
    let topology = Topology { world_size, local_world_size: local, num_workers, pipeline };
    let ring = auto_ring(variables, host, port::RING, local)?;
    Ok(GroupPlace::Head(HeadPlace { topology, control: SocketAddr::new(host, port), ring }))
}

fn place_of_worker(
    inputs: &GroupInputs<'_>,
    local: u32,
    global: Option<SizeSetting>,
) -> Result<GroupPlace, ConfigError> {
    let variables = inputs.variables;
    let Some(id) = variables.setting(env::WORKER_ID)? else {
        return Err(ConfigError::missing(env::WORKER_ID, "give each worker node a number of its own, from 0"));
    };
    let number = id.integer(0..=MAX_WORLD_SIZE - 2)?;
    if let Some(global) = &global {
        let workers = (global.size / local).saturating_sub(1);
        if number >= workers {
            return Err(id.invalid(format!(
                "{global} and {local} ranks on each node make {} / {local} - 1 = {workers} workers, with ids below {workers}",
                global.size
            )));
        }
    }
    let address = server_address(variables)?.host_port(None)?;
    let host = inputs.group_host.unwrap_or(ANY);
    let world_size = global.map(|global| global.size);
    let pipeline = pipeline_stages(variables, world_size, local)?;
    let ring = auto_ring(variables, host, port::RING, local)?;
    let node = NodeSize { ordinal: number + 1, local_world_size: local, world_size, pipeline };
    Ok(GroupPlace::Node(Box::new(node_config(inputs, node, ControlAddress::Known(address), ring))))
}

/// Numbers that place a node's ranks in the group.
struct NodeSize {
    ordinal: u32,
    local_world_size: u32,
    world_size: Option<u32>,
    pipeline: Option<u32>,
}

fn node_config(inputs: &GroupInputs<'_>, size: NodeSize, control: ControlAddress, ring: RingSetup) -> NodeConfig {
    let NodeSize { ordinal, local_world_size, world_size, pipeline } = size;
    let NodeAddresses { probes, advertise } = inputs.addresses.clone();
    let common = inputs.common.clone();
    NodeConfig { ordinal, local_world_size, world_size, pipeline, control, ring, probes, advertise, common }
}

/// Returns the head's address, from the variable or its alias.
fn server_address(variables: &Environment) -> Result<Setting, ConfigError> {
    match (variables.setting(env::WORKER_SERVER_ADDR)?, variables.setting(env::WORKER_SERVER_ADDR_ALIAS)?) {
        (Some(name), Some(alias)) if name.value != alias.value => Err(ConfigError::contradiction(
            format!("{}={}", name.name, name.value),
            format!("its alias {}={}", alias.name, alias.value),
            "unset one of the two",
        )),
        (Some(address), _) | (None, Some(address)) => Ok(address),
        (None, None) => Err(ConfigError::missing(
            env::WORKER_SERVER_ADDR,
            format!("{} makes this node a worker; give the head's `host:port`", env::WORKER_ID),
        )),
    }
}

/// Returns the ring ports of a node. The head passes their addresses on to the other nodes.
fn auto_ring(variables: &Environment, host: IpAddr, default: u16, local: u32) -> Result<RingSetup, ConfigError> {
    let setting = variables.setting(env::LOCKSTEP_RING_PORT)?;
    let port = setting.as_ref().map(|setting| setting.port(true)).transpose()?.unwrap_or(default);
    let last = u32::from(port) + local - 1;
    let or_free = setting.is_none() && port > 0;
    if let Some(setting) = setting.filter(|_| port > 0 && last > u32::from(u16::MAX)) {
        return Err(setting.invalid(format!("{local} ranks take the ports from this one to {last}; give a lower one")));
    }
    Ok(RingSetup::Auto { listen: SocketAddr::new(host, port), or_free })
}
