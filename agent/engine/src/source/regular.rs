//! Opening of files that a user or a model names.

use std::fs::{File, FileType};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;

/// Opens a regular file for reading, or the regular file that links lead to. It never waits: opening a pipe would, until
/// another process writes to it.
///
/// # Errors
/// The operating system's, and `InvalidInput` naming the thing that is there in a regular file's place.
pub fn open_regular(path: &Path) -> io::Result<File> {
    // Checked before opening, since opening a device may do something and a socket cannot be opened. Checked again on the
    // opened file, since another may have taken the path's place in between.
    check(std::fs::metadata(path)?.file_type())?;
    let (no_waiting, no_terminal) = (OFlags::NONBLOCK.bits(), OFlags::NOCTTY.bits());
    let file = File::options().read(true).custom_flags((no_waiting | no_terminal).cast_signed()).open(path)?;
    check(file.metadata()?.file_type())?;
    Ok(file)
}

fn check(found: FileType) -> io::Result<()> {
    let what = match found {
        _ if found.is_file() => return Ok(()),
        _ if found.is_dir() => "a folder",
        _ if found.is_fifo() => "a pipe (FIFO)",
        _ if found.is_socket() => "a socket",
        _ if found.is_char_device() || found.is_block_device() => "a device",
        _ => "no file",
    };
    Err(io::Error::new(ErrorKind::InvalidInput, format!("it is {what}; name a regular file, or a link to one")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use std::io::Read as _;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    #[test]
    fn only_regular_files_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), "content").unwrap();
        fixture::make_pipe(&at("pipe"));
        std::fs::create_dir(at("folder")).unwrap();
        let _listener = UnixListener::bind(at("socket")).unwrap();
        let cases = [
            (at("pipe"), "it is a pipe (FIFO); name a regular file"),
            (at("folder"), "it is a folder"),
            (at("socket"), "it is a socket"),
            ("/dev/zero".into(), "it is a device"),
        ];
        for (path, expected) in cases {
            symlink(&path, at("link")).unwrap();
            for path in [path, at("link")] {
                let error = open_regular(&path).unwrap_err();
                assert!(error.to_string().contains(expected), "{}: {error}", path.display());
                assert_eq!(error.kind(), ErrorKind::InvalidInput);
            }
            std::fs::remove_file(at("link")).unwrap();
        }
        assert_eq!(open_regular(&at("gone")).unwrap_err().kind(), ErrorKind::NotFound);
    }

    /// Kubernetes mounts a secret as a link into a folder that is itself a link.
    #[test]
    fn links_are_followed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("..2026")).unwrap();
        std::fs::write(at("..2026/key"), "content").unwrap();
        symlink("..2026", at("..data")).unwrap();
        symlink("..data/key", at("key")).unwrap();
        let mut text = String::new();
        open_regular(&at("key")).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "content");
    }
}
