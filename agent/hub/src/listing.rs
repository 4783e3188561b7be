//! List of a revision: its commit, and the files with sizes and digests.

use std::path::{Component, Path};

use serde::Deserialize;

use crate::client::{Client, HubRequest, body};
use crate::content::ContentId;
use crate::error::{Failure, HubError};
use crate::model::{HubModel, is_commit};
use crate::retry::Retries;

/// Most files of one model.
pub(crate) const MAX_FILES: usize = 16_384;
/// Largest list, in bytes: that many files with a long name each.
const MAX_LIST: usize = 16 << 20;
/// Longest name of a file, in bytes.
const MAX_NAME: usize = 512;

/// One file of a model at a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubFile {
    /// Path relative to the model, with `/` between folders.
    pub name: String,
    pub size: u64,
    pub id: ContentId,
}

impl HubFile {
    /// Returns `None` for a name that would lead out of the model's folder.
    pub fn new(name: String, size: u64, id: ContentId) -> Option<Self> {
        is_file_name(&name).then_some(Self { name, size, id })
    }
}

/// A model at a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub commit: String,
    pub files: Vec<HubFile>,
}

impl Snapshot {
    pub fn file(&self, name: &str) -> Option<&HubFile> {
        self.files.iter().find(|file| file.name == name)
    }
}

/// The answer of `GET /api/models/ORG/NAME/revision/REVISION?blobs=true`
/// (<https://huggingface.co/docs/hub/api>), as far as it is used.
#[derive(Debug, Deserialize)]
struct RawModel {
    sha: String,
    #[serde(default)]
    siblings: Vec<RawFile>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawFile {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<RawLfs>,
}

#[derive(Debug, Deserialize)]
struct RawLfs {
    sha256: String,
    size: u64,
}

/// Asks the hub for the commit and the files of `model`.
pub(crate) async fn fetch_listing(client: &Client, model: &HubModel) -> Result<Snapshot, HubError> {
    let (repository, revision) = (model.repository.as_str(), model.revision.as_str());
    let parts = ["api", "models"].into_iter().chain(repository.split('/')).chain(["revision", revision]);
    let mut url = client.url(parts);
    url.set_query(Some("blobs=true"));
    let what = format!("hf://{repository} at {revision}");
    let question = HubRequest { what: &what, url, range: None, if_range: None };
    let mut retries = Retries::new(client.limits.retry);
    loop {
        let answer = client.send_with_retries(&question).await?;
        match body(&what, answer.response, MAX_LIST).await {
            Ok(json) => return parse_listing(&what, &json),
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Again { reason, after }) => client.pause(&mut retries, &what, reason, after).await?,
        }
    }
}

fn parse_listing(what: &str, json: &[u8]) -> Result<Snapshot, HubError> {
    let wrong = |reason: String| HubError::Answer { what: what.into(), reason };
    let raw: RawModel = serde_json::from_slice(json).map_err(|error| wrong(error.to_string()))?;
    if !is_commit(&raw.sha) {
        return Err(wrong(format!("`{}` is no commit", raw.sha.chars().take(80).collect::<String>())));
    }
    if raw.siblings.len() > MAX_FILES {
        return Err(wrong(format!("{} files, more than {MAX_FILES}", raw.siblings.len())));
    }
    // A name that cannot be a path is no file of a model.
    let named = raw.siblings.into_iter().filter(|file| is_file_name(&file.rfilename));
    let files = named.map(file).collect::<Result<_, _>>().map_err(wrong)?;
    Ok(Snapshot { commit: raw.sha, files })
}

fn file(raw: RawFile) -> Result<HubFile, String> {
    let (size, id) = match (raw.lfs, raw.size, raw.blob_id) {
        (Some(lfs), ..) => (lfs.size, lfs.sha256),
        (None, Some(size), Some(id)) => (size, id),
        _ => return Err(format!("{} has no size or no digest", raw.rfilename)),
    };
    let id = id.parse().map_err(|error| format!("{}: {error}", raw.rfilename))?;
    Ok(HubFile { name: raw.rfilename, size, id })
}

/// Returns true if a file of this name stays inside the model's folder.
pub(crate) fn is_file_name(name: &str) -> bool {
    let inside = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    inside && (1..=MAX_NAME).contains(&name.len()) && !name.contains(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_strictly() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let list = |files: &str| parse_listing("m", format!(r#"{{"sha":"{commit}","siblings":[{files}]}}"#).as_bytes());
        let snapshot = list(&format!(
            r#"{{"rfilename":"config.json","size":5,"blobId":"{commit}"}},
               {{"rfilename":"../evil","size":5,"blobId":"{commit}"}},
               {{"rfilename":"a.safetensors","size":1,"blobId":"{commit}",
                 "lfs":{{"sha256":"{0}","size":7,"pointerSize":135}}}}"#,
            "ab".repeat(32)
        ));
        let snapshot = snapshot.unwrap();
        assert_eq!(snapshot.files.len(), 2);
        assert_eq!(snapshot.file("config.json").map(|file| (file.size, file.id.as_str())), Some((5, commit)));
        assert_eq!(snapshot.file("a.safetensors").unwrap().size, 7);
        for (json, part) in [
            ("", "EOF"),
            (r#"{"siblings":[]}"#, "sha"),
            (r#"{"sha":"main"}"#, "`main` is no commit"),
            (r#"{"sha":"../../../../../../../../../../../etc/pas"}"#, "is no commit"),
        ] {
            let told = parse_listing("hf://a/b", json.as_bytes()).unwrap_err().to_string();
            assert!(told.contains(part) && told.contains("hf://a/b"), "{told}");
        }
        for (file, part) in [
            (r#"{"rfilename":"a"}"#, "a has no size or no digest"),
            (r#"{"rfilename":"a","size":1,"blobId":"../x"}"#, "`../x` is no digest"),
            (r#"{"rfilename":"a","size":-1,"blobId":"x"}"#, "invalid value"),
        ] {
            let told = list(file).unwrap_err().to_string();
            assert!(told.contains(part), "{told}");
        }
    }
}
