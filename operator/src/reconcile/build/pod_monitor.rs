//! The PodMonitor of the Prometheus operator: heads tell of requests, nodes of steps. Its kind is not everywhere, so it
//! is kept apart from what every Kubernetes takes.

use kube::core::DynamicObject;
use serde_json::json;

use super::containers::port_name;
use crate::objects::{kinds, label, labels};
use crate::plan::ClusterNames;
use crate::reconcile::validate::Validated;

/// Scrapes every pod of the cluster, wherever that kind exists.
pub(super) fn of_cluster(cluster: &Validated) -> DynamicObject {
    let name = ClusterNames::new(&cluster.identity.name).cluster();
    let endpoint = |port: &str| json!({ "port": port, "path": "/metrics" });
    let mut object = DynamicObject::new(&name, &kinds::pod_monitor()).data(json!({
        "spec": {
            "selector": labels::select_pods(&cluster.identity.name, None, None),
            "podTargetLabels": [label::CLUSTER, label::GROUP, label::ROLE],
            "podMetricsEndpoints": [endpoint(port_name::HTTP), endpoint(port_name::PROBE)],
        }
    }));
    object.metadata = cluster.identity.metadata(name, labels::cluster_labels(&cluster.identity.name));
    object
}
