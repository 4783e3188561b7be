//! `--list-files`: the models that a folder or a repository of the hub offers.

use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use lockstep_engine::EngineError;
use lockstep_engine::source::Offers;
use lockstep_hub::{Hub, HubModel, Limits};

use crate::config::{ListConfig, ModelSource};

/// Prints the models that the source offers to standard output.
///
/// # Errors
/// The folder cannot be read, the hub does not answer, or the source is neither a folder nor a repository.
pub async fn print_offers(config: ListConfig) -> anyhow::Result<()> {
    let source = config.source.to_string();
    let table = match &config.source {
        ModelSource::Hub(model) => list_repository(&Hub::new(&config.hub, Limits::default())?, model).await,
        ModelSource::File(path) => list_folder(path),
        ModelSource::Builtin(_) => {
            let reason = "it is one model; --list-files lists a folder or a repository of the hub".to_owned();
            Err(EngineError::Source { origin: source.clone(), reason }.into())
        }
    };
    let table = table.with_context(|| format!("list the models of {source}"))?;
    std::io::stdout().write_all(table.as_bytes()).context("print the list")
}

async fn list_repository(hub: &Hub, model: &HubModel) -> anyhow::Result<String> {
    let snapshot = hub.resolve(model).await?;
    let (repository, revision, offers) = (&model.repository, model.revision.as_str(), snapshot.offers());
    let (table, usual) = (offers.to_table(), offers.describe_usual());
    Ok(format!("hf://{repository} at {revision}, {}\n{table}without a tag: {usual}\n", snapshot.commit))
}

/// Lists a folder, or the folder of a file.
fn list_folder(path: &Path) -> anyhow::Result<String> {
    let parent = || path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = if path.is_file() { parent() } else { path };
    let offers = Offers::in_folder(folder).with_context(|| format!("read {}", folder.display()))?;
    Ok(format!("file://{}\n{}", folder.display(), offers.to_table()))
}
