//! Text of a plan for people: each pod with its ranks, and each container's variables and command in a form that can be
//! pasted into a shell.

use std::fmt::Write as _;

use super::{Plan, PodPlan};

/// Formats a plan.
#[must_use]
pub fn format_plan(plan: &Plan) -> String {
    let mut out = String::new();
    for group in &plan.groups {
        let nodes = 1 + group.workers.len();
        if !out.is_empty() {
            out.push('\n');
        }
        let _ = writeln!(
            out,
            "group {}-{}: {} on {}",
            plan.cluster,
            group.index,
            describe_ranks(group.world_size, group.pipeline_parallel_size),
            format_count(nodes, "node")
        );
        for pod in group.pods() {
            out.push('\n');
            write_pod(&mut out, pod);
        }
    }
    if plan.groups.is_empty() {
        let _ = writeln!(out, "{}: replicas is 0, so nothing runs", plan.cluster);
    }
    out
}

fn write_pod(out: &mut String, pod: &PodPlan) {
    let ranks: Vec<_> = pod.ranks.iter().map(u32::to_string).collect();
    let noun = if ranks.len() == 1 { "rank" } else { "ranks" };
    let _ = writeln!(out, "{}  ({noun} {})", pod.name, ranks.join(", "));
    for container in &pod.containers {
        if pod.containers.len() > 1 {
            let _ = writeln!(out, "  # {}", container.name);
        }
        for var in &container.env {
            let _ = writeln!(out, "  {}={} \\", var.name, quote(&var.value));
        }
        let command: Vec<_> = container.command.iter().map(|word| quote(word)).collect();
        let _ = writeln!(out, "  {}", command.join(" "));
    }
}

/// Describes the number of ranks and their pipeline stages, such as `4 ranks (2 stages × 2)`.
#[must_use]
pub fn describe_ranks(world_size: u32, stages: u32) -> String {
    let all = format_count(world_size, "rank");
    match stages {
        0 | 1 => all,
        stages => format!("{all} ({stages} stages × {})", world_size / stages),
    }
}

/// Formats a count with its noun: `1 rank`, `3 ranks`.
pub(crate) fn format_count(count: impl TryInto<u64>, noun: &str) -> String {
    match count.try_into().unwrap_or(u64::MAX) {
        1 => format!("1 {noun}"),
        count => format!("{count} {noun}s"),
    }
}

/// Quotes a word for a POSIX shell.
fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=%+,@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}
