//! Where the events of the watches come from: the API server, or whatever a simulation puts in its place.

use futures::stream::{BoxStream, StreamExt as _};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::watcher::{self, Config, watcher};
use kube::{Api, Client, Resource};

use crate::objects::{LOCKSTEP, label};
use crate::resource::InferenceCluster;

/// Events of one watch: a list of all objects, and every change after it. An error is followed by further events.
pub type Events<K> = BoxStream<'static, Result<watcher::Event<K>, watcher::Error>>;

/// Watches of each kind. Each call begins a new watch, which lists all objects first.
pub trait Source: Send + Sync + 'static {
    fn clusters(&self) -> Events<InferenceCluster>;
    /// Watches the pods that the operator's StatefulSets made.
    fn pods(&self) -> Events<Pod>;
    /// Watches the operator's StatefulSets.
    fn sets(&self) -> Events<StatefulSet>;
    fn nodes(&self) -> Events<Node>;
    /// Watches the operator's objects of `kind`.
    fn owned(&self, kind: &ApiResource) -> Events<DynamicObject>;
}

/// Namespaces whose clusters an operator looks after.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Scope {
    All,
    Namespace(String),
}

impl Scope {
    /// Returns true if the scope covers `namespace`.
    #[must_use]
    pub fn contains(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Namespace(own) => own == namespace,
        }
    }
}

/// The API server, as far as a scope reaches.
pub struct ApiServer {
    pub client: Client,
    pub scope: Scope,
}

impl ApiServer {
    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        match &self.scope {
            Scope::All => Api::all(self.client.clone()),
            Scope::Namespace(namespace) => Api::namespaced(self.client.clone(), namespace),
        }
    }
}

/// Selects the operator's objects.
fn ours() -> Config {
    Config::default().labels(&format!("{}={LOCKSTEP}", label::MANAGED_BY))
}

impl Source for ApiServer {
    fn clusters(&self) -> Events<InferenceCluster> {
        watcher(self.api(), Config::default()).boxed()
    }

    fn pods(&self) -> Events<Pod> {
        watcher(self.api(), ours()).boxed()
    }

    fn sets(&self) -> Events<StatefulSet> {
        watcher(self.api(), ours()).boxed()
    }

    fn nodes(&self) -> Events<Node> {
        watcher(Api::all(self.client.clone()), Config::default()).boxed()
    }

    fn owned(&self, kind: &ApiResource) -> Events<DynamicObject> {
        let api = match &self.scope {
            Scope::All => Api::all_with(self.client.clone(), kind),
            Scope::Namespace(namespace) => Api::namespaced_with(self.client.clone(), namespace, kind),
        };
        watcher(api, ours()).boxed()
    }
}
