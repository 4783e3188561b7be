//! A group that `RING_*` describes as a ring, or the file that `RING_CONFIG` names.

use std::path::{Path, PathBuf};

use lockstep_proto::names::env;
use serde::Deserialize;

use super::MAX_WORLD_SIZE;
use super::environment::Environment;
use super::error::ConfigError;
use super::values::{HostPort, Setting};
use lockstep_engine::source::read_small_file;

/// Variables of a ring, beside `RING_CONFIG`.
pub(super) const VARIABLES: &[&str] = &[env::RING_PORT, env::RING_RIGHT, env::RING_RANK, env::RING_WORLD_SIZE];

/// Largest file of `RING_CONFIG`, in bytes. A usual one has a few hundred.
const MAX_FILE: u64 = 64 * 1024;
/// Host of a neighbour with a port and no host.
const THIS_HOST: &str = "127.0.0.1";

/// Checked place of one rank in a ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RingPlace {
    pub port: u16,
    pub right: HostPort,
    pub rank: u32,
    pub world_size: u32,
    /// Control port of rank 0, if the file gives it.
    pub master_port: Option<u16>,
    /// Host of rank 0, if the file gives it.
    pub master_host: Option<String>,
}

/// Returns this rank's place in the ring that the variables describe, if they describe one.
///
/// # Errors
/// A variable is missing or wrong, or the variables and a file both describe a ring.
pub(super) fn find_ring(variables: &Environment) -> Result<Option<RingPlace>, ConfigError> {
    let variable = VARIABLES.iter().find(|name| variables.is_set(name));
    let file = variables.setting(env::RING_CONFIG)?;
    match (file, variable) {
        (None, None) => Ok(None),
        (Some(_), Some(variable)) => Err(ConfigError::Conflict {
            first: env::RING_CONFIG.into(),
            second: (*variable).into(),
            remedy: "describe a ring by a file or by variables, not by both; unset one",
        }),
        (Some(file), None) => from_file(PathBuf::from(file.value)).map(Some),
        (None, Some(_)) => from_variables(variables).map(Some),
    }
}

fn from_variables(variables: &Environment) -> Result<RingPlace, ConfigError> {
    let need = |name: &str| -> Result<Setting, ConfigError> {
        let all = "a ring needs RING_PORT, RING_RIGHT, RING_RANK and RING_WORLD_SIZE on every rank";
        variables.setting(name)?.ok_or_else(|| ConfigError::missing(name, all))
    };
    let port = need(env::RING_PORT)?.port(false)?;
    let right = need(env::RING_RIGHT)?;
    let neighbour = right.host_port(Some(THIS_HOST))?;
    let rank = need(env::RING_RANK)?;
    let number = rank.integer(0..=MAX_WORLD_SIZE - 1)?;
    let world_size = need(env::RING_WORLD_SIZE)?.integer(2..=MAX_WORLD_SIZE)?;
    if number >= world_size {
        return Err(rank.invalid(format!(
            "with {}={world_size} give a rank from 0 to {}",
            env::RING_WORLD_SIZE,
            world_size - 1
        )));
    }
    if neighbour.is_loopback() && neighbour.port == port {
        return Err(right.invalid(format!("this is the rank's own {}; give the port of the next rank", env::RING_PORT)));
    }
    Ok(RingPlace { port, right: neighbour, rank: number, world_size, master_port: None, master_host: None })
}

/// File of `RING_CONFIG` as written, with the names of mistral.rs.
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
    let text = read_text(&path).map_err(wrong)?;
    let file: RingFile = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    check_file(file).map_err(wrong)
}

fn read_text(path: &Path) -> Result<String, String> {
    let bytes = read_small_file(path, MAX_FILE).map_err(|error| format!("read the file: {error}"))?;
    String::from_utf8(bytes).map_err(|error| format!("the file is not UTF-8: {error}"))
}

/// Checks the file's fields. The error describes the problem in words.
fn check_file(file: RingFile) -> Result<RingPlace, String> {
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
    let right = parse_host("right_ip", file.right_ip.as_deref().unwrap_or(THIS_HOST), file.right_port)?;
    if right.is_loopback() && right.port == file.port {
        return Err("`right_port` is the rank's own `port`; give the port of the next rank".into());
    }
    if file.rank == 0 && file.master_port == file.port {
        return Err(
            "`master_port` and `port` are the same; give rank 0 one port for control and one for the ring".into()
        );
    }
    let master = file.master_ip.as_deref().map(|ip| parse_host("master_ip", ip, file.master_port)).transpose()?;
    if master.is_none() && file.rank > 0 {
        return Err("`master_ip` is missing; give rank 0's address, every other rank needs it".into());
    }
    if let Some(master) = &master
        && master.is_loopback() != right.is_loopback()
    {
        return Err(format!(
            "`master_ip` is {} but `right_ip` is {}: other machines cannot reach a loopback address; give the machine's own",
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

/// Parses a host of the file, and joins it with its port.
fn parse_host(name: &str, host: &str, port: u16) -> Result<HostPort, String> {
    let wrong = || format!("`{name}` is `{host}`; give an IP address or a host's name, without a port");
    if let Ok(ip) = host.parse::<std::net::IpAddr>() {
        return Ok(HostPort { host: ip.to_string(), port });
    }
    let setting = Setting { name: name.into(), value: format!("{host}:{port}") };
    setting.host_port(None).map_err(|_| wrong())
}
