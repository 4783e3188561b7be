//! The snapshot of a model's revision: its commit, and its files with sizes and digests.

use lockstep_engine::source::Offers;
use serde::Deserialize;

use crate::client::{Client, HubRequest, read_body};
use crate::content::ContentId;
use crate::error::{AttemptError, HubError};
use crate::model::{HubModel, is_commit, is_file_name};
use crate::retry::Retries;

/// Most files of one model.
pub(crate) const MAX_FILES: usize = 16_384;
/// Largest list of files, in bytes: as many files with a long name each.
const MAX_LIST: usize = 16 << 20;

/// One file of a model at a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubFile {
    /// Path inside the model, with `/` between folders.
    pub name: String,
    pub size: u64,
    pub id: ContentId,
}

impl HubFile {
    /// Returns `None` for a name that leads out of the model's folder.
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

    /// Returns the models among the files.
    pub fn offers(&self) -> Offers {
        Offers::from_files(self.files.iter().map(|file| (file.name.as_str(), file.size)))
    }
}

/// Answer of `GET /api/models/ORG/NAME/revision/REVISION?blobs=true` (<https://huggingface.co/docs/hub/api>), with only the
/// fields that this crate reads.
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

/// Asks the hub for the current snapshot of `model`.
pub(crate) async fn fetch_snapshot(client: &Client, model: &HubModel) -> Result<Snapshot, HubError> {
    let (repository, revision) = (model.repository.as_str(), model.revision.as_str());
    let parts = ["api", "models"].into_iter().chain(repository.split('/')).chain(["revision", revision]);
    let mut url = client.url(parts);
    url.set_query(Some("blobs=true"));
    let what = format!("hf://{repository} at {revision}");
    let request = HubRequest { what: &what, url, range: None, if_range: None };
    let mut retries = Retries::new(client.limits.retry);
    loop {
        let response = client.send_with_retries(&request).await?;
        match read_body(&what, response.response, MAX_LIST).await {
            Ok(json) => return parse_snapshot(&what, &json),
            Err(AttemptError::Final(error)) => return Err(error),
            Err(AttemptError::Retry { reason, after }) => client.pause(&mut retries, &what, reason, after).await?,
        }
    }
}

fn parse_snapshot(what: &str, json: &[u8]) -> Result<Snapshot, HubError> {
    let wrong = |reason: String| HubError::WrongAnswer { what: what.into(), reason };
    let raw: RawModel = serde_json::from_slice(json).map_err(|error| wrong(error.to_string()))?;
    if !is_commit(&raw.sha) {
        return Err(wrong(format!("`{}` is no commit", raw.sha.chars().take(80).collect::<String>())));
    }
    if raw.siblings.len() > MAX_FILES {
        return Err(wrong(format!("it lists {} files, more than {MAX_FILES}", raw.siblings.len())));
    }
    // A model has no file whose name cannot be a path inside its folder.
    let named = raw.siblings.into_iter().filter(|file| is_file_name(&file.rfilename));
    let files = named.map(parse_file).collect::<Result<_, _>>().map_err(wrong)?;
    Ok(Snapshot { commit: raw.sha, files })
}

fn parse_file(raw: RawFile) -> Result<HubFile, String> {
    let (size, id) = match (raw.lfs, raw.size, raw.blob_id) {
        (Some(lfs), ..) => (lfs.size, lfs.sha256),
        (None, Some(size), Some(id)) => (size, id),
        _ => return Err(format!("{} has no size or no digest", raw.rfilename)),
    };
    let id = id.parse().map_err(|error| format!("{}: {error}", raw.rfilename))?;
    Ok(HubFile { name: raw.rfilename, size, id })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_strictly() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let list =
            |files: &str| parse_snapshot("m", format!(r#"{{"sha":"{commit}","siblings":[{files}]}}"#).as_bytes());
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
            let message = parse_snapshot("hf://a/b", json.as_bytes()).unwrap_err().to_string();
            assert!(message.contains(part) && message.contains("hf://a/b"), "{message}");
        }
        for (file, part) in [
            (r#"{"rfilename":"a"}"#, "a has no size or no digest"),
            (r#"{"rfilename":"a","size":1,"blobId":"../x"}"#, "`../x` is no digest"),
            (r#"{"rfilename":"a","size":-1,"blobId":"x"}"#, "invalid value"),
        ] {
            let message = list(file).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }
}
