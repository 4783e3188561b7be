//! The PodMonitor of the Prometheus operator: heads tell of requests, nodes of steps. Its kind is not everywhere, so it
//! is kept apart from what every Kubernetes takes.

use kube::core::DynamicObject;
use serde_json::json;

use super::containers::port_name;
use super::{labels, pod_monitor_resource};
use crate::plan::ClusterNames;
use crate::reconcile::validate::Validated;

/// Scrapes every pod of the cluster, wherever that kind exists.
pub(super) fn of_cluster(cluster: &Validated) -> DynamicObject {
    let name = ClusterNames::new(&cluster.name).cluster();
    let endpoint = |port: &str| json!({ "port": port, "path": "/metrics" });
    let mut object = DynamicObject::new(&name, &pod_monitor_resource()).data(json!({
        "spec": {
            "selector": labels::selector(&cluster.name, None, None),
            "podTargetLabels": [labels::label::CLUSTER, labels::label::GROUP, labels::label::ROLE],
            "podMetricsEndpoints": [endpoint(port_name::HTTP), endpoint(port_name::PROBE)],
        }
    }));
    object.metadata = labels::metadata(cluster, name, labels::of_cluster(&cluster.name));
    object
}
