//! The Kubernetes API as the commands use it: kubectl's flags, its kubeconfig, and errors that say what to do.

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

/// kubectl's flags.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct KubernetesFlags {
    /// Path of the kubeconfig. Default: KUBECONFIG, ~/.kube/config, or the pod's own account
    #[arg(long, value_name = "FILE", help_heading = "Kubernetes")]
    kubeconfig: Option<std::path::PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, value_name = "NAME", help_heading = "Kubernetes")]
    context: Option<String>,
    /// Namespace. Default: the context's
    #[arg(short, long, help_heading = "Kubernetes")]
    namespace: Option<String>,
}

impl KubernetesFlags {
    /// Whether any of them is given.
    pub(super) fn given(&self) -> bool {
        self.kubeconfig.is_some() || self.context.is_some() || self.namespace.is_some()
    }

    /// A client of the API server and the namespace that is meant.
    pub(super) async fn connect(&self) -> anyhow::Result<Kubernetes> {
        let options = KubeConfigOptions { context: self.context.clone(), ..Default::default() };
        let config = match &self.kubeconfig {
            Some(path) => {
                let kubeconfig = Kubeconfig::read_from(path).with_context(|| format!("read {}", path.display()))?;
                Config::from_custom_kubeconfig(kubeconfig, &options).await.context("use the kubeconfig")?
            }
            None if self.context.is_some() => Config::from_kubeconfig(&options).await.context("use the kubeconfig")?,
            None => {
                Config::infer().await.context("no Kubernetes cluster is known; set KUBECONFIG or give --kubeconfig")?
            }
        };
        let namespace = self.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).context("make a client of the API server")?;
        Ok(Kubernetes { client, namespace })
    }
}

/// A client and the namespace that is meant.
#[derive(Clone)]
pub(super) struct Kubernetes {
    pub client: Client,
    pub namespace: String,
}

impl Kubernetes {
    pub(super) fn clusters(&self) -> Api<InferenceCluster> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(super) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The cluster `name`; where there is none, the names that there are.
    pub(super) async fn cluster(&self, name: &str) -> anyhow::Result<InferenceCluster> {
        if let Some(cluster) = self.clusters().get_opt(name).await.map_err(|error| told(&error))? {
            return Ok(cluster);
        }
        let all = self.clusters().list(&ListParams::default()).await.map_err(|error| told(&error))?;
        let names: Vec<_> = all.items.into_iter().filter_map(|cluster| cluster.metadata.name).collect();
        bail!("{}", missing(name, &self.namespace, &names))
    }

    /// The pods of cluster `name`, by name.
    pub(super) async fn pods_of(&self, name: &str) -> anyhow::Result<Vec<Pod>> {
        let params = ListParams::default().labels(&selector(name));
        let mut pods = self.pods().list(&params).await.map_err(|error| told(&error))?.items;
        pods.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        Ok(pods)
    }
}

/// Selects the pods of cluster `name`.
pub(super) fn selector(name: &str) -> String {
    format!("{}={name}", label::CLUSTER)
}

fn missing(name: &str, namespace: &str, names: &[String]) -> String {
    if names.is_empty() {
        return format!(
            "namespace {namespace} has no InferenceCluster {name}, nor any other; look in all of them with `lockstep status -A`, \
             or name another namespace with -n"
        );
    }
    format!("namespace {namespace} has no InferenceCluster {name}; it has: {}", names.join(", "))
}

/// An error of the API in words.
pub(super) fn told(error: &kube::Error) -> anyhow::Error {
    match error {
        kube::Error::Api(status) if status.code == 404 && !status.message.contains('"') => {
            anyhow::anyhow!(
                "the API server knows no InferenceClusters; install Lockstep first (helm install lockstep …)"
            )
        }
        kube::Error::Api(status) if status.code == 403 => {
            anyhow::anyhow!("Kubernetes does not allow it: {}; ask for a role that does", status.message)
        }
        kube::Error::Api(status) if status.code == 401 => {
            anyhow::anyhow!(
                "Kubernetes does not know you: {}; log in anew, or choose another --context",
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
    fn names_there_are() {
        assert_eq!(
            super::missing("a", "default", &["b".into(), "c".into()]),
            "namespace default has no InferenceCluster a; it has: b, c"
        );
        assert!(super::missing("a", "default", &[]).contains("lockstep status -A"));
    }
}
