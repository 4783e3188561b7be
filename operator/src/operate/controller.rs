//! One controller: it watches the clusters of a scope and their objects, and reconciles a cluster whenever something of it
//! has changed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::runtime::Controller as Runtime;
use kube::runtime::controller::{Action, Config, Error};
use kube::runtime::events::Reporter;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, ResourceExt as _};
use lockstep_proto::backoff::Backoff;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::heads::{Heads, Network};
use crate::metrics::Metrics;
use crate::objects::label;
use crate::observe::{Pauses, Scope, Source, Watches};
use crate::reconcile::validate::Defaults;
use crate::reconcile::{
    Certificates, Context, EventCache, Ledger, ReconcileError, Recorders, WriteBudget, WrittenStatuses, reconcile,
};
use crate::resource::InferenceCluster;

/// Time within which changes of a cluster are reconciled together.
const DEBOUNCE: Duration = Duration::from_millis(300);
/// Pauses after failures to reconcile one cluster.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(120));
/// Absence of a pause after the failure of a watch. Each watch has pauses of its own, and a pause of the controller would
/// hold up every other watch.
const NO_PAUSE: Backoff = Backoff::new(Duration::ZERO, Duration::ZERO);

/// What a controller works with.
pub struct Controller {
    pub client: Client,
    pub scope: Scope,
    pub source: Arc<dyn Source>,
    pub network: Arc<dyn Network>,
    pub defaults: Defaults,
    /// True if the API server knows PodMonitors.
    pub pod_monitors: bool,
    /// Largest number of clusters that are reconciled at once.
    pub concurrency: u16,
    /// Name of this process's pod.
    pub pod_name: Option<String>,
    pub metrics: Arc<Metrics>,
}

impl Controller {
    /// Reconciles clusters until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let (watches, observed) = Watches::new(&self.source, self.scope == Scope::All, self.pod_monitors);
        self.metrics.watch_lists(observed.lists.clone());
        let (heads, changes) = Heads::new(self.network);
        let reporter = Reporter { controller: "lockstep-operator".into(), instance: self.pod_name };
        let context = Arc::new(Context {
            recorders: Recorders::new(reporter),
            client: self.client,
            observed: observed.clone(),
            heads,
            defaults: self.defaults,
            metrics: self.metrics.clone(),
            ledger: Ledger::default(),
            certificates: Certificates::default(),
            write_budget: WriteBudget::default(),
            written: WrittenStatuses::default(),
            events: EventCache::default(),
        });
        // While a watch was incomplete, changes were passed over, and the watch missed deletions.
        let (listed, scope) = (context.clone(), self.scope);
        let completions = observed.lists.completions().inspect(move |()| {
            tracing::info!("every object is listed; looking at all clusters");
            forget_missing_clusters(&listed, &scope);
        });
        let runtime = watch_all(watches, &context)
            .with_config(Config::default().debounce(DEBOUNCE).concurrency(self.concurrency))
            .reconcile_on(changes)
            .reconcile_all_on(completions)
            .trigger_backoff(Pauses(NO_PAUSE))
            .graceful_shutdown_on(stop.cancelled_owned());
        let failures = Arc::new(Failures::default());
        let pauses = failures.clone();
        let failed = move |cluster: Arc<InferenceCluster>, _: &ReconcileError, _: Arc<Context>| {
            Action::requeue(pauses.next_pause(&cluster))
        };
        let reconciler = move |cluster, context| -> BoxFuture<'static, _> {
            Box::pin(reconcile_and_record(cluster, context, failures.clone()))
        };
        let ended = runtime.run(reconciler, failed, context.clone()).for_each(|result| {
            match result {
                Err(Error::ObjectNotFound(cluster)) => {
                    forget_cluster(&context, &cluster.namespace.unwrap_or_default(), &cluster.name);
                }
                Err(Error::QueueError(error)) => tracing::warn!(%error, "a watch failed; beginning it again"),
                _ => {}
            }
            futures::future::ready(())
        });
        ended.await;
    }
}

/// Returns a controller whose clusters are reconciled at each change that `watches` show.
fn watch_all(watches: Watches, context: &Context) -> Runtime<InferenceCluster> {
    let queued = context.metrics.clone();
    let clusters = watches.clusters.inspect_ok(move |cluster| queued.record_change(&ObjectRef::from_obj(cluster)));
    let queued = context.metrics.clone();
    let clusters_of_pod = move |pod: Pod| {
        let cluster = cluster_of_pod(&pod);
        cluster.iter().for_each(|cluster| queued.record_change(cluster));
        cluster
    };
    let mut runtime = Runtime::for_stream(clusters, context.observed.clusters.clone())
        .owns_stream(watches.sets)
        .watches_stream(watches.pods, clusters_of_pod);
    if let Some(nodes) = watches.nodes {
        let pods = context.observed.pods.clone();
        runtime = runtime.watches_stream(nodes, move |node: Node| clusters_on_node(&pods, &node));
    }
    for (kind, stream) in watches.owned {
        runtime = runtime.owns_stream_with(stream, kind);
    }
    runtime
}

/// Drops all state of a cluster that is gone.
fn forget_cluster(context: &Context, namespace: &str, name: &str) {
    crate::reconcile::forget_cluster(context, namespace, name);
    context.metrics.forget_cluster(namespace, name);
}

/// Drops all state of clusters that were deleted while their watch was lost: no event tells of these deletions.
fn forget_missing_clusters(context: &Context, scope: &Scope) {
    for (namespace, name) in context.metrics.list_clusters() {
        if scope.contains(&namespace)
            && context.observed.clusters.get(&ObjectRef::new(&name).within(&namespace)).is_none()
        {
            forget_cluster(context, &namespace, &name);
        }
    }
}

/// Returns the cluster that `pod` belongs to.
fn cluster_of_pod(pod: &Pod) -> Option<ObjectRef<InferenceCluster>> {
    let name = pod.labels().get(label::CLUSTER)?;
    Some(ObjectRef::new(name).within(&pod.namespace()?))
}

/// Returns the clusters with pods on the Kubernetes node `node`, which went away or came back.
fn clusters_on_node(pods: &Store<Pod>, node: &Node) -> Vec<ObjectRef<InferenceCluster>> {
    let name = node.name_any();
    let on_node = pods.state_filter(|pod| crate::pods::kube_node(pod) == Some(&name));
    let mut clusters: Vec<_> = on_node.iter().filter_map(|pod| cluster_of_pod(pod)).collect();
    clusters.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    clusters.dedup();
    clusters
}

/// Reconciles one cluster and records the outcome. Does nothing while a watch is incomplete: all clusters are looked at
/// once every watch is complete.
async fn reconcile_and_record(
    cluster: Arc<InferenceCluster>,
    context: Arc<Context>,
    failures: Arc<Failures>,
) -> Result<Action, ReconcileError> {
    if context.observed.lists.count_incomplete() > 0 {
        return Ok(Action::await_change());
    }
    let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    context.metrics.record_begin(&namespace, &name);
    let began = Instant::now();
    let span = tracing::info_span!("cluster", namespace, name, generation = cluster.metadata.generation);
    let result = reconcile(cluster.clone(), context.clone()).instrument(span.clone()).await;
    context.metrics.record_end(began.elapsed(), result.as_ref().err().map(ReconcileError::cause));
    context.metrics.set_connections(context.heads.count_connections());
    match &result {
        Ok(_) => failures.reset(&cluster),
        Err(error) => span.in_scope(|| tracing::warn!("{error}; trying again")),
    }
    result
}

/// Pauses of the clusters whose last reconciliation failed, by uid.
#[derive(Default)]
struct Failures(std::sync::Mutex<HashMap<String, Backoff>>);

impl Failures {
    fn reset(&self, cluster: &InferenceCluster) {
        self.lock().remove(&cluster.uid().unwrap_or_default());
    }

    /// Returns the pause after another failure. The pauses are spread by a quarter, so that many clusters do not try at
    /// once.
    fn next_pause(&self, cluster: &InferenceCluster) -> Duration {
        let uid = cluster.uid().unwrap_or_default();
        let spread = uid.bytes().fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        let pause = self.lock().entry(uid).or_insert(PAUSES).next_pause();
        pause.mul_f64(1.0 + f64::from(spread % 256) / 1024.0)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Backoff>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
