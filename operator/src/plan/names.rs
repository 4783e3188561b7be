//! Names of the objects of a cluster, derived from the cluster's name. A cluster's name has at most 40 characters, so
//! that each derived name is a legal label of at most 63 characters.

/// Names of the objects of one group.
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

    /// Returns the index of the group.
    #[must_use]
    pub fn group(&self) -> u32 {
        self.group
    }

    /// Returns the name of the group and of its headless Service.
    #[must_use]
    pub fn group_name(&self) -> String {
        format!("{}-{}", self.cluster, self.group)
    }

    /// Returns the name of the head pod, the only pod of its StatefulSet.
    #[must_use]
    pub fn head_pod(&self) -> String {
        format!("{}-head-0", self.group_name())
    }

    /// Returns the name of the worker pod with this ordinal.
    #[must_use]
    pub fn worker_pod(&self, ordinal: u32) -> String {
        format!("{}-worker-{ordinal}", self.group_name())
    }

    /// Returns the name of the head's StatefulSet.
    #[must_use]
    pub fn head_set(&self) -> String {
        format!("{}-head", self.group_name())
    }

    /// Returns the name of the workers' StatefulSet.
    #[must_use]
    pub fn worker_set(&self) -> String {
        format!("{}-worker", self.group_name())
    }

    /// Returns the DNS name of the head pod for pods of its namespace. Their resolver completes it, and asks for this name
    /// first of all: a longer name would cost more questions, and each may go to a DNS server whose machine is gone.
    #[must_use]
    pub fn head_host(&self) -> String {
        format!("{}.{}", self.head_pod(), self.group_name())
    }
}

/// Names of the objects that all groups of a cluster share.
#[derive(Debug, Clone)]
pub struct ClusterNames {
    cluster: String,
}

impl ClusterNames {
    #[must_use]
    pub fn new(cluster: &str) -> Self {
        Self { cluster: cluster.to_owned() }
    }

    /// Returns the name of the Service for clients, which is the name of the cluster.
    #[must_use]
    pub fn service(&self) -> String {
        self.cluster.clone()
    }

    /// Returns the DNS name of the Service for clients inside Kubernetes.
    #[must_use]
    pub fn service_host(&self, namespace: &str) -> String {
        format!("{}.{namespace}.svc", self.service())
    }

    /// Returns the name of the cluster, of its PodMonitor and of its HorizontalPodAutoscaler.
    #[must_use]
    pub fn cluster(&self) -> String {
        self.cluster.clone()
    }

    /// Returns the name of the Secret that only the operator reads. It holds the certificate and key of the CA, the
    /// operator's leaf certificate, and the key of the groups.
    #[must_use]
    pub fn ca_secret(&self) -> String {
        format!("{}-ca", self.cluster)
    }

    /// Returns the name of the Secret for the containers of `role` (`head` or `node`). It holds their certificate and
    /// the key of the groups.
    #[must_use]
    pub fn tls_secret(&self, role: &str) -> String {
        format!("{}-{role}-tls", self.cluster)
    }

    /// Returns the name of the PersistentVolumeClaim of the model cache.
    #[must_use]
    pub fn cache_claim(&self) -> String {
        format!("{}-models", self.cluster)
    }
}
