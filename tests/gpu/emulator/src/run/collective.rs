//! Operations in which the lanes of a warp exchange values.

use super::atomic::combine_values;
use super::block::Block;
use super::transfer::LaneFault;
use super::warp::{ALL, lanes};
use crate::compile::{Operation, Register, Shuffle, Vote};
use crate::isa::LANES;

impl Block<'_> {
    pub(super) fn act_together(&mut self, warp: usize, mask: u32, operation: &Operation) -> Result<(), LaneFault> {
        match operation {
            Operation::Shuffle { .. } => self.shuffle(warp, mask, operation),
            Operation::Vote { kind, out, predicate, negated, .. } => {
                let value = self.warps[warp].predicates[*predicate as usize] ^ if *negated { ALL } else { 0 };
                let yes = value & mask;
                let answer = match kind {
                    Vote::All => yes == mask,
                    Vote::Any => yes != 0,
                    Vote::Uniform => yes == mask || yes == 0,
                    Vote::Ballot => false,
                };
                let warp = &mut self.warps[warp];
                match out {
                    Register::Predicate(out) => warp.put_predicate(*out, if answer { ALL } else { 0 }, mask),
                    Register::Word(out) => warp.put_words(*out, &[yes; LANES], mask),
                    Register::Long(_) => return Err((None, "a ballot of 64 bits".into())),
                }
                Ok(())
            }
            Operation::ActiveMask { out } => {
                self.warps[warp].put_words(*out, &[mask; LANES], mask);
                Ok(())
            }
            Operation::Reduce { combine, number, out, value, .. } => {
                let values = self.warps[warp].words[*value as usize];
                let all = lanes(mask).map(|lane| u64::from(values[lane]));
                let result = all.reduce(|a, b| combine_values(*combine, *number, 4, a, b)).unwrap_or(0);
                self.warps[warp].put_words(*out, &[result as u32; LANES], mask);
                Ok(())
            }
            operation => self.use_matrices(warp, mask, operation),
        }
    }

    fn shuffle(&mut self, warp: usize, mask: u32, operation: &Operation) -> Result<(), LaneFault> {
        let Operation::Shuffle { kind, out, found, value, lane: source, clamp, .. } = operation else { return Ok(()) };
        let warp = &mut self.warps[warp];
        let word = |register: &u32| warp.words[*register as usize];
        let (values, sources, clamps) = (word(value), word(source), word(clamp));
        let (mut result, mut in_range) = ([0; LANES], 0_u32);
        for lane in lanes(mask) {
            let (from, is_inside) = source_lane(*kind, lane as u32, sources[lane], clamps[lane]);
            if mask >> from & 1 == 0 {
                return Err((Some(lane), format!("a shuffle from lane {from}, which does not take part")));
            }
            result[lane] = values[from as usize];
            in_range |= u32::from(is_inside) << lane;
        }
        if let Some(out) = out {
            warp.put_words(*out, &result, mask);
        }
        if let Some(found) = found {
            warp.put_predicate(*found, in_range, mask);
        }
        Ok(())
    }
}

/// Returns the lane that a shuffle reads, and true if it is inside the segment. Otherwise a lane reads itself.
fn source_lane(kind: Shuffle, lane: u32, by: u32, clamp: u32) -> (u32, bool) {
    let (by, segment, clamp) = (by & 31, clamp >> 8 & 31, clamp & 31);
    let last = lane & segment | clamp & !segment;
    let first = lane & segment;
    let (from, is_inside) = match kind {
        Shuffle::Up => (lane.wrapping_sub(by), lane >= by && lane - by >= last),
        Shuffle::Down => (lane + by, lane + by <= last),
        Shuffle::Butterfly => (lane ^ by, lane ^ by <= last),
        Shuffle::Index => (first | by & !segment, first | by & !segment <= last),
    };
    if is_inside { (from, true) } else { (lane, false) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_are_those_of_the_manual() {
        // Whole warp.
        assert_eq!(source_lane(Shuffle::Down, 3, 16, 0x1f), (19, true));
        assert_eq!(source_lane(Shuffle::Down, 20, 16, 0x1f), (20, false));
        assert_eq!(source_lane(Shuffle::Up, 3, 4, 0), (3, false));
        assert_eq!(source_lane(Shuffle::Up, 5, 4, 0), (1, true));
        assert_eq!(source_lane(Shuffle::Butterfly, 5, 1, 0x1f), (4, true));
        assert_eq!(source_lane(Shuffle::Index, 5, 30, 0x1f), (30, true));
        // Segments of eight lanes.
        let clamp = 0x1f | (32 - 8) << 8;
        assert_eq!(source_lane(Shuffle::Down, 14, 4, clamp), (14, false));
        assert_eq!(source_lane(Shuffle::Index, 13, 2, clamp), (10, true));
    }
}
