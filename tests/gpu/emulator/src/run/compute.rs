//! Operations that touch nothing but registers.

use super::warp::{ALL, Warp, lanes};
use crate::compile::{Combine, Operation, Register};
use crate::isa::{Comparison, LANES};

impl Warp {
    /// Carries out an operation that touches nothing but registers. Returns false for any other.
    pub(super) fn compute(&mut self, operation: &Operation, mask: u32) -> bool {
        match operation {
            Operation::Word { run, out, inputs } => {
                let mut result = [0; LANES];
                let [a, b, c] = inputs.map(|input| &self.words[input as usize]);
                run(a, b, c, &mut result);
                self.put_words(*out, &result, mask);
            }
            Operation::Long { run, out, inputs } => {
                let mut result = [0; LANES];
                let [a, b, c] = inputs.map(|input| &self.longs[input as usize]);
                run(a, b, c, &mut result);
                self.put_longs(*out, &result, mask);
            }
            Operation::Widen { run, out, words, long } => {
                let mut result = [0; LANES];
                let [a, b] = words.map(|input| &self.words[input as usize]);
                run(a, b, &self.longs[*long as usize], &mut result);
                self.put_longs(*out, &result, mask);
            }
            Operation::Shift { run, out, long, word } => {
                let mut result = [0; LANES];
                run(&self.longs[*long as usize], &self.words[*word as usize], &mut result);
                self.put_longs(*out, &result, mask);
            }
            Operation::Narrow { run, out, long } => {
                let mut result = [0; LANES];
                run(&self.longs[*long as usize], &mut result);
                self.put_words(*out, &result, mask);
            }
            operation => {
                return self.compare_registers(operation, mask)
                    || self.select(operation, mask)
                    || self.move_bits(operation, mask);
            }
        }
        true
    }

    fn compare(&self, comparison: Comparison, inputs: [u32; 2]) -> u32 {
        let [a, b] = inputs.map(|input| input as usize);
        match comparison {
            Comparison::Words(run) => run(&self.words[a], &self.words[b]),
            Comparison::Longs(run) => run(&self.longs[a], &self.longs[b]),
        }
    }

    /// Carries out comparisons and logic of predicates.
    fn compare_registers(&mut self, operation: &Operation, mask: u32) -> bool {
        match operation {
            Operation::Compare { comparison, inputs, with, out, opposite } => {
                let result = self.compare(*comparison, *inputs);
                for (out, result) in [(out, result), (opposite, !result)] {
                    let Some(out) = out else { continue };
                    let combined = with.map_or(result, |(combine, register, is_negated)| {
                        let other = self.predicates[register as usize] ^ if is_negated { ALL } else { 0 };
                        match combine {
                            Combine::And => result & other,
                            Combine::Or => result | other,
                            _ => result ^ other,
                        }
                    });
                    self.put_predicate(*out, combined, mask);
                }
            }
            Operation::SetWord { comparison, inputs, out, one } => {
                let result = self.compare(*comparison, *inputs);
                let words = std::array::from_fn(|lane| if result >> lane & 1 == 1 { *one } else { 0 });
                self.put_words(*out, &words, mask);
            }
            Operation::Logic { run, out, inputs } => {
                let [a, b] = inputs.map(|input| self.predicates[input as usize]);
                self.put_predicate(*out, run(a, b), mask);
            }
            Operation::SetPredicate { out, value } => self.put_predicate(*out, if *value { ALL } else { 0 }, mask),
            _ => return false,
        }
        true
    }

    /// Carries out choices between two registers.
    fn select(&mut self, operation: &Operation, mask: u32) -> bool {
        match operation {
            Operation::SelectWord { out, inputs, predicate } => {
                let chosen = self.predicates[*predicate as usize];
                let [a, b] = inputs.map(|input| &self.words[input as usize]);
                let result = std::array::from_fn(|lane| if chosen >> lane & 1 == 1 { a[lane] } else { b[lane] });
                self.put_words(*out, &result, mask);
            }
            Operation::SelectLong { out, inputs, predicate } => {
                let chosen = self.predicates[*predicate as usize];
                let [a, b] = inputs.map(|input| &self.longs[input as usize]);
                let result = std::array::from_fn(|lane| if chosen >> lane & 1 == 1 { a[lane] } else { b[lane] });
                self.put_longs(*out, &result, mask);
            }
            _ => return false,
        }
        true
    }

    /// Carries out operations that move bits: tables, insertions, packed registers.
    fn move_bits(&mut self, operation: &Operation, mask: u32) -> bool {
        match operation {
            Operation::Table { out, inputs, table } => {
                let [a, b, c] = inputs.map(|input| &self.words[input as usize]);
                let result = std::array::from_fn(|lane| look_up(a[lane], b[lane], c[lane], *table));
                self.put_words(*out, &result, mask);
            }
            Operation::InsertBits { out, inputs } => {
                let [a, b, c, d] = inputs.map(|input| &self.words[input as usize]);
                let result = std::array::from_fn(|lane| {
                    let (bits, into) = (a[lane].into(), b[lane].into());
                    insert_bits(bits, into, c[lane] & 255, d[lane] & 255, 32) as u32
                });
                self.put_words(*out, &result, mask);
            }
            Operation::InsertLongBits { out, longs, words } => {
                let [a, b] = longs.map(|input| &self.longs[input as usize]);
                let [c, d] = words.map(|input| &self.words[input as usize]);
                let result =
                    std::array::from_fn(|lane| insert_bits(a[lane], b[lane], c[lane] & 255, d[lane] & 255, 64));
                self.put_longs(*out, &result, mask);
            }
            Operation::Pack { out, parts, bits } => {
                for lane in lanes(mask) {
                    let part = |part: &Register| self.get(*part, lane) & (u64::MAX >> (64 - bits));
                    let join = |all: u64, next| all.checked_shl(*bits).unwrap_or(0) | part(next);
                    let value = parts.iter().rev().fold(0, join);
                    self.set(*out, lane, value);
                }
            }
            Operation::Unpack { parts, input, bits } => {
                for lane in lanes(mask) {
                    let value = self.get(*input, lane);
                    for (at, part) in parts.iter().enumerate() {
                        if let Some(part) = part {
                            self.set(*part, lane, value >> (at as u32 * bits) & (u64::MAX >> (64 - bits)));
                        }
                    }
                }
            }
            _ => return false,
        }
        true
    }
}

/// Looks up each bit by the bits of three words (`lop3`). The first word has the highest bit of the index.
fn look_up(a: u32, b: u32, c: u32, table: u8) -> u32 {
    (0..8).filter(|index| table >> index & 1 == 1).fold(0, |result, index| {
        let side = |word: u32, bit: u32| if index >> bit & 1 == 1 { word } else { !word };
        result | side(a, 2) & side(b, 1) & side(c, 0)
    })
}

/// Puts `count` low bits of `bits` into `into` from bit `start` on, in a register of `width` bits.
fn insert_bits(bits: u64, into: u64, start: u32, count: u32, width: u32) -> u64 {
    let mask = if count >= width { u64::MAX } else { (1 << count) - 1 };
    let mask = mask.checked_shl(start).unwrap_or(0);
    into & !mask | bits.checked_shl(start).unwrap_or(0) & mask
}
