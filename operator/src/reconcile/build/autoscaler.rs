//! The HorizontalPodAutoscaler: it sets `spec.replicas` of the cluster through the scale subresource, whose selector
//! counts heads only, by the requests that wait at each head.

use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec, MetricIdentifier, MetricSpec,
    MetricTarget, PodsMetricSource,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use lockstep_proto::names::resource;

use crate::objects::labels;
use crate::plan::ClusterNames;
use crate::reconcile::validate::Validated;

/// The heads' metric of requests in the queue.
const REQUESTS_WAITING: &str = "lockstep_requests_waiting";

/// The autoscaler, where the spec has bounds for one.
pub(super) fn of_cluster(cluster: &Validated) -> Option<HorizontalPodAutoscaler> {
    let asked = cluster.spec.autoscaling.as_ref()?;
    let count = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    let name = ClusterNames::new(&cluster.identity.name).cluster();
    let waiting = PodsMetricSource {
        metric: MetricIdentifier { name: REQUESTS_WAITING.into(), selector: None },
        target: MetricTarget {
            type_: "AverageValue".into(),
            average_value: Some(Quantity(asked.waiting_per_group.to_string())),
            ..Default::default()
        },
    };
    Some(HorizontalPodAutoscaler {
        metadata: cluster.identity.metadata(name, labels::cluster_labels(&cluster.identity.name)),
        spec: Some(HorizontalPodAutoscalerSpec {
            scale_target_ref: CrossVersionObjectReference {
                api_version: Some(format!("{}/{}", resource::GROUP, resource::VERSION)),
                kind: resource::KIND.into(),
                name: cluster.identity.name.clone(),
            },
            min_replicas: Some(count(asked.min_replicas)),
            max_replicas: count(asked.max_replicas),
            metrics: Some(vec![MetricSpec { type_: "Pods".into(), pods: Some(waiting), ..Default::default() }]),
            ..Default::default()
        }),
        ..Default::default()
    })
}
