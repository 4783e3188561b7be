//! Registers of a kernel: names while it is compiled, and their first contents.

use std::collections::HashMap;

use crate::ptx::PtxError;

/// A register, by its number among those of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Register {
    Predicate(u32),
    Word(u32),
    Long(u32),
}

/// Registers that hold what differs between lanes or blocks, by the names of PTX. The launch fills them in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Special {
    Thread(u8),
    BlockSize(u8),
    Block(u8),
    GridSize(u8),
    Lane,
    Warp,
    LaneMaskLess,
    LaneMaskLessEqual,
    LaneMaskGreater,
    LaneMaskGreaterEqual,
    LaneMaskEqual,
    Multiprocessor,
}

impl Special {
    pub(super) fn parse(name: &str) -> Option<Self> {
        let axis = |rest: &str| ["x", "y", "z"].iter().position(|axis| *axis == rest).map(|axis| axis as u8);
        let (name, rest) = name.split_once('.').map_or((name, None), |(name, rest)| (name, axis(rest)));
        Some(match (name, rest) {
            ("%tid", Some(axis)) => Self::Thread(axis),
            ("%ntid", Some(axis)) => Self::BlockSize(axis),
            ("%ctaid", Some(axis)) => Self::Block(axis),
            ("%nctaid", Some(axis)) => Self::GridSize(axis),
            ("%laneid", None) => Self::Lane,
            ("%warpid", None) => Self::Warp,
            ("%lanemask_lt", None) => Self::LaneMaskLess,
            ("%lanemask_le", None) => Self::LaneMaskLessEqual,
            ("%lanemask_gt", None) => Self::LaneMaskGreater,
            ("%lanemask_ge", None) => Self::LaneMaskGreaterEqual,
            ("%lanemask_eq", None) => Self::LaneMaskEqual,
            ("%smid", None) => Self::Multiprocessor,
            _ => return None,
        })
    }
}

/// First contents of a register that no lane writes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Initial {
    /// A register of the kernel. All ones are a NaN in every float type.
    Poison,
    Constant(u64),
    Special(Special),
}

/// Scopes of register names, and the registers that were given out.
#[derive(Debug, Default)]
pub(super) struct Registers {
    scopes: Vec<HashMap<String, Register>>,
    constants: HashMap<(bool, u64), Register>,
    specials: HashMap<Special, Register>,
    pub(super) predicates: u32,
    pub(super) words: Vec<Initial>,
    pub(super) longs: Vec<Initial>,
}

impl Registers {
    pub(super) fn open_scope(&mut self) {
        self.scopes.push(HashMap::new());
    }

    pub(super) fn close_scope(&mut self) {
        self.scopes.pop();
    }

    /// Hides all names, for the body of a function that is inlined. Returns them, for [`Registers::restore`].
    pub(super) fn hide(&mut self) -> Vec<HashMap<String, Register>> {
        std::mem::replace(&mut self.scopes, vec![HashMap::new()])
    }

    pub(super) fn restore(&mut self, scopes: Vec<HashMap<String, Register>>) {
        self.scopes = scopes;
    }

    /// Makes a register for values of `size` bytes, or a predicate for none.
    pub(super) fn add(&mut self, size: Option<usize>) -> Register {
        match size {
            None => {
                self.predicates += 1;
                Register::Predicate(self.predicates - 1)
            }
            Some(8) => {
                self.longs.push(Initial::Poison);
                Register::Long(self.longs.len() as u32 - 1)
            }
            Some(_) => {
                self.words.push(Initial::Poison);
                Register::Word(self.words.len() as u32 - 1)
            }
        }
    }

    pub(super) fn name(&mut self, name: String, register: Register) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name, register);
        }
    }

    pub(super) fn find(&self, name: &str) -> Option<Register> {
        self.scopes.iter().rev().find_map(|scope| scope.get(name).copied())
    }

    /// Returns the register of a constant.
    pub(super) fn constant(&mut self, is_long: bool, bits: u64) -> Register {
        let bits = if is_long { bits } else { bits & 0xffff_ffff };
        if let Some(register) = self.constants.get(&(is_long, bits)) {
            return *register;
        }
        let register = self.add(Some(if is_long { 8 } else { 4 }));
        match register {
            Register::Long(index) => self.longs[index as usize] = Initial::Constant(bits),
            Register::Word(index) => self.words[index as usize] = Initial::Constant(bits),
            Register::Predicate(_) => {}
        }
        self.constants.insert((is_long, bits), register);
        register
    }

    /// Returns the register of a special name, as a word.
    pub(super) fn special(&mut self, special: Special) -> Register {
        if let Some(register) = self.specials.get(&special) {
            return *register;
        }
        let register = self.add(Some(4));
        if let Register::Word(index) = register {
            self.words[index as usize] = Initial::Special(special);
        }
        self.specials.insert(special, register);
        register
    }
}

/// Returns the number of a word's register.
pub(super) fn word(register: Register) -> Result<u32, PtxError> {
    match register {
        Register::Word(index) => Ok(index),
        other => Err(PtxError::new("not a register of 32 bits", format!("{other:?}"))),
    }
}

/// Returns the number of a long's register.
pub(super) fn long(register: Register) -> Result<u32, PtxError> {
    match register {
        Register::Long(index) => Ok(index),
        other => Err(PtxError::new("not a register of 64 bits", format!("{other:?}"))),
    }
}

/// Returns the number of a predicate.
pub(super) fn predicate(register: Register) -> Result<u32, PtxError> {
    match register {
        Register::Predicate(index) => Ok(index),
        other => Err(PtxError::new("not a predicate", format!("{other:?}"))),
    }
}
