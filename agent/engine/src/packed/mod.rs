//! Weights of quantized checkpoints of Hugging Face: several tensors that stand for one matrix.
//!
//! `assemble` finds the tensors of each matrix in the headers, and puts one entry under the name of the usual weight. A
//! rank then reads its rows and columns of the matrix: the packed numbers (`bits`), and the scales and zeros of their
//! groups (`groups`). The weights keep their four or eight bits.
//!
//! Formats, by the libraries that write them: AutoGPTQ and GPTQModel, AutoAWQ, compressed-tensors, bitsandbytes,
//! ModelOpt, and transformers' FP8.

mod assemble;
mod bits;
mod groups;

use std::ops::Range;

use lockstep_kernels::{Code, CodedWeight};

use crate::EngineError;
use crate::tensor_reader::TensorReader;
pub(crate) use assemble::assemble;
use bits::PackedBits;
use groups::{ColumnGroups, GroupScales, GroupZeros};

/// Numbers of E2M1 (OCP Microscaling Formats 1.0).
static E2M1: [f32; 16] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];
/// Whole numbers of up to four bits, less [`MIDDLE`].
static INTEGERS: [f32; 16] = [-8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0];
const MIDDLE: f32 = 8.0;
/// Quantiles of a normal distribution (Dettmers et al. 2023, <https://arxiv.org/abs/2305.14314>, appendix E).
static NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];
/// The four-bit floating-point numbers of bitsandbytes.
static FP4: [f32; 16] = [
    0.0,
    0.005_208_333_3,
    0.666_666_7,
    1.0,
    0.333_333_34,
    0.5,
    0.166_666_67,
    0.25,
    -0.0,
    -0.005_208_333_3,
    -0.666_666_7,
    -1.0,
    -0.333_333_34,
    -0.5,
    -0.166_666_67,
    -0.25,
];

/// Meaning of the bits of a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    E4m3,
    Int8,
    /// A whole number of this many bits, up to eight, without a sign.
    Unsigned(u8),
    Nf4,
    Fp4,
    E2m1,
}

impl Meaning {
    fn code(self) -> Code {
        match self {
            Self::E4m3 => Code::E4m3,
            Self::Int8 | Self::Unsigned(5..) => Code::Int8,
            Self::Unsigned(_) => Code::Table(&INTEGERS),
            Self::Nf4 => Code::Table(&NF4),
            Self::Fp4 => Code::Table(&FP4),
            Self::E2m1 => Code::Table(&E2M1),
        }
    }

    /// Returns the number that the code is less than the stored number. Zeros move with it.
    fn offset(self) -> f32 {
        match self {
            Self::Unsigned(5..) => 128.0,
            Self::Unsigned(_) => MIDDLE,
            Self::E4m3 | Self::Int8 | Self::Nf4 | Self::Fp4 | Self::E2m1 => 0.0,
        }
    }
}

/// One matrix `[out, in]` in several tensors.
#[derive(Debug)]
pub(crate) struct PackedMatrix {
    /// Name without the suffix of the weight.
    name: String,
    /// Name of the format: `fp8`, `gptq`, ….
    format: &'static str,
    shape: [usize; 2],
    meaning: Meaning,
    bits: PackedBits,
    scales: GroupScales,
    zeros: GroupZeros,
    groups: ColumnGroups,
}

impl PackedMatrix {
    /// Reads some rows and columns.
    ///
    /// # Errors
    /// Those of reading, and [`EngineError::Format`] for a group that has no scale or zero.
    pub(crate) fn read(
        &self,
        reader: &TensorReader,
        rows: &Range<usize>,
        columns: &Range<usize>,
    ) -> Result<CodedPart, EngineError> {
        let (mut bits, strides) = self.bits.read(reader, rows, columns)?;
        if self.meaning == Meaning::Unsigned(8) {
            bits.iter_mut().for_each(|bits| *bits ^= 0x80);
        }
        let groups = self.groups.read(reader, columns)?;
        let missing = |kind: &str| {
            let reason = format!("the packed matrix `{}`: a group of columns has no {kind}", self.name);
            EngineError::format(reader.source(), reason)
        };
        let scales = self.scales.read(reader, rows, &groups.used)?.ok_or_else(|| missing("scale"))?;
        let zeros = self.zeros.read(reader, rows, &groups.used)?.ok_or_else(|| missing("zero"))?;
        let offset = self.meaning.offset();
        let zeros: Vec<f32> = zeros.into_iter().map(|zero| zero - offset).collect();
        Ok(CodedPart {
            format: self.format,
            code: self.meaning.code(),
            shape: [rows.len(), columns.len()],
            bits,
            strides,
            group_of: groups.of_column,
            scales,
            zeros: zeros.iter().any(|zero| *zero != 0.0).then_some(zeros),
        })
    }
}

/// Some rows and columns of a packed matrix, as they were read.
pub(crate) struct CodedPart {
    format: &'static str,
    code: Code,
    shape: [usize; 2],
    bits: Vec<u8>,
    strides: [usize; 2],
    group_of: Vec<u32>,
    scales: Vec<f32>,
    zeros: Option<Vec<f32>>,
}

impl CodedPart {
    /// Returns the part as the kernels take it.
    pub(crate) fn weight(&self) -> CodedWeight<'_> {
        CodedWeight {
            format: self.format,
            code: self.code,
            out_features: self.shape[0],
            in_features: self.shape[1],
            bits: &self.bits,
            strides: self.strides,
            group_of: &self.group_of,
            scales: &self.scales,
            zeros: self.zeros.as_deref(),
        }
    }
}
