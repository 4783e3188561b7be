//! `lockstep why`: the one reason why a cluster does not serve, and what to do about it.

use std::process::ExitCode;

use clap::Args;
use k8s_openapi::api::core::v1::{Event, Node};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::ListParams;

use super::kubernetes::KubernetesFlags;
use crate::diagnosis::{ClusterObjects, Diagnosis, diagnose};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  lockstep why quickstart\n  kubectl lockstep why quickstart -n models -o json\n\nThe exit \
                        status is 0 where the cluster serves, and 1 where it does not."
)]
pub(super) struct Options {
    /// The InferenceCluster
    name: String,
    /// Form of the answer
    #[arg(short, long, value_enum)]
    output: Option<Form>,
    #[command(flatten)]
    kubernetes: KubernetesFlags,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    Json,
    Yaml,
}

pub(super) async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let kubernetes = options.kubernetes.connect().await?;
    let cluster = kubernetes.cluster(&options.name).await?;
    let pods = kubernetes.pods_of_cluster(&options.name).await?;
    // Who may not read events or nodes gets the answer that the rest gives.
    let events: Api<Event> = Api::namespaced(kubernetes.client.clone(), &kubernetes.namespace);
    let events = events.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default();
    let nodes: Api<Node> = Api::all(kubernetes.client.clone());
    let nodes = nodes.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default();
    let now = Timestamp::now();
    let diagnosis = diagnose(&ClusterObjects { cluster: &cluster, pods: &pods, events: &events, nodes: &nodes, now });
    super::print(&match options.output {
        None => text(&diagnosis),
        Some(Form::Json) => serde_json::to_string_pretty(&diagnosis)? + "\n",
        Some(Form::Yaml) => serde_yaml::to_string(&diagnosis)?,
    })?;
    Ok(if diagnosis.serves() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn text(diagnosis: &Diagnosis) -> String {
    let mut lines = vec![format!("{}: {}", diagnosis.reason.as_str(), diagnosis.message)];
    lines.extend(diagnosis.evidence.iter().map(|said| format!("  {}", said.replace('\n', "\n  "))));
    lines.push(format!("{}: {}", if diagnosis.serves() { "next" } else { "remedy" }, diagnosis.remedy));
    lines.join("\n") + "\n"
}
