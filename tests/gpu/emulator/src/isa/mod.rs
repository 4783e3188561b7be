//! Instructions that compute each lane of a warp on its own (PTX ISA 9.0, chapter 9.7), as functions of 32 lanes.
//!
//! A register is a *word* of 32 bits, a *long* of 64 bits or a *predicate*. Types of 8 and 16 bits live in the low bits of a
//! word, and whoever reads them ignores the upper bits.

mod compare;
mod convert;
mod float;
mod integer;
mod scalar;

pub use compare::{Comparison, decode_comparison};

use crate::ptx::Instruction;

/// Number of lanes of a warp.
pub const LANES: usize = 32;
/// A register of 32 bits, or of fewer, of each lane.
pub type Words = [u32; LANES];
/// A register of 64 bits of each lane.
pub type Longs = [u64; LANES];

/// A computation of each lane. The operands come in the order of the instruction. Missing ones are any register.
#[derive(Clone, Copy)]
pub enum Compute {
    Word(fn(&Words, &Words, &Words, &mut Words)),
    Long(fn(&Longs, &Longs, &Longs, &mut Longs)),
    /// From words to a long, perhaps with a long: `mul.wide`, `mad.wide`, `cvt`.
    Widen(fn(&Words, &Words, &Longs, &mut Longs)),
    /// A long shifted by a word.
    Shift(fn(&Longs, &Words, &mut Longs)),
    /// From a long to a word: `cvt`, `clz`, `popc`.
    Narrow(fn(&Longs, &mut Words)),
}

/// Modifiers of an instruction.
pub(crate) struct Modifiers<'a>(pub(crate) &'a [String]);

impl Modifiers<'_> {
    pub(crate) fn has(&self, word: &str) -> bool {
        self.0.iter().any(|modifier| modifier == word)
    }

    /// Returns the last modifier, which is the type.
    pub(crate) fn kind(&self) -> &str {
        self.0.last().map_or("", String::as_str)
    }
}

/// Returns the computation of an instruction, or `None` if this module has none.
#[must_use]
pub fn decode(instruction: &Instruction) -> Option<Compute> {
    let modifiers = Modifiers(&instruction.modifiers);
    match instruction.operation.as_str() {
        "cvt" => convert::decode(&modifiers),
        operation => float::decode(operation, &modifiers).or_else(|| integer::decode(operation, &modifiers)),
    }
}

/// Returns the low halves of longs.
pub(crate) fn low_words(longs: &Longs, out: &mut Words) {
    for lane in 0..LANES {
        out[lane] = longs[lane] as u32;
    }
}

/// Makes a [`Compute::Word`] of an expression over the words `a`, `b` and `c` of a lane.
macro_rules! word {
    (|$a:ident| $result:expr) => {
        Compute::Word(|x, _, _, out| {
            for lane in 0..LANES {
                let $a = x[lane];
                out[lane] = $result;
            }
        })
    };
    (|$a:ident, $b:ident| $result:expr) => {
        Compute::Word(|x, y, _, out| {
            for lane in 0..LANES {
                let ($a, $b) = (x[lane], y[lane]);
                out[lane] = $result;
            }
        })
    };
    (|$a:ident, $b:ident, $c:ident| $result:expr) => {
        Compute::Word(|x, y, z, out| {
            for lane in 0..LANES {
                let ($a, $b, $c) = (x[lane], y[lane], z[lane]);
                out[lane] = $result;
            }
        })
    };
}

/// Makes a [`Compute::Long`] of an expression over the longs `a`, `b` and `c` of a lane.
macro_rules! long {
    (|$a:ident| $result:expr) => {
        Compute::Long(|x, _, _, out| {
            for lane in 0..LANES {
                let $a = x[lane];
                out[lane] = $result;
            }
        })
    };
    (|$a:ident, $b:ident| $result:expr) => {
        Compute::Long(|x, y, _, out| {
            for lane in 0..LANES {
                let ($a, $b) = (x[lane], y[lane]);
                out[lane] = $result;
            }
        })
    };
    (|$a:ident, $b:ident, $c:ident| $result:expr) => {
        Compute::Long(|x, y, z, out| {
            for lane in 0..LANES {
                let ($a, $b, $c) = (x[lane], y[lane], z[lane]);
                out[lane] = $result;
            }
        })
    };
}

/// Makes a [`Compute::Widen`] of an expression over the words `a` and `b` and the long `c` of a lane.
macro_rules! widen {
    (|$a:ident| $result:expr) => {
        Compute::Widen(|x, _, _, out| {
            for lane in 0..LANES {
                let $a = x[lane];
                out[lane] = $result;
            }
        })
    };
    (|$a:ident, $b:ident, $c:ident| $result:expr) => {
        Compute::Widen(|x, y, z, out| {
            for lane in 0..LANES {
                let ($a, $b, $c) = (x[lane], y[lane], z[lane]);
                out[lane] = $result;
            }
        })
    };
}

/// Makes a [`Compute::Shift`] of an expression over the long `a` and the word `b` of a lane.
macro_rules! shift {
    (|$a:ident, $b:ident| $result:expr) => {
        Compute::Shift(|x, y, out| {
            for lane in 0..LANES {
                let ($a, $b) = (x[lane], y[lane]);
                out[lane] = $result;
            }
        })
    };
}

/// Makes a [`Compute::Narrow`] of an expression over the long `a` of a lane.
macro_rules! narrow {
    (|$a:ident| $result:expr) => {
        Compute::Narrow(|x, out| {
            for lane in 0..LANES {
                let $a = x[lane];
                out[lane] = $result;
            }
        })
    };
}

pub(crate) use {long, narrow, shift, widen, word};
