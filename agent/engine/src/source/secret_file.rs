//! Files that hold a secret, such as a key, and who may read them.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{StatVfsMountFlags, fstatvfs};
use rustix::process::geteuid;

use super::open_regular;
use super::small_file::read_at_most;

/// Link that Kubernetes makes in the folder of a mounted Secret. The files beside it are links through it.
const DATA_LINK: &str = "..data";
/// Permissions of the file's group and of all other users.
const OF_OTHERS: u32 = 0o077;

/// Returns the bytes of the file at `path` as [`super::read_small_file`] does, unless other users have access to it.
///
/// # Errors
/// Those of [`super::read_small_file`], and those of [`check_secret_file`].
pub fn read_secret_file(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = open_regular(path)?;
    refuse_exposed(&file, path)?;
    read_at_most(file, most)
}

/// Checks that no other user has access to the file at `path`. The rule is that of ssh: a file that belongs to the user
/// of this process must have no permission for its group and for others. If the file belongs to another user, that user
/// has chosen who may read it. Nor can this process change the mode of a file in a volume of Kubernetes or on a mount
/// that is read-only: whoever mounted it has chosen the mode.
///
/// # Errors
/// Those of opening the file. `PermissionDenied` with the remedy if other users have access to it.
pub fn check_secret_file(path: &Path) -> io::Result<()> {
    refuse_exposed(&open_regular(path)?, path)
}

/// Refuses `file`, which was opened at `path`, if other users have access to it.
fn refuse_exposed(file: &File, path: &Path) -> io::Result<()> {
    let metadata = file.metadata()?;
    let is_private = metadata.mode() & OF_OTHERS == 0;
    if is_private || metadata.uid() != geteuid().as_raw() || is_mounted_secret(path) || is_read_only(file)? {
        return Ok(());
    }
    let (mode, path) = (metadata.mode() & 0o7777, path.display());
    let message = format!("its mode {mode:04o} gives other users access to it; run `chmod 600 {path}`");
    Err(io::Error::new(ErrorKind::PermissionDenied, message))
}

/// Returns true if the file is in a folder that Kubernetes keeps up to date: `key` in a folder with the link `..data`, or
/// the file that the links lead to, in the folder that `..data` stands for.
fn is_mounted_secret(path: &Path) -> bool {
    let has_data_link = |folder: &Path| folder.join(DATA_LINK).is_symlink();
    path.ancestors().skip(1).take(2).any(has_data_link)
}

/// Returns true if the file's mount is read-only, as that of a single file of a Secret (`subPath`) is.
fn is_read_only(file: &File) -> io::Result<bool> {
    Ok(fstatvfs(file)?.f_flag.contains(StatVfsMountFlags::RDONLY))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    use super::*;

    fn write(path: &Path, mode: u32) {
        std::fs::write(path, "secret").unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn check(path: &Path, may_read: bool) {
        let read = read_secret_file(path, 10);
        match (may_read, &read) {
            (true, Ok(bytes)) => assert_eq!(bytes, b"secret"),
            (false, Err(error)) => {
                assert_eq!(error.kind(), ErrorKind::PermissionDenied);
                let remedy = format!("gives other users access to it; run `chmod 600 {}`", path.display());
                assert!(error.to_string().contains(&remedy), "{error}");
            }
            _ => panic!("{}: {read:?}", path.display()),
        }
        assert_eq!(check_secret_file(path).is_ok(), may_read);
    }

    #[test]
    fn a_file_of_our_own_must_be_private() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("key"), folder.path().join("link"));
        symlink(&path, &link).unwrap();
        for (mode, may_read) in [
            (0o600, true),
            (0o400, true),
            (0o700, true),
            (0o644, false),
            (0o640, false),
            (0o604, false),
            (0o620, false),
            (0o602, false),
            (0o610, false),
        ] {
            write(&path, mode);
            check(&path, may_read);
            check(&link, may_read);
        }
        let error = read_secret_file(&path, 10).unwrap_err().to_string();
        assert!(error.starts_with("its mode 0610 gives"), "{error}");
        write(&path, 0o600);
        assert_eq!(read_secret_file(&path, 5).unwrap_err().to_string(), "it is larger than 5 bytes");
        assert_eq!(check_secret_file(&folder.path().join("gone")).unwrap_err().kind(), ErrorKind::NotFound);
    }

    /// The test needs the right to give a file away, which root has.
    #[test]
    fn the_owner_decides_about_a_file_of_another_user() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        for mode in [0o644, 0o640] {
            write(&path, mode);
            if chown(&path, Some(12_345), None).is_ok() {
                check(&path, true);
                chown(&path, Some(geteuid().as_raw()), None).unwrap();
            }
            check(&path, false);
        }
    }

    /// A Secret's files belong to root, and so may the process in the pod. The kubelet gives them the mode 0644, or 0440
    /// and the pod's group.
    #[test]
    fn a_mounted_secret_has_the_mode_of_its_volume() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("..2026_01_01")).unwrap();
        symlink("..2026_01_01", at("..data")).unwrap();
        symlink("..data/key", at("key")).unwrap();
        for mode in [0o644, 0o440, 0o400] {
            write(&at("..2026_01_01/key"), mode);
            ["key", "..data/key", "..2026_01_01/key"].into_iter().for_each(|name| check(&at(name), true));
        }
        // A folder further up is not that of the file.
        std::fs::create_dir_all(at("a/b")).unwrap();
        write(&at("a/b/key"), 0o644);
        check(&at("a/b/key"), false);
    }

    #[test]
    fn the_mode_counts_only_where_the_file_can_be_changed() {
        assert!(is_read_only(&File::open("/proc/self/status").unwrap()).is_ok());
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(!is_read_only(file.as_file()).unwrap());
    }
}
