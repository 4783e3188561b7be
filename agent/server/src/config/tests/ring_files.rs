//! The file of `RING_CONFIG`: strict in its names, types and ranges.

use std::io::Write;

use super::*;

/// Describes the configuration that follows from a file of this text and further variables.
fn configure_with_file(text: &str, further: &str) -> Result<String, ConfigError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let variables = format!("RING_CONFIG={} {further}", file.path().display());
    configure("plain -m builtin://tiny", &variables, &CPU).map(|config| describe(&config))
}

const HEAD: &str = r#"{"master_port": 7000, "port": 9000, "right_port": 9001, "rank": 0, "world_size": 2}"#;

#[test]
fn a_file_replaces_the_variables() {
    let rows = [
        (HEAD, "", "head of (1 + 1) × 1, control 127.0.0.1:7000, ring 127.0.0.1:9000 → 127.0.0.1:9001 as 0/2"),
        (
            r#"{"master_ip": "10.0.0.1", "master_port": 7000, "port": 9000, "right_ip": "10.0.0.3", "right_port": 9000, "rank": 1, "world_size": 3}"#,
            "",
            "node 1 with 1 of 3, control by ring and 10.0.0.1:7000, ring 0.0.0.0:9000 → 10.0.0.3:9000 as 1/3",
        ),
        (
            r#"{"master_ip": "localhost", "master_port": 7000, "port": 9001, "right_port": 9000, "rank": 1, "world_size": 2}"#,
            "",
            "node 1 with 1 of 2, control by ring and localhost:7000, ring 127.0.0.1:9001 → 127.0.0.1:9000 as 1/2",
        ),
        (
            HEAD,
            "LOCKSTEP_CONTROL_PORT=7000",
            "head of (1 + 1) × 1, control 127.0.0.1:7000, ring 127.0.0.1:9000 → 127.0.0.1:9001 as 0/2",
        ),
    ];
    for (text, further, expected) in rows {
        check_one(text, configure_with_file(text, further), &Ok(expected));
    }
}

#[test]
fn a_wrong_file_is_refused() {
    let without = |name: &str| {
        let mut file: serde_json::Value = serde_json::from_str(HEAD).unwrap();
        file.as_object_mut().unwrap().remove(name);
        file.to_string()
    };
    let with = |name: &str, value: serde_json::Value| {
        let mut file: serde_json::Value = serde_json::from_str(HEAD).unwrap();
        file[name] = value;
        file.to_string()
    };
    let rows: Vec<(String, &str, &[&str])> = vec![
        (without("master_port"), "", &["missing field `master_port`"]),
        (without("port"), "", &["missing field `port`"]),
        (without("right_port"), "", &["missing field `right_port`"]),
        (without("rank"), "", &["missing field `rank`"]),
        (without("world_size"), "", &["missing field `world_size`"]),
        (with("rigth_ip", "a".into()), "", &["unknown field `rigth_ip`"]),
        (with("port", "9000".into()), "", &["invalid type: string"]),
        (with("port", 70000.into()), "", &["70000"]),
        (with("rank", (-1).into()), "", &["-1"]),
        (with("port", 0.into()), "", &["`port` is 0"]),
        (with("master_port", 0.into()), "", &["`master_port` is 0"]),
        (with("right_port", 0.into()), "", &["`right_port` is 0"]),
        (with("right_port", 9000.into()), "", &["`right_port` is the rank's own `port`"]),
        (with("master_port", 9000.into()), "", &["`master_port` and `port` are the same"]),
        (with("world_size", 1.into()), "", &["`world_size` is 1", "2 to"]),
        (with("world_size", 5000.into()), "", &["`world_size` is 5000"]),
        (with("rank", 2.into()), "", &["`rank` is 2", "0 to 1"]),
        (with("rank", 1.into()), "", &["`master_ip` is missing", "rank 0's address"]),
        (
            with("master_ip", "10.0.0.1".into()),
            "",
            &["`master_ip` is 10.0.0.1 but `right_ip` is 127.0.0.1", "loopback"],
        ),
        (with("right_ip", "10.0.0.1:5".into()), "", &["`right_ip` is `10.0.0.1:5`", "without a port"]),
        (with("right_ip", "".into()), "", &["`right_ip` is ``"]),
        (HEAD.to_owned(), "LOCKSTEP_CONTROL_PORT=7001", &["LOCKSTEP_CONTROL_PORT=7001", "`master_port`", "7000"]),
        ("{".to_owned(), "", &["RING_CONFIG=", "EOF"]),
        (" ".repeat(70_000), "", &["larger than 65536 bytes"]),
    ];
    for (text, further, parts) in rows {
        check_one(&text, configure_with_file(&text, further), &Err(parts));
    }
    check(&[("RING_CONFIG=/nonexistent/ring.json", CPU, Err(&["RING_CONFIG=/nonexistent/ring.json", "No such file"]))]);
}
