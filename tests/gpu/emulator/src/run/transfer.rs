//! Loads, stores and copies.

use super::Use;
use super::block::Block;
use super::warp::{PendingCopy, lanes};
use crate::compile::{Address, Operation, Register, Space};
use crate::memory::Range;

/// Fault of a lane, without the place: the lane and what is wrong.
pub(super) type LaneFault = (Option<usize>, String);

/// First generic address of shared memory. No address of the host has these bits.
const SHARED_WINDOW: u64 = 1 << 56;
/// First generic address of local memory.
const LOCAL_WINDOW: u64 = 1 << 57;

/// Returns the first generic address of shared or local memory.
fn window_of(space: Space) -> u64 {
    if space == Space::Shared { SHARED_WINDOW } else { LOCAL_WINDOW }
}

/// A checked place in memory.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    Global(Range, u64),
    Shared(usize),
    Local(usize),
}

impl Block<'_> {
    /// Carries out an operation that touches memory or several lanes.
    pub(super) fn carry_out(&mut self, warp: usize, operation: &Operation, mask: u32) -> Result<(), LaneFault> {
        match operation {
            Operation::Load { space, size, is_signed, parts, address } => {
                self.load(warp, mask, *space, (*size, *is_signed), parts, *address)
            }
            Operation::Store { space, size, parts, address } => self.store(warp, mask, *space, *size, parts, *address),
            Operation::LoadParam { offset, size, is_signed, parts } => {
                for (at, part) in parts.iter().enumerate() {
                    let Some(part) = part else { continue };
                    let value = self.param(offset + at * *size as usize, *size, *is_signed);
                    lanes(mask).for_each(|lane| self.warps[warp].set(*part, lane, value));
                }
                Ok(())
            }
            Operation::Atomic { .. } => self.update(warp, mask, operation),
            Operation::CopyAsync { to, from, size, source_size } => {
                self.begin_copies(warp, mask, [*to, *from], *size, *source_size)
            }
            Operation::CommitCopies => {
                self.warps[warp].commits += 1;
                Ok(())
            }
            Operation::WaitForCopies(pending) => self.land_copies(warp, *pending),
            Operation::ToGeneric { space, out, input } => {
                self.shift_address(warp, mask, [*out, *input], window_of(*space));
                Ok(())
            }
            Operation::FromGeneric { space, out, input } => {
                self.shift_address(warp, mask, [*out, *input], window_of(*space).wrapping_neg());
                Ok(())
            }
            Operation::Trap => Err((Some(mask.trailing_zeros() as usize), "a trap".into())),
            Operation::Nothing | Operation::WarpBarrier { .. } => Ok(()),
            operation => self.act_together(warp, mask, operation),
        }
    }

    fn shift_address(&mut self, warp: usize, mask: u32, [out, input]: [u32; 2], by: u64) {
        let longs = &mut self.warps[warp].longs;
        for lane in lanes(mask) {
            longs[out as usize][lane] = longs[input as usize][lane].wrapping_add(by);
        }
    }

    fn param(&self, offset: usize, size: u32, is_signed: bool) -> u64 {
        let mut bytes = [0; 8];
        let size = size as usize;
        bytes[..size].copy_from_slice(&self.launch.params[offset..offset + size]);
        extend(u64::from_le_bytes(bytes), size as u32, is_signed)
    }

    /// Returns the address that a lane gives.
    fn address_of(&self, warp: usize, lane: usize, address: Address) -> u64 {
        self.warps[warp].get(address.base, lane).wrapping_add_signed(address.offset)
    }

    /// Finds and checks the memory of an access.
    pub(super) fn find(
        &mut self,
        warp: usize,
        lane: usize,
        space: Space,
        address: Address,
        size: usize,
        used: Use,
    ) -> Result<Place, LaneFault> {
        let at = self.address_of(warp, lane, address);
        if !at.is_multiple_of(size as u64) {
            return Err((Some(lane), format!("an access of {size} bytes at {at:#x}, which is not a multiple")));
        }
        let (space, at) = match space {
            Space::Generic if at >= LOCAL_WINDOW => (Space::Local, at - LOCAL_WINDOW),
            Space::Generic if at >= SHARED_WINDOW => (Space::Shared, at - SHARED_WINDOW),
            Space::Generic => (Space::Global, at),
            space => (space, at),
        };
        let place = match space {
            Space::Shared => self.inside(at, size, self.shared.size(), "shared").map(Place::Shared),
            Space::Local => {
                let own = self.launch.kernel.local_bytes as usize;
                self.inside(at, size, own, "local").map(|offset| Place::Local(lane * own + offset))
            }
            Space::Global | Space::Generic => self.find_range(at, size, used).map(|range| Place::Global(range, at)),
        };
        place.map_err(|what| (Some(lane), what))
    }

    fn inside(&self, at: u64, size: usize, whole: usize, name: &str) -> Result<usize, String> {
        let offset = usize::try_from(at).unwrap_or(usize::MAX);
        match offset.checked_add(size) {
            Some(end) if end <= whole => Ok(offset),
            _ => Err(format!("an access of {size} bytes at byte {at} of {whole} bytes of {name} memory")),
        }
    }

    fn find_range(&mut self, at: u64, size: usize, used: Use) -> Result<Range, String> {
        if let Some((range, uses)) = self.ranges.first_mut().filter(|(range, _)| range.holds(at, size)) {
            *uses = uses.and(used);
            return Ok(*range);
        }
        if let Some(index) = self.ranges.iter().position(|(range, _)| range.holds(at, size)) {
            self.ranges.swap(0, index);
        } else {
            let range = self.launch.memory.find(at, size);
            let range = range.map_err(|what| format!("an access of {size} bytes to global memory: {what}"))?;
            self.ranges.insert(0, (range, Use::default()));
        }
        let (range, uses) = &mut self.ranges[0];
        *uses = uses.and(used);
        Ok(*range)
    }

    fn load(
        &mut self,
        warp: usize,
        mask: u32,
        space: Space,
        (size, is_signed): (u32, bool),
        parts: &[Option<Register>],
        address: Address,
    ) -> Result<(), LaneFault> {
        let whole = size as usize * parts.len();
        for lane in lanes(mask) {
            let place = self.find(warp, lane, space, address, whole, Use::READS)?;
            for (index, part) in parts.iter().enumerate() {
                let Some(part) = part else { continue };
                let value = self.read(warp, place, index * size as usize, size).map_err(|what| (Some(lane), what))?;
                self.warps[warp].set(*part, lane, extend(value, size, is_signed));
            }
        }
        Ok(())
    }

    fn store(
        &mut self,
        warp: usize,
        mask: u32,
        space: Space,
        size: u32,
        parts: &[Register],
        address: Address,
    ) -> Result<(), LaneFault> {
        let whole = size as usize * parts.len();
        for lane in lanes(mask) {
            let place = self.find(warp, lane, space, address, whole, Use::WRITES)?;
            for (index, part) in parts.iter().enumerate() {
                let value = self.warps[warp].get(*part, lane);
                self.write(warp, place, index * size as usize, size, value).map_err(|what| (Some(lane), what))?;
            }
        }
        Ok(())
    }

    pub(super) fn read(&mut self, warp: usize, place: Place, offset: usize, size: u32) -> Result<u64, String> {
        match place {
            Place::Global(range, at) => Ok(range.load(at + offset as u64, size)),
            Place::Shared(at) => self.shared.load(warp, at + offset, size as usize),
            Place::Local(at) => {
                let mut bytes = [0; 8];
                let from = at + offset;
                bytes[..size as usize].copy_from_slice(&self.warps[warp].local[from..from + size as usize]);
                Ok(u64::from_le_bytes(bytes))
            }
        }
    }

    fn write(&mut self, warp: usize, place: Place, offset: usize, size: u32, value: u64) -> Result<(), String> {
        match place {
            Place::Global(range, at) => {
                range.store(at + offset as u64, size, value);
                Ok(())
            }
            Place::Shared(at) => self.shared.store(warp, at + offset, size as usize, value),
            Place::Local(at) => {
                let to = at + offset;
                self.warps[warp].local[to..to + size as usize].copy_from_slice(&value.to_le_bytes()[..size as usize]);
                Ok(())
            }
        }
    }

    /// Notes copies, which land at a wait. Until then, their destination holds ones.
    fn begin_copies(
        &mut self,
        warp: usize,
        mask: u32,
        [to, from]: [Address; 2],
        size: u32,
        source_size: Option<u32>,
    ) -> Result<(), LaneFault> {
        let size = size as usize;
        for lane in lanes(mask) {
            let real = source_size.map_or(size, |register| self.warps[warp].words[register as usize][lane] as usize);
            if real > size {
                return Err((Some(lane), format!("a copy of {real} bytes into {size}")));
            }
            let Place::Shared(to) = self.find(warp, lane, Space::Shared, to, size, Use::WRITES)? else { continue };
            // A copy of nothing may come from anywhere.
            let source = self.address_of(warp, lane, from);
            if real > 0 {
                self.find(warp, lane, Space::Global, from, size, Use::READS)?;
            }
            self.shared.note_write(warp, to, size).map_err(|what| (Some(lane), what))?;
            self.shared.poke(to, &[0xff; 16][..size]);
            let commit = self.warps[warp].commits;
            self.warps[warp].copies.push(PendingCopy { commit, lane, to, from: source, size, real });
        }
        Ok(())
    }

    /// Lands all copies, or those of all groups but the last `pending`.
    fn land_copies(&mut self, warp: usize, pending: Option<u32>) -> Result<(), LaneFault> {
        let copies = std::mem::take(&mut self.warps[warp].copies);
        let commits = self.warps[warp].commits;
        for copy in copies {
            if pending.is_some_and(|pending| copy.commit + pending >= commits) {
                self.warps[warp].copies.push(copy);
                continue;
            }
            let mut bytes = [0_u8; 16];
            if copy.real > 0 {
                let range =
                    self.find_range(copy.from, copy.size, Use::READS).map_err(|what| (Some(copy.lane), what))?;
                for (at, byte) in bytes.iter_mut().enumerate().take(copy.real) {
                    *byte = range.load(copy.from + at as u64, 1) as u8;
                }
            }
            self.shared.note_write(warp, copy.to, copy.size).map_err(|what| (Some(copy.lane), what))?;
            self.shared.poke(copy.to, &bytes[..copy.size]);
        }
        Ok(())
    }
}

/// Extends a value of `size` bytes to 64 bits.
fn extend(value: u64, size: u32, is_signed: bool) -> u64 {
    match (is_signed, size) {
        (true, 1) => value as u8 as i8 as i64 as u64,
        (true, 2) => value as u16 as i16 as i64 as u64,
        (true, 4) => value as u32 as i32 as i64 as u64,
        _ => value,
    }
}
