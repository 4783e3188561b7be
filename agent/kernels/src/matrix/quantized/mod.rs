//! Weights in blocks of small integers, as GGUF files have them, and their product with activations.
//!
//! Formats: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md> and `ggml-common.h` beside it. A weight keeps
//! its bits in memory. Only their order changes: sixteen rows are side by side, so that one load brings four k's of
//! sixteen rows, and sums need no transpose. Activations are rounded to eight bits with a scale for every 32 of them.
//! Products are added up as integers inside 32 (or 16) k's and as f32 across these, in one order for any number of
//! rows, threads and instruction set.

mod activations;
mod decoded;
mod encode;
mod gemm;
mod grid;
mod layout;
mod legacy_quants;
mod packing;
mod panels;

mod q2_k;
mod q4_k;
mod q6_k;
mod tables;
mod ternary;

mod tensor;

use std::ops::Range;

use candle_core::quantized::GgmlDType;

use crate::error::{Result, argument};
pub(super) use gemm::multiply;
use layout::BlockLayout;
pub(super) use panels::QuantPanels;
pub(super) use tensor::QuantTensor;

/// Columns that share one scale of the activations.
pub(super) const GROUP_SIZE: usize = 32;

/// Format of a quantized weight: blocks of consecutive columns of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BlockFormat {
    /// 32 columns: 4 bits each, a scale.
    Q4_0,
    /// 32 columns: 4 bits each, a scale and a minimum.
    Q4_1,
    /// 32 columns: 5 bits each, a scale.
    Q5_0,
    /// 32 columns: 5 bits each, a scale and a minimum.
    Q5_1,
    /// 32 columns: 8 bits each, a scale.
    Q8_0,
    /// 256 columns: 2 bits each, a scale and a minimum for 16.
    Q2K,
    /// 256 columns: 3 bits each, a scale for 16.
    Q3K,
    /// 256 columns: 4 bits each, a scale and a minimum for 32.
    Q4K,
    /// 256 columns: 5 bits each, a scale and a minimum for 32.
    Q5K,
    /// 256 columns: 6 bits each, a scale for 16.
    Q6K,
    /// 32 columns: an index of 4 bits each, a scale.
    Iq4Nl,
    /// 256 columns: an index of 4 bits each, a scale for 32.
    Iq4Xs,
    /// 32 columns: an index of 4 bits each, an exponent.
    Mxfp4,
    /// 64 columns: an index of 4 bits each, a scale for 16.
    Nvfp4,
    /// 256 columns: a point of a grid for 8, a scale and an offset for 32.
    Iq1S,
    /// 256 columns: a point of a grid and an offset for 8, a scale for 16.
    Iq1M,
    /// 256 columns: a point of a grid and signs for 8, a scale for 32.
    Iq2Xxs,
    /// 256 columns: a point of a grid and signs for 8, a scale for 16.
    Iq2Xs,
    /// 256 columns: a point of a larger grid and signs for 8, a scale for 16.
    Iq2S,
    /// 256 columns: a point of a grid for 4, signs for 8, a scale for 32.
    Iq3Xxs,
    /// 256 columns: a point of a larger grid for 4, signs for 8, a scale for 32.
    Iq3S,
    /// 128 columns: -1 or 1 each, a scale.
    Q1_0,
    /// 64 columns: 2 bits each, a scale.
    Q2_0,
    /// 256 columns: -1, 0 or 1 each, five in a byte, a scale.
    Tq1_0,
    /// 256 columns: -1, 0 or 1 each, in 2 bits, a scale.
    Tq2_0,
}

/// Calls a generic function with the layout of a format.
macro_rules! with_layout {
    ($format:expr, $layout:ident => $call:expr) => {
        match $format {
            $crate::matrix::quantized::BlockFormat::Q4_0 => {
                type $layout = $crate::matrix::quantized::legacy_quants::Q4_0;
                $call
            }
            $crate::matrix::quantized::BlockFormat::Q4_1 => {
                type $layout = $crate::matrix::quantized::legacy_quants::Q4_1;
                $call
            }
            $crate::matrix::quantized::BlockFormat::Q5_0 => {
                type $layout = $crate::matrix::quantized::legacy_quants::Q5_0;
                $call
            }
            $crate::matrix::quantized::BlockFormat::Q5_1 => {
                type $layout = $crate::matrix::quantized::legacy_quants::Q5_1;
                $call
            }
            $crate::matrix::quantized::BlockFormat::Q8_0 => {
                type $layout = $crate::matrix::quantized::legacy_quants::Q8_0;
                $call
            }
            $crate::matrix::quantized::BlockFormat::Q2K => {
                type $layout = $crate::matrix::quantized::q2_k::Q2K;
                $call
            }
            $crate::matrix::quantized::BlockFormat::Q3K => {
                type $layout = $crate::matrix::quantized::q2_k::Q3K;
                $call
            }
            $crate::matrix::quantized::BlockFormat::Q4K => {
                type $layout = $crate::matrix::quantized::q4_k::Q4K;
                $call
            }
            $crate::matrix::quantized::BlockFormat::Q5K => {
                type $layout = $crate::matrix::quantized::q4_k::Q5K;
                $call
            }
            $crate::matrix::quantized::BlockFormat::Q6K => {
                type $layout = $crate::matrix::quantized::q6_k::Q6K;
                $call
            }
            $crate::matrix::quantized::BlockFormat::Iq4Nl => {
                type $layout = $crate::matrix::quantized::tables::Iq4Nl;
                $call
            }
            $crate::matrix::quantized::BlockFormat::Iq4Xs => {
                type $layout = $crate::matrix::quantized::tables::Iq4Xs;
                $call
            }
            $crate::matrix::quantized::BlockFormat::Mxfp4 => {
                type $layout = $crate::matrix::quantized::tables::Mxfp4;
                $call
            }
            $crate::matrix::quantized::BlockFormat::Nvfp4 => {
                type $layout = $crate::matrix::quantized::tables::Nvfp4;
                $call
            }
            $crate::matrix::quantized::BlockFormat::Iq1S => {
                type $layout = $crate::matrix::quantized::grid::Iq1S;
                $call
            }
            $crate::matrix::quantized::BlockFormat::Iq1M => {
                type $layout = $crate::matrix::quantized::grid::Iq1M;
                $call
            }
            $crate::matrix::quantized::BlockFormat::Iq2Xxs => {
                type $layout = $crate::matrix::quantized::grid::Iq2Xxs;
                $call
            }
            $crate::matrix::quantized::BlockFormat::Iq2Xs => {
                type $layout = $crate::matrix::quantized::grid::Iq2Xs;
                $call
            }
            $crate::matrix::quantized::BlockFormat::Iq2S => {
                type $layout = $crate::matrix::quantized::grid::Iq2S;
                $call
            }
            $crate::matrix::quantized::BlockFormat::Iq3Xxs => {
                type $layout = $crate::matrix::quantized::grid::Iq3Xxs;
                $call
            }
            $crate::matrix::quantized::BlockFormat::Iq3S => {
                type $layout = $crate::matrix::quantized::grid::Iq3S;
                $call
            }
            $crate::matrix::quantized::BlockFormat::Q1_0 => {
                type $layout = $crate::matrix::quantized::ternary::Q1_0;
                $call
            }
            $crate::matrix::quantized::BlockFormat::Q2_0 => {
                type $layout = $crate::matrix::quantized::ternary::Q2_0;
                $call
            }
            $crate::matrix::quantized::BlockFormat::Tq1_0 => {
                type $layout = $crate::matrix::quantized::ternary::Tq1_0;
                $call
            }
            $crate::matrix::quantized::BlockFormat::Tq2_0 => {
                type $layout = $crate::matrix::quantized::ternary::Tq2_0;
                $call
            }
        }
    };
}
use with_layout;

impl BlockFormat {
    /// All formats.
    pub const ALL: [BlockFormat; 25] = [
        BlockFormat::Q4_0,
        BlockFormat::Q4_1,
        BlockFormat::Q5_0,
        BlockFormat::Q5_1,
        BlockFormat::Q8_0,
        BlockFormat::Q2K,
        BlockFormat::Q3K,
        BlockFormat::Q4K,
        BlockFormat::Q5K,
        BlockFormat::Q6K,
        BlockFormat::Iq4Nl,
        BlockFormat::Iq4Xs,
        BlockFormat::Mxfp4,
        BlockFormat::Nvfp4,
        BlockFormat::Iq1S,
        BlockFormat::Iq1M,
        BlockFormat::Iq2Xxs,
        BlockFormat::Iq2Xs,
        BlockFormat::Iq2S,
        BlockFormat::Iq3Xxs,
        BlockFormat::Iq3S,
        BlockFormat::Q1_0,
        BlockFormat::Q2_0,
        BlockFormat::Tq1_0,
        BlockFormat::Tq2_0,
    ];

    /// Returns the name: `q8_0`, `q4_k`, ….
    pub fn name(self) -> &'static str {
        match self {
            BlockFormat::Q4_0 => "q4_0",
            BlockFormat::Q4_1 => "q4_1",
            BlockFormat::Q5_0 => "q5_0",
            BlockFormat::Q5_1 => "q5_1",
            BlockFormat::Q8_0 => "q8_0",
            BlockFormat::Q2K => "q2_k",
            BlockFormat::Q3K => "q3_k",
            BlockFormat::Q4K => "q4_k",
            BlockFormat::Q5K => "q5_k",
            BlockFormat::Q6K => "q6_k",
            BlockFormat::Iq4Nl => "iq4_nl",
            BlockFormat::Iq4Xs => "iq4_xs",
            BlockFormat::Mxfp4 => "mxfp4",
            BlockFormat::Nvfp4 => "nvfp4",
            BlockFormat::Iq1S => "iq1_s",
            BlockFormat::Iq1M => "iq1_m",
            BlockFormat::Iq2Xxs => "iq2_xxs",
            BlockFormat::Iq2Xs => "iq2_xs",
            BlockFormat::Iq2S => "iq2_s",
            BlockFormat::Iq3Xxs => "iq3_xxs",
            BlockFormat::Iq3S => "iq3_s",
            BlockFormat::Q1_0 => "q1_0",
            BlockFormat::Q2_0 => "q2_0",
            BlockFormat::Tq1_0 => "tq1_0",
            BlockFormat::Tq2_0 => "tq2_0",
        }
    }

    /// Returns the columns of one block.
    pub fn columns(self) -> usize {
        with_layout!(self, L => L::COLUMNS)
    }

    /// Returns the bytes of one block in a file.
    pub fn bytes(self) -> usize {
        with_layout!(self, L => L::FILE_BYTES)
    }

    /// Returns true if numbers can be quantized to the format here. Most of the others need to know which numbers matter.
    pub fn is_encodable(self) -> bool {
        !matches!(
            self,
            BlockFormat::Nvfp4
                | BlockFormat::Iq1S
                | BlockFormat::Iq1M
                | BlockFormat::Iq2Xxs
                | BlockFormat::Iq2Xs
                | BlockFormat::Iq2S
                | BlockFormat::Iq3Xxs
                | BlockFormat::Iq3S
                | BlockFormat::Q1_0
                | BlockFormat::Q2_0
        )
    }

    /// Returns the format that rows of `width` numbers are quantized to if this format was asked for. Rows that do not fill
    /// blocks of 256 go to the format of 32 that llama.cpp's quantizer takes for them.
    pub fn for_width(self, width: usize) -> BlockFormat {
        match self {
            _ if width.is_multiple_of(self.columns()) => self,
            BlockFormat::Q2K | BlockFormat::Q3K | BlockFormat::Tq1_0 | BlockFormat::Tq2_0 => BlockFormat::Q4_0,
            BlockFormat::Q1_0 | BlockFormat::Q2_0 => BlockFormat::Q4_0,
            BlockFormat::Q4K => BlockFormat::Q5_0,
            BlockFormat::Q5K => BlockFormat::Q5_1,
            BlockFormat::Q6K => BlockFormat::Q8_0,
            _ if self.columns() > GROUP_SIZE => BlockFormat::Iq4Nl,
            _ => self,
        }
    }

    /// Returns candle's name of the format, by which candle multiplies on devices without kernels. Candle lacks the others.
    fn ggml(self) -> Result<GgmlDType> {
        Ok(match self {
            BlockFormat::Q4_0 => GgmlDType::Q4_0,
            BlockFormat::Q4_1 => GgmlDType::Q4_1,
            BlockFormat::Q5_0 => GgmlDType::Q5_0,
            BlockFormat::Q5_1 => GgmlDType::Q5_1,
            BlockFormat::Q8_0 => GgmlDType::Q8_0,
            BlockFormat::Q2K => GgmlDType::Q2K,
            BlockFormat::Q3K => GgmlDType::Q3K,
            BlockFormat::Q4K => GgmlDType::Q4K,
            BlockFormat::Q5K => GgmlDType::Q5K,
            BlockFormat::Q6K => GgmlDType::Q6K,
            _ => {
                let reason = format!("{} works only on the CPU", self.name());
                return argument("format", reason);
            }
        })
    }
}

/// Returns the number of blocks in each of `out_features` rows that end with the last of `columns`. Fails if `bytes`
/// has another length than these blocks.
fn check_blocks(format: BlockFormat, bytes: &[u8], out_features: usize, columns: &Range<usize>) -> Result<usize> {
    let blocks = columns.end.div_ceil(format.columns());
    if bytes.len() != out_features * blocks * format.bytes() {
        let reason =
            format!("{} bytes are not {out_features} rows of {blocks} blocks of {}", bytes.len(), format.name());
        return argument("blocks", reason);
    }
    Ok(blocks)
}
