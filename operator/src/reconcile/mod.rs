//! From an `InferenceCluster` to the objects that it means, in five steps: dereference, validate, build, apply, status.
//!
//! Invariants: `validate` and `build` hold no client. What is done with each group is decided by `rollout`, from what is
//! observed alone: whichever step the operator is killed at, the next one goes on from there.

mod apply;
pub mod build;
mod dereference;
mod events;
mod groups;
mod lost;
mod secrets;
mod status;
pub mod validate;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::api::ObjectMeta;
use kube::runtime::controller::Action;
use kube::{Client, Resource as _, ResourceExt as _};

pub use apply::Ledger;
pub use dereference::{GroupSeen, Observation};
pub use events::EventCache;
pub use secrets::Certificates;
pub use status::{Pace, Recorders};

use crate::heads::{GroupKey, Heads};
use crate::metrics::Metrics;
use crate::observe::Observed;
use crate::resource::InferenceCluster;
use crate::rollout::Step;
use validate::{Defaults, Validated};

/// While a group drains, its head is asked again after this long.
const WHILE_DRAINING: Duration = Duration::from_secs(2);
/// While something is being waited for that no watch tells: lost nodes, refused pods, estimates of what is left.
const WHILE_UNSTEADY: Duration = Duration::from_secs(10);
/// A cluster that is steady is looked at again after at most this long.
const WHILE_STEADY: Duration = Duration::from_secs(3600);

/// What every reconciliation shares.
pub struct Context {
    pub client: Client,
    pub observed: Observed,
    pub heads: Heads,
    pub defaults: Defaults,
    pub recorders: Recorders,
    pub metrics: Arc<Metrics>,
    pub ledger: Ledger,
    pub certificates: Certificates,
    pub pace: Pace,
    pub events: EventCache,
}

impl Context {
    /// Metadata of an owned object, as the watches show it.
    fn trace(&self, kind: &str, namespace: &str, name: &str) -> Option<ObjectMeta> {
        match kind {
            "StatefulSet" => self.observed.set(namespace, name).map(|set| set.metadata.clone()),
            _ => self.observed.trace(kind, namespace, name).map(|object| object.metadata.clone()),
        }
    }
}

/// Why a reconciliation ended early; it is tried again with growing pauses.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    #[error("apply {kind} {name}: {}", said(source))]
    Apply { kind: String, name: String, source: kube::Error },
    #[error("delete {kind} {name}: {}", said(source))]
    Delete { kind: String, name: String, source: kube::Error },
    /// Kind and name.
    #[error("{0} belongs to another object; rename this cluster or delete that one")]
    Taken(String),
    #[error("read the cluster's Secrets: {}", said(.0))]
    ReadSecrets(kube::Error),
    #[error("write Secret {name}: {}", said(source))]
    WriteSecret { name: String, source: kube::Error },
    #[error(transparent)]
    Certificate(#[from] crate::certificates::CertificateError),
    #[error("write the status: {}", said(.0))]
    Status(kube::Error),
}

impl ReconcileError {
    /// A word for metrics.
    #[must_use]
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Apply { .. } => "apply",
            Self::Delete { .. } => "delete",
            Self::Taken(_) => "name_taken",
            Self::ReadSecrets(_) | Self::WriteSecret { .. } => "secrets",
            Self::Certificate(_) => "certificates",
            Self::Status(_) => "status",
        }
    }
}

/// The API server's own words; the error itself shows the whole answer.
fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

fn now() -> Timestamp {
    Timestamp::now()
}

/// Time since `since`; none where it lies ahead.
fn elapsed(since: Timestamp) -> Duration {
    now().duration_since(since).try_into().unwrap_or_default()
}

/// Brings the world one step closer to what `cluster` asks for, and its status to the truth.
///
/// # Errors
/// The API server refuses something; the status says so too, where it can be written.
pub async fn reconcile(cluster: Arc<InferenceCluster>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    if cluster.meta().deletion_timestamp.is_some() {
        // Everything else goes by its owner references.
        forget(&context, &namespace, &name);
        return Ok(Action::await_change());
    }
    let seen = dereference::dereference(&context, &cluster).await;
    let validated = match validate::validate(&cluster, &context.defaults) {
        Ok(validated) => validated,
        Err(invalid) => {
            status::write(&context, &cluster, status::invalid(&cluster, &seen, &invalid)).await?;
            return Ok(Action::await_change());
        }
    };
    let steps = groups::decide(&validated, &cluster, &seen);
    let done = act(&context, &validated, &seen, &steps).await;
    let told = status::of(&validated, &cluster, &seen, &steps, done.as_ref().err());
    let steady = told.steady;
    let drains = steps.values().any(|step| *step == Step::Drain);
    follow(&context, &validated, &seen, steady).await;
    let held_back = status::write(&context, &cluster, told.status).await?;
    if steady {
        context.recorders.forget(&namespace, &name);
    }
    let look_again = done?;
    let pause = match (drains, steady) {
        (true, _) => WHILE_DRAINING,
        (false, false) => WHILE_UNSTEADY,
        (false, true) => WHILE_STEADY,
    };
    Ok(Action::requeue(pause.min(look_again).min(held_back.unwrap_or(pause))))
}

/// Applies what was decided. Returns when certificates are due.
async fn act(
    context: &Context,
    cluster: &Validated,
    seen: &Observation,
    steps: &groups::Steps,
) -> Result<Duration, ReconcileError> {
    let look_again = secrets::bring_about(context, cluster).await?;
    let shared = build::cluster_objects(cluster);
    for object in shared.objects() {
        apply::apply(context, &cluster.identity.owner.uid, object).await?;
    }
    if context.observed.watches("PodMonitor") {
        apply::apply(context, &cluster.identity.owner.uid, shared.monitor()).await?;
    }
    for (&index, step) in steps {
        groups::take(context, cluster, seen.groups.get(&index), index, *step).await?;
    }
    lost::force_away(context, cluster, seen).await?;
    Ok(look_again)
}

/// Listens to the heads of a cluster that is not steady, and leaves those of one that is.
async fn follow(context: &Context, cluster: &Validated, seen: &Observation, steady: bool) {
    if steady {
        context.certificates.rest(cluster);
    }
    for (&index, group) in &seen.groups {
        let key = GroupKey::new(&cluster.identity.namespace, &cluster.identity.name, index);
        let pod = group.head_pod().filter(|_| !steady);
        match pod {
            None => context.heads.leave(&key),
            Some(pod) => match context.certificates.credentials(context, cluster).await {
                Ok(credentials) => context.heads.follow(&key, &pod, &credentials),
                Err(error) => tracing::warn!(cluster = %cluster.identity.name, %error, "cannot dial heads"),
            },
        }
    }
}

/// A cluster is gone: nothing of it is kept.
pub fn forget(context: &Context, namespace: &str, name: &str) {
    context.heads.forget_cluster(namespace, name);
    context.ledger.forget(namespace, name);
    context.certificates.forget(namespace, name);
    context.recorders.forget(namespace, name);
}
