//! `lockstep status`: the status of a cluster that the operator writes, or the status that a group's head reports.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use comfy_table::{CellAlignment, Table, presets};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::ListParams;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use lockstep_proto::v1::{ClusterStatus, GetStatusRequest, RankStatus, WatchRequest};
use serde_json::json;

use super::endpoint::{EndpointError, EndpointFlags};
use super::kubernetes::{self, KubernetesFlags, tree};
use crate::plan;
use crate::resource::InferenceCluster;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  lockstep status                      the group that `lockstep up` runs here\n  lockstep \
                        status quickstart --watch   an InferenceCluster in Kubernetes\n  kubectl lockstep status -A          \
                        all of them"
)]
pub(super) struct StatusArgs {
    /// Name of an InferenceCluster in Kubernetes. Default: the group at --endpoint; as a plugin of kubectl, or with -A or -n,
    /// all InferenceClusters of the namespace
    #[arg(conflicts_with = "all_namespaces")]
    name: Option<String>,
    /// List the InferenceClusters of all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    #[command(flatten)]
    endpoint: EndpointFlags,
    /// Keep running and show every change
    #[arg(short, long)]
    watch: bool,
    /// Format of the status; with --watch, JSON has one line for each change
    #[arg(short, long, value_enum, default_value_t = StatusFormat::Table)]
    output: StatusFormat,
    #[command(flatten)]
    kubernetes: KubernetesFlags,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StatusFormat {
    Table,
    Json,
    Yaml,
}

pub(super) async fn run(args: StatusArgs) -> anyhow::Result<ExitCode> {
    if let Some(name) = &args.name {
        return show_cluster(&args, name).await;
    }
    let program = std::env::args_os().next().unwrap_or_default();
    let is_plugin = super::is_plugin(program.as_ref());
    if args.all_namespaces || args.kubernetes.is_given() || (is_plugin && !args.endpoint.is_given()) {
        return show_all(&args).await;
    }
    show_endpoint(args).await
}

/// Shows all clusters of the namespace, or of all namespaces.
async fn show_all(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let kubernetes = args.kubernetes.connect().await?;
    let api = if args.all_namespaces { Api::all(kubernetes.client.clone()) } else { kubernetes.clusters() };
    let listed = api.list(&ListParams::default()).await.map_err(|error| kubernetes::describe_error(&error))?.items;
    if listed.is_empty() && args.output == StatusFormat::Table {
        let place =
            if args.all_namespaces { "any namespace".into() } else { format!("namespace {}", kubernetes.namespace) };
        eprintln!("no InferenceCluster in {place}");
        return Ok(ExitCode::SUCCESS);
    }
    super::print(&match args.output {
        StatusFormat::Table => tree::draw_list(&listed, Timestamp::now()),
        StatusFormat::Json => serde_json::to_string_pretty(&listed)? + "\n",
        StatusFormat::Yaml => serde_yaml::to_string(&listed)?,
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Shows one cluster, once or at each change of the cluster or of its pods.
async fn show_cluster(args: &StatusArgs, name: &str) -> anyhow::Result<ExitCode> {
    let kubernetes = args.kubernetes.connect().await?;
    let cluster = kubernetes.cluster(name).await?;
    let pods = kubernetes.pods_of_cluster(name).await?;
    print_cluster(args, &cluster, &pods)?;
    if !args.watch {
        return Ok(ExitCode::SUCCESS);
    }
    let (mut cluster, mut pods) = (cluster, pods);
    let mut objects = Box::pin(watcher::watch_object(kubernetes.clusters(), name).default_backoff());
    let pods_of_cluster = watcher::Config::default().labels(&kubernetes::selector(name));
    let mut changes = Box::pin(watcher::watcher(kubernetes.pods(), pods_of_cluster).default_backoff());
    // The watch itself tries again after an error. The last picture stays on the screen.
    loop {
        tokio::select! {
            change = objects.next() => match change {
                Some(Ok(Some(changed))) if changed == cluster => continue,
                Some(Ok(Some(changed))) => cluster = changed,
                Some(Ok(None)) => anyhow::bail!("{name} was deleted"),
                Some(Err(_)) => continue,
                None => anyhow::bail!("the watch of {name} ended"),
            },
            change = changes.next() => match change {
                Some(Ok(Event::Apply(pod) | Event::InitApply(pod))) => {
                    if pods.contains(&pod) {
                        continue;
                    }
                    pods.retain(|known| known.metadata.name != pod.metadata.name);
                    pods.push(pod);
                }
                Some(Ok(Event::Delete(pod))) => pods.retain(|known| known.metadata.name != pod.metadata.name),
                Some(Ok(Event::Init)) => {
                    pods.clear();
                    continue;
                }
                Some(Ok(Event::InitDone) | Err(_)) => continue,
                None => anyhow::bail!("the watch of the pods of {name} ended"),
            },
            _ = tokio::signal::ctrl_c() => return Ok(ExitCode::from(super::INTERRUPTED)),
        }
        print_cluster(args, &cluster, &pods)?;
    }
}

/// Prints a cluster in the chosen format.
fn print_cluster(args: &StatusArgs, cluster: &InferenceCluster, pods: &[Pod]) -> anyhow::Result<()> {
    let clear = if args.watch && std::io::stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" };
    super::print(&match args.output {
        StatusFormat::Table => format!("{clear}{}", tree::draw_tree(cluster, pods, Timestamp::now())),
        StatusFormat::Json if args.watch => serde_json::to_string(cluster)? + "\n",
        StatusFormat::Json => serde_json::to_string_pretty(cluster)? + "\n",
        StatusFormat::Yaml => format!("---\n{}", serde_yaml::to_string(cluster)?),
    })?;
    Ok(())
}

/// Shows the group at an endpoint.
async fn show_endpoint(args: StatusArgs) -> anyhow::Result<ExitCode> {
    let endpoint = args.endpoint.resolve()?;
    let mut client = endpoint.cluster().await?;
    if !args.watch {
        let status = client.get_status(GetStatusRequest {}).await.map_err(EndpointError::from)?.into_inner();
        super::print(&match args.output {
            StatusFormat::Table => format_status(&status),
            StatusFormat::Json => serde_json::to_string_pretty(&to_json(&status))? + "\n",
            StatusFormat::Yaml => serde_yaml::to_string(&to_json(&status))?,
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut changes = client.watch(WatchRequest {}).await.map_err(EndpointError::from)?.into_inner();
    loop {
        let status = tokio::select! {
            status = changes.message() => status.map_err(EndpointError::from)?,
            _ = tokio::signal::ctrl_c() => return Ok(ExitCode::from(super::INTERRUPTED)),
        };
        let Some(status) = status else { anyhow::bail!("{endpoint} ended the watch") };
        let clear = if std::io::stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" };
        super::print(&match args.output {
            StatusFormat::Table => format!("{clear}{}", format_status(&status)),
            StatusFormat::Json => to_json(&status).to_string() + "\n",
            StatusFormat::Yaml => format!("---\n{}", serde_yaml::to_string(&to_json(&status))?),
        })?;
    }
}

/// Returns the group in a line, its ranks in a table, and the conditions that the group waits for.
pub(super) fn format_status(status: &ClusterStatus) -> String {
    let state = match (status.ready, status.accepting) {
        (true, _) => "ready",
        (false, true) => "not ready, queueing requests",
        (false, false) => "not ready",
    };
    let mut lines = vec![format!(
        "{}: {state}; model {}, epoch {}, {} over {}, {} recoveries",
        or_default(&status.cluster_id, "group"),
        or_default(&status.model, "not resolved yet"),
        status.epoch,
        or_default(&status.backend, "no collectives yet"),
        plan::describe_ranks(status.world_size, status.pipeline_parallel_size),
        status.recoveries
    )];
    lines.push(format!(
        "requests: {} running, {} waiting; KV blocks: {} of {} used",
        status.running, status.waiting, status.kv_blocks_used, status.kv_blocks_total
    ));
    lines.push(draw_ranks(&status.ranks));
    lines.extend(status.pending.iter().map(|pending| format!("waiting for {pending}")));
    lines.join("\n") + "\n"
}

/// Returns `text`, or `instead` if `text` is empty.
fn or_default<'a>(text: &'a str, instead: &'a str) -> &'a str {
    if text.is_empty() { instead } else { text }
}

fn draw_ranks(ranks: &[RankStatus]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header([
        "RANK",
        "NODE",
        "PHASE",
        "DEVICE",
        "HOST/PID",
        "LOADED",
        "LAST STEP",
        "STEP MS",
        "RESTARTS",
        "MESSAGE",
    ]);
    for rank in ranks {
        table.add_row([
            rank.rank.to_string(),
            rank.node.to_string(),
            rank.phase().title().to_owned(),
            or_default(&rank.device, "-").to_owned(),
            if rank.pid == 0 { "-".into() } else { format!("{}/{}", rank.host, rank.pid) },
            describe_progress(rank),
            rank.last_step.to_string(),
            if rank.step_micros == 0 { "-".into() } else { format!("{:.2}", rank.step_micros as f64 / 1e3) },
            rank.restarts.to_string(),
            rank.message.clone(),
        ]);
    }
    for index in [0, 1, 5, 6, 7, 8] {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

fn describe_progress(rank: &RankStatus) -> String {
    match rank.bytes_total {
        0 => "-".into(),
        total if rank.bytes_loaded >= total => format_bytes(total),
        total => format!("{} of {}", format_bytes(rank.bytes_loaded), format_bytes(total)),
    }
}

/// Returns `count` bytes with a binary unit.
pub(super) fn format_bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", units[unit]) }
}

fn to_json(status: &ClusterStatus) -> serde_json::Value {
    let rank = |rank: &RankStatus| {
        json!({
            "rank": rank.rank, "node": rank.node, "phase": rank.phase().title(), "host": rank.host, "pid": rank.pid,
            "address": rank.address, "device": rank.device, "bytesLoaded": rank.bytes_loaded,
            "bytesTotal": rank.bytes_total, "lastStep": rank.last_step, "stepMicros": rank.step_micros,
            "restarts": rank.restarts, "message": rank.message, "incarnation": rank.incarnation,
        })
    };
    json!({
        "clusterId": status.cluster_id, "epoch": status.epoch, "ready": status.ready, "accepting": status.accepting,
        "worldSize": status.world_size, "tensorParallelSize": status.tensor_parallel_size,
        "pipelineParallelSize": status.pipeline_parallel_size, "backend": status.backend,
        "ranks": status.ranks.iter().map(rank).collect::<Vec<_>>(), "pending": status.pending,
        "running": status.running, "waiting": status.waiting, "kvBlocksUsed": status.kv_blocks_used,
        "kvBlocksTotal": status.kv_blocks_total, "recoveries": status.recoveries, "model": status.model,
        "version": status.version,
    })
}

#[cfg(test)]
mod tests {
    use lockstep_proto::v1::{ClusterStatus, Phase, RankStatus};

    fn sample() -> ClusterStatus {
        let rank = RankStatus {
            device: "cpu (avx2)".into(),
            host: "box".into(),
            pid: 42,
            bytes_loaded: 3 << 20,
            bytes_total: 3 << 20,
            last_step: 120,
            step_micros: 2500,
            ..Default::default()
        };
        ClusterStatus {
            cluster_id: "quickstart-0".into(),
            epoch: 2,
            accepting: true,
            world_size: 3,
            backend: "ring".into(),
            ranks: vec![
                RankStatus { phase: Phase::Serving.into(), ..rank.clone() },
                RankStatus { rank: 1, node: 1, phase: Phase::Loading.into(), bytes_loaded: 1 << 20, pid: 43, ..rank },
                RankStatus {
                    rank: 2,
                    node: 2,
                    phase: Phase::Lost.into(),
                    restarts: 1,
                    message: "its stream ended".into(),
                    ..Default::default()
                },
            ],
            pending: vec!["rank 1 (node 1) Loading 33%".into(), "rank 2 (node 2) Lost: its stream ended".into()],
            kv_blocks_total: 100,
            recoveries: 1,
            model: "tiny".into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_group_that_forms_again() {
        insta::assert_snapshot!(super::format_status(&sample()));
    }

    #[test]
    fn a_group_not_heard_of() {
        insta::assert_snapshot!(super::format_status(&ClusterStatus::default()));
    }

    #[test]
    fn a_group_as_json() {
        insta::assert_snapshot!(serde_json::to_string_pretty(&super::to_json(&sample())).unwrap());
    }

    #[test]
    fn bytes_with_units() {
        for (count, text) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 30, "5.0 GiB"), (1 << 50, "1024.0 TiB")]
        {
            assert_eq!(super::format_bytes(count), text);
        }
    }
}
