//! The names derived from a cluster's, in one place. A cluster's name has at most 40 characters, so that each of these
//! is a legal label (63).

/// Names within one group.
#[derive(Debug, Clone)]
pub struct Names {
    cluster: String,
    group: u32,
}

impl Names {
    #[must_use]
    pub fn new(cluster: &str, group: u32) -> Self {
        Self { cluster: cluster.to_owned(), group }
    }

    /// Index of the group.
    #[must_use]
    pub fn group(&self) -> u32 {
        self.group
    }

    /// The group's identity, and its headless Service.
    #[must_use]
    pub fn group_name(&self) -> String {
        format!("{}-{}", self.cluster, self.group)
    }

    /// The one pod of the head's StatefulSet.
    #[must_use]
    pub fn head_pod(&self) -> String {
        format!("{}-head-0", self.group_name())
    }

    /// A pod of the workers' StatefulSet.
    #[must_use]
    pub fn worker_pod(&self, ordinal: u32) -> String {
        format!("{}-worker-{ordinal}", self.group_name())
    }

    /// The head's StatefulSet, and its pod's name without the ordinal.
    #[must_use]
    pub fn head_set(&self) -> String {
        format!("{}-head", self.group_name())
    }

    /// The workers' StatefulSet.
    #[must_use]
    pub fn worker_set(&self) -> String {
        format!("{}-worker", self.group_name())
    }

    /// The head's address inside the Kubernetes cluster.
    #[must_use]
    pub fn head_host(&self, namespace: &str) -> String {
        format!("{}.{}.{namespace}.svc", self.head_pod(), self.group_name())
    }
}

/// Names of what a cluster has once, for all its groups.
#[derive(Debug, Clone)]
pub struct ClusterNames {
    cluster: String,
}

impl ClusterNames {
    #[must_use]
    pub fn new(cluster: &str) -> Self {
        Self { cluster: cluster.to_owned() }
    }

    /// The clients' Service: the cluster's own name.
    #[must_use]
    pub fn service(&self) -> String {
        self.cluster.clone()
    }

    /// The client Service's host inside the Kubernetes cluster.
    #[must_use]
    pub fn service_host(&self, namespace: &str) -> String {
        format!("{}.{namespace}.svc", self.service())
    }

    /// PodMonitor and HorizontalPodAutoscaler.
    #[must_use]
    pub fn cluster(&self) -> String {
        self.cluster.clone()
    }

    /// Secret of the operator alone: the CA's certificate and key, its own leaf, and the groups' key.
    #[must_use]
    pub fn ca_secret(&self) -> String {
        format!("{}-ca", self.cluster)
    }

    /// Secret of the pods' containers of `role` (`head` or `node`): their certificates, and the groups' key.
    #[must_use]
    pub fn tls_secret(&self, role: &str) -> String {
        format!("{}-{role}-tls", self.cluster)
    }

    /// Claim of the model cache.
    #[must_use]
    pub fn cache_claim(&self) -> String {
        format!("{}-models", self.cluster)
    }
}
