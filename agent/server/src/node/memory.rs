//! Size of a rank's KV cache.

use std::path::Path;

use lockstep_engine::PlacedLayers;
use lockstep_proto::node::Assignment;

/// Returns the memory that this process may still take, in bytes. The machine and the control group both limit it.
pub(super) fn free_bytes() -> u64 {
    let machine = meminfo_bytes("MemAvailable:").unwrap_or(u64::MAX);
    let group = cgroup_free_bytes().unwrap_or(u64::MAX);
    machine.min(group)
}

/// Returns the number of KV cache blocks of a rank. Every one of the rank's `places` has room for that many.
///
/// The assignment gives a number of bytes, or a fraction of the free memory. `ranks_on_machine` ranks share the `free`
/// bytes of this machine's memory. The number is never above what the group's sequences can fill.
pub(super) fn count_blocks(assignment: &Assignment, places: &[PlacedLayers], ranks_on_machine: u64, free: u64) -> u32 {
    let blocks_per_sequence = assignment.context_length.div_ceil(assignment.block_size.max(1)).max(1);
    let useful = u64::from(blocks_per_sequence) * u64::from(assignment.max_num_seqs.max(1));
    let fraction_of = |free: u64| (free as f64 * f64::from(assignment.kv_cache_fraction)) as u64;
    let bytes_per_block: u64 = places.iter().map(|place| place.bytes_per_block).sum();
    let blocks_in = |place: &PlacedLayers| match (assignment.kv_cache_bytes, place.free_bytes) {
        (0, Some(own)) => fraction_of(own) / place.bytes_per_block.max(1),
        (0, None) => fraction_of(free) / ranks_on_machine.max(1) / place.bytes_per_block.max(1),
        // `bytes` is for all places together. A device with less free memory holds fewer blocks.
        (bytes, own) => {
            let own = own.map_or(u64::MAX, |own| own / place.bytes_per_block.max(1));
            own.min(bytes / bytes_per_block.max(1))
        }
    };
    let fit = places.iter().map(blocks_in).min().unwrap_or(0);
    u32::try_from(fit.min(useful)).unwrap_or(u32::MAX)
}

/// Checks that a rank's KV cache holds a block.
///
/// # Errors
/// Says how many bytes one block takes.
pub(super) fn check_blocks(blocks: u32, places: &[PlacedLayers], assignment: &Assignment) -> Result<u32, String> {
    if blocks > 0 {
        return Ok(blocks);
    }
    let needed: u64 = places.iter().map(|place| place.bytes_per_block).sum();
    let given = match assignment.kv_cache_bytes {
        0 => format!("{}% of the free memory have", (assignment.kv_cache_fraction * 100.0).round()),
        bytes => format!("{bytes} bytes have"),
    };
    Err(format!(
        "{given} no room for one block of the KV cache, which takes {needed} bytes for {} tokens: raise --kv-cache-memory \
         (spec.serving.kvCacheMemory)",
        assignment.block_size
    ))
}

/// Returns an entry of `/proc/meminfo`, in bytes.
fn meminfo_bytes(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// Returns the free memory of this process's control group, or `None` if the group has no limit. Reads cgroup v2, or else
/// v1, at the paths that a container sees.
fn cgroup_free_bytes() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(Path::new("/sys/fs/cgroup").join(path)).ok();
    let number = |path: &str| read(path)?.trim().parse::<u64>().ok();
    let (limit, used) = match number("memory.max") {
        Some(limit) => (limit, number("memory.current")?),
        None => (number("memory/memory.limit_in_bytes")?, number("memory/memory.usage_in_bytes")?),
    };
    Some(limit.saturating_sub(used))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_blocks_follows_the_assignment() {
        let bytes = |kv_cache_bytes, kv_cache_fraction| Assignment {
            kv_cache_bytes,
            kv_cache_fraction,
            block_size: 16,
            context_length: 100,
            max_num_seqs: 4,
            ..Default::default()
        };
        let place = |bytes_per_block, free_bytes| PlacedLayers {
            device: "cpu".into(),
            layers: 0..1,
            weight_bytes: 0,
            bytes_per_block,
            free_bytes,
        };
        let host = |bytes_per_block| place(bytes_per_block, None);
        assert_eq!(count_blocks(&bytes(10_000, 0.0), &[host(1000)], 1, 0), 10);
        assert_eq!(count_blocks(&bytes(0, 0.5), &[host(1000)], 2, 20_000), 5);
        assert_eq!(count_blocks(&bytes(0, 0.9), &[host(1)], 1, 1 << 40), 28);
        assert_eq!(count_blocks(&bytes(10, 0.0), &[host(1000)], 1, 0), 0);
        let refusal = check_blocks(0, &[host(1000)], &bytes(10, 0.0)).unwrap_err();
        assert!(
            refusal.starts_with("10 bytes have no room for one block of the KV cache, which takes 1000 bytes"),
            "{refusal}"
        );
        let device = |bytes_per_block, free| place(bytes_per_block, Some(free));
        assert_eq!(count_blocks(&bytes(0, 0.5), &[device(1000, 20_000), device(500, 5000)], 8, 0), 5);
        assert_eq!(count_blocks(&bytes(0, 0.5), &[device(1000, 20_000), host(1000)], 2, 12_000), 3);
        assert_eq!(count_blocks(&bytes(10_000, 0.0), &[device(500, 1 << 40), host(500)], 1, 0), 10);
        assert_eq!(count_blocks(&bytes(10_000, 0.0), &[device(500, 2000), host(500)], 1, 0), 4);
    }

    #[test]
    fn some_memory_is_free() {
        assert!(free_bytes() > 0);
    }
}
