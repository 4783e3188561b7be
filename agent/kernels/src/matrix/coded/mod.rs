//! Weights that are numbers of a small code times a scale, as quantized checkpoints have them, and their product with
//! activations.
//!
//! A weight of column k is `(code - zero) · scale`. Scale and zero are those of a group of columns of one row. The groups
//! may be of any size, and need not be contiguous: GPTQ orders columns by their importance before it groups them.
//! Weights keep four or eight bits in memory. The product widens them to the f32 that the formula gives, and adds up like
//! a product with f32 weights.

mod panels;
mod tensor;

use crate::error::{Result, argument};
use crate::simd::{LANES, decode_e4m3};

pub(super) use panels::{CodedPanels, multiply};
pub(super) use tensor::CodedTensor;

/// Meaning of the bits of a weight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Code {
    /// Eight bits, E4M3 without infinities (OCP 8-bit Floating Point Specification 1.0).
    E4m3,
    /// Eight bits, a signed whole number.
    Int8,
    /// Four bits, an index of a number.
    Table(&'static [f32; LANES]),
}

impl Code {
    /// Returns the number of weights that a byte holds in memory.
    pub fn per_byte(self) -> usize {
        match self {
            Code::E4m3 | Code::Int8 => 1,
            Code::Table(_) => 2,
        }
    }

    /// Returns the number that the bits stand for.
    pub fn decode(self, bits: u8) -> f32 {
        match self {
            Code::E4m3 => decode_e4m3(bits),
            Code::Int8 => f32::from(bits.cast_signed()),
            Code::Table(table) => table[usize::from(bits & 0x0F)],
        }
    }

    /// Returns true if the bits stand for a number.
    fn is_number(self, bits: u8) -> bool {
        match self {
            Code::E4m3 => bits & 0x7F != 0x7F,
            Code::Int8 => true,
            Code::Table(_) => bits < 16,
        }
    }
}

/// A weight `[out_features, in_features]` in codes, as [`crate::Matrix::from_codes`] takes it.
#[derive(Debug, Clone, Copy)]
pub struct CodedWeight<'a> {
    /// Name of the format, for people: `fp8`, `gptq`, ….
    pub format: &'static str,
    pub code: Code,
    pub out_features: usize,
    pub in_features: usize,
    /// One byte for each weight. The weight of a row and a column is at `row · strides[0] + column · strides[1]`.
    pub bits: &'a [u8],
    pub strides: [usize; 2],
    /// Group of each column.
    pub group_of: &'a [u32],
    /// Scales `[groups, out_features]`.
    pub scales: &'a [f32],
    /// Zeros `[groups, out_features]`; `None` if all are 0.
    pub zeros: Option<&'a [f32]>,
}

impl CodedWeight<'_> {
    /// Returns the bits of one weight.
    fn bits_at(&self, row: usize, column: usize) -> u8 {
        self.bits[row * self.strides[0] + column * self.strides[1]]
    }

    fn num_groups(&self) -> usize {
        self.scales.len().checked_div(self.out_features).unwrap_or(0)
    }

    /// Checks that every index stays within its slice, and that all numbers are finite.
    fn check(&self) -> Result<()> {
        let refuse = |reason: String| argument("coded weight", reason);
        let (rows, columns, groups) = (self.out_features, self.in_features, self.num_groups());
        if self.group_of.len() != columns {
            return refuse(format!("{} groups are named for {columns} columns", self.group_of.len()));
        }
        if self.scales.len() != groups * rows || self.zeros.is_some_and(|zeros| zeros.len() != self.scales.len()) {
            return refuse(format!("{} scales do not fit {rows} rows", self.scales.len()));
        }
        if rows > 0 && self.group_of.iter().any(|group| *group as usize >= groups) {
            return refuse(format!("a column is in a group beyond the {groups} that have scales"));
        }
        let last = (rows.max(1) - 1) * self.strides[0] + (columns.max(1) - 1) * self.strides[1];
        if rows * columns > 0 && last >= self.bits.len() {
            return refuse(format!("{} weights are fewer than {rows} rows of {columns}", self.bits.len()));
        }
        if !self.scales.iter().chain(self.zeros.into_iter().flatten()).all(|x| x.is_finite()) {
            return refuse("a scale is not finite".into());
        }
        if let Some(bits) = self.bits.iter().find(|bits| !self.code.is_number(**bits)) {
            return refuse(format!("the bits {bits:#04x} are no number"));
        }
        Ok(())
    }
}
