//! Strict parsers of single values. Each error names the flag or the variable of the value.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::time::Duration;

use super::error::ConfigError;

/// Longest time that can be configured. A longer one surely is a mistake.
const MAX_DURATION: Duration = Duration::from_secs(24 * 60 * 60);

/// A value, and the name of the flag or the variable that gives it.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    pub name: String,
    pub value: String,
}

/// Memory of one rank's KV cache.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum KvCacheMemory {
    /// Number of bytes, above 0.
    Bytes(u64),
    /// Share of the memory that is free once the weights are loaded, above 0 and at most 1.
    Fraction(f32),
}

/// A host by name or address, and a port above 0. The dialling process resolves a name anew at each attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

impl HostPort {
    /// Returns true if the host is `localhost` or a loopback address.
    pub(crate) fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl Setting {
    pub(super) fn invalid(&self, problem: impl Into<String>) -> ConfigError {
        ConfigError::invalid(&self.name, &self.value, problem)
    }

    /// Parses a whole number within `range`. Only digits are allowed.
    pub(super) fn integer(&self, range: RangeInclusive<u32>) -> Result<u32, ConfigError> {
        let wrong = || self.invalid(format!("give a whole number from {} to {}", range.start(), range.end()));
        let number = parse_digits(&self.value).ok_or_else(wrong)?;
        u32::try_from(number).ok().filter(|number| range.contains(number)).ok_or_else(wrong)
    }

    /// Parses a port. 0 is allowed only if `allows_free`, and stands for any free port.
    pub(super) fn port(&self, allows_free: bool) -> Result<u16, ConfigError> {
        if self.value.contains("://") {
            return Err(self.invalid(
                "this is a link that Kubernetes set for a Service of this name, not a port; set \
                 `enableServiceLinks: false` in the pod",
            ));
        }
        let least = u16::from(!allows_free);
        let wrong = || self.invalid(format!("give a port from {least} to {}", u16::MAX));
        let number = parse_digits(&self.value).and_then(|number| u16::try_from(number).ok());
        number.filter(|port| *port >= least).ok_or_else(wrong)
    }

    /// Parses a client port, or `off`.
    pub(super) fn client_port(&self) -> Result<Option<u16>, ConfigError> {
        if self.value == "off" { Ok(None) } else { self.port(true).map(Some) }
    }

    /// Parses `1` or `0`.
    pub(super) fn switch(&self) -> Result<bool, ConfigError> {
        match self.value.as_str() {
            "1" | "true" => Ok(true),
            "0" | "false" => Ok(false),
            _ => Err(self.invalid("give 1 or 0")),
        }
    }

    pub(super) fn ip(&self) -> Result<IpAddr, ConfigError> {
        if self.value == "localhost" {
            return Ok(IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
        self.value.parse().map_err(|_| self.invalid("give an IP address, such as 0.0.0.0, 127.0.0.1 or ::"))
    }

    /// Parses a host that others can reach: an IP address or a name, without a port.
    pub(super) fn reachable_host(&self) -> Result<String, ConfigError> {
        let wrong = || self.invalid("give an IP address or a host's name, without a port");
        if let Ok(ip) = self.value.parse::<IpAddr>() {
            return match ip.is_unspecified() || ip.is_multicast() {
                true => Err(self.invalid("no other node can reach this address; give one that they can reach")),
                false => Ok(ip.to_string()),
            };
        }
        unbracket(&self.value).map(str::to_owned).ok_or_else(wrong)
    }

    /// Parses `HOST:PORT` or `[IPV6]:PORT`. A port alone is allowed if there is a default host.
    pub(super) fn host_port(&self, default_host: Option<&str>) -> Result<HostPort, ConfigError> {
        let form = if default_host.is_some() { "`port` or `host:port`" } else { "`host:port`" };
        let wrong = |problem: &str| self.invalid(format!("{problem}; give {form}, with an IPv6 host in brackets"));
        let (host, port) = match (self.value.rsplit_once(':'), default_host) {
            (Some((host, port)), _) => (unbracket(host).ok_or_else(|| wrong("the host is malformed"))?, port),
            (None, Some(host)) => (host, self.value.as_str()),
            (None, None) => return Err(wrong("the port is missing")),
        };
        let port = parse_digits(port).and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
        let port = port.ok_or_else(|| wrong("the port is not a number from 1 to 65535"))?;
        Ok(HostPort { host: host.to_owned(), port })
    }

    /// Parses a whole number and its unit: `ms`, `s`, `m` or `h`.
    pub(super) fn duration(&self, least: Duration) -> Result<Duration, ConfigError> {
        let wrong = || self.invalid("give a whole number and its unit, ms, s, m or h, such as 500ms, 120s or 2m");
        let (number, unit) = split_unit(&self.value).ok_or_else(wrong)?;
        let millis = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60 * 1000,
            "h" => 60 * 60 * 1000,
            _ => return Err(wrong()),
        };
        let time = number.checked_mul(millis).map(Duration::from_millis);
        time.filter(|time| (least..=MAX_DURATION).contains(time)).ok_or_else(|| {
            self.invalid(format!("give a time from {least:?} to {} h", MAX_DURATION.as_secs() / 60 / 60))
        })
    }

    /// Parses bytes with a unit as in Kubernetes, or a whole percentage.
    pub(super) fn memory(&self) -> Result<KvCacheMemory, ConfigError> {
        let wrong = || self.invalid("give bytes, such as 512Mi or 2Gi, or a share of free memory from 1% to 100%");
        let (number, unit) = split_unit(&self.value).ok_or_else(wrong)?;
        if unit == "%" {
            let share = u8::try_from(number).ok().filter(|share| (1..=100).contains(share)).ok_or_else(wrong)?;
            return Ok(KvCacheMemory::Fraction(f32::from(share) / 100.0));
        }
        let factor: u64 = match unit {
            "" => 1,
            "Ki" => 1 << 10,
            "Mi" => 1 << 20,
            "Gi" => 1 << 30,
            "Ti" => 1 << 40,
            "k" => 1000,
            "M" => 1_000_000,
            "G" => 1_000_000_000,
            "T" => 1_000_000_000_000,
            _ => return Err(wrong()),
        };
        let bytes = number.checked_mul(factor).filter(|bytes| *bytes > 0).ok_or_else(wrong)?;
        Ok(KvCacheMemory::Bytes(bytes))
    }

    /// Finds one of `choices` by its name.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T, ConfigError> {
        if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == self.value) {
            return Ok(*choice);
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        Err(self.invalid(format!("give one of {}", names.join(", "))))
    }

    /// Checks printable text without spaces, of at most `max_bytes` bytes.
    pub(super) fn word(&self, max_bytes: usize) -> Result<String, ConfigError> {
        let fits = !self.value.is_empty() && self.value.len() <= max_bytes;
        if fits && !self.value.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Ok(self.value.clone());
        }
        Err(self.invalid(format!("give 1 to {max_bytes} bytes without spaces")))
    }

    /// Parses words with commas between, as [`Self::word`] does each.
    pub(super) fn words(&self, max_bytes: usize) -> Result<Vec<String>, ConfigError> {
        let word = |value: &str| Self { name: self.name.clone(), value: value.to_owned() }.word(max_bytes);
        self.value.split(',').map(word).collect()
    }
}

/// Parses digits. Returns `None` for anything else and for a number above `u64`.
fn parse_digits(text: &str) -> Option<u64> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

/// Splits `512Mi` into 512 and `Mi`.
fn split_unit(text: &str) -> Option<(u64, &str)> {
    let unit = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit);
    Some((parse_digits(number)?, unit))
}

/// Returns the host without the brackets of an IPv6 address, or `None` for text that is no host.
fn unbracket(host: &str) -> Option<&str> {
    if let Some(inner) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return inner.parse::<std::net::Ipv6Addr>().is_ok().then_some(inner);
    }
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    (!host.is_empty() && host.chars().all(legal)).then_some(host)
}
