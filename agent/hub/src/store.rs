//! One model's part of the cache, in the layout that Hugging Face's own libraries share:
//!
//! ```text
//! models--org--name/refs/REVISION            the last known commit of the revision
//!                   snapshots/COMMIT/NAME    a link to the blob of the file
//!                   blobs/DIGEST             the content
//! .locks/models--org--name/DIGEST.lock       the process that fetches the blob locks this file
//! ```
//!
//! A file in the cache is complete, and its digest was checked: files arrive by a rename. Several processes may use one
//! cache at the same time, on one machine or on several machines that mount one volume.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use lockstep_engine::source::{open_regular, read_small_file};

use crate::content::ContentId;
use crate::error::HubError;
use crate::listing::{HubFile, MAX_FILES};
use crate::model::{Repository, Revision, is_commit, is_file_name};

/// Deepest nesting of folders in a snapshot.
const MAX_DEPTH: usize = 8;
/// Largest file in `refs/`, in bytes.
const MAX_REF: u64 = 256;

#[derive(Debug, Clone)]
pub(crate) struct Store {
    cache: PathBuf,
    /// Name of the model's folder.
    folder: String,
    repository: Repository,
}

impl Store {
    pub(crate) fn new(cache: PathBuf, repository: &Repository) -> Self {
        let folder = format!("models--{}", repository.to_string().replace('/', "--"));
        Self { cache, folder, repository: repository.clone() }
    }

    pub(crate) fn cache(&self) -> &Path {
        &self.cache
    }

    fn root(&self) -> PathBuf {
        self.cache.join(&self.folder)
    }

    /// Returns the folder of the files of `commit`.
    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root().join("snapshots").join(commit)
    }

    pub(crate) fn blob(&self, id: &ContentId) -> PathBuf {
        self.root().join("blobs").join(id.as_str())
    }

    /// Returns the path of a partial blob. Other libraries write their partial blobs in order, so this name differs from
    /// theirs.
    pub(crate) fn partial(&self, id: &ContentId) -> PathBuf {
        self.root().join("blobs").join(format!("{id}.parts"))
    }

    /// Returns true if `file` of `commit` is there and complete.
    ///
    /// # Errors
    /// The operating system fails to read a file that is no link to a blob.
    pub(crate) fn has_file(&self, commit: &str, file: &HubFile) -> Result<bool, HubError> {
        let path = self.snapshot(commit).join(&file.name);
        let Ok(metadata) = fs::metadata(&path) else { return Ok(false) };
        if !metadata.is_file() || metadata.len() != file.size {
            return Ok(false);
        }
        if linked_id(&path).as_ref() == Some(&file.id) {
            return Ok(true);
        }
        // On a disk without links, libraries copy files. Only the content of a copy shows its digest.
        let mut content = open_regular(&path).map_err(|cause| HubError::disk(&path, cause))?;
        let found = file.id.hash_same_kind(&mut content, file.size, &mut |_| ());
        found.map(|found| found == file.id).map_err(|cause| HubError::disk(&path, cause))
    }

    /// Returns true if the blob is there, from another commit of this model or from another process.
    pub(crate) fn has_blob(&self, file: &HubFile) -> bool {
        fs::metadata(self.blob(&file.id)).is_ok_and(|metadata| metadata.is_file() && metadata.len() == file.size)
    }

    /// Links `file` of `commit` to its blob.
    ///
    /// # Errors
    /// The operating system fails.
    pub(crate) fn link(&self, commit: &str, file: &HubFile) -> Result<(), HubError> {
        let path = self.snapshot(commit).join(&file.name);
        let depth = file.name.split('/').count() + 1;
        let target: PathBuf =
            std::iter::repeat_n("..", depth).chain(["blobs", file.id.as_str()]).collect::<Vec<_>>().join("/").into();
        replace(&path, |temporary| std::os::unix::fs::symlink(&target, temporary))
    }

    /// Returns the last known commit of `revision`.
    pub(crate) fn read_ref(&self, revision: &Revision) -> Option<String> {
        let path = self.root().join("refs").join(revision.as_str());
        let text = String::from_utf8(read_small_file(&path, MAX_REF).ok()?).ok()?;
        let commit = text.trim().to_owned();
        is_commit(&commit).then_some(commit)
    }

    /// Records the commit of `revision`.
    ///
    /// # Errors
    /// The operating system fails.
    pub(crate) fn write_ref(&self, revision: &Revision, commit: &str) -> Result<(), HubError> {
        if revision.commit().is_some() || self.read_ref(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.root().join("refs").join(revision.as_str());
        replace(&path, |temporary| File::create(temporary)?.write_all(commit.as_bytes()))
    }

    /// Locks a blob. Returns `None` while another process holds the lock.
    ///
    /// # Errors
    /// The operating system fails.
    pub(crate) fn try_lock(&self, id: &ContentId) -> Result<Option<Lock>, HubError> {
        let path = self.cache.join(".locks").join(&self.folder).join(format!("{id}.lock"));
        make_parent_folder(&path)?;
        let file = File::options().create(true).truncate(false).read(true).write(true).open(&path);
        let file = file.map_err(|cause| HubError::disk(&path, cause))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock { _file: Arc::new(file) })),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(cause)) => Err(HubError::disk(&path, cause)),
        }
    }

    /// Returns the files of `commit` that are in the cache, with their digests.
    ///
    /// # Errors
    /// The operating system fails, or [`HubError::WrongAnswer`] for more files than a model may have.
    pub(crate) fn list_files(&self, commit: &str) -> Result<Vec<HubFile>, HubError> {
        let mut files = Vec::new();
        self.walk(&self.snapshot(commit), "", 0, &mut files)?;
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(files)
    }

    fn walk(&self, folder: &Path, prefix: &str, depth: usize, files: &mut Vec<HubFile>) -> Result<(), HubError> {
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(|cause| HubError::disk(folder, cause))?,
        };
        for entry in entries {
            let entry = entry.map_err(|cause| HubError::disk(folder, cause))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let (name, path) = (format!("{prefix}{name}"), entry.path());
            // A link to a missing blob is no file.
            let Ok(metadata) = fs::metadata(&path) else { continue };
            if metadata.is_dir() && depth < MAX_DEPTH {
                self.walk(&path, &format!("{name}/"), depth + 1, files)?;
            } else if metadata.is_file() && is_file_name(&name) {
                if files.len() >= MAX_FILES {
                    let (what, reason) = (self.repository.to_string(), format!("more than {MAX_FILES} files"));
                    return Err(HubError::WrongAnswer { what, reason });
                }
                files.push(HubFile { id: read_id(&path)?, name, size: metadata.len() });
            }
        }
        Ok(())
    }
}

/// Lock of a blob. The lock ends when its last clone is dropped or when the process ends. Each task that changes the blob
/// on a thread of its own holds a clone, because such a task outlives a download that is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Lock {
    _file: Arc<File>,
}

/// Returns the digest in the target of a link into `blobs/`.
fn linked_id(path: &Path) -> Option<ContentId> {
    let target = fs::read_link(path).ok()?;
    let mut parts = target.components().rev();
    let Some(Component::Normal(name)) = parts.next() else { return None };
    (parts.next()? == Component::Normal("blobs".as_ref())).then(|| name.to_str()?.parse().ok()).flatten()
}

fn read_id(path: &Path) -> Result<ContentId, HubError> {
    if let Some(id) = linked_id(path) {
        return Ok(id);
    }
    let read = || ContentId::sha256(&mut open_regular(path)?);
    read().map_err(|cause| HubError::disk(path, cause))
}

/// Creates the folder that contains `path`.
///
/// # Errors
/// The operating system fails.
pub(crate) fn make_parent_folder(path: &Path) -> Result<(), HubError> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(|cause| HubError::disk(folder, cause))
}

/// Replaces `path` by the file that `make` creates, in one step.
fn replace(path: &Path, make: impl Fn(&Path) -> std::io::Result<()>) -> Result<(), HubError> {
    make_parent_folder(path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}", uuid::Uuid::new_v4().simple()));
    let made = make(&temporary).and_then(|()| fs::rename(&temporary, path));
    made.map_err(|cause| {
        fs::remove_file(&temporary).ok();
        HubError::disk(path, cause)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
    const HELLO: &str = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().join("hub"), &"org/name".parse().unwrap());
        (folder, store)
    }

    fn hello(name: &str) -> HubFile {
        HubFile { name: name.into(), size: 6, id: HELLO.parse().unwrap() }
    }

    #[test]
    fn the_layout_is_that_of_hugging_face() {
        let (folder, store) = store();
        let root = folder.path().join("hub/models--org--name");
        let file = hello("nested/a.json");
        assert_eq!(store.blob(&file.id), root.join("blobs").join(HELLO));
        assert!(!store.has_blob(&file) && !store.has_file(COMMIT, &file).unwrap());
        make_parent_folder(&store.blob(&file.id)).unwrap();
        fs::write(store.blob(&file.id), "hello\n").unwrap();
        store.link(COMMIT, &file).unwrap();
        store.link(COMMIT, &file).unwrap();
        let link = root.join("snapshots").join(COMMIT).join("nested/a.json");
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("../../../blobs").join(HELLO));
        assert_eq!(fs::read_to_string(&link).unwrap(), "hello\n");
        assert!(store.has_blob(&file) && store.has_file(COMMIT, &file).unwrap());
        assert!(!store.has_file(COMMIT, &HubFile { size: 7, ..file.clone() }).unwrap());
        let main = Revision::default();
        assert_eq!(store.read_ref(&main), None);
        store.write_ref(&main, COMMIT).unwrap();
        assert_eq!(fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
        assert_eq!(store.read_ref(&main).as_deref(), Some(COMMIT));
        assert_eq!(store.list_files(COMMIT).unwrap(), [file]);
    }

    #[test]
    fn a_copied_file_is_identified_by_its_content() {
        let (_folder, store) = store();
        let snapshot = store.snapshot(COMMIT);
        fs::create_dir_all(&snapshot).unwrap();
        fs::write(snapshot.join("a.json"), "hello\n").unwrap();
        fs::write(snapshot.join("b.json"), "jello\n").unwrap();
        std::os::unix::fs::symlink("../../blobs/gone", snapshot.join("c.json")).unwrap();
        assert!(store.has_file(COMMIT, &hello("a.json")).unwrap());
        assert!(!store.has_file(COMMIT, &hello("b.json")).unwrap());
        let files = store.list_files(COMMIT).unwrap();
        assert_eq!(files.iter().map(|file| file.name.as_str()).collect::<Vec<_>>(), ["a.json", "b.json"]);
        assert_eq!(files[0], hello("a.json"));
    }

    #[test]
    fn a_lock_has_one_owner() {
        let (_folder, store) = store();
        let id = hello("a").id;
        let lock = store.try_lock(&id).unwrap().expect("the lock is free");
        assert!(store.try_lock(&id).unwrap().is_none());
        drop(lock);
        assert!(store.try_lock(&id).unwrap().is_some());
    }

    #[test]
    fn an_error_names_the_cache_that_cannot_be_created() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let store = Store::new(file.path().join("hub"), &"org/name".parse().unwrap());
        let message = store.try_lock(&hello("a").id).unwrap_err().to_string();
        assert!(message.contains(&file.path().display().to_string()), "{message}");
    }
}
