//! One line of a log: its container, its time, and how it is drawn.

use std::fmt;

use k8s_openapi::jiff::Timestamp;

use crate::log_line::parse_log_line;

/// Container of a pod, with the first rank on the pod's node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    pub group: Option<u32>,
    pub rank: Option<u32>,
    pub pod: String,
    pub container: String,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |number: Option<u32>| number.map_or("?".into(), |number| number.to_string());
        write!(f, "{}/{}-{} {}", number(self.group), number(self.rank), self.pod, self.container)
    }
}

/// Line with the time that Kubernetes gave it. A line without a time stays after its predecessor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub source: Source,
    pub at: Option<Timestamp>,
    pub text: String,
}

impl Line {
    /// Parses a line of a log that was requested with timestamps.
    pub(super) fn new(source: Source, line: &str) -> Self {
        let (stamp, rest) = line.split_once(' ').unwrap_or((line, ""));
        match stamp.parse() {
            Ok(at) => Self { source, at: Some(at), text: rest.to_owned() },
            Err(_) => Self { source, at: None, text: line.to_owned() },
        }
    }

    /// Returns the line after its source. With `colour` the source has its own colour.
    pub(super) fn draw(&self, raw: bool, colour: bool) -> String {
        let text = if raw { None } else { parse_log_line(&self.text) };
        let text = text.as_deref().unwrap_or(&self.text);
        // Cyan, green, magenta and blue, by node. Red and yellow are for errors and warnings.
        let shade = [36, 32, 35, 34][self.source.rank.unwrap_or(0) as usize % 4];
        if colour {
            format!("\x1b[{shade}m{}\x1b[0m {text}\n", self.source)
        } else {
            format!("{} {text}\n", self.source)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Line, Source};

    #[test]
    fn a_line_is_drawn_readable_raw_and_in_colour() {
        let source = Source { group: Some(0), rank: Some(1), pod: "q-0-worker-0".into(), container: "rank".into() };
        let json = r#"2026-01-01T00:00:00.5Z {"timestamp":"x","level":"INFO","fields":{"message":"loaded","bytes":7},"target":"a"}"#;
        let line = Line::new(source.clone(), json);
        assert_eq!(line.draw(false, false), "0/1-q-0-worker-0 rank INFO  loaded bytes=7\n");
        assert!(line.draw(true, false).contains("{\"timestamp\""));
        assert!(line.draw(false, true).starts_with("\x1b[32m0/1-q-0-worker-0 rank\x1b[0m "));
        let plain = Line::new(source, "no time here");
        assert_eq!((plain.at, plain.text.as_str()), (None, "no time here"));
    }
}
