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

    /// The head's address inside the Kubernetes cluster.
    #[must_use]
    pub fn head_host(&self, namespace: &str) -> String {
        format!("{}.{}.{namespace}.svc", self.head_pod(), self.group_name())
    }
}
