//! The operator's command line.

use std::net::SocketAddr;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use lockstep_proto::choices::LogFormat;

/// Run the InferenceClusters of a Kubernetes cluster as their specs ask.
#[derive(Debug, Parser)]
#[command(name = "lockstep-operator", version, max_term_width = 120, arg_required_else_help = true)]
pub struct OperatorCli {
    #[command(subcommand)]
    pub command: OperatorCommand,
}

#[derive(Debug, Subcommand)]
pub enum OperatorCommand {
    /// Watch InferenceClusters and make the pods that they ask for
    Run(RunOptions),
    /// Print the CRD of InferenceCluster, for `kubectl apply -f -`
    Crd,
}

#[derive(Debug, Clone, Args)]
pub struct RunOptions {
    /// Image of the agent, for clusters that name none
    #[arg(long, env = "LOCKSTEP_AGENT_IMAGE", value_name = "IMAGE")]
    pub agent_image: String,
    /// Namespaces to look after, separated by commas; default: all
    #[arg(long, env = "LOCKSTEP_WATCH_NAMESPACES", value_delimiter = ',', value_name = "NAMESPACE")]
    pub watch_namespaces: Vec<String>,
    /// Address of /healthz, /readyz and /metrics
    #[arg(long, env = "LOCKSTEP_LISTEN", default_value = "0.0.0.0:8080", value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// Filter of the logs, in tracing's syntax
    #[arg(long, env = "LOCKSTEP_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
    /// Format of the logs
    #[arg(long, env = "LOCKSTEP_LOG_FORMAT", default_value_t = LogFormat::Text, value_parser = log_formats())]
    pub log_format: LogFormat,
    /// Work without a lease; only where no second operator runs
    #[arg(long)]
    pub no_leader_election: bool,
    /// Name of the lease
    #[arg(long, env = "LOCKSTEP_LEASE_NAME", default_value = "lockstep-operator", value_name = "NAME")]
    pub lease_name: String,
    /// Name of this process's pod, which holds the lease
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub pod_name: Option<String>,
    /// Namespace of the lease; default: that of the kubeconfig or the pod
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    pub pod_namespace: Option<String>,
    /// Clusters to reconcile in parallel
    #[arg(long, env = "LOCKSTEP_CONCURRENCY", default_value_t = 16, value_name = "NUMBER",
          value_parser = clap::value_parser!(u16).range(1..=256))]
    pub concurrency: u16,
}

/// Returns the parser of `--log-format`, which lists its values in the help.
fn log_formats() -> impl TypedValueParser<Value = LogFormat> {
    PossibleValuesParser::new(LogFormat::ALL.iter().map(|format| format.as_str()))
        .try_map(|name| name.parse::<LogFormat>())
}
