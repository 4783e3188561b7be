//! Draws a cluster with its groups and ranks as a tree, and many clusters as a table. Pure.

use comfy_table::{Table, presets};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;

use crate::resource::status::{GroupStatus, RankStatus, condition};
use crate::resource::{InferenceCluster, InferenceClusterStatus};

/// Draws the tree of `cluster`. `pods` are the cluster's pods, and give the ages.
pub(in crate::cli) fn draw_tree(cluster: &InferenceCluster, pods: &[Pod], now: Timestamp) -> String {
    let meta = &cluster.metadata;
    let title =
        format!("{}/{}", meta.namespace.as_deref().unwrap_or("default"), meta.name.as_deref().unwrap_or_default());
    let Some(status) = &cluster.status else { return format!("{title}: the operator has written no status yet\n") };
    let mut lines = vec![format!("{title}: {} of {} groups serve", status.ready_replicas, cluster.spec.replicas)];
    lines.extend(describe_status(cluster, status));
    let mut table = new_table(["GROUP/RANK", "PHASE", "PROGRESS", "POD", "NODE", "AGE", "RESTARTS", "MESSAGE"]);
    for group in &status.groups {
        table.add_row(group_row(group, cluster.spec.parallelism.pipeline));
        for (position, rank) in group.ranks.iter().enumerate() {
            let branch = if position + 1 == group.ranks.len() { "└─" } else { "├─" };
            table.add_row(rank_row(branch, rank, pods, now));
        }
    }
    if !status.groups.is_empty() {
        lines.push(draw_table(&table));
    }
    lines.join("\n") + "\n"
}

/// Returns the lines between the title and the tree: conditions, endpoints and model.
fn describe_status(cluster: &InferenceCluster, status: &InferenceClusterStatus) -> Vec<String> {
    let mut facts = Vec::new();
    for type_ in [condition::READY, condition::PROGRESSING, condition::DEGRADED] {
        if let Some(found) = status.conditions.iter().find(|found| found.type_ == type_) {
            let line = format!("  {type_}: {} ({}) {}", found.status, found.reason, found.message);
            facts.push(line.trim_end().to_owned());
        }
    }
    let endpoints: Vec<_> = status.endpoint.iter().chain(&status.http_endpoint).map(String::as_str).collect();
    if !endpoints.is_empty() {
        facts.push(format!("  endpoint: {}", endpoints.join(", ")));
    }
    match &status.model {
        Some(model) => facts.push(format!(
            "  model: {} ({}, {} parameters, {}, context of {} tokens)",
            model.name, model.architecture, model.parameters, model.dtype, model.context_length
        )),
        None => facts.push(format!("  model: {} (not read yet)", cluster.spec.model.source)),
    }
    let generation = cluster.metadata.generation.unwrap_or(0);
    if status.observed_generation.is_none_or(|observed| observed < generation) {
        facts.push("  the status is of an older spec: the operator has not observed the present spec yet".to_owned());
    }
    facts
}

fn group_row(group: &GroupStatus, stages: u32) -> [String; 8] {
    let mut message = format!("epoch {}, {} recoveries", group.epoch, group.recoveries);
    if !group.revision.is_empty() {
        message = format!("revision {}, {message}", group.revision);
    }
    if !group.message.is_empty() {
        message = format!("{}; {message}", group.message);
    }
    if stages > 1 {
        message =
            format!("{stages} stages × {}, {message}", group.world_size / i32::try_from(stages).unwrap_or(i32::MAX));
    }
    [
        format!("group {}", group.index),
        group.phase.as_str().to_owned(),
        format!("{}/{} serve", group.serving_ranks, group.world_size),
        String::new(),
        String::new(),
        String::new(),
        String::new(),
        message,
    ]
}

fn rank_row(branch: &str, rank: &RankStatus, pods: &[Pod], now: Timestamp) -> [String; 8] {
    let pod = pods.iter().find(|pod| pod.metadata.name.as_deref() == Some(&rank.pod));
    let created = pod.and_then(|pod| pod.metadata.creation_timestamp.as_ref());
    [
        format!("{branch} rank {}", rank.rank),
        rank.phase.clone(),
        format_loaded(rank),
        rank.pod.clone(),
        if rank.node.is_empty() { "-".into() } else { rank.node.clone() },
        created.map_or("-".into(), |created| format_age(now.as_second() - created.0.as_second())),
        rank.restarts.to_string(),
        rank.message.clone(),
    ]
}

/// Formats the share of its weights that a rank has loaded. While the rank's node downloads, this is the share of the
/// download.
fn format_loaded(rank: &RankStatus) -> String {
    let percent = rank.percent_loaded.map_or("-".into(), |percent| format!("{percent}%"));
    match rank.seconds_left {
        Some(seconds) if seconds > 0 => format!("{percent}, {} left", format_age(seconds)),
        _ => percent,
    }
}

/// Formats seconds like the ages of kubectl: 5s, 3m, 2h, 4d.
pub(in crate::cli) fn format_age(seconds: i64) -> String {
    match seconds.max(0) {
        s @ 0..120 => format!("{s}s"),
        s @ 120..7200 => format!("{}m", s / 60),
        s @ 7200..172_800 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86_400),
    }
}

/// Draws a table with one line for each cluster.
pub(in crate::cli) fn draw_list(clusters: &[InferenceCluster], now: Timestamp) -> String {
    let mut table =
        new_table(["NAMESPACE", "NAME", "READY", "GROUPS", "RANKS", "REASON", "AGE", "ENDPOINT", "MESSAGE"]);
    for cluster in clusters {
        let status = cluster.status.clone().unwrap_or_default();
        let ready = status.conditions.iter().find(|found| found.type_ == condition::READY);
        let summary = status.summary.unwrap_or_default();
        let created = cluster.metadata.creation_timestamp.as_ref();
        table.add_row([
            cluster.metadata.namespace.clone().unwrap_or_default(),
            cluster.metadata.name.clone().unwrap_or_default(),
            ready.map_or("Unknown".into(), |ready| ready.status.clone()),
            summary.groups,
            summary.ranks,
            ready.map(|ready| ready.reason.clone()).unwrap_or_default(),
            created.map_or("-".into(), |created| format_age(now.as_second() - created.0.as_second())),
            status.endpoint.unwrap_or_default(),
            summary.message,
        ]);
    }
    draw_table(&table) + "\n"
}

fn new_table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(header);
    table
}

fn draw_table(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use crate::resource::InferenceCluster;

    fn forming() -> InferenceCluster {
        serde_json::from_value(json!({
            "apiVersion": "lockstep.dev/v1alpha1", "kind": "InferenceCluster",
            "metadata": {"name": "quick", "namespace": "ml", "generation": 2, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"model": {"source": "pvc://models/tiny"}, "workers": 1},
            "status": {
                "observedGeneration": 2, "replicas": 1, "readyReplicas": 0, "updatedReplicas": 1,
                "endpoint": "quick.ml.svc:50051",
                "summary": {"groups": "0/1", "ranks": "1/2", "message": "rank 1 loads"},
                "conditions": [{"type": "Ready", "status": "False", "reason": "Forming", "message": "rank 1 loads",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"}],
                "groups": [{"index": 0, "phase": "Forming", "revision": "abc", "epoch": 1, "servingRanks": 1, "worldSize": 2,
                    "ranks": [
                        {"rank": 0, "pod": "quick-0-head-0", "node": "n1", "phase": "Warmup", "percentLoaded": 100},
                        {"rank": 1, "pod": "quick-0-worker-0", "phase": "Loading", "percentLoaded": 35, "secondsLeft": 130,
                         "restarts": 2, "message": "reads shard 1"}]}]
            }
        }))
        .unwrap()
    }

    #[test]
    fn a_forming_cluster_is_drawn() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "quick-0-head-0", "creationTimestamp": "2026-01-01T00:00:00Z"}
        }))
        .unwrap();
        let now = "2026-01-01T00:05:00Z".parse().unwrap();
        let tree = super::draw_tree(&forming(), &[pod], now);
        for part in [
            "ml/quick: 0 of 1 groups serve\n",
            "Ready: False (Forming) rank 1 loads",
            "endpoint: quick.ml.svc:50051",
            "├─ rank 0",
            "5m",
            "└─ rank 1",
            "35%, 2m left",
            "reads shard 1",
        ] {
            assert!(tree.contains(part), "{part} is not in\n{tree}");
        }
        let list = super::draw_list(&[forming()], now);
        assert_eq!(list.lines().count(), 2, "{list}");
        assert!(list.contains("Forming") && list.contains("0/1"), "{list}");
    }

    #[test]
    fn a_cluster_without_status_is_drawn() {
        let cluster = InferenceCluster { status: None, ..forming() };
        let tree = super::draw_tree(&cluster, &[], "2026-01-01T00:05:00Z".parse().unwrap());
        assert_eq!(tree, "ml/quick: the operator has written no status yet\n");
    }
}
