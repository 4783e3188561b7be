//! The head: weightless. It holds every request, runs the schedule, and tells the ranks what to compute.
//!
//! Here it is put together: everything that can be wrong with the configuration, the model's files and the ports is
//! found before the first rank starts.

mod addresses;
mod admission;
mod clients;
mod control;
mod driver;
mod group;
#[cfg(test)]
mod group_tests;
mod local;
mod member;
mod model;
mod operations;
mod ports;
pub mod status;
#[cfg(test)]
mod testing;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use lockstep_api::{Alive, Api, GenerationDefaults, Inference, Metrics, ModelText, Text, serve_grpc, serve_http};
use lockstep_engine::{ModelDescription, WeightFacts};
use lockstep_proto::names::{env, role};
use lockstep_proto::node as pb;
use lockstep_proto::v1::ModelInfo;
use lockstep_schedule::{Scheduler, SchedulerConfig};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::auth::{self, GroupKey};
use crate::config::{
    BLOCK_SIZE, DType, Foreground, HeadConfig, KvCacheMemory, LogConfig, OwnRanks, Quantization, RingSetup, Topology,
};
use crate::node::RING_CLUSTER;
use crate::signals::Signals;
use crate::tls::Tls;
use crate::{bench, chat};
use control::{ControlPort, ControlService};
use driver::{Driver, Inputs};
use group::{Group, GroupConfig};
use model::ReadModel;
use ports::Ports;

/// Plans that wait while each stage computes one.
const STEPS_AHEAD: usize = 1;
/// A step on the CPU lasts about this long at most.
const TARGET_STEP: Duration = Duration::from_millis(500);
/// Submissions and events that may wait for the driver.
const BACKLOG: usize = 1024;
/// The client connections' last answers, and the head's own ranks, get this long to end after a drain.
const GRACE: Duration = Duration::from_secs(5);

/// Runs the head until it is told to stop, by a signal or by the end of its conversation, and the drain that follows is
/// over.
///
/// # Errors
/// What is wrong with the model, a port or the key, with the remedy.
pub async fn run(config: HeadConfig, log: &LogConfig, signals: Signals) -> anyhow::Result<()> {
    let key = config.common.group_key.as_deref().map(GroupKey::read).transpose()?;
    let tls = config.common.tls.as_deref().map(|folder| open_tls(folder, config.own_ranks)).transpose()?;
    if key.is_none() && config.topology.num_workers > 0 && !config.control.ip().is_loopback() {
        tracing::warn!("the group has no key: anyone who reaches its ports can join; set {}", env::GROUP_KEY_FILE);
    }
    let read = tokio::select! {
        read = model::read(&config.model, &config.common.hub) => read?,
        () = signals.stop.cancelled() => return Ok(()),
    };
    let ReadModel { description, weights, assigned } = read;
    let text = Text::new(model_text(&config, &description)?)?;
    let drawn = || match config.ring {
        RingSetup::Ring { .. } => RING_CLUSTER.to_owned(),
        RingSetup::Auto { .. } => uuid::Uuid::new_v4().to_string(),
    };
    let cluster_id = config.common.cluster_id.clone().unwrap_or_else(drawn);
    let group = group_config(&config, &description, assigned, &cluster_id)?;
    let model = model_info(&config, &description, &weights, &text);
    let scheduler = Scheduler::new(schedule_config(&config, &text));
    let ports = Ports::bind(&config).await?;
    let shown = |port: Option<std::net::SocketAddr>| port.map_or("none".into(), |port| port.to_string());
    tracing::info!(
        model = config.model.name,
        cluster_id,
        world_size = config.topology.world_size,
        stages = config.topology.pipeline,
        grpc = shown(ports.grpc_address()),
        http = shown(ports.http_address()),
        control = %ports.control_address(),
        "the head is up and waits for its ranks"
    );
    let local = match config.own_ranks {
        OwnRanks::Child => Some(local::command(&config, log, ports.control_address(), &cluster_id)?),
        OwnRanks::Separate => None,
    };
    serve(config, Parts { key, tls, cluster_id, text, model, group, scheduler, ports, local }, signals).await
}

/// What [`run`] has prepared.
struct Parts {
    key: Option<GroupKey>,
    tls: Option<Arc<Tls>>,
    cluster_id: String,
    text: Text,
    model: ModelInfo,
    group: GroupConfig,
    scheduler: Scheduler,
    ports: Ports,
    /// What starts the head's own ranks; `None`: somebody else does.
    local: Option<tokio::process::Command>,
}

async fn serve(config: HeadConfig, parts: Parts, signals: Signals) -> anyhow::Result<()> {
    let (commands, command_inbox) = mpsc::channel(BACKLOG);
    let (node_events, nodes) = mpsc::channel(BACKLOG);
    let group = Group::new(parts.group);
    let (status, status_watch) = watch::channel(status::initial(&group, &parts.model));
    let metrics = Metrics::new();
    let alive = Alive::default();
    let inputs = Inputs {
        group,
        scheduler: parts.scheduler,
        model: parts.model.clone(),
        recovery_timeout: config.serving.recovery_timeout,
        drain_timeout: config.serving.drain_timeout,
        commands: command_inbox,
        nodes,
        status,
        metrics: metrics.clone(),
        alive: alive.clone(),
        drain: signals.stop.clone(),
    };
    let over = CancellationToken::new();
    let control = ControlPort {
        listener: parts.ports.control,
        tls: parts.tls,
        service: ControlService::server(parts.cluster_id, parts.key, node_events),
        commands: commands.clone(),
        status: status_watch.clone(),
    };
    let inference = Inference::new(commands, status_watch, alive);
    let api = Api::new(inference.clone(), parts.model, parts.text, metrics);
    let mut servers = tokio::task::JoinSet::new();
    servers.spawn(control::serve(control, over.clone()));
    if let Some(listener) = parts.ports.grpc {
        let serving = serve_grpc(listener, api.clone(), over.clone());
        servers.spawn(async { serving.await.context("serve gRPC") });
    }
    if let Some(foreground) = config.foreground {
        let stop = signals.stop.clone();
        let running = match foreground {
            Foreground::Chat(config) => chat::run(api.clone(), config, signals).boxed(),
            Foreground::Bench(config) => bench::run(inference, config).boxed(),
        };
        servers.spawn(to_the_end(running, stop, over.clone()));
    }
    if let Some(listener) = parts.ports.http {
        let serving = serve_http(listener, api, over.clone());
        servers.spawn(async {
            serving.await;
            Ok(())
        });
    }
    let keeper = parts.local.map(|local| tokio::spawn(local::keep_running(local, over.clone(), GRACE)));
    let driver = tokio::spawn(Driver::new(inputs).run());
    let outcome = tokio::select! {
        driver = driver => driver.context("the head's driver ended"),
        Some(server) = servers.join_next() => server.context("a server ended").and_then(|ended| ended),
    };
    over.cancel();
    let mut late = Ok(());
    let rest = async {
        while let Some(ended) = servers.join_next().await {
            if let Ok(Err(error)) = ended {
                late = Err(error);
            }
        }
        if let Some(keeper) = keeper {
            keeper.await.ok();
        }
    };
    if tokio::time::timeout(GRACE + GRACE, rest).await.is_err() {
        tracing::warn!("client connections did not end in time: closing them");
    }
    outcome.and(late)
}

/// Runs what is in the foreground; its end ends the head.
async fn to_the_end(
    foreground: BoxFuture<'static, anyhow::Result<()>>,
    stop: CancellationToken,
    over: CancellationToken,
) -> anyhow::Result<()> {
    let ended = tokio::select! {
        ended = foreground => ended,
        () = over.cancelled() => Ok(()),
    };
    stop.cancel();
    // The drain that follows is no error, so this one is told at its end.
    over.cancelled().await;
    ended
}

/// The head's certificates; ranks that it starts itself read the same folder, and would be refused later.
fn open_tls(folder: &Path, own_ranks: OwnRanks) -> anyhow::Result<Arc<Tls>> {
    if own_ranks == OwnRanks::Child {
        Tls::open(folder, role::NODE).context("the head's own ranks use its certificate")?;
    }
    Ok(Arc::new(Tls::open(folder, role::HEAD)?))
}

fn context_length(config: &HeadConfig, description: &ModelDescription) -> anyhow::Result<u32> {
    let made_for = description.context_length;
    match config.serving.context_length {
        Some(asked) if asked > made_for => anyhow::bail!(
            "{}={asked}, but the model was made for {made_for} tokens: ask for at most that",
            env::CONTEXT_LENGTH
        ),
        asked => Ok(asked.unwrap_or(made_for)),
    }
}

fn model_text(config: &HeadConfig, description: &ModelDescription) -> anyhow::Result<ModelText> {
    let generation = &description.generation;
    Ok(ModelText {
        tokenizer_json: description.tokenizer_json.clone(),
        tokenizer_config: Some(serde_json::to_vec(&description.tokenizer_config)?),
        chat_template: description.chat_template.clone(),
        vocab_size: description.vocab_size,
        context_length: context_length(config, description)?,
        eos_token_ids: generation.eos_token_ids.clone(),
        generation: GenerationDefaults {
            do_sample: None,
            temperature: generation.temperature,
            top_k: generation.top_k,
            top_p: generation.top_p,
            min_p: generation.min_p,
            repetition_penalty: generation.repetition_penalty,
        },
        tool_style: config.serving.tool_style,
        reasoning_style: config.serving.reasoning_style,
    })
}

/// Refuses a group that the model cannot be split over.
fn splits(topology: Topology, description: &ModelDescription) -> anyhow::Result<()> {
    let Topology { world_size, pipeline, .. } = topology;
    let (tensor_size, layers) = (world_size / pipeline, description.config.num_layers);
    if tensor_size as usize > description.largest_world_size {
        let whose = if pipeline > 1 { "each pipeline stage" } else { "the group" };
        anyhow::bail!(
            "{whose} has {tensor_size} ranks, but the model can be split over {} at most (its query heads): use fewer \
             workers, or more stages ({})",
            description.largest_world_size,
            env::PIPELINE_PARALLEL
        );
    }
    if pipeline as usize > layers {
        anyhow::bail!(
            "{}={pipeline}, but the model has {layers} layers: a stage needs one at least",
            env::PIPELINE_PARALLEL
        );
    }
    Ok(())
}

fn group_config(
    config: &HeadConfig,
    description: &ModelDescription,
    model: pb::Model,
    cluster_id: &str,
) -> anyhow::Result<GroupConfig> {
    let topology = config.topology;
    splits(topology, description)?;
    let (kv_cache_bytes, kv_cache_fraction) = match config.serving.kv_cache {
        KvCacheMemory::Bytes(bytes) => (bytes, 0.0),
        KvCacheMemory::Fraction(fraction) => (0, fraction),
    };
    let assignment = pb::Assignment {
        cluster_id: cluster_id.to_owned(),
        first_rank: 0,
        world_size: topology.world_size,
        pipeline_parallel_size: topology.pipeline,
        model: Some(model),
        block_size: BLOCK_SIZE,
        kv_cache_bytes,
        kv_cache_fraction,
        max_num_batched_tokens: config.serving.max_num_batched_tokens,
        context_length: context_length(config, description)?,
        max_num_seqs: config.serving.max_num_seqs,
    };
    config.common.devices.check_group(topology.world_size, &config.ring)?;
    let backend = if topology.world_size == 1 { "solo" } else { "ring" };
    let nodes = topology.num_workers as usize + 1;
    Ok(GroupConfig { nodes, local_world_size: topology.local_world_size, backend, assignment })
}

fn model_info(config: &HeadConfig, description: &ModelDescription, weights: &WeightFacts, text: &Text) -> ModelInfo {
    ModelInfo {
        name: config.model.name.clone(),
        source: config.model.source.to_string(),
        architecture: description.architecture.to_owned(),
        parameters: weights.parameters,
        dtype: held_dtype(config, weights),
        context_length: text.context_length,
        vocab_size: description.vocab_size,
        has_chat_template: text.has_chat_template(),
    }
}

/// The type that most weights have in memory. Those that a file has in blocks stay so, whatever is asked for.
fn held_dtype(config: &HeadConfig, weights: &WeightFacts) -> String {
    match (config.model.quantization, config.model.dtype) {
        (Quantization::None, DType::Auto) => weights.dtype.to_owned(),
        (quantization, dtype) if weights.in_blocks => {
            tracing::warn!(
                model = %config.model.source, stored = weights.dtype, isq = %quantization, dtype = dtype.as_str(),
                "the model's file has quantized weights, which stay as they are: --isq and --dtype are for the others"
            );
            weights.dtype.to_owned()
        }
        (Quantization::None, asked) => asked.as_str().to_owned(),
        (quantization, _) => quantization.to_string(),
    }
}

fn schedule_config(config: &HeadConfig, text: &Text) -> SchedulerConfig {
    let mut prefix_key = [0; 16];
    prefix_key.copy_from_slice(&auth::nonce()[..16]);
    SchedulerConfig {
        block_size: BLOCK_SIZE,
        max_num_seqs: config.serving.max_num_seqs as usize,
        max_num_batched_tokens: config.serving.max_num_batched_tokens as usize,
        context_length: text.context_length,
        max_waiting: config.serving.max_waiting as usize,
        max_steps_in_flight: config.topology.pipeline as usize + STEPS_AHEAD,
        pipeline_stages: config.topology.pipeline as usize,
        target_step: TARGET_STEP,
        prefix_key,
        prefix_caching: true,
        recovery_timeout: config.serving.recovery_timeout,
    }
}
