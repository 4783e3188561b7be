//! Memory for the bodies of requests, all together. A head has little memory, and thousands of clients may send bodies at
//! the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Memory for all bodies beyond their first [`SMALL`] bytes, and the most that one body may need.
pub(crate) const MAX_BODIES_BYTES: usize = 64 << 20;
/// First bytes of each body, which come from a budget of their own. So large bodies leave room for usual ones.
const SMALL: usize = 64 << 10;
const MAX_SMALL_BYTES: usize = 16 << 20;
/// Bytes of one permit.
const UNIT: usize = 1 << 10;
/// Memory of a parsed value, of a list and of an object beyond the bytes that spell it, at most.
const VALUE_BYTES: usize = 40;
const LIST_BYTES: usize = 64;
const OBJECT_BYTES: usize = 256;

/// Budgets of all bodies. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct BodyBudget {
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
    /// Most bytes of the large budget that were in use at a time.
    peak: Arc<AtomicUsize>,
}

impl Default for BodyBudget {
    fn default() -> Self {
        Self {
            small: Arc::new(Semaphore::new(MAX_SMALL_BYTES / UNIT)),
            large: Arc::new(Semaphore::new(MAX_BODIES_BYTES / UNIT)),
            peak: Arc::default(),
        }
    }
}

impl BodyBudget {
    /// Returns the memory of a body that has not come yet.
    pub(crate) fn body(&self) -> BodyMemory {
        BodyMemory { budget: self.clone(), bytes: 0, permits: [None, None] }
    }

    /// Returns the most bytes that bodies had at a time since the last call, beyond the first bytes of each.
    pub(crate) fn take_peak(&self) -> usize {
        self.peak.swap(self.used(), Ordering::Relaxed)
    }

    /// Returns the number of bytes of the large budget that are in use.
    fn used(&self) -> usize {
        MAX_BODIES_BYTES - self.large.available_permits() * UNIT
    }
}

/// Memory of one body, until this is dropped.
#[derive(Debug)]
pub(crate) struct BodyMemory {
    budget: BodyBudget,
    bytes: usize,
    /// Permits of the small and of the large budget.
    permits: [Option<OwnedSemaphorePermit>; 2],
}

impl BodyMemory {
    /// Returns true if the budget has room for a number of bytes now.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        bytes.saturating_sub(SMALL) <= self.budget.large.available_permits() * UNIT
    }

    /// Grows to a number of bytes. Returns false if the budget has no room now.
    #[must_use]
    pub(crate) fn grow(&mut self, bytes: usize) -> bool {
        let bytes = bytes.max(self.bytes);
        let units = |bytes: usize| [bytes.min(SMALL), bytes.saturating_sub(SMALL)].map(|bytes| bytes.div_ceil(UNIT));
        let (held, needed) = (units(self.bytes), units(bytes));
        for (at, semaphore) in [&self.budget.small, &self.budget.large].into_iter().enumerate() {
            let count = (needed[at] - held[at]) as u32;
            let Ok(permit) = semaphore.clone().try_acquire_many_owned(count) else { return false };
            match &mut self.permits[at] {
                Some(permits) => permits.merge(permit),
                none => *none = Some(permit),
            }
        }
        self.bytes = bytes;
        self.budget.peak.fetch_max(self.budget.used(), Ordering::Relaxed);
        true
    }
}

/// Returns the most memory that a body and its values need.
pub(crate) fn weigh_body(body: &[u8]) -> usize {
    let weigh = |byte: &u8| match byte {
        b',' => VALUE_BYTES,
        b'[' => LIST_BYTES,
        b'{' => OBJECT_BYTES,
        _ => 0,
    };
    2 * body.len() + body.iter().map(weigh).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_bodies_leave_room_for_small_ones() {
        let budget = BodyBudget::default();
        let mut large: Vec<BodyMemory> = Vec::new();
        loop {
            let mut body = budget.body();
            if !body.grow(16 << 20) {
                break;
            }
            large.push(body);
        }
        assert_eq!(large.len(), 4);
        let mut rest = budget.body();
        assert!(rest.grow(SMALL + 4 * SMALL));
        large.push(rest);
        let mut small: Vec<BodyMemory> = (0..100).map(|_| budget.body()).collect();
        assert!(small.iter_mut().all(|body| body.grow(1000) && body.grow(SMALL)));
        assert!(!small[0].grow(SMALL + 1));
        assert!(small[0].has_room(SMALL) && !small[0].has_room(SMALL + 1));
        drop(large);
        assert!(small[0].grow(SMALL + 1) && small[0].grow(2 << 20));
        drop(small);
        assert_eq!(budget.small.available_permits(), MAX_SMALL_BYTES / UNIT);
        assert_eq!(budget.large.available_permits(), MAX_BODIES_BYTES / UNIT);
    }

    #[test]
    fn the_peak_of_the_memory_is_remembered() {
        let budget = BodyBudget::default();
        let (mut first, mut second) = (budget.body(), budget.body());
        assert!(first.grow((3 << 20) + SMALL) && second.grow((2 << 20) + SMALL));
        drop(first);
        assert_eq!([budget.take_peak(), budget.take_peak()], [5 << 20, 2 << 20]);
        drop(second);
        assert_eq!([budget.take_peak(), budget.take_peak()], [2 << 20, 0]);
    }

    #[test]
    fn values_weigh_more_than_text() {
        assert!(weigh_body(&vec![b'x'; 16 << 20]) <= MAX_BODIES_BYTES);
        assert!(weigh_body("1,".repeat(4 << 20).as_bytes()) > MAX_BODIES_BYTES);
        assert!(weigh_body("100000,".repeat(1 << 20).as_bytes()) <= MAX_BODIES_BYTES, "a million token ids");
    }
}
