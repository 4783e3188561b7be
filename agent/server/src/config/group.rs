//! Which part of which group this process is, from the environment alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lockstep_proto::names::{env, port};

use super::environment::{Build, Environment};
use super::error::ConfigError;
use super::ring::{self, RingPlace};
use super::values::{HostPort, Setting};
use super::{ControlAddress, MAX_LOCAL_WORLD_SIZE, MAX_STAGES, MAX_WORLD_SIZE, RingSetup, Topology};

/// Variables that only the head of a multi-node group reads.
const OF_HEAD: &[&str] = &[env::HEAD_NUM_WORKERS, env::HEAD_PORT];
/// Variables that only a worker reads.
const OF_WORKER: &[&str] = &[env::WORKER_ID, env::WORKER_SERVER_ADDR, env::WORKER_SERVER_ADDR_ALIAS];
/// Variables that both read.
const OF_BOTH: &[&str] = &[env::GLOBAL_WORLD_SIZE, env::LOCAL_WORLD_SIZE];

/// This process's part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Head(HeadPart),
    Node(NodePart),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HeadPart {
    pub topology: Topology,
    pub control: SocketAddr,
    pub ring: RingSetup,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NodePart {
    pub ordinal: u32,
    pub local_world_size: u32,
    pub world_size: Option<u32>,
    /// Pipeline stages, as far as the node was told.
    pub pipeline: Option<u32>,
    pub control: ControlAddress,
    pub ring: RingSetup,
}

/// What the parts are found from.
pub(super) struct Surroundings<'a> {
    pub variables: &'a Environment,
    pub build: &'a Build,
    /// Where the group's own ports listen, if that was said.
    pub group_host: Option<IpAddr>,
    /// The ranks of the head, if this is one, dial in from a process of their own.
    pub separate: bool,
}

/// Finds this process's part, and adds what was said in vain to `warnings`.
///
/// # Errors
/// Any rule of the environment that is broken.
pub(super) fn part(around: &Surroundings<'_>, warnings: &mut Vec<String>) -> Result<Part, ConfigError> {
    let variables = around.variables;
    let ring = ring_said(variables);
    let multi_node = first_set(variables, &[OF_HEAD, OF_WORKER, OF_BOTH]);
    if let (Some(ring), Some(multi_node)) = (ring, multi_node) {
        return Err(conflict(ring, multi_node, "a group is told by RING_* or by MISTRALRS_MN_*; unset one of the two"));
    }
    let one_rank = no_nccl(around, multi_node, warnings)?;
    let part = match ring::place(variables)? {
        Some(place) => of_ring(place, around, warnings)?,
        None => of_nodes(around, one_rank, warnings)?,
    };
    buildable(&part, around.build, ring.is_some())?;
    if let Part::Head(head) = &part
        && around.separate
    {
        separable(head)?;
    }
    Ok(part)
}

/// Refuses separate ranks of a head that they could not find.
fn separable(head: &HeadPart) -> Result<(), ConfigError> {
    let separate = format!("{}=separate", env::HEAD_NODE);
    if matches!(head.ring, RingSetup::Ring { .. }) {
        return Err(ConfigError::contradiction(
            separate,
            "the group is told as a ring",
            "tell it by MISTRALRS_MN_*, or let the head start its rank",
        ));
    }
    match head.control.port() {
        0 => Err(ConfigError::contradiction(
            separate,
            "the control port is a free one, which the ranks cannot know",
            format!("give it with {} or {}", env::HEAD_PORT, env::CONTROL_PORT),
        )),
        _ => Ok(()),
    }
}

fn ring_said(variables: &Environment) -> Option<&'static str> {
    first_set(variables, &[&[env::RING_CONFIG], ring::VARIABLES])
}

fn first_set(variables: &Environment, groups: &[&[&'static str]]) -> Option<&'static str> {
    groups.iter().copied().flatten().copied().find(|name| variables.is_set(name))
}

fn conflict(first: &str, second: &str, remedy: &'static str) -> ConfigError {
    ConfigError::Conflict { first: first.into(), second: second.into(), remedy }
}

/// The pipeline stages that were asked for. Each must have as many ranks as the others, and either take whole nodes or
/// share one with whole stages: a tensor-parallel group that has some ranks of one node and fewer of the next would wait
/// for the slower link in every layer.
fn pipeline(variables: &Environment, world_size: Option<u32>, local: u32) -> Result<Option<u32>, ConfigError> {
    let Some(setting) = variables.get(env::PIPELINE_PARALLEL)? else { return Ok(None) };
    let stages = setting.integer(1..=MAX_STAGES)?;
    let Some(world_size) = world_size else { return Ok(Some(stages)) };
    if !world_size.is_multiple_of(stages) {
        return Err(setting.invalid(format!(
            "the group has {world_size} ranks, which do not make {stages} equal stages; change it, or the number of ranks \
             ({} for those of each node)",
            env::LOCAL_WORLD_SIZE
        )));
    }
    let size = world_size / stages;
    match size.is_multiple_of(local) || local.is_multiple_of(size) {
        true => Ok(Some(stages)),
        false => Err(setting.invalid(format!(
            "{world_size} ranks / {stages} stages = {size} ranks in a stage, and nodes have {local} each: a stage would \
             have parts of nodes; give a number of stages that makes {local} a multiple or a divisor of a stage's ranks"
        ))),
    }
}

/// Whether `MISTRALRS_NO_NCCL` makes this machine's devices one rank.
fn no_nccl(
    around: &Surroundings<'_>,
    multi_node: Option<&'static str>,
    warnings: &mut Vec<String>,
) -> Result<bool, ConfigError> {
    if !around.variables.switch(env::NO_NCCL)? {
        return Ok(false);
    }
    if around.build.visible_devices == 0 {
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
            "without NCCL the local CUDA devices are one rank of a group of one; unset one of the two",
        )),
        None => Ok(true),
    }
}

/// Refuses a group whose ranks this build cannot connect.
fn buildable(part: &Part, build: &Build, told_as_ring: bool) -> Result<(), ConfigError> {
    let alone = match part {
        Part::Head(head) => head.topology.world_size == 1,
        Part::Node(_) => false,
    };
    if alone {
        return Ok(());
    }
    if build.visible_devices == 0 || told_as_ring || build.nccl {
        return Ok(());
    }
    Err(ConfigError::NotBuilt {
        what: format!("the cargo feature `nccl`, which {} CUDA devices need", build.visible_devices),
        remedy: format!("build with `--features nccl`, or set {}=1 for one rank", env::NO_NCCL),
    })
}

/// A rank of a ring: rank 0 is the head and its one rank, any other a node.
fn of_ring(place: RingPlace, around: &Surroundings<'_>, warnings: &mut Vec<String>) -> Result<Part, ConfigError> {
    let variables = around.variables;
    if variables.is_set(env::LOCKSTEP_RING_PORT) {
        let said = ring_said(variables).unwrap_or(env::RING_PORT);
        return Err(conflict(env::LOCKSTEP_RING_PORT, said, "a ring's own port is RING_PORT; unset the other"));
    }
    let control_port = variables.get(env::CONTROL_PORT)?;
    let port = control_port.as_ref().map(|setting| setting.port(true)).transpose()?;
    if let (Some(setting), Some(master)) = (&control_port, place.master_port)
        && port != Some(master)
    {
        return Err(setting.invalid(format!("`master_port` in {} is {master}; unset one of the two", env::RING_CONFIG)));
    }
    let host = around.group_host.unwrap_or(if place.right.is_loopback() { loopback_of(&place.right) } else { ANY });
    let ring = RingSetup::Ring {
        listen: SocketAddr::new(host, place.port),
        right: place.right,
        rank: place.rank,
        world_size: place.world_size,
    };
    let world_size = place.world_size;
    let stages = pipeline(variables, Some(world_size), 1)?;
    if place.rank == 0 {
        let control = SocketAddr::new(host, place.master_port.or(port).unwrap_or(0));
        let pipeline = stages.unwrap_or(1);
        let topology = Topology { world_size, local_world_size: 1, num_workers: world_size - 1, pipeline };
        return Ok(Part::Head(HeadPart { topology, control, ring }));
    }
    if control_port.is_some() && place.master_port.is_none() {
        warnings.push(format!("{} changes nothing here: only rank 0 reads it", env::CONTROL_PORT));
    }
    let master = place.master_host.zip(place.master_port).map(|(host, port)| HostPort { host, port });
    let control = ControlAddress::FromRing { master };
    let (ordinal, world_size) = (place.rank, Some(world_size));
    Ok(Part::Node(NodePart { ordinal, local_world_size: 1, world_size, pipeline: stages, control, ring }))
}

const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn loopback_of(right: &HostPort) -> IpAddr {
    match right.host.parse() {
        Ok(IpAddr::V6(_)) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        _ => LOOPBACK,
    }
}

/// One node, a multi-node group's head or one of its workers.
fn of_nodes(around: &Surroundings<'_>, one_rank: bool, warnings: &mut Vec<String>) -> Result<Part, ConfigError> {
    let variables = around.variables;
    let head = first_set(variables, &[OF_HEAD]);
    let worker = first_set(variables, &[OF_WORKER]);
    if let (Some(head), Some(worker)) = (head, worker) {
        return Err(conflict(head, worker, "the first is the head's, the second a worker's; unset one"));
    }
    let local = local_world_size(around, one_rank)?;
    let global = Sized::of(variables, env::GLOBAL_WORLD_SIZE)?;
    if let Some(global) = &global
        && !global.size.is_multiple_of(local)
    {
        return Err(ConfigError::contradiction(
            global.to_string(),
            format!("each node has {local} ranks, and {} is no multiple of {local}", global.size),
            format!("correct it or {}", env::LOCAL_WORLD_SIZE),
        ));
    }
    match (head, worker) {
        (_, Some(_)) => worker_part(around, local, global),
        (Some(_), None) => head_part(around, local, global),
        (None, None) => single_part(around, local, global),
    }
    .inspect(|part| control_port_in_vain(variables, part, warnings))
}

/// A size with the variable that said it.
struct Sized {
    name: &'static str,
    size: u32,
}

impl Sized {
    fn of(variables: &Environment, name: &'static str) -> Result<Option<Self>, ConfigError> {
        let setting = variables.get(name)?;
        setting.map(|setting| Ok(Self { name, size: setting.integer(1..=MAX_WORLD_SIZE)? })).transpose()
    }
}

impl std::fmt::Display for Sized {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.name, self.size)
    }
}

fn local_world_size(around: &Surroundings<'_>, one_rank: bool) -> Result<u32, ConfigError> {
    let devices = u32::try_from(around.build.visible_devices).unwrap_or(u32::MAX);
    let Some(setting) = around.variables.get(env::LOCAL_WORLD_SIZE)? else {
        return Ok(if one_rank { 1 } else { devices.clamp(1, MAX_LOCAL_WORLD_SIZE) });
    };
    let local = setting.integer(1..=MAX_LOCAL_WORLD_SIZE)?;
    if devices > 0 && local > devices {
        return Err(setting.invalid(format!("each rank needs a CUDA device, and {devices} are visible here")));
    }
    Ok(local)
}

fn control_port_in_vain(variables: &Environment, part: &Part, warnings: &mut Vec<String>) {
    let read = matches!(part, Part::Head(head) if head.topology.num_workers == 0);
    if variables.is_set(env::CONTROL_PORT) && !read {
        warnings.push(format!("{} changes nothing here: the head's port is {}", env::CONTROL_PORT, env::HEAD_PORT));
    }
}

fn single_part(around: &Surroundings<'_>, local: u32, global: Option<Sized>) -> Result<Part, ConfigError> {
    if let Some(global) = global.filter(|global| global.size != local) {
        return Err(ConfigError::contradiction(
            global.to_string(),
            format!("this node has {local} and is told of no other"),
            format!("set {} on the head, {} on a worker", env::HEAD_NUM_WORKERS, env::WORKER_ID),
        ));
    }
    let port = around.variables.get(env::CONTROL_PORT)?.map(|setting| setting.port(true)).transpose()?;
    let pipeline = pipeline(around.variables, Some(local), local)?.unwrap_or(1);
    let topology = Topology { world_size: local, local_world_size: local, num_workers: 0, pipeline };
    let host = around.group_host.unwrap_or(LOOPBACK);
    let control = SocketAddr::new(host, port.unwrap_or(0));
    let ring = auto_ring(around.variables, host, 0, local)?;
    Ok(Part::Head(HeadPart { topology, control, ring }))
}

fn head_part(around: &Surroundings<'_>, local: u32, global: Option<Sized>) -> Result<Part, ConfigError> {
    let variables = around.variables;
    let Some(workers) = variables.get(env::HEAD_NUM_WORKERS)? else {
        return Err(ConfigError::missing(
            env::HEAD_NUM_WORKERS,
            format!("{} makes this the head; say how many worker nodes it waits for", env::HEAD_PORT),
        ));
    };
    let num_workers = workers.integer(0..=MAX_WORLD_SIZE - 1)?;
    let product = (u64::from(num_workers) + 1) * u64::from(local);
    let arithmetic = format!("(1 + {num_workers} workers) × {local} = {product}");
    if let Some(global) = global.filter(|global| u64::from(global.size) != product) {
        let needed = global.size / local - 1;
        return Err(ConfigError::contradiction(
            global.to_string(),
            format!("{}={num_workers} and {} ranks on each node make {arithmetic}", env::HEAD_NUM_WORKERS, local),
            format!(
                "{global} needs {} / {local} - 1 = {needed} workers; correct one of them or {}",
                global.size,
                env::LOCAL_WORLD_SIZE
            ),
        ));
    }
    let world_size = u32::try_from(product).ok().filter(|size| *size <= MAX_WORLD_SIZE);
    let world_size = world_size
        .ok_or_else(|| workers.invalid(format!("{arithmetic} ranks; a group has at most {MAX_WORLD_SIZE}")))?;
    let port = variables.get(env::HEAD_PORT)?.map(|setting| setting.port(true)).transpose()?.unwrap_or(port::CONTROL);
    let alone = num_workers == 0 && !around.separate;
    let host = around.group_host.unwrap_or(if alone { LOOPBACK } else { ANY });
    let pipeline = pipeline(variables, Some(world_size), local)?.unwrap_or(1);
    let topology = Topology { world_size, local_world_size: local, num_workers, pipeline };
    let ring = auto_ring(variables, host, port::RING, local)?;
    Ok(Part::Head(HeadPart { topology, control: SocketAddr::new(host, port), ring }))
}

fn worker_part(around: &Surroundings<'_>, local: u32, global: Option<Sized>) -> Result<Part, ConfigError> {
    let variables = around.variables;
    let Some(id) = variables.get(env::WORKER_ID)? else {
        return Err(ConfigError::missing(env::WORKER_ID, "give each worker node its own, from 0"));
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
    let host = around.group_host.unwrap_or(ANY);
    let world_size = global.map(|global| global.size);
    Ok(Part::Node(NodePart {
        ordinal: number + 1,
        local_world_size: local,
        world_size,
        pipeline: pipeline(variables, world_size, local)?,
        control: ControlAddress::Known(address),
        ring: auto_ring(variables, host, port::RING, local)?,
    }))
}

/// The head's address, by its name or its alias.
fn server_address(variables: &Environment) -> Result<Setting, ConfigError> {
    match (variables.get(env::WORKER_SERVER_ADDR)?, variables.get(env::WORKER_SERVER_ADDR_ALIAS)?) {
        (Some(name), Some(alias)) if name.value != alias.value => Err(ConfigError::contradiction(
            format!("{}={}", name.name, name.value),
            format!("its alias {}={}", alias.name, alias.value),
            "unset one of the two",
        )),
        (Some(address), _) | (None, Some(address)) => Ok(address),
        (None, None) => Err(ConfigError::missing(
            env::WORKER_SERVER_ADDR,
            format!("{} makes this a worker; give the head's `host:port`", env::WORKER_ID),
        )),
    }
}

/// The ring whose addresses go through hello.
fn auto_ring(variables: &Environment, host: IpAddr, default: u16, local: u32) -> Result<RingSetup, ConfigError> {
    let setting = variables.get(env::LOCKSTEP_RING_PORT)?;
    let port = setting.as_ref().map(|setting| setting.port(true)).transpose()?.unwrap_or(default);
    let last = u32::from(port) + local - 1;
    let or_free = setting.is_none() && port > 0;
    if let Some(setting) = setting.filter(|_| port > 0 && last > u32::from(u16::MAX)) {
        return Err(
            setting.invalid(format!("{local} ranks take as many ports from it on, up to {last}; give a lower one"))
        );
    }
    Ok(RingSetup::Auto { listen: SocketAddr::new(host, port), or_free })
}
