//! Files that are small by nature: certificates, settings. `secret_file` is for those that hold a secret.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use super::open_regular;

/// Returns the bytes of the file at `path`. Links are followed.
///
/// # Errors
/// Errors of the operating system. `InvalidInput`, without a wait, for a pipe, a device or a folder. `FileTooLarge` if
/// the file has more than `most` bytes; no more than one byte beyond them is read.
pub fn read_small_file(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    read_at_most(open_regular(path)?, most)
}

/// Returns the bytes of an open file.
///
/// # Errors
/// Those of the operating system, and `FileTooLarge` if the file has more than `most` bytes.
pub(super) fn read_at_most(file: File, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {most} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn no_more_is_read_than_asked_for() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "12345").unwrap();
        assert_eq!(read_small_file(file.path(), 5).unwrap(), b"12345");
        assert_eq!(read_small_file(file.path(), 4).unwrap_err().to_string(), "it is larger than 4 bytes");
    }

    #[test]
    fn pipes_and_devices_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        // Open for reading and writing: neither the test nor a reader waits for another process.
        let mut pipe = std::fs::File::options().read(true).write(true).open(&path).unwrap();
        pipe.write_all(b"12345").unwrap();
        for (path, kind) in [(path.as_path(), "a pipe"), (Path::new("/dev/zero"), "a device")] {
            let message = read_small_file(path, 4).unwrap_err().to_string();
            assert!(message.starts_with(&format!("it is {kind}")), "{message}");
        }
        drop(pipe);
        assert_eq!(read_small_file(&path, 4).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
