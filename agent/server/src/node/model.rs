//! Opens the model that the head assigned: downloads its files if the source is a hub, and checks that they are the
//! files that the head resolved.
//!
//! Opening takes seconds, and a download may take hours. It runs in a task of its own beside the node's loop, and goes
//! on while there is no stream to the head.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use lockstep_engine::source::{self, FolderFiles, ModelFile, ModelFiles};
use lockstep_hub::{Hub, HubConfig, HubFile, Limits, Meter, Progress, ProgressLog, Repository};
use lockstep_proto::node as pb;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Instant;

/// Shortest time between two reports of progress.
const REPORT_INTERVAL: Duration = Duration::from_millis(250);
/// Prefix of a hub's sources.
const HUB_PREFIX: &str = "hf://";

/// Task that opens a model. The task ends when this value is dropped.
pub(super) struct ModelOpener {
    task: JoinHandle<anyhow::Result<OpenModel>>,
    progress: watch::Receiver<Progress>,
    last_report_at: Instant,
    log: ProgressLog,
    /// Source of the model, for errors.
    pub source: String,
}

/// The files of a model that are those that the head resolved.
pub(super) struct OpenModel {
    pub files: Arc<dyn ModelFiles>,
    /// Digest of the model and of samples of its files.
    pub content: String,
}

/// Event of a [`ModelOpener`]. `Files` or `Failed` is the last event.
pub(super) enum OpenEvent {
    Progress(Progress),
    Files(OpenModel),
    /// The model cannot be opened, for this reason.
    Failed(String),
}

impl ModelOpener {
    /// Starts the task. `own_key` decides about the places of the samples for [`OpenModel::content`].
    pub(super) fn start(model: pb::Model, hub: HubConfig, own_key: Vec<u8>) -> Self {
        let (meter, progress) = Meter::new();
        let source = model.source.clone();
        let task = tokio::spawn(async move {
            match model.source.strip_prefix(HUB_PREFIX) {
                Some(repository) => download_files(&model, repository, &hub, &meter).await,
                None => open_local_files(model, own_key).await,
            }
        });
        let last_report_at = Instant::now();
        let log = ProgressLog::new(last_report_at.into_std());
        Self { task, progress, last_report_at, log, source }
    }

    /// Waits for the next event. This is cancel safe.
    pub(super) async fn next_event(&mut self) -> OpenEvent {
        let (last_report_at, progress) = (self.last_report_at, &mut self.progress);
        let changed = async {
            tokio::time::sleep_until(last_report_at + REPORT_INTERVAL).await;
            progress.changed().await
        };
        let still_runs = tokio::select! {
            biased;
            done = &mut self.task => return final_event(done),
            changed = changed => changed.is_ok(),
        };
        if !still_runs {
            return final_event((&mut self.task).await);
        }
        self.last_report_at = Instant::now();
        let progress = *self.progress.borrow_and_update();
        if let Some(line) = self.log.next_line(self.last_report_at.into_std(), progress) {
            tracing::info!("{line}");
        }
        OpenEvent::Progress(progress)
    }
}

impl Drop for ModelOpener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Returns the event for the outcome of the task.
fn final_event(done: Result<anyhow::Result<OpenModel>, JoinError>) -> OpenEvent {
    match done.map_err(anyhow::Error::from).and_then(|files| files) {
        Ok(files) => OpenEvent::Files(files),
        Err(error) => OpenEvent::Failed(format!("{error:#}")),
    }
}

/// Opens files on this machine, and checks that they are the files that the head resolved.
async fn open_local_files(model: pb::Model, own_key: Vec<u8>) -> anyhow::Result<OpenModel> {
    let open = move || {
        let files = lockstep_engine::open(&model.source)?;
        let from_proto =
            |file: pb::ModelFile| (ModelFile { name: file.name, size: file.size, digest: file.sha256 }, file.samples);
        let (resolved, samples): (Vec<ModelFile>, Vec<String>) = model.files.into_iter().map(from_proto).unzip();
        source::verify(files.as_ref(), &resolved)?;
        source::verify_samples(files.as_ref(), &resolved, &model.sample_key, &samples)?;
        let own_samples = source::sample(files.as_ref(), &resolved, &own_key)?;
        let content = format!("{} {}", model.digest, own_samples.join(" "));
        anyhow::Ok(OpenModel { files, content })
    };
    tokio::task::spawn_blocking(open).await.context("open the model")?
}

/// Downloads files of a hub, at the commit and with the digests that the head resolved.
async fn download_files(
    model: &pb::Model,
    repository: &str,
    config: &HubConfig,
    meter: &Meter,
) -> anyhow::Result<OpenModel> {
    let repository: Repository = repository.parse().map_err(anyhow::Error::msg)?;
    let to_hub_file = |file: &pb::ModelFile| -> anyhow::Result<HubFile> {
        let id = file.etag.parse().map_err(anyhow::Error::msg)?;
        HubFile::new(file.name.clone(), file.size, id).with_context(|| format!("`{}` is not a file name", file.name))
    };
    let files = model.files.iter().map(to_hub_file).collect::<anyhow::Result<Vec<_>>>()?;
    let config = config.clone();
    // `Hub::new` reads the machine's certificates, which takes a while.
    let hub = tokio::task::spawn_blocking(move || Hub::new(&config, Limits::default())).await??;
    let folder = hub.download(&repository, &model.revision, &files, meter).await?;
    let folder = Arc::new(FolderFiles::open(&model.source, &folder)?);
    let names: Vec<String> = files.into_iter().map(|file| file.name).collect();
    // The hub's digests cover the whole files.
    let content = model.digest.clone();
    // A checkpoint has other files beside its weights.
    if !names.iter().all(|name| source::is_gguf_name(name)) {
        return Ok(OpenModel { files: folder, content });
    }
    let open = move || anyhow::Ok(lockstep_engine::open_gguf(folder, names)?);
    let files = tokio::task::spawn_blocking(open).await.context("open the model")??;
    Ok(OpenModel { files, content })
}
