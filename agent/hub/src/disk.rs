//! Room on the disk of the cache.

use std::path::Path;

/// Returns the number of bytes that this process may still write on the disk of `path`, or of the nearest existing
/// folder above it.
pub(crate) fn free_bytes(path: &Path) -> u64 {
    let there = path.ancestors().find_map(|path| rustix::fs::statvfs(path).ok());
    there.map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
}
