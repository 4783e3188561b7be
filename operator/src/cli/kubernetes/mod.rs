//! The Kubernetes API for the commands: kubectl's flags, its kubeconfig, and errors with a remedy.

pub(super) mod forward;
pub(super) mod tree;

use anyhow::{Context, bail};
use clap::Args;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use lockstep_proto::errors::root_cause;

use crate::objects::label;
use crate::resource::InferenceCluster;

/// Flags that kubectl has too.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct KubernetesFlags {
    /// Path to the kubeconfig file. Default: KUBECONFIG, ~/.kube/config, or the service account of the pod
    #[arg(long, value_name = "FILE", help_heading = "Kubernetes")]
    kubeconfig: Option<std::path::PathBuf>,
    /// Name of the kubeconfig context. Default: the current context
    #[arg(long, value_name = "NAME", help_heading = "Kubernetes")]
    context: Option<String>,
    /// Namespace of the InferenceCluster. Default: the namespace of the context
    #[arg(short, long, help_heading = "Kubernetes")]
    namespace: Option<String>,
}

impl KubernetesFlags {
    /// Returns true if any flag is given.
    pub(super) fn is_given(&self) -> bool {
        self.kubeconfig.is_some() || self.context.is_some() || self.namespace.is_some()
    }

    /// Connects to the API server that the flags name.
    pub(super) async fn connect(&self) -> anyhow::Result<Kubernetes> {
        let options = KubeConfigOptions { context: self.context.clone(), ..Default::default() };
        let config = match &self.kubeconfig {
            Some(path) => {
                let kubeconfig = Kubeconfig::read_from(path).with_context(|| format!("read {}", path.display()))?;
                Config::from_custom_kubeconfig(kubeconfig, &options).await.context("use the kubeconfig")?
            }
            None if self.context.is_some() => Config::from_kubeconfig(&options).await.context("use the kubeconfig")?,
            None => Config::infer()
                .await
                .context("no Kubernetes cluster is configured; set KUBECONFIG or give --kubeconfig")?,
        };
        let namespace = self.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).context("make a client of the API server")?;
        Ok(Kubernetes { client, namespace })
    }
}

/// A client of the API server, and the namespace to look in.
#[derive(Clone)]
pub(super) struct Kubernetes {
    pub client: Client,
    pub namespace: String,
}

impl Kubernetes {
    /// Returns the API of the namespace's InferenceClusters.
    pub(super) fn clusters(&self) -> Api<InferenceCluster> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Returns the API of the namespace's pods.
    pub(super) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Fetches the cluster `name`. If it does not exist, the error lists the names of the namespace's clusters.
    pub(super) async fn cluster(&self, name: &str) -> anyhow::Result<InferenceCluster> {
        if let Some(cluster) = self.clusters().get_opt(name).await.map_err(|error| describe_error(&error))? {
            return Ok(cluster);
        }
        let all = self.clusters().list(&ListParams::default()).await.map_err(|error| describe_error(&error))?;
        let names: Vec<_> = all.items.into_iter().filter_map(|cluster| cluster.metadata.name).collect();
        bail!("{}", describe_missing(name, &self.namespace, &names))
    }

    /// Fetches the pods of cluster `name`, sorted by name.
    pub(super) async fn pods_of_cluster(&self, name: &str) -> anyhow::Result<Vec<Pod>> {
        let params = ListParams::default().labels(&selector(name));
        let mut pods = self.pods().list(&params).await.map_err(|error| describe_error(&error))?.items;
        pods.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        Ok(pods)
    }
}

/// Returns the label selector of the pods of cluster `name`.
pub(super) fn selector(name: &str) -> String {
    format!("{}={name}", label::CLUSTER)
}

/// Describes a missing cluster, with the names that exist.
fn describe_missing(name: &str, namespace: &str, names: &[String]) -> String {
    if names.is_empty() {
        return format!(
            "namespace {namespace} has no InferenceCluster; list all namespaces with `lockstep status -A`, or give \
             another namespace with -n"
        );
    }
    format!("namespace {namespace} has no InferenceCluster {name}; it has: {}", names.join(", "))
}

/// Describes an error of the Kubernetes API, with a remedy.
pub(super) fn describe_error(error: &kube::Error) -> anyhow::Error {
    match error {
        kube::Error::Api(status) if status.code == 404 && !status.message.contains('"') => {
            anyhow::anyhow!(
                "the API server does not know InferenceClusters; install Lockstep first (helm install lockstep …)"
            )
        }
        kube::Error::Api(status) if status.code == 403 => {
            anyhow::anyhow!("Kubernetes refuses the request: {}; ask for a role that allows it", status.message)
        }
        kube::Error::Api(status) if status.code == 401 => {
            anyhow::anyhow!(
                "Kubernetes does not accept your credentials: {}; log in again, or choose another --context",
                status.message
            )
        }
        kube::Error::Api(status) => anyhow::anyhow!("Kubernetes: {}", status.message),
        other => {
            anyhow::anyhow!("the API server cannot be reached ({}); see --kubeconfig and --context", root_cause(other))
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_missing_cluster_lists_the_names_that_exist() {
        assert_eq!(
            super::describe_missing("a", "default", &["b".into(), "c".into()]),
            "namespace default has no InferenceCluster a; it has: b, c"
        );
        assert!(super::describe_missing("a", "default", &[]).contains("lockstep status -A"));
    }
}
