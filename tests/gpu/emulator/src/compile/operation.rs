//! Operations of a compiled kernel.

use super::registers::Register;
use crate::isa::{Comparison, Longs, Words};

/// Memory that an address points into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    Global,
    Shared,
    Local,
    /// One of the others, as the address itself says.
    Generic,
}

/// An address: a register and an offset in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    pub base: Register,
    pub offset: i64,
}

/// Way in which several lanes' values become one, or two values become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Combine {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exchange,
    CompareAndSwap,
    Increment,
    Decrement,
}

/// Combinations by their names in PTX. The first [`REDUCTIONS`] are those that a warp can do too.
pub(super) const COMBINES: [(&str, Combine); 10] = [
    ("add", Combine::Add),
    ("min", Combine::Min),
    ("max", Combine::Max),
    ("and", Combine::And),
    ("or", Combine::Or),
    ("xor", Combine::Xor),
    ("exch", Combine::Exchange),
    ("cas", Combine::CompareAndSwap),
    ("inc", Combine::Increment),
    ("dec", Combine::Decrement),
];
pub(super) const REDUCTIONS: usize = 6;

/// Type of the numbers of an atomic operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Number {
    Unsigned,
    Signed,
    Float,
    F16x2,
    Bf16x2,
}

/// Source lane of a shuffle, relative to its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

/// Question that a vote answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vote {
    All,
    Any,
    Uniform,
    Ballot,
}

/// Floats of a matrix's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    F16,
    Bf16,
}

/// An operation of a warp. Numbers are those of registers of the kind that the operation needs.
#[derive(Clone)]
pub enum Operation {
    Word {
        run: fn(&Words, &Words, &Words, &mut Words),
        out: u32,
        inputs: [u32; 3],
    },
    Long {
        run: fn(&Longs, &Longs, &Longs, &mut Longs),
        out: u32,
        inputs: [u32; 3],
    },
    Widen {
        run: fn(&Words, &Words, &Longs, &mut Longs),
        out: u32,
        words: [u32; 2],
        long: u32,
    },
    Shift {
        run: fn(&Longs, &Words, &mut Longs),
        out: u32,
        long: u32,
        word: u32,
    },
    Narrow {
        run: fn(&Longs, &mut Words),
        out: u32,
        long: u32,
    },
    /// Logic of three words by a table of eight bits.
    Table {
        out: u32,
        inputs: [u32; 3],
        table: u8,
    },
    /// Puts the low bits of the first word into the second.
    InsertBits {
        out: u32,
        inputs: [u32; 4],
    },
    /// Puts the low bits of the first long into the second. The words are the place and the number of bits.
    InsertLongBits {
        out: u32,
        longs: [u32; 2],
        words: [u32; 2],
    },
    Compare {
        comparison: Comparison,
        inputs: [u32; 2],
        /// Another predicate that the result is combined with.
        with: Option<(Combine, u32, bool)>,
        out: Option<u32>,
        /// Predicate for the opposite of the comparison.
        opposite: Option<u32>,
    },
    /// Like a comparison, but the result is a word: `one` where it holds, otherwise 0.
    SetWord {
        comparison: Comparison,
        inputs: [u32; 2],
        out: u32,
        one: u32,
    },
    Logic {
        run: fn(u32, u32) -> u32,
        out: u32,
        inputs: [u32; 2],
    },
    SetPredicate {
        out: u32,
        value: bool,
    },
    SelectWord {
        out: u32,
        inputs: [u32; 2],
        predicate: u32,
    },
    SelectLong {
        out: u32,
        inputs: [u32; 2],
        predicate: u32,
    },
    /// Joins parts, the lowest first, to one register.
    Pack {
        out: Register,
        parts: Vec<Register>,
        bits: u32,
    },
    /// Splits a register into parts, the lowest first. A part that nobody wants is `None`.
    Unpack {
        parts: Vec<Option<Register>>,
        input: Register,
        bits: u32,
    },
    Load {
        space: Space,
        size: u32,
        is_signed: bool,
        parts: Vec<Option<Register>>,
        address: Address,
    },
    Store {
        space: Space,
        size: u32,
        parts: Vec<Register>,
        address: Address,
    },
    /// Reads the launch's parameters.
    LoadParam {
        offset: usize,
        size: u32,
        is_signed: bool,
        parts: Vec<Option<Register>>,
    },
    Atomic {
        space: Space,
        combine: Combine,
        number: Number,
        size: u32,
        out: Option<Register>,
        address: Address,
        value: Register,
        /// Value to store if the memory holds `value` ([`Combine::CompareAndSwap`]).
        swap: Option<Register>,
    },
    /// Copies `size` bytes from global to shared memory. The copy lands at a wait. Bytes from `source_size` on are zero.
    CopyAsync {
        to: Address,
        from: Address,
        size: u32,
        source_size: Option<u32>,
    },
    CommitCopies,
    /// Waits until at most this many groups of copies are on their way. `None` waits for all copies, committed or not.
    WaitForCopies(Option<u32>),
    /// Makes a generic address of an address in shared or local memory.
    ToGeneric {
        space: Space,
        out: u32,
        input: u32,
    },
    FromGeneric {
        space: Space,
        out: u32,
        input: u32,
    },
    Branch(usize),
    BranchIndexed {
        targets: Vec<usize>,
        index: u32,
    },
    Exit,
    Trap,
    /// Fences and hints: memory is in order here.
    Nothing,
    /// Waits for all threads of the block, or for `threads` of them.
    Barrier {
        name: u32,
        threads: Option<u32>,
        arrives_only: bool,
    },
    WarpBarrier {
        members: u32,
    },
    Shuffle {
        kind: Shuffle,
        out: Option<u32>,
        found: Option<u32>,
        value: u32,
        lane: u32,
        clamp: u32,
        members: u32,
    },
    Vote {
        kind: Vote,
        /// A word for a ballot, otherwise a predicate.
        out: Register,
        predicate: u32,
        negated: bool,
        members: u32,
    },
    ActiveMask {
        out: u32,
    },
    Reduce {
        combine: Combine,
        number: Number,
        out: u32,
        value: u32,
        members: u32,
    },
    /// `mma.m16n8k16` and `m16n8k8` with f32 sums.
    MultiplyMatrices {
        element: Element,
        out: [u32; 4],
        left: Vec<u32>,
        right: Vec<u32>,
        sum: [u32; 4],
    },
    LoadMatrices {
        transposed: bool,
        out: Vec<u32>,
        address: Address,
    },
}

/// An operation, its guard, and the number of its line.
#[derive(Clone)]
pub struct Step {
    /// Predicate under which lanes take part, and true if its opposite counts.
    pub guard: Option<(u32, bool)>,
    pub operation: Operation,
    /// Index of the instruction's text.
    pub line: u32,
}
