//! Brings the objects of an `InferenceCluster` to the state that its spec asks for. Each reconciliation has five steps,
//! one module for each:
//!
//! 1. `dereference` collects the observed state: StatefulSets, pods, and the reports of heads. `contacts` asks around about
//!    heads and machines that do not answer.
//! 2. `validate` checks the cluster and turns it into typed values.
//! 3. `build` makes every object from the validated cluster.
//! 4. `apply` applies each object that differs from the observed one. `secrets` writes the Secrets with certificates,
//!    `groups` carries out the step of each group, `marks` takes silent heads out of the client Service, and
//!    `stuck_pods` deletes pods that Kubernetes cannot delete by itself.
//! 5. `status` computes the status and writes it, and publishes an event of each change.
//!
//! Invariants: `validate` and `build` hold no client. `rollout` decides the step of each group from the observed state
//! and the last status. The operator keeps no other progress, so a new operator goes on wherever the old one was
//! killed.

mod apply;
pub mod build;
mod contacts;
mod dereference;
mod events;
mod groups;
mod marks;
mod observation;
mod secrets;
mod status;
mod stuck_pods;
pub mod validate;

use std::sync::Arc;
use std::time::Duration;

use kube::api::ObjectMeta;
use kube::runtime::controller::Action;
use kube::{Client, Resource as _, ResourceExt as _};

pub use apply::Ledger;
use apply::Urgency;
pub use events::EventCache;
pub use observation::{GroupSeen, Observation};
pub use secrets::Certificates;
pub use status::{Recorders, WriteBudget, WrittenStatuses};

use crate::heads::{GroupKey, Heads};
use crate::metrics::Metrics;
use crate::observe::Observed;
use crate::resource::InferenceCluster;
use crate::rollout::Step;
use validate::{Defaults, Validated};

/// Time until the next reconciliation while a group drains. Each reconciliation tells the head again to drain.
const WHILE_DRAINING: Duration = Duration::from_secs(2);
/// Time until the next reconciliation of an unsteady cluster. No watch shows refused pods, estimates of the loading
/// time, or that a timeout has passed.
const WHILE_UNSTEADY: Duration = Duration::from_secs(10);
/// Longest time until the next reconciliation of a steady cluster.
const WHILE_STEADY: Duration = Duration::from_secs(3600);

/// State that all reconciliations share.
pub struct Context {
    pub client: Client,
    pub observed: Observed,
    pub heads: Heads,
    pub defaults: Defaults,
    pub recorders: Recorders,
    pub metrics: Arc<Metrics>,
    pub ledger: Ledger,
    pub certificates: Certificates,
    pub write_budget: WriteBudget,
    pub written: WrittenStatuses,
    pub events: EventCache,
}

impl Context {
    /// Returns the metadata of an owned object as the watches show it.
    fn observed_metadata(&self, kind: &str, namespace: &str, name: &str) -> Option<ObjectMeta> {
        match kind {
            "StatefulSet" => self.observed.stateful_set(namespace, name).map(|set| set.metadata.clone()),
            _ => self.observed.trace(kind, namespace, name).map(|object| object.metadata.clone()),
        }
    }
}

/// Reason why a reconciliation failed. The controller tries again with growing pauses.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    #[error("cannot apply {kind} {name}: {}", api_message(source))]
    Apply { kind: String, name: String, source: kube::Error },
    #[error("cannot delete {kind} {name}: {}", api_message(source))]
    Delete { kind: String, name: String, source: kube::Error },
    /// An object with the name that the cluster needs has another owner. Holds its kind and name.
    #[error("{0} belongs to another owner; rename this cluster or delete that object")]
    NameTaken(String),
    #[error("cannot read the cluster's Secrets: {}", api_message(.0))]
    ReadSecrets(kube::Error),
    #[error("cannot write Secret {name}: {}", api_message(source))]
    WriteSecret { name: String, source: kube::Error },
    #[error(transparent)]
    Certificate(#[from] crate::certificates::CertificateError),
    #[error("cannot write the status: {}", api_message(.0))]
    Status(kube::Error),
}

impl ReconcileError {
    /// Returns the value of the metrics' label `cause`.
    #[must_use]
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Apply { .. } => "apply",
            Self::Delete { .. } => "delete",
            Self::NameTaken(_) => "name_taken",
            Self::ReadSecrets(_) | Self::WriteSecret { .. } => "secrets",
            Self::Certificate(_) => "certificates",
            Self::Status(_) => "status",
        }
    }
}

/// Returns the message of the API server. `Display` would print the whole response.
fn api_message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Brings the objects of `cluster` one step closer to its spec, and updates its status.
///
/// # Errors
/// Fails if the API server refuses a request. The status then shows the error too, unless the status itself cannot be
/// written.
pub async fn reconcile(cluster: Arc<InferenceCluster>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    if cluster.meta().deletion_timestamp.is_some() {
        // Kubernetes deletes the objects by their owner references.
        forget_cluster(&context, &namespace, &name);
        return Ok(Action::await_change());
    }
    let (shown, cluster) = (cluster.status.clone(), context.written.restore(&cluster));
    let seen = dereference::dereference(&context, &cluster).await;
    let validated = match validate::validate(&cluster, &context.defaults) {
        Ok(validated) => validated,
        Err(invalid) => {
            let status = status::compute_invalid(&cluster, &seen, &invalid);
            status::write(&context, &cluster, shown.as_ref(), status).await?;
            return Ok(Action::await_change());
        }
    };
    let steps = groups::decide_steps(&validated, &cluster, &seen);
    let applied = apply_all(&context, &validated, &seen, &steps).await;
    let computed = status::compute(&validated, &cluster, &seen, &steps, applied.as_ref().err());
    let steady = computed.steady;
    context.metrics.record_groups(&namespace, &name, &status::sample_groups(&seen, &computed.status));
    let drains = steps.values().any(|step| *step == Step::Drain);
    follow_heads(&context, &validated, &seen, steady).await;
    let retry_status = status::write(&context, &cluster, shown.as_ref(), computed.status).await?;
    if steady {
        context.recorders.forget(&namespace, &name);
    }
    let certificates_due = applied?;
    let pause = match (drains, steady) {
        (true, _) => WHILE_DRAINING,
        (false, false) => WHILE_UNSTEADY,
        (false, true) => WHILE_STEADY,
    };
    let look_again = seen.groups.values().filter_map(|group| group.contacts.look_again).min();
    let pause = look_again.map_or(pause, |again| pause.min(again));
    Ok(Action::requeue(pause.min(certificates_due).min(retry_status.unwrap_or(pause))))
}

/// Applies all objects and carries out the step of each group. Returns the time until certificates are due.
async fn apply_all(
    context: &Context,
    cluster: &Validated,
    seen: &Observation,
    steps: &groups::Steps,
) -> Result<Duration, ReconcileError> {
    let certificates_due = secrets::ensure_secrets(context, cluster).await?;
    let shared = build::cluster_objects(cluster, marks::are_all_marked(seen));
    for object in shared.objects() {
        apply::apply(context, &cluster.identity.owner.uid, object, Urgency::Spread).await?;
    }
    if context.observed.has_kind("PodMonitor") {
        apply::apply(context, &cluster.identity.owner.uid, shared.pod_monitor_object(), Urgency::Spread).await?;
    }
    for (&index, step) in steps {
        groups::carry_out(context, cluster, seen.groups.get(&index), index, *step).await?;
    }
    stuck_pods::delete_stuck_pods(context, cluster, seen).await?;
    marks::mark_heads(context, cluster, seen).await?;
    Ok(certificates_due)
}

/// Follows the heads of an unsteady cluster, and closes the connections to the heads of a steady cluster.
async fn follow_heads(context: &Context, cluster: &Validated, seen: &Observation, steady: bool) {
    if steady {
        context.certificates.drop_credentials(cluster);
    }
    for (&index, group) in &seen.groups {
        let key = GroupKey::new(&cluster.identity.namespace, &cluster.identity.name, index);
        let pod = group.head_address().filter(|_| !steady);
        match pod {
            None => context.heads.disconnect(&key),
            Some(pod) => match context.certificates.credentials(context, cluster).await {
                Ok(credentials) => context.heads.follow(&key, &pod, &credentials),
                Err(error) => tracing::warn!(cluster = %cluster.identity.name, %error, "cannot dial heads"),
            },
        }
    }
}

/// Drops all state of a deleted cluster.
pub fn forget_cluster(context: &Context, namespace: &str, name: &str) {
    context.heads.forget_cluster(namespace, name);
    context.ledger.forget(namespace, name);
    context.written.forget(namespace, name);
    context.certificates.forget(namespace, name);
    context.recorders.forget(namespace, name);
}
