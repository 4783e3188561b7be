//! Settings of the group, the schedule and the client APIs. They follow from the configuration and the model.

use std::time::Duration;

use lockstep_api::{ChatTemplates, EngineFacts, ModelText, Text};
use lockstep_engine::{ModelDescription, WeightFacts};
use lockstep_group::head::GroupConfig;
use lockstep_proto::names::env;
use lockstep_proto::node as pb;
use lockstep_proto::v1::ModelInfo;
use lockstep_schedule::SchedulerConfig;

use crate::auth;
use crate::config::{BLOCK_SIZE, DType, HeadConfig, KvCacheMemory, Quantization, ServingConfig, Topology};

/// Number of plans that the head sends ahead, beyond one plan for each pipeline stage.
const STEPS_AHEAD: usize = 1;
/// Time that a step on the CPU should take at most. The schedule sizes prefill chunks by it.
const TARGET_STEP: Duration = Duration::from_millis(500);

/// Returns the context length to serve.
///
/// # Errors
/// Fails if the configuration asks for more than the model was made for.
fn context_length(config: &HeadConfig, description: &ModelDescription) -> anyhow::Result<u32> {
    let made_for = description.context_length;
    match config.serving.context_length {
        Some(asked) if asked > made_for => anyhow::bail!(
            "--context-length ({}) is {asked}, but the model was made for {made_for} tokens: ask for at most that",
            env::CONTEXT_LENGTH
        ),
        asked => Ok(asked.unwrap_or(made_for)),
    }
}

/// Returns the parts of the model that turn text into tokens and back.
pub(super) fn model_text(config: &HeadConfig, description: &ModelDescription) -> anyhow::Result<ModelText> {
    Ok(ModelText {
        tokenizer_json: description.tokenizer_json.clone(),
        templates: ChatTemplates {
            default: description.chat_template.clone(),
            tool_use: description.tool_use_template.clone(),
            bos_token: description.bos_token.clone(),
            eos_token: description.eos_token.clone(),
        },
        vocab_size: description.vocab_size,
        context_length: context_length(config, description)?,
        eos_token_ids: description.generation.eos_token_ids.clone(),
        sampling_defaults: description.generation.sampling,
        tool_style: config.serving.tool_style,
        reasoning_style: config.serving.reasoning_style,
    })
}

/// Returns the facts and files that routers ask for.
pub(super) fn engine_facts(config: &HeadConfig, description: &ModelDescription) -> EngineFacts {
    let mut tokenizer_config = description.tokenizer_config.clone();
    if !tokenizer_config.is_object() {
        tokenizer_config = serde_json::json!({});
    }
    // The head's template may be from a file of its own. A list of templates in this file is the head's as it is.
    if let (Some(template), None) = (&description.chat_template, &description.tool_use_template) {
        tokenizer_config["chat_template"] = template.as_str().into();
    }
    let mut files = vec![
        ("tokenizer.json".to_owned(), description.tokenizer_json.clone()),
        ("tokenizer_config.json".to_owned(), tokenizer_config.to_string().into_bytes()),
    ];
    files.extend(description.config_files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone())));
    EngineFacts { block_size: BLOCK_SIZE, max_num_seqs: config.serving.max_num_seqs, files }
}

/// Checks that the model can be split over the ranks of the group.
///
/// # Errors
/// Names the limit of the model and the setting to change.
fn check_split(topology: Topology, description: &ModelDescription) -> anyhow::Result<()> {
    let Topology { world_size, pipeline, .. } = topology;
    let (tensor_size, layers) = (world_size / pipeline, description.config.num_layers);
    if tensor_size as usize > description.largest_world_size {
        let owner = if pipeline > 1 { "each pipeline stage" } else { "the group" };
        anyhow::bail!(
            "{owner} has {tensor_size} ranks, but the model can be split over {} at most (its query heads): use fewer \
             workers, or more stages ({})",
            description.largest_world_size,
            env::PIPELINE_PARALLEL
        );
    }
    if pipeline as usize > layers {
        anyhow::bail!(
            "{}={pipeline}, but the model has {layers} layers: a stage needs at least one",
            env::PIPELINE_PARALLEL
        );
    }
    Ok(())
}

/// Returns the settings of the group.
///
/// # Errors
/// Fails if the model cannot be split over the group or the devices do not suit it.
pub(super) fn group_config(
    config: &HeadConfig,
    description: &ModelDescription,
    model: pb::Model,
    cluster_id: &str,
) -> anyhow::Result<GroupConfig> {
    let topology = config.topology;
    check_split(topology, description)?;
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

/// Returns the facts of the model that clients and the status show.
pub(super) fn model_info(
    config: &HeadConfig,
    description: &ModelDescription,
    weights: &WeightFacts,
    text: &Text,
) -> ModelInfo {
    ModelInfo {
        name: config.model.name.clone(),
        source: config.model.source.to_string(),
        architecture: description.architecture.to_owned(),
        parameters: weights.parameters,
        dtype: dtype_in_memory(config, weights),
        context_length: text.context_length,
        vocab_size: description.vocab_size,
        has_chat_template: text.has_chat_template(),
    }
}

/// Returns the type that most weights have in memory. Weights that the file stores in quantized blocks keep their type.
fn dtype_in_memory(config: &HeadConfig, weights: &WeightFacts) -> String {
    match (config.model.quantization, config.model.dtype) {
        (Quantization::None, DType::Auto) => weights.dtype.to_owned(),
        (quantization, dtype) if weights.is_quantized => {
            tracing::warn!(
                model = %config.model.source, stored = weights.dtype, isq = %quantization, dtype = dtype.as_str(),
                "the model's file has quantized weights, which stay as they are: --isq and --dtype affect only the other weights"
            );
            weights.dtype.to_owned()
        }
        (Quantization::None, asked) => asked.as_str().to_owned(),
        (quantization, _) => quantization.to_string(),
    }
}

/// Returns the settings of the schedule.
pub(super) fn scheduler_config(config: &HeadConfig, text: &Text) -> SchedulerConfig {
    let mut prefix_key = [0; 16];
    prefix_key.copy_from_slice(&auth::nonce()[..16]);
    // The pattern names every setting. So whoever adds a setting must decide here if the schedule needs it.
    let ServingConfig {
        max_num_seqs,
        max_num_batched_tokens,
        context_length: _,
        kv_cache: _,
        recovery_timeout,
        drain_timeout: _,
        max_waiting,
        tool_style: _,
        reasoning_style: _,
        strict_fields: _,
        kv_events,
    } = config.serving;
    SchedulerConfig {
        block_size: BLOCK_SIZE,
        max_num_seqs: max_num_seqs as usize,
        max_num_batched_tokens: max_num_batched_tokens as usize,
        context_length: text.context_length,
        max_waiting: max_waiting as usize,
        max_steps_in_flight: config.topology.pipeline as usize + STEPS_AHEAD,
        pipeline_stages: config.topology.pipeline as usize,
        target_step: TARGET_STEP,
        prefix_key,
        prefix_caching: true,
        block_events: kv_events,
        recovery_timeout,
    }
}
