//! Room on the disk of the cache.

use std::path::Path;

/// Returns the free bytes on the disk of `path`, or of the nearest folder above `path` that exists.
pub(crate) fn free_bytes(path: &Path) -> u64 {
    let disk = path.ancestors().find_map(|path| rustix::fs::statvfs(path).ok());
    disk.map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
}
