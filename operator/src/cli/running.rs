//! Groups that `lockstep up` runs on this machine. Each has a file that names its endpoint, so that other commands find it.
//!
//! The process that runs a group holds a lock on the group's file. The kernel frees the lock when the process ends in
//! whatever way, so a file without a lock is left over, and the next look removes it.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use super::endpoint::Endpoint;

/// Longest file of a group, in bytes.
const MAX_BYTES: u64 = 4096;

/// A group that runs on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RunningGroup {
    pub name: String,
    pub endpoint: Endpoint,
}

/// The file of a group that this process runs. Dropping it removes the file.
pub(super) struct Registration {
    path: PathBuf,
    /// Holds the lock.
    _file: File,
}

impl Registration {
    /// Writes the file of a group.
    ///
    /// # Errors
    /// The folder or the file cannot be written.
    pub(super) fn new(group: &RunningGroup) -> io::Result<Self> {
        Self::in_folder(&user_folder()?, group)
    }

    fn in_folder(folder: &Path, group: &RunningGroup) -> io::Result<Self> {
        make_private(folder)?;
        let path = folder.join(format!("{}.group", std::process::id()));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        file.lock()?;
        write!(file, "{}\n{}\n", group.name, group.endpoint)?;
        Ok(Self { path, _file: file })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // A file that stays has no lock any more, which says the same.
        std::fs::remove_file(&self.path).ok();
    }
}

/// Returns the groups of this user that run now, by name. A folder that cannot be read has none.
pub(super) fn running_groups() -> Vec<RunningGroup> {
    user_folder().map(|folder| groups_in(&folder)).unwrap_or_default()
}

fn groups_in(folder: &Path) -> Vec<RunningGroup> {
    let files = std::fs::read_dir(folder).into_iter().flatten().filter_map(|file| Some(file.ok()?.path()));
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "group"));
    let mut groups: Vec<RunningGroup> = files.filter_map(|path| read_running(&path)).collect();
    groups.sort_by(|a, b| a.name.cmp(&b.name));
    groups
}

/// Reads the file of a group, or removes the file if no process runs the group.
fn read_running(path: &Path) -> Option<RunningGroup> {
    let file = File::open(path).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => {}
        Ok(()) => {
            std::fs::remove_file(path).ok();
            return None;
        }
        Err(TryLockError::Error(_)) => return None,
    }
    let mut text = String::new();
    file.take(MAX_BYTES).read_to_string(&mut text).ok()?;
    let (name, endpoint) = text.trim_end().split_once('\n')?;
    Some(RunningGroup { name: name.to_owned(), endpoint: endpoint.parse().ok()? })
}

/// Returns this user's folder for such files.
fn user_folder() -> io::Result<PathBuf> {
    if let Some(folder) = std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty()) {
        return Ok(PathBuf::from(folder).join("lockstep"));
    }
    Ok(std::env::temp_dir().join(format!("lockstep-{}", geteuid().as_raw())))
}

/// Makes the folder if it is missing.
///
/// # Errors
/// Somebody else owns the folder, or may write into it.
fn make_private(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let facts = std::fs::symlink_metadata(folder)?;
    if !facts.is_dir() || facts.uid() != geteuid().as_raw() || facts.mode() & 0o022 != 0 {
        let reason = format!("{} is not a folder that only this user writes", folder.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_found_until_its_process_ends() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("lockstep");
        assert_eq!(groups_in(&folder), []);
        let group = RunningGroup { name: "quickstart".into(), endpoint: Endpoint::new([127, 0, 0, 1].into(), 7) };
        let registration = Registration::in_folder(&folder, &group).unwrap();
        assert_eq!(groups_in(&folder), std::slice::from_ref(&group));

        // A killed process leaves its file, without the lock.
        std::fs::write(folder.join("1.group"), "killed\nhttp://127.0.0.1:8\n").unwrap();
        assert_eq!(groups_in(&folder), [group]);
        assert!(!folder.join("1.group").exists());
        drop(registration);
        assert_eq!(groups_in(&folder), []);
    }

    #[test]
    fn a_folder_that_others_write_is_not_used() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let group = RunningGroup { name: "x".into(), endpoint: Endpoint::new([127, 0, 0, 1].into(), 7) };
        let error = Registration::in_folder(folder.path(), &group).err().unwrap();
        assert!(error.to_string().contains("only this user writes"), "{error}");
    }
}
