//! The model as the head reads it, and the list of its files. Each node checks its own files against that list.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use lockstep_engine::source::{self, ModelFile, ModelFiles};
use lockstep_engine::{ModelDescription, WeightFacts};
use lockstep_hub::{Hub, HubConfig, HubModel, Limits, RemoteFiles, Snapshot};
use lockstep_proto::node as pb;

use crate::auth::nonce;
use crate::config::{ModelConfig, ModelSource};

/// Longest file of a chat template, in bytes. The longest published one has a tenth of it.
const MAX_TEMPLATE_BYTES: u64 = 1 << 20;

/// Description of a model, and the files of its weights.
pub(super) struct ReadModel {
    pub description: ModelDescription,
    pub weights: WeightFacts,
    /// Model as the head assigns it to the nodes.
    pub assigned: pb::Model,
}

/// Reads everything of a model except its weights, and resolves its files.
///
/// # Errors
/// Names the source or the file that cannot be read, and the reason.
pub(super) async fn read_model(config: &ModelConfig, hub: &HubConfig) -> anyhow::Result<ReadModel> {
    let source = config.source.to_string();
    let read = match &config.source {
        ModelSource::Hub(model) => read_from_hub(model, hub, config).await,
        ModelSource::File(_) | ModelSource::Builtin(_) => read_from_disk(config).await,
    };
    let mut model = read.with_context(|| format!("read the model {source}"))?;
    if let Some(file) = &config.chat_template {
        model.description.chat_template = Some(read_template(file).await?);
        model.description.tool_use_template = None;
    }
    Ok(model)
}

/// Reads the chat template that stands in place of the model's own.
async fn read_template(file: &Path) -> anyhow::Result<String> {
    let failed = || format!("read the chat template {} (--chat-template)", file.display());
    let size = tokio::fs::metadata(file).await.with_context(failed)?.len();
    anyhow::ensure!(size <= MAX_TEMPLATE_BYTES, "{}: it has {size} bytes, more than {MAX_TEMPLATE_BYTES}", failed());
    tokio::fs::read_to_string(file).await.with_context(failed)
}

async fn read_from_disk(config: &ModelConfig) -> anyhow::Result<ReadModel> {
    let config = config.clone();
    let read = move || {
        let source = config.source.to_string();
        let files = lockstep_engine::open(&source)?;
        let description = lockstep_engine::describe(files.as_ref())?;
        let resolved = source::resolve(files.as_ref())?;
        let weights = lockstep_engine::weight_facts(files.clone())?;
        let digest = source::digest_files(&resolved);
        let sample_key = nonce();
        let samples = source::sample(files.as_ref(), &resolved, &sample_key)?;
        let to_proto = |(file, samples): (ModelFile, String)| pb::ModelFile {
            name: file.name,
            size: file.size,
            sha256: file.digest,
            samples,
            ..Default::default()
        };
        let files = resolved.into_iter().zip(samples).map(to_proto).collect();
        let assigned = assigned_model(source, String::new(), files, &digest, &config);
        anyhow::Ok(ReadModel { description, weights, assigned: pb::Model { sample_key, ..assigned } })
    };
    tokio::task::spawn_blocking(read).await.context("read the model")?
}

async fn read_from_hub(model: &HubModel, hub: &HubConfig, config: &ModelConfig) -> anyhow::Result<ReadModel> {
    let hub = Arc::new(Hub::new(hub, Limits::default())?);
    let snapshot = hub.resolve(model).await?;
    tracing::info!(
        model = %model.repository,
        revision = model.revision.as_str(),
        commit = snapshot.commit,
        "resolved the model's revision to a commit"
    );
    let parts = choose_gguf(model, &snapshot)?;
    let remote = RemoteFiles::open(hub, model, &snapshot, &parts).await?;
    remote.read_ahead(&parts).await?;
    let reader = remote.clone();
    let read = move || {
        let (files, names): (Arc<dyn ModelFiles>, _) = match parts.is_empty() {
            true => (reader.clone(), source::rank_files(reader.as_ref())?),
            false => (lockstep_engine::open_gguf(reader, parts.clone())?, parts),
        };
        anyhow::Ok((lockstep_engine::describe(files.as_ref())?, files, names))
    };
    let (description, files, names) = tokio::task::spawn_blocking(read).await.context("read the model")??;
    remote.read_ahead(&names).await?;
    let listed = listed_files(&snapshot, &names)?;
    let digest = files_digest(&listed);
    let source = remote.source().to_owned();
    let read = move || anyhow::Ok(lockstep_engine::weight_facts(files)?);
    let weights = tokio::task::spawn_blocking(read).await.context("read the headers of the weights")??;
    Ok(ReadModel { description, weights, assigned: assigned_model(source, snapshot.commit, listed, &digest, config) })
}

/// Returns the names of the GGUF files that are the model; none if the model is a checkpoint in safetensors.
fn choose_gguf(model: &HubModel, snapshot: &Snapshot) -> anyhow::Result<Vec<String>> {
    let offers = snapshot.offers();
    let Some(chosen) = offers.choose(&model.to_string(), &model.choice)? else { return Ok(Vec::new()) };
    tracing::info!(file = chosen.first_part(), parts = chosen.count, "chose a GGUF file of the repository");
    Ok(chosen.parts.clone())
}

/// Returns the hub's entry of each file in `names`.
fn listed_files(snapshot: &Snapshot, names: &[String]) -> anyhow::Result<Vec<pb::ModelFile>> {
    let file = |name: &String| {
        let file = snapshot.file(name).with_context(|| format!("{name} is not in the model's list"))?;
        let (name, etag) = (file.name.clone(), file.id.to_string());
        Ok(pb::ModelFile { name, size: file.size, etag, ..Default::default() })
    };
    names.iter().map(file).collect()
}

/// Returns one digest for the names, sizes and digests of all files.
fn files_digest(files: &[pb::ModelFile]) -> String {
    let known =
        |file: &pb::ModelFile| ModelFile { name: file.name.clone(), size: file.size, digest: file.etag.clone() };
    source::digest_files(&files.iter().map(known).collect::<Vec<_>>())
}

/// Returns the model as the head assigns it to the nodes.
fn assigned_model(
    source: String,
    revision: String,
    files: Vec<pb::ModelFile>,
    digest: &str,
    config: &ModelConfig,
) -> pb::Model {
    let (dtype, quantization) = (config.dtype.as_str().to_owned(), config.quantization.as_str().to_owned());
    let digest = format!("{digest}-{dtype}-{quantization}");
    pb::Model { source, revision, files, digest, dtype, quantization, sample_key: Vec::new() }
}
