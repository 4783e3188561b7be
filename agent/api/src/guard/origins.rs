//! Origins of web pages that may use the HTTP endpoint, and host names that a port of this machine answers to.

use std::net::IpAddr;

use axum::http::Uri;
use axum::http::uri::Authority;

/// Word for the origins of this machine.
const LOOPBACK: &str = "loopback";
const NONE: &str = "none";

/// Origins of pages whose scripts may use the HTTP endpoint. The default allows those that this machine serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedOrigins {
    any: bool,
    loopback: bool,
    /// Origins in small letters, without a slash at the end.
    listed: Vec<String>,
}

impl Default for AllowedOrigins {
    fn default() -> Self {
        Self { any: false, loopback: true, listed: vec![] }
    }
}

impl AllowedOrigins {
    /// Parses a list: origins, `loopback`, `*` or `none`, with commas between them or as a JSON list.
    ///
    /// # Errors
    /// Names the entry that is no origin.
    pub fn parse(list: &str) -> Result<Self, String> {
        let entries: Vec<String> = match list.trim_start().starts_with('[') {
            true => serde_json::from_str(list).map_err(|error| format!("the list is not JSON of strings: {error}"))?,
            false => list.split(',').map(|entry| entry.trim().to_owned()).collect(),
        };
        let mut origins = Self { any: false, loopback: false, listed: vec![] };
        for entry in entries {
            match entry.as_str() {
                "*" => origins.any = true,
                LOOPBACK => origins.loopback = true,
                NONE => {}
                _ => origins.listed.push(parse_origin(&entry).ok_or_else(|| {
                    format!("{entry:?} is no origin: give a scheme and a host, such as https://chat.example.com")
                })?),
            }
        }
        Ok(origins)
    }

    /// Returns true if scripts of pages of `origin` may use the endpoint.
    pub(crate) fn allow(&self, origin: &[u8]) -> bool {
        let Some(origin) = std::str::from_utf8(origin).ok().and_then(parse_origin) else { return self.any };
        self.any || self.listed.contains(&origin) || self.loopback && host_of(&origin).is_some_and(is_loopback)
    }

    /// Returns true if a port that only this machine can reach answers to the name `host`, with or without a port. A page
    /// whose own name was made to point to this machine names itself here.
    pub(crate) fn allow_host(&self, host: &str) -> bool {
        let Ok(authority) = host.parse::<Authority>() else { return false };
        let host = authority.host();
        let listed =
            || self.listed.iter().filter_map(|origin| host_of(origin)).any(|own| own.eq_ignore_ascii_case(host));
        self.any || is_loopback(host) || listed()
    }
}

/// Returns the origin in small letters, or `None` if `text` is none.
fn parse_origin(text: &str) -> Option<String> {
    let origin = text.strip_suffix('/').unwrap_or(text).to_ascii_lowercase();
    let uri: Uri = origin.parse().ok()?;
    let is_bare = uri.path() == "/" && uri.query().is_none() && !origin.contains('@') && !origin.ends_with('/');
    (uri.scheme().is_some() && uri.host().is_some_and(|host| !host.is_empty()) && is_bare).then_some(origin)
}

fn host_of(origin: &str) -> Option<&str> {
    let (_, authority) = origin.split_once("://")?;
    // Without the port, but with the colons of an IPv6 address in brackets.
    Some(match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => host,
        _ => authority,
    })
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || host.ends_with(".localhost") || ip.is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_allowed_by_the_list() {
        let cases = [
            (None, "http://localhost:3000", true),
            (None, "http://127.0.0.1", true),
            (None, "https://[::1]:8", true),
            (None, "http://app.localhost", true),
            (None, "http://localhost.evil.com", false),
            (None, "https://evil.com", false),
            (None, "null", false),
            (None, "", false),
            (Some("*"), "null", true),
            (Some("*"), "https://evil.com", true),
            (Some("https://chat.example.com"), "https://chat.example.com", true),
            (Some("https://Chat.example.com/"), "https://chat.example.com", true),
            (Some("https://chat.example.com"), "http://chat.example.com", false),
            (Some("https://chat.example.com"), "https://chat.example.com:8443", false),
            (Some("https://chat.example.com"), "http://localhost", false),
            (Some("https://a.example, loopback"), "http://localhost", true),
            (Some(r#"["https://a.example", "http://b:1"]"#), "http://b:1", true),
            (Some("none"), "http://localhost", false),
        ];
        for (list, origin, expected) in cases {
            let origins = list.map_or_else(AllowedOrigins::default, |list| AllowedOrigins::parse(list).unwrap());
            assert_eq!(origins.allow(origin.as_bytes()), expected, "{origin} of {list:?}");
        }
        for list in ["example.com", "https://", "https://a/b", "https://a?b", "https://u@a", "[1]", "[", "", "a,,b"] {
            assert!(AllowedOrigins::parse(list).is_err(), "{list}");
        }
    }

    #[test]
    fn a_local_port_answers_to_its_own_names() {
        let cases = [
            (None, "localhost:1234", true),
            (None, "LOCALHOST", true),
            (None, "127.0.0.1:1234", true),
            (None, "[::1]:1234", true),
            (None, "evil.com:1234", false),
            (None, "127.0.0.1.evil.com", false),
            (None, "10.0.0.1", false),
            (None, "a b", false),
            (Some("https://api.example.com"), "api.example.com", true),
            (Some("https://api.example.com"), "other.example.com", false),
            (Some("*"), "evil.com", true),
        ];
        for (list, host, expected) in cases {
            let origins = list.map_or_else(AllowedOrigins::default, |list| AllowedOrigins::parse(list).unwrap());
            assert_eq!(origins.allow_host(host), expected, "{host} of {list:?}");
        }
    }
}
