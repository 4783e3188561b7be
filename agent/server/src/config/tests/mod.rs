//! Every rule of the environment and of the flags, as rows: settings → the role of the process, or the error.

mod flags;
mod groups;
mod ring_files;

use super::*;

const CPU: Build = Build { nccl: false, visible_devices: 0 };
const EIGHT_GPUS: Build = Build { nccl: true, visible_devices: 8 };
const EIGHT_GPUS_NO_NCCL: Build = Build { nccl: false, visible_devices: 8 };

/// Resolves a command line in words and variables in `NAME=value` words.
fn configure(command: &str, variables: &str, build: &Build) -> Result<Config, ConfigError> {
    let variables: Environment =
        variables.split_whitespace().map(|variable| variable.split_once('=').expect("NAME=value")).collect();
    let argv = std::iter::once("lockstep-agent").chain(command.split_whitespace());
    resolve(&parse(argv)?, &variables, build)
}

/// Describes the role of the process in one line.
fn describe(config: &Config) -> String {
    let ring = |ring: &RingSetup| match ring {
        RingSetup::Auto { listen, or_free } => format!("ring {listen}{}", if *or_free { " or free" } else { "" }),
        RingSetup::Ring { listen, right, rank, world_size } => {
            format!("ring {listen} → {right} as {rank}/{world_size}")
        }
    };
    match &config.role {
        Role::Head(head) => {
            let Topology { world_size, local_world_size, num_workers, pipeline } = head.topology;
            assert_eq!(world_size, (1 + num_workers) * local_world_size);
            let stages = if pipeline > 1 { format!(" in {pipeline} stages") } else { String::new() };
            let (control, ring) = (head.control, ring(&head.ring));
            format!("head of (1 + {num_workers}) × {local_world_size}{stages}, control {control}, {ring}")
        }
        Role::Node(node) => {
            let control = match &node.control {
                ControlAddress::Known(address) => address.to_string(),
                ControlAddress::FromRing { master: None } => "ring".into(),
                ControlAddress::FromRing { master: Some(master) } => format!("ring and {master}"),
            };
            let of = node.world_size.map_or_else(|| "?".into(), |size| size.to_string());
            let local = node.local_world_size;
            format!("node {} with {local} of {of}, control by {control}, {}", node.ordinal, ring(&node.ring))
        }
        Role::List(list) => format!("list of {}", list.source),
    }
}

/// Variables, build, and their result for `plain -m builtin://tiny`.
type Row = (&'static str, Build, Result<&'static str, &'static [&'static str]>);

/// Checks rows: the line that describes the configuration, or all parts of the error's text.
fn check(rows: &[Row]) {
    for (variables, build, expected) in rows {
        let got = configure("plain -m builtin://tiny", variables, build);
        check_one(variables, got.map(|config| describe(&config)), expected);
    }
}

fn check_one(input: &str, got: Result<String, ConfigError>, expected: &Result<&str, &[&str]>) {
    match (got, expected) {
        (Ok(got), Ok(expected)) => assert_eq!(got, *expected, "of `{input}`"),
        (Err(error), Err(parts)) => {
            let text = error.to_string();
            for part in *parts {
                assert!(text.contains(part), "of `{input}`: `{text}` lacks `{part}`");
            }
        }
        (got, expected) => panic!("of `{input}`: {got:?}, not {expected:?}"),
    }
}
