//! The number of layers that each device takes. No device is touched here.

/// Bytes of the layers that are to be placed.
#[derive(Debug, Clone, Default)]
pub struct Costs {
    /// Bytes of each layer, with the least part of the KV cache that it must have.
    pub layers: Vec<u64>,
    /// Bytes that come with the first layer.
    pub before: u64,
    /// Bytes that come with the last layer.
    pub after: u64,
    /// Part of `after` that a device with the first layer has already; no more than `before`.
    pub shared: u64,
    /// Bytes that every device with a layer needs while it computes.
    pub working: u64,
}

impl Costs {
    /// Returns the bytes that layer `index`, with the bytes that come with it, adds to a device whose layers begin at `first`.
    fn added_bytes(&self, first: usize, index: usize) -> u64 {
        let before = if index == 0 { self.before } else { 0 };
        let after = match first {
            _ if index + 1 < self.layers.len() => 0,
            0 => self.after.saturating_sub(self.shared),
            _ => self.after,
        };
        self.layers[index].saturating_add(before).saturating_add(after)
    }

    /// Returns the bytes of all layers on one device.
    pub fn total_bytes(&self) -> u64 {
        (0..self.layers.len()).fold(self.working, |sum, index| sum.saturating_add(self.added_bytes(0, index)))
    }
}

/// Number of steps between no memory and all of it, among which the share that devices fill is found.
const STEPS: u64 = 1024;

/// Returns the number of layers for each device, in order; the first layers go to the first device. If all layers fit,
/// every device is filled to the same share of its `free` bytes, the least share that holds them all. Otherwise each device
/// takes as many as it can, and the sum is less than all layers.
pub fn spread(costs: &Costs, free: &[u64]) -> Vec<usize> {
    let holds_all = |share: &u64| fill(costs, free, *share).iter().sum::<usize>() == costs.layers.len();
    // A larger share never holds less: what a device no longer shares, a device before it has taken over. So halving
    // finds the least share that holds all.
    let (mut least, mut most) = (1, STEPS);
    while least < most {
        let middle = (least + most) / 2;
        if holds_all(&middle) { most = middle } else { least = middle + 1 }
    }
    fill(costs, free, most)
}

/// Returns the number of layers for each device that is filled up to `share` parts in [`STEPS`] of its free memory.
fn fill(costs: &Costs, free: &[u64], share: u64) -> Vec<usize> {
    let mut next = 0;
    let fill_device = |free: &u64| {
        let first = next;
        let mut remaining_bytes = (free / STEPS * share).saturating_sub(costs.working);
        while next < costs.layers.len() && costs.added_bytes(first, next) <= remaining_bytes {
            remaining_bytes -= costs.added_bytes(first, next);
            next += 1;
        }
        next - first
    };
    free.iter().map(fill_device).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::ops::Range;

    fn costs(layers: &[u64]) -> Costs {
        Costs { layers: layers.into(), ..Costs::default() }
    }

    #[test]
    fn devices_are_filled_by_their_free_memory() {
        let ten = costs(&[1 << 20; 10]);
        assert_eq!(spread(&ten, &[40 << 20]), [10]);
        assert_eq!(spread(&ten, &[40 << 20, 40 << 20]), [5, 5]);
        assert_eq!(spread(&ten, &[16 << 20, 48 << 20]), [2, 8]);
        assert_eq!(spread(&ten, &[10 << 20, 1 << 10, 10 << 20]), [5, 0, 5]);
    }

    #[test]
    fn what_does_not_fit_is_left() {
        let ten = costs(&[1 << 20; 10]);
        assert_eq!(spread(&ten, &[3 << 20, 4 << 20]), [3, 4]);
        assert_eq!(spread(&ten, &[]), [0; 0]);
        assert_eq!(spread(&ten, &[0, 0]), [0, 0]);
    }

    #[test]
    fn the_ends_and_working_memory_count() {
        let mut four = costs(&[4 << 20; 4]);
        (four.before, four.after) = (4 << 20, 4 << 20);
        assert_eq!(spread(&four, &[12 << 20, 12 << 20]), [2, 2]);
        assert_eq!(spread(&four, &[24 << 20]), [4]);
        assert_eq!(spread(&four, &[23 << 20]), [3]);
        four.working = 1 << 20;
        assert_eq!(spread(&four, &[12 << 20, 12 << 20]), [1, 2]);
        assert_eq!(four.total_bytes(), 25 << 20);
    }

    #[test]
    fn what_both_ends_share_counts_once_on_one_device() {
        let mut four = costs(&[4 << 20; 4]);
        (four.before, four.after, four.shared) = (4 << 20, 5 << 20, 4 << 20);
        assert_eq!(four.total_bytes(), 21 << 20);
        assert_eq!(spread(&four, &[21 << 20]), [4]);
        assert_eq!(spread(&four, &[20 << 20]), [3]);
        // The ends are apart, so each has its own.
        assert_eq!(spread(&four, &[12 << 20, 13 << 20]), [2, 2]);
        assert_eq!(spread(&four, &[12 << 20, 12 << 20]), [2, 1]);
        assert_eq!(spread(&four, &[1 << 20, 21 << 20]), [0, 4]);
    }

    proptest! {
        #[test]
        fn no_device_holds_more_than_it_has(
            layers in prop::collection::vec(1u64..50_000, 1..40),
            free in prop::collection::vec(0u64..1_000_000, 0..5),
            ends in (0u64..50_000, 0u64..50_000, 0u64..5_000),
            tied in any::<bool>(),
        ) {
            let shared = if tied { ends.0.min(ends.1) } else { 0 };
            let costs = Costs { layers, before: ends.0, after: ends.1, shared, working: ends.2 };
            let of = |run: Range<usize>| -> u64 {
                let ends = [(0, costs.before), (costs.layers.len() - 1, costs.after)];
                let ends = ends.iter().filter(|(end, _)| run.contains(end)).map(|(_, bytes)| bytes);
                let shared = if run == (0..costs.layers.len()) { costs.shared } else { 0 };
                costs.layers[run.clone()].iter().chain(ends).sum::<u64>() - shared
            };
            let counts = spread(&costs, &free);
            prop_assert_eq!(counts.len(), free.len());
            let mut first = 0;
            for (count, free) in counts.iter().zip(&free) {
                prop_assert!(*count == 0 || of(first..first + count) + costs.working <= *free);
                first += count;
            }
            prop_assert!(first <= costs.layers.len());
            if first < costs.layers.len() {
                // Nothing more would have gone on the last device.
                let last = free.last().map_or(0, |free| free / STEPS * STEPS);
                let held = of(first - counts.last().unwrap_or(&0)..first + 1);
                prop_assert!(held + costs.working > last);
            }
        }
    }
}
