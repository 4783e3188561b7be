//! `lockstep status`: a cluster as the operator tells it, or a group as its head does.

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
use lockstep_proto::names::env;
use lockstep_proto::v1::{ClusterStatus, GetStatusRequest, RankStatus, WatchRequest};
use serde_json::json;

use super::endpoint::{EndpointError, EndpointFlag};
use super::kubernetes::{self, KubernetesFlags, tree};
use crate::plan;
use crate::resource::InferenceCluster;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  lockstep status                      the group that `lockstep up` runs here\n  lockstep \
                        status quickstart --watch   an InferenceCluster in Kubernetes\n  kubectl lockstep status -A          \
                        all of them"
)]
pub(super) struct Options {
    /// An InferenceCluster in Kubernetes. Without one: the group at --endpoint; as plugin of kubectl, or with -A or -n, all
    /// of the namespace
    #[arg(conflicts_with = "all_namespaces")]
    name: Option<String>,
    /// List the InferenceClusters of all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    #[command(flatten)]
    endpoint: EndpointFlag,
    /// Go on and show every change
    #[arg(short, long)]
    watch: bool,
    /// Form of the status; with --watch, JSON comes one line for each change
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    output: Form,
    #[command(flatten)]
    kubernetes: KubernetesFlags,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    Table,
    Json,
    Yaml,
}

pub(super) async fn run(options: Options) -> anyhow::Result<ExitCode> {
    if let Some(name) = &options.name {
        return of_cluster(&options, name).await;
    }
    let called = std::env::args_os().next().unwrap_or_default();
    let elsewhere = std::env::var_os(env::ENDPOINT).is_some() || !options.endpoint.is_default();
    if options.all_namespaces || options.kubernetes.is_given() || (super::is_plugin(called.as_ref()) && !elsewhere) {
        return of_all(&options).await;
    }
    of_endpoint(options).await
}

/// All clusters of the namespace, or of all.
async fn of_all(options: &Options) -> anyhow::Result<ExitCode> {
    let kubernetes = options.kubernetes.connect().await?;
    let api = if options.all_namespaces { Api::all(kubernetes.client.clone()) } else { kubernetes.clusters() };
    let listed = api.list(&ListParams::default()).await.map_err(|error| kubernetes::describe_error(&error))?.items;
    if listed.is_empty() && options.output == Form::Table {
        let place =
            if options.all_namespaces { "any namespace".into() } else { format!("namespace {}", kubernetes.namespace) };
        eprintln!("no InferenceCluster in {place}");
        return Ok(ExitCode::SUCCESS);
    }
    super::print(&match options.output {
        Form::Table => tree::draw_list(&listed, Timestamp::now()),
        Form::Json => serde_json::to_string_pretty(&listed)? + "\n",
        Form::Yaml => serde_yaml::to_string(&listed)?,
    })?;
    Ok(ExitCode::SUCCESS)
}

/// One cluster, once or at each change of it or of its pods.
async fn of_cluster(options: &Options, name: &str) -> anyhow::Result<ExitCode> {
    let kubernetes = options.kubernetes.connect().await?;
    let cluster = kubernetes.cluster(name).await?;
    let pods = kubernetes.pods_of_cluster(name).await?;
    show(options, &cluster, &pods)?;
    if !options.watch {
        return Ok(ExitCode::SUCCESS);
    }
    let (mut cluster, mut pods) = (cluster, pods);
    let mut objects = Box::pin(watcher::watch_object(kubernetes.clusters(), name).default_backoff());
    let of_cluster = watcher::Config::default().labels(&kubernetes::selector(name));
    let mut changes = Box::pin(watcher::watcher(kubernetes.pods(), of_cluster).default_backoff());
    // Errors of a watch are tried again by the watch itself: the last picture stays.
    loop {
        tokio::select! {
            seen = objects.next() => match seen {
                Some(Ok(Some(seen))) if seen == cluster => continue,
                Some(Ok(Some(seen))) => cluster = seen,
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
        show(options, &cluster, &pods)?;
    }
}

fn show(options: &Options, cluster: &InferenceCluster, pods: &[Pod]) -> anyhow::Result<()> {
    let clear = if options.watch && std::io::stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" };
    super::print(&match options.output {
        Form::Table => format!("{clear}{}", tree::draw_tree(cluster, pods, Timestamp::now())),
        Form::Json if options.watch => serde_json::to_string(cluster)? + "\n",
        Form::Json => serde_json::to_string_pretty(cluster)? + "\n",
        Form::Yaml => format!("---\n{}", serde_yaml::to_string(cluster)?),
    })?;
    Ok(())
}

/// The group at an endpoint.
async fn of_endpoint(options: Options) -> anyhow::Result<ExitCode> {
    let mut client = options.endpoint.endpoint.cluster().await?;
    if !options.watch {
        let status = client.get_status(GetStatusRequest {}).await.map_err(EndpointError::from)?.into_inner();
        super::print(&match options.output {
            Form::Table => text(&status),
            Form::Json => serde_json::to_string_pretty(&json_of(&status))? + "\n",
            Form::Yaml => serde_yaml::to_string(&json_of(&status))?,
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut changes = client.watch(WatchRequest {}).await.map_err(EndpointError::from)?.into_inner();
    loop {
        let status = tokio::select! {
            status = changes.message() => status.map_err(EndpointError::from)?,
            _ = tokio::signal::ctrl_c() => return Ok(ExitCode::from(super::INTERRUPTED)),
        };
        let Some(status) = status else { anyhow::bail!("{} ended the watch", options.endpoint.endpoint) };
        let clear = if std::io::stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" };
        super::print(&match options.output {
            Form::Table => format!("{clear}{}", text(&status)),
            Form::Json => json_of(&status).to_string() + "\n",
            Form::Yaml => format!("---\n{}", serde_yaml::to_string(&json_of(&status))?),
        })?;
    }
}

/// The group in a line, the ranks in a table, what it waits for.
pub(super) fn text(status: &ClusterStatus) -> String {
    let state = match (status.ready, status.accepting) {
        (true, _) => "ready",
        (false, true) => "not ready, queueing requests",
        (false, false) => "not ready",
    };
    let mut lines = vec![format!(
        "{}: {state}; model {}, epoch {}, {} over {}, {} recoveries",
        or(&status.cluster_id, "group"),
        or(&status.model, "not resolved yet"),
        status.epoch,
        or(&status.backend, "no collectives yet"),
        plan::describe_ranks(status.world_size, status.pipeline_parallel_size),
        status.recoveries
    )];
    lines.push(format!(
        "requests: {} running, {} waiting; KV blocks: {} of {} used",
        status.running, status.waiting, status.kv_blocks_used, status.kv_blocks_total
    ));
    lines.push(table(&status.ranks));
    lines.extend(status.pending.iter().map(|pending| format!("waiting for {pending}")));
    lines.join("\n") + "\n"
}

fn or<'a>(text: &'a str, instead: &'a str) -> &'a str {
    if text.is_empty() { instead } else { text }
}

fn table(ranks: &[RankStatus]) -> String {
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
            or(&rank.device, "-").to_owned(),
            if rank.pid == 0 { "-".into() } else { format!("{}/{}", rank.host, rank.pid) },
            loaded(rank),
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

fn loaded(rank: &RankStatus) -> String {
    match rank.bytes_total {
        0 => "-".into(),
        total if rank.bytes_loaded >= total => bytes(total),
        total => format!("{} of {}", bytes(rank.bytes_loaded), bytes(total)),
    }
}

/// Bytes with a binary unit.
pub(super) fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", units[unit]) }
}

fn json_of(status: &ClusterStatus) -> serde_json::Value {
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
            pending: vec!["rank 1: Loading 33%".into(), "rank 2: not heard of".into()],
            kv_blocks_total: 100,
            recoveries: 1,
            model: "tiny".into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_group_that_forms_again() {
        insta::assert_snapshot!(super::text(&sample()));
    }

    #[test]
    fn a_group_not_heard_of() {
        insta::assert_snapshot!(super::text(&ClusterStatus::default()));
    }

    #[test]
    fn a_group_as_json() {
        insta::assert_snapshot!(serde_json::to_string_pretty(&super::json_of(&sample())).unwrap());
    }

    #[test]
    fn bytes_with_units() {
        for (count, text) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 30, "5.0 GiB"), (1 << 50, "1024.0 TiB")]
        {
            assert_eq!(super::bytes(count), text);
        }
    }
}
