//! Element types.

use half::{bf16, f16};

/// Type of the elements of an operation. Each value is the type's number on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Dtype {
    F32 = 1,
    Bf16 = 2,
    F16 = 3,
    I32 = 4,
    U32 = 5,
}

impl Dtype {
    /// Returns the size of one element, in bytes.
    pub fn size(self) -> usize {
        match self {
            Self::F32 | Self::I32 | Self::U32 => size_of::<f32>(),
            Self::Bf16 => size_of::<bf16>(),
            Self::F16 => size_of::<f16>(),
        }
    }
}
