//! Files of secrets for tests.

use std::fs::{OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// Writes a file that no other user can read at any time.
pub(crate) fn write_secret(path: &Path, text: &str) {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path).expect("a file");
    file.write_all(text.as_bytes()).expect("written");
}

/// Lets every user read a file.
pub(crate) fn expose(path: &Path) {
    std::fs::set_permissions(path, Permissions::from_mode(0o644)).expect("a mode");
}
