//! Groups of columns, and the scales and zeros of each group and row.

use std::ops::Range;

use candle_core::{DType, Device, Tensor};
use lockstep_kernels::Code;

use super::bits::{awq_bits, low_bits, stream_bits, words_of};
use crate::EngineError;
use crate::entry::{Entry, Stored};
use crate::tensor_reader::TensorReader;

/// Division of the columns into groups.
#[derive(Debug)]
pub(super) enum ColumnGroups {
    /// Runs of this many columns.
    Runs(usize),
    /// The group of each column, i32 `[in]`.
    Index(Entry),
}

/// Groups of some columns.
pub(super) struct UsedGroups {
    /// Groups that a column is in, as the checkpoint counts them, ascending.
    pub used: Vec<usize>,
    /// Index in `used` of the group of each column.
    pub of_column: Vec<u32>,
}

impl ColumnGroups {
    pub(super) fn read(&self, reader: &TensorReader, columns: &Range<usize>) -> Result<UsedGroups, EngineError> {
        let groups: Vec<usize> = match self {
            Self::Runs(length) => columns.clone().map(|column| column / length).collect(),
            Self::Index(entry) => {
                let all = words_of(&reader.read_all(entry)?);
                all[columns.clone()].iter().map(|group| *group as usize).collect()
            }
        };
        let mut used = groups.clone();
        used.sort_unstable();
        used.dedup();
        let index = |group: &usize| used.binary_search(group).map_or(0, |index| index as u32);
        let of_column = groups.iter().map(index).collect();
        Ok(UsedGroups { used, of_column })
    }
}

/// Order of the numbers of groups and rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GroupOrder {
    /// `[groups, out]`
    ByGroup,
    /// `[out, groups]`
    ByRow,
    /// `[out / rows, groups]`
    RowBlocks(usize),
    /// One number for all.
    Whole,
}

impl GroupOrder {
    /// Returns the index of a number in a tensor of this shape.
    fn index(self, shape: [usize; 2], group: usize, row: usize) -> usize {
        let [rows, groups] = shape;
        match self {
            Self::ByGroup => group * rows + row,
            Self::ByRow => row * groups + group,
            Self::RowBlocks(block) => row / block * groups + group,
            Self::Whole => 0,
        }
    }
}

/// Scales of groups.
#[derive(Debug)]
pub(super) struct GroupScales {
    pub numbers: ScaleNumbers,
    pub order: GroupOrder,
    /// Rows of the matrix, and groups of a row.
    pub shape: [usize; 2],
    /// One number by which all scales are multiplied or divided.
    pub common: Option<CommonFactor>,
}

/// A factor of all scales.
#[derive(Debug)]
pub(super) enum CommonFactor {
    Times(Entry),
    Over(Entry),
    OverNumber(f32),
}

/// Scales as they are stored.
#[derive(Debug)]
pub(super) enum ScaleNumbers {
    /// Numbers in floating point, of 8 bits or more.
    Plain(Entry),
    Nested(Box<NestedScales>),
}

/// Scales of bitsandbytes that are quantized once more (Dettmers et al. 2023, <https://arxiv.org/abs/2305.14314>, "double
/// quantization"). A scale is the number of `code` at its index, times the number of its block in `absmax`, plus `offset`.
#[derive(Debug)]
pub(super) struct NestedScales {
    pub index: Entry,
    pub code: Entry,
    pub absmax: Entry,
    pub block: usize,
    pub offset: f32,
}

impl NestedScales {
    /// Reads all scales. Returns `None` if one of them has no block.
    fn read(&self, reader: &TensorReader) -> Result<Option<Vec<f32>>, EngineError> {
        let [code, absmax] = [floats(reader, &self.code)?, floats(reader, &self.absmax)?];
        let number = |(place, index): (usize, &u8)| {
            Some(code.get(usize::from(*index))? * absmax.get(place / self.block)? + self.offset)
        };
        Ok(reader.read_all(&self.index)?.iter().enumerate().map(number).collect())
    }
}

impl GroupScales {
    /// Reads the scales `[groups, rows]` of some groups and rows. Returns `None` if a group has no scale.
    pub(super) fn read(
        &self,
        reader: &TensorReader,
        rows: &Range<usize>,
        groups: &[usize],
    ) -> Result<Option<Vec<f32>>, EngineError> {
        let numbers = match &self.numbers {
            ScaleNumbers::Plain(entry) => floats(reader, entry)?,
            ScaleNumbers::Nested(nested) => match nested.read(reader)? {
                Some(numbers) => numbers,
                None => return Ok(None),
            },
        };
        let common = match &self.common {
            None => 1.0,
            Some(CommonFactor::Times(entry)) => first_float(reader, entry)?,
            Some(CommonFactor::Over(entry)) => 1.0 / first_float(reader, entry)?,
            Some(CommonFactor::OverNumber(number)) => 1.0 / number,
        };
        let scale = |group, row| Some(numbers.get(self.order.index(self.shape, group, row))? * common);
        Ok(select(groups, rows, scale))
    }
}

/// Zeros of groups, as whole numbers that the stored numbers of weights are less by.
#[derive(Debug)]
pub(super) enum GroupZeros {
    /// One zero for all.
    All(u8),
    /// Words of numbers of `width` bits along the rows of the matrix: `[groups, words]`. The numbers are stored less
    /// `offset`.
    Words { entry: Entry, width: usize, offset: u8 },
    /// AWQ's words: `[groups, out / 8]`.
    Awq(Entry),
    /// Words of numbers of `width` bits along the rows of the matrix, one below another: `[words, groups]`.
    ColumnWords { entry: Entry, width: usize },
    /// Signed bytes `[out, groups]`, or one.
    Bytes { entry: Entry, order: GroupOrder, shape: [usize; 2] },
}

impl GroupZeros {
    /// Reads the zeros `[groups, rows]` of some groups and rows. Returns `None` if a group has no zero.
    pub(super) fn read(
        &self,
        reader: &TensorReader,
        rows: &Range<usize>,
        groups: &[usize],
    ) -> Result<Option<Vec<f32>>, EngineError> {
        Ok(match self {
            Self::All(zero) => Some(vec![f32::from(*zero); groups.len() * rows.len()]),
            Self::Words { entry, width, offset } => {
                let (words, row_words) = (words_of(&reader.read_all(entry)?), entry.shape[1]);
                select(groups, rows, |group, row| {
                    let words = words.get(group * row_words..(group + 1) * row_words)?;
                    // A zero that is stored less 1 wraps within its bits.
                    let zero = stream_bits(words, row, *width).wrapping_add(*offset);
                    Some(f32::from(zero & (u8::MAX >> (8 - width))))
                })
            }
            Self::Awq(entry) => {
                let (words, row_words) = (words_of(&reader.read_all(entry)?), entry.shape[1]);
                select(groups, rows, |group, row| {
                    Some(f32::from(awq_bits(words.get(group * row_words..(group + 1) * row_words)?, row, 0)))
                })
            }
            Self::ColumnWords { entry, width } => {
                let (words, num_groups, per_word) = (words_of(&reader.read_all(entry)?), entry.shape[1], 32 / width);
                select(groups, rows, |group, row| {
                    let word = words.get(row / per_word * num_groups + group)?;
                    Some(f32::from(low_bits(word >> (row % per_word * width), *width)))
                })
            }
            Self::Bytes { entry, order, shape } => {
                let bytes = reader.read_all(entry)?;
                select(groups, rows, |group, row| {
                    Some(f32::from(bytes.get(order.index(*shape, group, row))?.cast_signed()))
                })
            }
        })
    }
}

/// Returns the numbers `[groups, rows]` of some groups and rows; `None` if one is missing.
fn select(groups: &[usize], rows: &Range<usize>, number: impl Fn(usize, usize) -> Option<f32>) -> Option<Vec<f32>> {
    groups.iter().flat_map(|group| rows.clone().map(|row| number(*group, row))).collect()
}

fn first_float(reader: &TensorReader, entry: &Entry) -> Result<f32, EngineError> {
    let first = floats(reader, entry)?.first().copied();
    first.ok_or_else(|| EngineError::format(&*entry.file, "a scale of a whole matrix is empty"))
}

/// Reads a tensor in floating point. Bytes without a type of their own are exponents (E8M0).
fn floats(reader: &TensorReader, entry: &Entry) -> Result<Vec<f32>, EngineError> {
    let bytes = reader.read_all(entry)?;
    Ok(match &entry.stored {
        Stored::Float(dtype) => {
            let numbers =
                Tensor::from_raw_buffer(&bytes, *dtype, &[bytes.len() / dtype.size_in_bytes()], &Device::Cpu)?;
            numbers.to_dtype(DType::F32)?.to_vec1()?
        }
        Stored::Other(kind) if kind == "F8_E4M3" => bytes.iter().map(|bits| Code::E4m3.decode(*bits)).collect(),
        Stored::Other(kind) if kind == "F8_E8M0" || kind == "U8" => bytes.iter().map(|bits| power(*bits)).collect(),
        _ => return Err(EngineError::format(&*entry.file, "scales have a type that is not read")),
    })
}

/// Returns two to the power of `exponent` - 127.
fn power(exponent: u8) -> f32 {
    match exponent {
        0 => f32::from_bits(0x0040_0000),
        exponent => f32::from_bits(u32::from(exponent) << 23),
    }
}
