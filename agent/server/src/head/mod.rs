//! The head: it holds every request, runs the schedule, and sends plans to the ranks. It loads no weights.
//!
//! [`run`] puts the head together. It finds everything that is wrong with the configuration, the model's files and the
//! ports before the first rank starts.
//!
//! What the head decides is in [`lockstep_group`]. The task in `driver` gives it the time and the inputs. Nodes reach this task
//! through `control`, and clients reach it through [`lockstep_api`].

mod answers;
mod control;
mod driver;
mod local;
mod memory;
mod model;
mod operations;
mod ports;
mod serving;
mod setup;

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use lockstep_api::{ApiKeys, ClientAccess, CurrentTls, ReadSecret, Text};
use lockstep_engine::source::read_secret_file;
use lockstep_proto::names::{env, role};
use lockstep_schedule::Scheduler;

use crate::auth::GroupKey;
use crate::config::{ClientsConfig, HeadConfig, LogConfig, OwnRanks, RingSetup};
use crate::node::RING_CLUSTER;
use crate::signals::Signals;
use crate::tls::{PortTls, Tls};
use model::ReadModel;
use ports::Ports;
use serving::HeadParts;

/// Runs the head until it has drained. A signal or the end of its foreground task begins the drain.
///
/// # Errors
/// Names the fault of the model, a port or the key, and the remedy.
pub async fn run(config: HeadConfig, log: &LogConfig, signals: Signals) -> anyhow::Result<()> {
    let key = config.common.group_key.as_deref().map(GroupKey::read_file).transpose()?;
    let tls = config.common.tls.as_deref().map(|folder| open_tls(folder, config.own_ranks)).transpose()?;
    let access = open_access(&config.clients)?;
    if key.is_none() && config.topology.num_workers > 0 && !config.control.ip().is_loopback() {
        tracing::warn!("the group has no key: anyone who reaches its ports can join; set {}", env::GROUP_KEY_FILE);
    }
    let read = tokio::select! {
        read = model::read_model(&config.model, &config.common.hub) => read?,
        () = signals.stop.cancelled() => return Ok(()),
    };
    let ReadModel { description, weights, assigned } = read;
    for warning in &description.warnings {
        tracing::warn!(model = %config.model.source, "{warning}");
    }
    let text = Text::new(setup::model_text(&config, &description)?)?;
    let cluster_id = cluster_id(&config);
    let group = setup::group_config(&config, &description, assigned, &cluster_id)?;
    let model = setup::model_info(&config, &description, &weights, &text);
    let engine = setup::engine_facts(&config, &description);
    let scheduler = Scheduler::new(setup::scheduler_config(&config, &text));
    let ports = Ports::bind(&config).await?;
    log_start(&config, &cluster_id, &ports);
    let own_ranks = match config.own_ranks {
        OwnRanks::Child => Some(local::own_ranks_command(&config, log, ports.control_address(), &cluster_id)?),
        OwnRanks::Separate => None,
    };
    let parts = HeadParts { key, tls, cluster_id, text, model, engine, group, scheduler, ports, access, own_ranks };
    serving::serve(config, parts, signals).await
}

/// Returns the configured cluster id. Without one, a ring has a fixed id, and any other group a random id.
fn cluster_id(config: &HeadConfig) -> String {
    let default_id = || match config.ring {
        RingSetup::Ring { .. } => RING_CLUSTER.to_owned(),
        RingSetup::Auto { .. } => uuid::Uuid::new_v4().to_string(),
    };
    config.common.cluster_id.clone().unwrap_or_else(default_id)
}

fn log_start(config: &HeadConfig, cluster_id: &str, ports: &Ports) {
    let shown = |port: Option<std::net::SocketAddr>| port.map_or("none".into(), |port| port.to_string());
    tracing::info!(
        model = config.model.name,
        cluster_id,
        world_size = config.topology.world_size,
        stages = config.topology.pipeline,
        grpc = shown(ports.grpc_address()),
        http = shown(ports.http_address()),
        control = %ports.control_address(),
        client_tls = config.clients.certificate.is_some(),
        api_keys = config.clients.api_key_file.is_some() || !config.clients.api_keys.0.is_empty(),
        "the head is up and waits for its ranks"
    );
}

/// Opens the files of the client ports.
///
/// # Errors
/// Names the file that is missing or wrong.
fn open_access(config: &ClientsConfig) -> anyhow::Result<ClientAccess> {
    let ClientsConfig { allowed_origins, api_keys, api_key_file, certificate } = config;
    let has_keys = !api_keys.0.is_empty() || api_key_file.is_some();
    let key_file = || api_key_file.as_deref().map(|path| (path, read_secret_file as ReadSecret));
    let open_keys = || ApiKeys::open(api_keys.0.clone(), key_file()).map(Arc::new);
    let tls = certificate.clone().map(PortTls::open).transpose().context("the certificate of the client ports")?;
    let current = |tls: PortTls| -> CurrentTls { Arc::new(move || tls.current()) };
    Ok(ClientAccess {
        origins: allowed_origins.clone(),
        keys: has_keys.then(open_keys).transpose()?,
        tls: tls.map(current),
    })
}

/// Opens the head's certificates. The head's own ranks read the same folder, so their certificate is checked here too.
fn open_tls(folder: &Path, own_ranks: OwnRanks) -> anyhow::Result<Arc<Tls>> {
    if own_ranks == OwnRanks::Child {
        Tls::open(folder, role::NODE).context("the head's own ranks use its certificate")?;
    }
    Ok(Arc::new(Tls::open(folder, role::HEAD)?))
}
