//! `lockstep why`: the one reason why a cluster does not serve, and what to do about it.

use std::process::ExitCode;

use clap::Args;
use k8s_openapi::api::core::v1::{Event, Node};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::ListParams;

use super::kubernetes::KubernetesFlags;
use crate::diagnosis::{ClusterSnapshot, Diagnosis, diagnose};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  lockstep why quickstart\n  kubectl lockstep why quickstart -n models -o json\n\nThe exit \
                        status is 0 if the cluster serves, and 1 if it does not."
)]
pub(super) struct WhyArgs {
    /// Name of the InferenceCluster
    name: String,
    /// Format of the answer
    #[arg(short, long, value_enum)]
    output: Option<WhyFormat>,
    #[command(flatten)]
    kubernetes: KubernetesFlags,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum WhyFormat {
    Json,
    Yaml,
}

pub(super) async fn run(args: WhyArgs) -> anyhow::Result<ExitCode> {
    let kubernetes = args.kubernetes.connect().await?;
    let cluster = kubernetes.cluster(&args.name).await?;
    let pods = kubernetes.pods_of_cluster(&args.name).await?;
    // A user who may not read events or Kubernetes nodes gets the answer that the other objects give.
    let events: Api<Event> = Api::namespaced(kubernetes.client.clone(), &kubernetes.namespace);
    let events = events.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default();
    let nodes: Api<Node> = Api::all(kubernetes.client.clone());
    let nodes = nodes.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default();
    let now = Timestamp::now();
    let diagnosis = diagnose(&ClusterSnapshot { cluster: &cluster, pods: &pods, events: &events, nodes: &nodes, now });
    super::print(&match args.output {
        None => format_diagnosis(&diagnosis),
        Some(WhyFormat::Json) => serde_json::to_string_pretty(&diagnosis)? + "\n",
        Some(WhyFormat::Yaml) => serde_yaml::to_string(&diagnosis)?,
    })?;
    Ok(if diagnosis.serves() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns reason, message, evidence and remedy, for people.
fn format_diagnosis(diagnosis: &Diagnosis) -> String {
    let mut lines = vec![format!("{}: {}", diagnosis.reason.as_str(), diagnosis.message)];
    lines.extend(diagnosis.evidence.iter().map(|line| format!("  {}", line.replace('\n', "\n  "))));
    lines.push(format!("{}: {}", if diagnosis.serves() { "next" } else { "remedy" }, diagnosis.remedy));
    lines.join("\n") + "\n"
}
