//! A model on its way to a node's ranks: fetched where its source is a hub, and checked to be the very files that the
//! head resolved. It takes seconds or hours; the node lives on meanwhile, and also without a stream to the head.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use lockstep_engine::source::{self, FolderFiles, ModelFile, ModelFiles};
use lockstep_hub::{Hub, HubConfig, HubFile, Limits, Log, Meter, Progress, Repository};
use lockstep_proto::node as pb;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Instant;

/// Progress is told this often at most.
const PAUSE: Duration = Duration::from_millis(250);
/// How sources of a hub begin.
const HUB: &str = "hf://";

/// A model that is being opened. Dropping it ends the work.
pub struct Opening {
    task: JoinHandle<anyhow::Result<Arc<dyn ModelFiles>>>,
    progress: watch::Receiver<Progress>,
    /// When progress was last told.
    told: Instant,
    log: Log,
    /// For errors.
    pub source: String,
}

/// What became of it.
pub enum Opened {
    Progress(Progress),
    Files(Arc<dyn ModelFiles>),
    /// Why not, in words.
    Failed(String),
}

impl Opening {
    /// Begins to open `model`.
    pub fn start(model: pb::Model, hub: HubConfig) -> Self {
        let (meter, progress) = Meter::new();
        let source = model.source.clone();
        let task = tokio::spawn(async move {
            match model.source.strip_prefix(HUB) {
                Some(repository) => download(&model, repository, &hub, &meter).await,
                None => open(model).await,
            }
        });
        let told = Instant::now();
        let log = Log::new(told.into_std());
        Self { task, progress, told, log, source }
    }

    /// The next news. Nothing is lost where this is cancelled.
    pub async fn next(&mut self) -> Opened {
        let (told, progress) = (self.told, &mut self.progress);
        let changed = async {
            tokio::time::sleep_until(told + PAUSE).await;
            progress.changed().await
        };
        let alive = tokio::select! {
            biased;
            done = &mut self.task => return settled(done),
            changed = changed => changed.is_ok(),
        };
        if !alive {
            return settled((&mut self.task).await);
        }
        self.told = Instant::now();
        let progress = *self.progress.borrow_and_update();
        if let Some(line) = self.log.line(self.told.into_std(), progress) {
            tracing::info!("{line}");
        }
        Opened::Progress(progress)
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn settled(done: Result<anyhow::Result<Arc<dyn ModelFiles>>, JoinError>) -> Opened {
    match done.map_err(anyhow::Error::from).and_then(|files| files) {
        Ok(files) => Opened::Files(files),
        Err(error) => Opened::Failed(format!("{error:#}")),
    }
}

/// Files of this machine, which must be those that the head resolved.
async fn open(model: pb::Model) -> anyhow::Result<Arc<dyn ModelFiles>> {
    let open = move || {
        let files = lockstep_engine::open(&model.source)?;
        let known = |file: pb::ModelFile| ModelFile { name: file.name, size: file.size, digest: file.sha256 };
        source::verify(files.as_ref(), &model.files.into_iter().map(known).collect::<Vec<_>>())?;
        anyhow::Ok(files)
    };
    tokio::task::spawn_blocking(open).await.context("open the model")?
}

/// Files of a hub, at the commit and by the digests that the head was told.
async fn download(
    model: &pb::Model,
    repository: &str,
    config: &HubConfig,
    meter: &Meter,
) -> anyhow::Result<Arc<dyn ModelFiles>> {
    let repository: Repository = repository.parse().map_err(anyhow::Error::msg)?;
    let known = |file: &pb::ModelFile| -> anyhow::Result<HubFile> {
        let id = file.etag.parse().map_err(anyhow::Error::msg)?;
        HubFile::new(file.name.clone(), file.size, id).with_context(|| format!("`{}` is no name of a file", file.name))
    };
    let files = model.files.iter().map(known).collect::<anyhow::Result<Vec<_>>>()?;
    let config = config.clone();
    // Reading a machine's certificates takes a while.
    let hub = tokio::task::spawn_blocking(move || Hub::new(&config, Limits::default())).await??;
    let folder = hub.download(&repository, &model.revision, &files, meter).await?;
    Ok(Arc::new(FolderFiles::open(&model.source, &folder)?))
}
