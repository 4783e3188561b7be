//! A group that is told as a ring: `RING_*`, or the same in the file that `RING_CONFIG` names.

use std::path::{Path, PathBuf};

use lockstep_proto::names::env;
use serde::Deserialize;

use super::MAX_WORLD_SIZE;
use super::environment::Environment;
use super::error::ConfigError;
use super::values::{HostPort, Setting};
use lockstep_engine::source::read_small_file;

/// Variables of a ring, beside the one that names a file.
pub(super) const VARIABLES: &[&str] = &[env::RING_PORT, env::RING_RIGHT, env::RING_RANK, env::RING_WORLD_SIZE];

/// Largest file that is read: a ring's takes a few hundred bytes.
const MAX_FILE: u64 = 64 * 1024;
/// Host of a neighbour that is told by its port alone.
const THIS_HOST: &str = "127.0.0.1";

/// One rank's place in a ring, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RingPlace {
    pub port: u16,
    pub right: HostPort,
    pub rank: u32,
    pub world_size: u32,
    /// Rank 0's control port, where the file said it.
    pub master_port: Option<u16>,
    /// Rank 0's host, where the file said it.
    pub master_host: Option<String>,
}

/// The ring that the variables tell of, if any do.
///
/// # Errors
/// A variable is missing or wrong; both ways of saying it are used.
pub(super) fn place(variables: &Environment) -> Result<Option<RingPlace>, ConfigError> {
    let said = VARIABLES.iter().find(|name| variables.is_set(name));
    let file = variables.get(env::RING_CONFIG)?;
    match (file, said) {
        (None, None) => Ok(None),
        (Some(_), Some(said)) => Err(ConfigError::Conflict {
            first: env::RING_CONFIG.into(),
            second: (*said).into(),
            remedy: "a ring is told by a file or by variables, not by both; unset one",
        }),
        (Some(file), None) => from_file(PathBuf::from(file.value)).map(Some),
        (None, Some(_)) => from_variables(variables).map(Some),
    }
}

fn from_variables(variables: &Environment) -> Result<RingPlace, ConfigError> {
    let need = |name: &str| -> Result<Setting, ConfigError> {
        let all = "a ring needs RING_PORT, RING_RIGHT, RING_RANK and RING_WORLD_SIZE on every rank";
        variables.get(name)?.ok_or_else(|| ConfigError::missing(name, all))
    };
    let port = need(env::RING_PORT)?.port(false)?;
    let right = need(env::RING_RIGHT)?;
    let neighbour = right.host_port(Some(THIS_HOST))?;
    let rank = need(env::RING_RANK)?;
    let number = rank.integer(0..=MAX_WORLD_SIZE - 1)?;
    let world_size = need(env::RING_WORLD_SIZE)?.integer(2..=MAX_WORLD_SIZE)?;
    if number >= world_size {
        return Err(rank.invalid(format!(
            "with {}={world_size} ranks are 0 to {}",
            env::RING_WORLD_SIZE,
            world_size - 1
        )));
    }
    if neighbour.is_loopback() && neighbour.port == port {
        return Err(right.invalid(format!("this is the rank's own {}; give the next rank's", env::RING_PORT)));
    }
    Ok(RingPlace { port, right: neighbour, rank: number, world_size, master_port: None, master_host: None })
}

/// The file as written. Names are mistral.rs's.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RingFile {
    master_ip: Option<String>,
    master_port: u16,
    port: u16,
    right_port: u16,
    right_ip: Option<String>,
    rank: u32,
    world_size: u32,
}

fn from_file(path: PathBuf) -> Result<RingPlace, ConfigError> {
    let wrong = |problem: String| ConfigError::RingFile { name: env::RING_CONFIG, path: path.clone(), problem };
    let text = read(&path).map_err(wrong)?;
    let file: RingFile = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    check(file).map_err(wrong)
}

fn read(path: &Path) -> Result<String, String> {
    let bytes = read_small_file(path, MAX_FILE).map_err(|error| format!("read it: {error}"))?;
    String::from_utf8(bytes).map_err(|error| format!("it is not UTF-8: {error}"))
}

/// The rules of the file's fields; the error is the problem in words.
fn check(file: RingFile) -> Result<RingPlace, String> {
    for (name, port) in [("master_port", file.master_port), ("port", file.port), ("right_port", file.right_port)] {
        if port == 0 {
            return Err(format!("`{name}` is 0; give a port from 1 to 65535"));
        }
    }
    if !(2..=MAX_WORLD_SIZE).contains(&file.world_size) {
        return Err(format!("`world_size` is {}; give 2 to {MAX_WORLD_SIZE}", file.world_size));
    }
    if file.rank >= file.world_size {
        return Err(format!(
            "`rank` is {}; with `world_size` {} give 0 to {}",
            file.rank,
            file.world_size,
            file.world_size - 1
        ));
    }
    let right = host("right_ip", file.right_ip.as_deref().unwrap_or(THIS_HOST), file.right_port)?;
    if right.is_loopback() && right.port == file.port {
        return Err("`right_port` is the rank's own `port`; give the next rank's".into());
    }
    if file.rank == 0 && file.master_port == file.port {
        return Err("`master_port` and `port` are the same; rank 0 needs one for control and one for the ring".into());
    }
    let master = file.master_ip.as_deref().map(|ip| host("master_ip", ip, file.master_port)).transpose()?;
    if master.is_none() && file.rank > 0 {
        return Err("`master_ip` is missing; every rank but 0 needs rank 0's address".into());
    }
    if let Some(master) = &master
        && master.is_loopback() != right.is_loopback()
    {
        return Err(format!(
            "`master_ip` is {} but `right_ip` is {}: ranks on several machines must not be told by loopback addresses",
            master.host, right.host
        ));
    }
    Ok(RingPlace {
        port: file.port,
        right,
        rank: file.rank,
        world_size: file.world_size,
        master_port: Some(file.master_port),
        master_host: master.map(|master| master.host),
    })
}

/// A host of the file with its port.
fn host(name: &str, host: &str, port: u16) -> Result<HostPort, String> {
    let wrong = || format!("`{name}` is `{host}`; give an IP address or a host's name, without a port");
    if let Ok(ip) = host.parse::<std::net::IpAddr>() {
        return Ok(HostPort { host: ip.to_string(), port });
    }
    let spelled = Setting { name: name.into(), value: format!("{host}:{port}") };
    spelled.host_port(None).map_err(|_| wrong())
}
