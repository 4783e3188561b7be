//! `lockstep logs`: the logs of all containers of a cluster, merged by time.

mod line;
mod order;

use std::collections::HashSet;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Args;
use futures::{AsyncBufReadExt, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::LogParams;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use self::line::{Line, Source};
use super::kubernetes::{Kubernetes, KubernetesFlags, describe_error, selector};
use crate::objects::label;

/// Maximum lines that wait for the terminal.
const MAX_WAITING_LINES: usize = 1024;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  lockstep logs quickstart --follow\n  lockstep logs quickstart --rank 3 --previous\n  \
                        kubectl lockstep logs quickstart --group 0 --since 10m --tail 50"
)]
pub(super) struct LogsArgs {
    /// Name of the InferenceCluster
    name: String,
    /// Only this group
    #[arg(short, long, value_name = "I")]
    group: Option<u32>,
    /// Only the container that runs this rank
    #[arg(short, long, value_name = "R")]
    rank: Option<u32>,
    /// Keep running and print new lines, those of new and restarted pods included
    #[arg(short, long, conflicts_with = "previous")]
    follow: bool,
    /// Only lines from before the last restart of each container
    #[arg(short, long)]
    previous: bool,
    /// Only the last N lines of each container
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    tail: Option<i64>,
    /// Only lines of the last 30s, 10m, 2h or 1d
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    since: Option<i64>,
    /// Print lines unchanged: JSON stays JSON
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    kubernetes: KubernetesFlags,
}

/// Parses `30s`, `10m`, `2h` or `1d` into seconds.
fn parse_seconds(typed: &str) -> Result<i64, String> {
    let wrong = || format!("{typed} is no time such as 30s, 10m, 2h or 1d");
    let unit = typed.chars().last().ok_or_else(wrong)?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let count: i64 = typed[..typed.len() - 1].parse().map_err(|_| wrong())?;
    if count < 1 { Err(wrong()) } else { count.checked_mul(factor).ok_or_else(wrong) }
}

pub(super) async fn run(args: LogsArgs) -> anyhow::Result<ExitCode> {
    let kubernetes = args.kubernetes.connect().await?;
    let cluster = kubernetes.cluster(&args.name).await?;
    let devices = cluster.spec.devices_per_node.max(1);
    let (sender, lines) = channel(MAX_WAITING_LINES);
    if args.follow {
        let raw = args.raw;
        let following = tokio::spawn(follow(kubernetes, args, devices, sender));
        tokio::select! {
            printed = print_incoming(lines, raw) => printed?,
            _ = tokio::signal::ctrl_c() => return Ok(ExitCode::from(super::INTERRUPTED)),
        }
        following.await??;
        return Ok(ExitCode::SUCCESS);
    }
    drop((sender, lines));
    print_once(&kubernetes, &args, devices).await
}

/// Prints all lines so far.
async fn print_once(kubernetes: &Kubernetes, args: &LogsArgs, devices: u32) -> anyhow::Result<ExitCode> {
    let sources = kubernetes
        .pods_of_cluster(&args.name)
        .await?
        .iter()
        .flat_map(|pod| choose_containers(args, devices, pod))
        .collect::<Vec<_>>();
    let (mut logs, mut refused) = (Vec::new(), Vec::new());
    for source in &sources {
        match kubernetes.pods().logs(&source.pod, &log_params(args, source)).await {
            Ok(text) => logs.push(text.lines().map(|text| Line::new(source.clone(), text)).collect()),
            Err(error) => refused.push(format!("{source}: {}", describe_error(&error))),
        }
    }
    let colour = std::io::stdout().is_terminal();
    for line in order::merge(logs) {
        super::print(&line.draw(args.raw, colour))?;
    }
    // A container that has not started, or never restarted, has no log. The other logs are printed all the same.
    for refused in &refused {
        eprintln!("{refused}");
    }
    if sources.is_empty() {
        anyhow::bail!("no pod of {0} has such a container; `lockstep status {0}` shows its pods", args.name);
    }
    Ok(if refused.len() == sources.len() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn log_params(args: &LogsArgs, source: &Source) -> LogParams {
    LogParams {
        container: Some(source.container.clone()),
        follow: args.follow,
        previous: args.previous,
        since_seconds: args.since,
        tail_lines: args.tail,
        timestamps: true,
        ..LogParams::default()
    }
}

/// Returns the containers of `pod` that the arguments choose.
fn choose_containers(args: &LogsArgs, devices: u32, pod: &Pod) -> Vec<Source> {
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    let number = |key: &str| labels.get(key).and_then(|value| value.parse::<u32>().ok());
    let group = number(label::GROUP);
    let worker = labels.get(label::ROLE).is_some_and(|role| role == "worker");
    let node = if worker { number(label::POD_INDEX).map(|index| index + 1) } else { Some(0) };
    let first = node.map(|node| node * devices);
    if args.group.is_some_and(|wanted| group != Some(wanted)) {
        return Vec::new();
    }
    let runs = |rank: u32| first.is_some_and(|first| (first..first + devices).contains(&rank));
    let containers = pod.spec.iter().flat_map(|spec| spec.containers.iter());
    containers
        .filter(|container| args.rank.is_none_or(|rank| container.name == crate::plan::RANK && runs(rank)))
        .map(|container| Source {
            group,
            rank: first,
            pod: pod.metadata.name.clone().unwrap_or_default(),
            container: container.name.clone(),
        })
        .collect()
}

/// Follows each running container, from each of its starts on.
async fn follow(kubernetes: Kubernetes, args: LogsArgs, devices: u32, sender: Sender<Line>) -> anyhow::Result<()> {
    let config = watcher::Config::default().labels(&selector(&args.name));
    let mut changes = Box::pin(watcher::watcher(kubernetes.pods(), config).default_backoff());
    let mut started = HashSet::new();
    while let Some(change) = changes.next().await {
        let Ok(Event::Apply(pod) | Event::InitApply(pod)) = change else { continue };
        for source in choose_containers(&args, devices, &pod) {
            let Some(id) = running_id(&pod, &source.container) else { continue };
            let first = started.insert((source.pod.clone(), source.container.clone(), String::new()));
            if started.insert((source.pod.clone(), source.container.clone(), id)) {
                let mut params = log_params(&args, &source);
                if !first {
                    // The log of a container that started again is printed from its start.
                    (params.tail_lines, params.since_seconds) = (None, None);
                }
                tokio::spawn(send_lines(kubernetes.pods(), source, params, sender.clone()));
            }
        }
    }
    anyhow::bail!("the watch of the pods of {} ended", args.name)
}

/// Returns the present id of a container, if the container runs.
fn running_id(pod: &Pod, container: &str) -> Option<String> {
    let all = pod.status.as_ref()?.container_statuses.as_ref()?;
    let found = all.iter().find(|found| found.name == container)?;
    found.state.as_ref()?.running.as_ref()?;
    found.container_id.clone()
}

/// Sends each line of one container until the container ends.
async fn send_lines(pods: Api<Pod>, source: Source, params: LogParams, sender: Sender<Line>) {
    let lines = match pods.log_stream(&source.pod, &params).await {
        Ok(stream) => stream.lines(),
        Err(error) => return eprintln!("{source}: {}", describe_error(&error)),
    };
    let mut lines = Box::pin(lines);
    while let Ok(Some(text)) = lines.try_next().await {
        if sender.send(Line::new(source.clone(), &text)).await.is_err() {
            return;
        }
    }
}

/// Prints lines as they come. Lines that wait at the same moment are printed in order of time.
async fn print_incoming(mut incoming: Receiver<Line>, raw: bool) -> anyhow::Result<()> {
    let colour = std::io::stdout().is_terminal();
    let mut lines = Vec::new();
    while incoming.recv_many(&mut lines, MAX_WAITING_LINES).await > 0 {
        lines.sort_by_key(|line| line.at);
        for line in lines.drain(..) {
            super::print(&line.draw(raw, colour))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_are_parsed_as_typed() {
        for (typed, means) in [
            ("30s", Some(30)),
            ("10m", Some(600)),
            ("1d", Some(86_400)),
            ("5", None),
            ("", None),
            ("0s", None),
            ("5é", None),
        ] {
            assert_eq!(super::parse_seconds(typed).ok(), means, "{typed}");
        }
    }
}
