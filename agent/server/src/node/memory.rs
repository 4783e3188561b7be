//! How much KV cache a rank may hold.

use std::path::Path;

use lockstep_engine::PlacedLayers;
use lockstep_proto::node::Assignment;

/// Memory that this process may still take, in bytes: the least of what the machine and the control group have left.
pub fn free_bytes() -> u64 {
    let machine = meminfo("MemAvailable:").unwrap_or(u64::MAX);
    let group = cgroup_free().unwrap_or(u64::MAX);
    machine.min(group)
}

/// How many blocks a rank makes room for in all of its `places`, where `ranks_here` share the `free` memory of this machine:
/// what the assignment allows and every place holds, but no more than the group can ever fill.
pub fn blocks(assignment: &Assignment, places: &[PlacedLayers], ranks_here: u64, free: u64) -> u32 {
    let per_sequence = assignment.context_length.div_ceil(assignment.block_size.max(1)).max(1);
    let useful = u64::from(per_sequence) * u64::from(assignment.max_num_seqs.max(1));
    let share = |free: u64| (free as f64 * f64::from(assignment.kv_cache_fraction)) as u64;
    let whole: u64 = places.iter().map(|place| place.bytes_per_block).sum();
    let fit = |place: &PlacedLayers| match (assignment.kv_cache_bytes, place.free_bytes) {
        (0, Some(own)) => share(own) / place.bytes_per_block.max(1),
        (0, None) => share(free) / ranks_here.max(1) / place.bytes_per_block.max(1),
        // So many bytes in all places together; a device cannot be asked for more than it has.
        (bytes, own) => {
            let own = own.map_or(u64::MAX, |own| own / place.bytes_per_block.max(1));
            own.min(bytes / whole.max(1))
        }
    };
    let fit = places.iter().map(fit).min().unwrap_or(0);
    u32::try_from(fit.min(useful)).unwrap_or(u32::MAX)
}

fn meminfo(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// What the control group of this process has left, where it has a limit: cgroup v2, else v1, as seen in a container.
fn cgroup_free() -> Option<u64> {
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
    fn blocks_follow_the_assignment() {
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
        assert_eq!(blocks(&bytes(10_000, 0.0), &[host(1000)], 1, 0), 10);
        assert_eq!(blocks(&bytes(0, 0.5), &[host(1000)], 2, 20_000), 5);
        assert_eq!(blocks(&bytes(0, 0.9), &[host(1)], 1, 1 << 40), 28);
        assert_eq!(blocks(&bytes(10, 0.0), &[host(1000)], 1, 0), 0);
        let device = |bytes_per_block, own| place(bytes_per_block, Some(own));
        assert_eq!(blocks(&bytes(0, 0.5), &[device(1000, 20_000), device(500, 5000)], 8, 0), 5);
        assert_eq!(blocks(&bytes(0, 0.5), &[device(1000, 20_000), host(1000)], 2, 12_000), 3);
        assert_eq!(blocks(&bytes(10_000, 0.0), &[device(500, 1 << 40), host(500)], 1, 0), 10);
        assert_eq!(blocks(&bytes(10_000, 0.0), &[device(500, 2000), host(500)], 1, 0), 4);
    }

    #[test]
    fn some_memory_is_free() {
        assert!(free_bytes() > 0);
    }
}
