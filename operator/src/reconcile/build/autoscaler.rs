//! The HorizontalPodAutoscaler. It sets `spec.replicas` of the cluster by the number of requests that wait at each
//! head. It uses the scale subresource, whose selector counts only heads.

use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec, MetricIdentifier, MetricSpec,
    MetricTarget, PodsMetricSource,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use lockstep_proto::names::resource;

use crate::objects::labels;
use crate::plan::ClusterNames;
use crate::reconcile::validate::Validated;

/// Metric of a head: the number of requests in its queue.
const REQUESTS_WAITING: &str = "lockstep_requests_waiting";

/// Builds the autoscaler, if the spec has one.
pub(super) fn build_autoscaler(cluster: &Validated) -> Option<HorizontalPodAutoscaler> {
    let autoscaling = cluster.spec.autoscaling.as_ref()?;
    let count = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    let name = ClusterNames::new(&cluster.identity.name).cluster();
    let waiting = PodsMetricSource {
        metric: MetricIdentifier { name: REQUESTS_WAITING.into(), selector: None },
        target: MetricTarget {
            type_: "AverageValue".into(),
            average_value: Some(Quantity(autoscaling.waiting_per_group.to_string())),
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
            min_replicas: Some(count(autoscaling.min_replicas)),
            max_replicas: count(autoscaling.max_replicas),
            metrics: Some(vec![MetricSpec { type_: "Pods".into(), pods: Some(waiting), ..Default::default() }]),
            ..Default::default()
        }),
        ..Default::default()
    })
}
