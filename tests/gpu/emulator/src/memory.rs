//! Memory of the devices. A device address is an address of this process, so the stand-ins of other libraries can use it.
//!
//! Each allocation lies between zones that belong to nobody. New memory holds ones, which are NaNs in every float type. Freed
//! memory is kept for a while, so that no new allocation hides a use of it.

use std::alloc::Layout;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

/// Size of the zone before and behind each allocation, and alignment of allocations, in bytes.
const ZONE: usize = 256;
/// Bytes of freed memory that are kept.
const KEPT: usize = 64 << 20;
/// Byte of memory that nobody has written.
const POISON: u8 = 0xff;

/// Kind of an allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Memory of a device, by its ordinal.
    Device(usize),
    /// Pinned memory of the host, which devices reach too.
    Host,
}

/// An allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    pub start: u64,
    pub end: u64,
    pub owner: Owner,
}

impl Range {
    /// Returns true if `size` bytes at `address` lie inside.
    #[must_use]
    pub fn holds(&self, address: u64, size: usize) -> bool {
        address >= self.start && address.checked_add(size as u64).is_some_and(|end| end <= self.end)
    }

    /// Reads up to 8 bytes at an address that is a multiple of their number.
    #[must_use]
    pub fn load(&self, address: u64, size: u32) -> u64 {
        assert!(
            self.holds(address, size as usize) && address.is_multiple_of(size.into()),
            "{address:#x} is not in {self:?}"
        );
        // SAFETY: the range is live while a kernel runs (`cuMemFree` waits for the device), the address is inside and aligned.
        unsafe {
            match size {
                1 => (*(address as *const AtomicU8)).load(Ordering::Relaxed).into(),
                2 => (*(address as *const AtomicU16)).load(Ordering::Relaxed).into(),
                4 => (*(address as *const AtomicU32)).load(Ordering::Relaxed).into(),
                _ => (*(address as *const AtomicU64)).load(Ordering::Relaxed),
            }
        }
    }

    /// Writes up to 8 bytes at an address that is a multiple of their number.
    pub fn store(&self, address: u64, size: u32, value: u64) {
        assert!(
            self.holds(address, size as usize) && address.is_multiple_of(size.into()),
            "{address:#x} is not in {self:?}"
        );
        // SAFETY: as in `load`.
        unsafe {
            match size {
                1 => (*(address as *const AtomicU8)).store(value as u8, Ordering::Relaxed),
                2 => (*(address as *const AtomicU16)).store(value as u16, Ordering::Relaxed),
                4 => (*(address as *const AtomicU32)).store(value as u32, Ordering::Relaxed),
                _ => (*(address as *const AtomicU64)).store(value, Ordering::Relaxed),
            }
        }
    }

    /// Replaces 4 or 8 bytes by what `change` makes of them, at once. Returns the old value.
    pub fn update(&self, address: u64, size: u32, mut change: impl FnMut(u64) -> u64) -> u64 {
        assert!(
            self.holds(address, size as usize) && address.is_multiple_of(size.into()),
            "{address:#x} is not in {self:?}"
        );
        // SAFETY: as in `load`.
        unsafe {
            if size == 4 {
                let cell = &*(address as *const AtomicU32);
                let old = cell.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |old| Some(change(old.into()) as u32));
                old.unwrap_or_else(|old| old).into()
            } else {
                let cell = &*(address as *const AtomicU64);
                let old = cell.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |old| Some(change(old)));
                old.unwrap_or_else(|old| old)
            }
        }
    }
}

#[derive(Default)]
struct State {
    live: BTreeMap<u64, Range>,
    /// Freed allocations, the oldest first.
    freed: VecDeque<Range>,
    freed_bytes: usize,
}

/// All allocations of a process.
#[derive(Default)]
pub struct Memory {
    state: RwLock<State>,
}

impl Memory {
    /// Makes an allocation. Returns its address.
    pub fn allocate(&self, owner: Owner, size: usize) -> u64 {
        let layout = layout(size);
        // SAFETY: the layout has a size. The whole block is written before anybody reads it.
        let block = unsafe {
            let block = std::alloc::alloc(layout);
            if block.is_null() {
                std::alloc::handle_alloc_error(layout);
            }
            block.write_bytes(POISON, layout.size());
            block as u64
        };
        let start = block + ZONE as u64;
        let range = Range { start, end: start + size as u64, owner };
        self.state.write().unwrap_or_else(PoisonError::into_inner).live.insert(start, range);
        start
    }

    /// Frees the allocation at `address`. Returns it, or `None` if there is none.
    pub fn free(&self, address: u64) -> Option<Range> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let range = state.live.remove(&address)?;
        let size = (range.end - range.start) as usize;
        // SAFETY: the block is still allocated, and nobody else may use a freed range.
        unsafe { (range.start as *mut u8).write_bytes(POISON, size) };
        state.freed.push_back(range);
        state.freed_bytes += size;
        while state.freed_bytes > KEPT {
            let Some(oldest) = state.freed.pop_front() else { break };
            let size = (oldest.end - oldest.start) as usize;
            state.freed_bytes -= size;
            // SAFETY: `allocate` made the block with this layout, and the block is in neither list any more.
            unsafe { std::alloc::dealloc((oldest.start - ZONE as u64) as *mut u8, layout(size)) };
        }
        Some(range)
    }

    /// Returns the allocation that holds `size` bytes at `address`.
    ///
    /// # Errors
    /// Says what lies there instead.
    pub fn find(&self, address: u64, size: usize) -> Result<Range, String> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let before = state.live.range(..=address).next_back().map(|(_, range)| *range);
        if let Some(range) = before.filter(|range| range.holds(address, size)) {
            return Ok(range);
        }
        if let Some(freed) = state.freed.iter().find(|range| range.holds(address, size)) {
            let size = freed.end - freed.start;
            return Err(format!("{address:#x} lies in an allocation of {size} bytes that was freed"));
        }
        Err(match before {
            Some(range) if address < range.end + (1 << 20) => {
                let (begin, whole) = (address - range.start, range.end - range.start);
                format!("{address:#x} is byte {begin} of an allocation of {whole} bytes")
            }
            _ => format!("{address:#x} lies in no allocation"),
        })
    }

    /// Returns the number of bytes that are allocated for `owner`.
    pub fn used(&self, owner: Owner) -> usize {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.live.values().filter(|range| range.owner == owner).map(|range| (range.end - range.start) as usize).sum()
    }
}

fn layout(size: usize) -> Layout {
    let size = size.next_multiple_of(8) + 2 * ZONE;
    Layout::from_size_align(size, ZONE).expect("a size that fits an address")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_outside_are_named() {
        let memory = Memory::default();
        let at = memory.allocate(Owner::Device(0), 20);
        let range = memory.find(at + 16, 4).unwrap();
        assert_eq!(range.load(at + 16, 4), 0xffff_ffff, "new memory is poisoned");
        range.store(at + 8, 8, 7);
        assert_eq!((range.load(at + 8, 8), range.update(at + 8, 4, |old| old + 1)), (7, 7));
        assert_eq!(range.load(at + 8, 4), 8);
        assert!(memory.find(at + 17, 4).unwrap_err().contains("byte 17 of an allocation of 20 bytes"));
        assert!(memory.find(at - 1, 1).is_err() && memory.find(u64::MAX, 4).is_err());
        assert_eq!(memory.used(Owner::Device(0)), 20);
        assert_eq!(memory.free(at), Some(range));
        assert!(memory.find(at, 4).unwrap_err().contains("freed"));
        assert_eq!((memory.free(at), memory.used(Owner::Device(0))), (None, 0));
    }
}
