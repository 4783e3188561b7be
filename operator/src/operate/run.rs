//! The life of the operator: start, lease, controllers, end.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail};
use futures::stream::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::runtime::Controller;
use kube::runtime::controller::{Action, Config as ControllerConfig};
use kube::runtime::events::Reporter;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client, ResourceExt as _};
use lockstep_proto::backoff::Backoff;
use lockstep_proto::choices::LogFormat;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::arguments::RunOptions;
use super::election::Election;
use super::server;
use crate::heads::Heads;
use crate::metrics::Metrics;
use crate::objects::label;
use crate::observe::{Scope, Watches};
use crate::reconcile::validate::{Defaults, OperatorPods};
use crate::reconcile::{Certificates, Context, Ledger, ReconcileError, Recorders, WriteBudget, reconcile};
use crate::resource::InferenceCluster;

/// Time within which changes of a cluster are reconciled together.
const DEBOUNCE: Duration = Duration::from_millis(300);
/// Pauses after failures to reconcile one cluster.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(120));
/// Pauses between questions whether the API server knows the resource.
const CRD_PAUSES: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
/// Maximum time for the server to end.
const GRACE_PERIOD: Duration = Duration::from_secs(10);

/// Absence of a pause after the failure of a watch. Each watch has pauses of its own, and a pause of the controller would
/// hold up every other watch.
struct NoPause;

impl Iterator for NoPause {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(Duration::ZERO)
    }
}

impl kube::runtime::utils::Backoff for NoPause {
    fn reset(&mut self) {}
}

/// Starts the logs.
pub(super) fn start_logs(options: &RunOptions) {
    let filter = tracing_subscriber::EnvFilter::try_new(&options.log).unwrap_or_else(|error| {
        eprintln!("warning: --log {:?} is no filter ({error}); using info", options.log);
        tracing_subscriber::EnvFilter::new("info")
    });
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match options.log_format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().with_current_span(true).with_span_list(false).init(),
    }
}

/// Runs until a signal comes or the lease is lost.
pub(super) async fn run(options: RunOptions) -> anyhow::Result<()> {
    let metrics = Arc::new(Metrics::default());
    let stop = CancellationToken::new();
    let listener = TcpListener::bind(options.listen)
        .await
        .with_context(|| format!("bind {}; choose another address with --listen", options.listen))?;
    let (waiting, progress) = watch::channel(Some("starting".to_owned()));
    let serving = CancellationToken::new();
    let server = tokio::spawn(server::serve(listener, metrics.clone(), progress, serving.clone()));
    tokio::spawn(await_signals(stop.clone()));

    let client = Client::try_default().await.context("find the API server; outside of a pod set KUBECONFIG")?;
    let result = lead(&client, &options, &metrics, &waiting, &stop).await;
    serving.cancel();
    let _ = tokio::time::timeout(GRACE_PERIOD, server).await;
    result
}

/// Cancels `stop` at the first signal to end.
async fn await_signals(stop: CancellationToken) {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return tracing::error!("cannot listen for signals");
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    tracing::info!("a signal asks this process to end");
    stop.cancel();
}

/// Waits for the CRD and for the lease. Then runs the controllers as long as this process holds the lease.
async fn lead(
    client: &Client,
    options: &RunOptions,
    metrics: &Arc<Metrics>,
    waiting: &watch::Sender<super::server::Waiting>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    if !await_crd(client, waiting, stop).await {
        return Ok(());
    }
    // A process that stands by is ready to take over.
    waiting.send_replace(None);
    if options.no_leader_election {
        metrics.set_leader(true);
        return run_controllers(client, options, metrics, stop).await;
    }
    let namespace = options.pod_namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
    let mut election = Election::new(client.clone(), &namespace, &options.lease_name, &holder_identity(options));
    if !election.acquire(stop).await {
        return Ok(());
    }
    tracing::info!(lease = options.lease_name, namespace, "leading");
    metrics.set_leader(true);
    // `stop` ends the controllers, not the hold: this process holds the lease until its controllers have ended.
    let never = CancellationToken::new();
    let result = tokio::select! {
        result = run_controllers(client, options, metrics, stop) => result,
        // The controllers are dropped here: this process writes nothing without the lease.
        () = election.hold(&never) => {
            bail!("lost the lease {}; ending, so that only its holder changes anything", options.lease_name)
        }
    };
    election.release().await;
    result
}

/// Returns the name by which this process holds the lease.
fn holder_identity(options: &RunOptions) -> String {
    let pod = options.pod_name.clone().unwrap_or_else(|| "lockstep-operator".into());
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{pod}_{}-{:x}", std::process::id(), since.as_nanos())
}

/// Waits for the CRD. Returns false if `stop` came first.
async fn await_crd(client: &Client, waiting: &watch::Sender<super::server::Waiting>, stop: &CancellationToken) -> bool {
    let mut pauses = CRD_PAUSES;
    loop {
        let obstacle = match client.list_api_group_resources("lockstep.dev/v1alpha1").await {
            Ok(kinds) if kinds.resources.iter().any(|kind| kind.kind == "InferenceCluster") => return true,
            Ok(_) => "the API server does not know InferenceCluster".to_owned(),
            Err(kube::Error::Api(status)) if status.code == 404 => {
                "there is no CRD of InferenceCluster; apply the output of `lockstep-operator crd`".to_owned()
            }
            Err(error) => format!("the API server does not answer: {error}"),
        };
        let pause = pauses.next_pause();
        tracing::warn!("{obstacle}; trying again in {} s", pause.as_secs());
        waiting.send_replace(Some(obstacle));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return false,
        }
    }
}

/// Runs one controller for each scope until `stop`.
async fn run_controllers(
    client: &Client,
    options: &RunOptions,
    metrics: &Arc<Metrics>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let scopes = match options.watch_namespaces.as_slice() {
        [] => vec![Scope::All],
        some => some.iter().cloned().map(Scope::Namespace).collect(),
    };
    let monitors = client.list_api_group_resources("monitoring.coreos.com/v1").await;
    let monitors = monitors.is_ok_and(|kinds| kinds.resources.iter().any(|kind| kind.kind == "PodMonitor"));
    let defaults =
        Defaults { agent_image: options.agent_image.clone(), operator_pods: find_own_pods(client, options).await };
    let controllers = scopes.into_iter().map(|scope| {
        let span = tracing::info_span!("scope", namespaces = ?scope);
        run_controller(client.clone(), scope, defaults.clone(), monitors, options, metrics.clone(), stop.clone())
            .instrument(span)
    });
    futures::future::join_all(controllers).await;
    Ok(())
}

/// Returns the labels and the namespace by which a NetworkPolicy selects this operator, if the operator runs as a pod.
async fn find_own_pods(client: &Client, options: &RunOptions) -> Option<OperatorPods> {
    let (name, namespace) = (options.pod_name.as_ref()?, options.pod_namespace.as_ref()?);
    let pod = Api::<Pod>::namespaced(client.clone(), namespace).get(name).await.ok()?;
    let mut labels = pod.metadata.labels?;
    labels.retain(|key, _| ["app.kubernetes.io/name", "app.kubernetes.io/instance"].contains(&key.as_str()));
    Some(OperatorPods { namespace: namespace.clone(), labels })
}

async fn run_controller(
    client: Client,
    scope: Scope,
    defaults: Defaults,
    monitors: bool,
    options: &RunOptions,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let (watches, observed) = Watches::new(&client, &scope, scope == Scope::All, monitors);
    metrics.watch_lists(observed.lists.clone());
    let (heads, changes) = Heads::new();
    let reporter = Reporter { controller: "lockstep-operator".into(), instance: options.pod_name.clone() };
    let context = Arc::new(Context {
        recorders: Recorders::new(reporter),
        client,
        observed: observed.clone(),
        heads,
        defaults,
        metrics: metrics.clone(),
        ledger: Ledger::default(),
        certificates: Certificates::default(),
        write_budget: WriteBudget::default(),
        events: crate::reconcile::EventCache::default(),
    });
    let queued = metrics.clone();
    let clusters = watches.clusters.inspect_ok(move |cluster| queued.record_change(&ObjectRef::from_obj(cluster)));
    let queued = metrics.clone();
    let clusters_of_pod = move |pod: Pod| {
        let cluster = cluster_of_pod(&pod);
        cluster.iter().for_each(|cluster| queued.record_change(cluster));
        cluster
    };
    // While a watch was incomplete, changes were passed over, and the watch missed deletions.
    let listed = context.clone();
    let completions = observed.lists.completions().inspect(move |()| {
        tracing::info!("every object is listed; looking at all clusters");
        forget_missing_clusters(&listed, &scope);
    });
    let mut controller = Controller::for_stream(clusters, observed.clusters.clone())
        .with_config(ControllerConfig::default().debounce(DEBOUNCE).concurrency(options.concurrency))
        .owns_stream(watches.sets)
        .watches_stream(watches.pods, clusters_of_pod)
        .reconcile_on(changes)
        .reconcile_all_on(completions)
        .trigger_backoff(NoPause)
        .graceful_shutdown_on(stop.cancelled_owned());
    if let Some(nodes) = watches.nodes {
        let pods = observed.pods.clone();
        controller = controller.watches_stream(nodes, move |node: Node| clusters_on_node(&pods, &node));
    }
    for (kind, stream) in watches.owned {
        controller = controller.owns_stream_with(stream, kind);
    }
    let failures = Arc::new(Failures::default());
    let reconciler = {
        let failures = failures.clone();
        move |cluster, context| reconcile_and_record(cluster, context, failures.clone())
    };
    let failed = move |cluster: Arc<InferenceCluster>, _: &ReconcileError, _: Arc<Context>| {
        Action::requeue(failures.next_pause(&cluster))
    };
    let gone = context.clone();
    controller
        .run(reconciler, failed, context)
        .for_each(|result| {
            if let Err(kube::runtime::controller::Error::ObjectNotFound(cluster)) = &result {
                forget_cluster(&gone, &cluster.namespace.clone().unwrap_or_default(), &cluster.name);
            } else if let Err(kube::runtime::controller::Error::QueueError(error)) = &result {
                tracing::warn!(%error, "a watch failed; beginning it again");
            }
            futures::future::ready(())
        })
        .await;
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
