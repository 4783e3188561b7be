//! The life of the operator: start, lease, controllers, end.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use lockstep_proto::backoff::Backoff;
use lockstep_proto::choices::LogFormat;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::arguments::RunOptions;
use super::controller::Controller;
use super::election::Election;
use super::server;
use crate::heads::Tcp;
use crate::metrics::Metrics;
use crate::observe::{ApiServer, Scope};
use crate::reconcile::validate::{Defaults, OperatorPods};

/// Pauses between questions whether the API server knows the resource.
const CRD_PAUSES: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
/// Maximum time for the server to end.
const GRACE_PERIOD: Duration = Duration::from_secs(10);

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
        let controller = Controller {
            client: client.clone(),
            source: Arc::new(ApiServer { client: client.clone(), scope: scope.clone() }),
            scope,
            network: Arc::new(Tcp),
            defaults: defaults.clone(),
            pod_monitors: monitors,
            concurrency: options.concurrency,
            pod_name: options.pod_name.clone(),
            metrics: metrics.clone(),
        };
        controller.run(stop.clone()).instrument(span)
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
