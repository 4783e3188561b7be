//! The PodMonitor of the Prometheus operator. Heads export metrics of requests, and ranks export metrics of steps. Only
//! some Kubernetes clusters have this kind, so it is not among the objects that are always applied.

use kube::core::DynamicObject;
use serde_json::json;

use super::containers::port_name;
use crate::objects::{kinds, label, labels};
use crate::plan::ClusterNames;
use crate::reconcile::validate::Validated;

/// Builds the PodMonitor, which scrapes every pod of the cluster.
pub(super) fn build_pod_monitor(cluster: &Validated) -> DynamicObject {
    let name = ClusterNames::new(&cluster.identity.name).cluster();
    let endpoint = |port: &str| json!({ "port": port, "path": "/metrics" });
    let mut heads = endpoint(port_name::HTTP);
    if cluster.spec.serving.has_tls() {
        heads["scheme"] = json!("https");
        // A scrape goes to a pod's address, which no certificate names.
        heads["tlsConfig"] = json!({ "insecureSkipVerify": true });
    }
    let mut object = DynamicObject::new(&name, &kinds::pod_monitor()).data(json!({
        "spec": {
            "selector": labels::select_pods(&cluster.identity.name, None, None),
            "podTargetLabels": [label::CLUSTER, label::GROUP, label::ROLE],
            "podMetricsEndpoints": [heads, endpoint(port_name::PROBE)],
        }
    }));
    object.metadata = cluster.identity.metadata(name, labels::cluster_labels(&cluster.identity.name));
    object
}
