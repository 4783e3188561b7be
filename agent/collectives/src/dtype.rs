//! Element types, and host slices as bytes.

use half::{bf16, f16};

use crate::communicator::{CollectiveError, Slice, SliceMut};

/// What the elements of an operation are.
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
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 | Self::I32 | Self::U32 => size_of::<f32>(),
            Self::Bf16 => size_of::<bf16>(),
            Self::F16 => size_of::<f16>(),
        }
    }
}

#[cfg(feature = "nccl")]
fn not_here() -> CollectiveError {
    CollectiveError::Usage("this backend takes host memory: copy the tensor to the host, or use nccl".into())
}

impl<'a> Slice<'a> {
    pub fn dtype(&self) -> Dtype {
        match self {
            Self::F32(_) => Dtype::F32,
            Self::Bf16(_) => Dtype::Bf16,
            Self::F16(_) => Dtype::F16,
            Self::I32(_) => Dtype::I32,
            Self::U32(_) => Dtype::U32,
            #[cfg(feature = "nccl")]
            Self::Device(device) => device.dtype(),
        }
    }

    /// Number of elements.
    #[expect(clippy::len_without_is_empty, reason = "zero elements are an ordinary size here")]
    pub fn len(&self) -> usize {
        match self {
            Self::F32(s) => s.len(),
            Self::Bf16(s) => s.len(),
            Self::F16(s) => s.len(),
            Self::I32(s) => s.len(),
            Self::U32(s) => s.len(),
            #[cfg(feature = "nccl")]
            Self::Device(device) => device.len(),
        }
    }

    /// The elements in memory order; `Usage` where they are not in host memory.
    pub(crate) fn host_bytes(self) -> Result<&'a [u8], CollectiveError> {
        Ok(match self {
            Self::F32(s) => bytemuck::cast_slice(s),
            Self::Bf16(s) => bytemuck::cast_slice(s),
            Self::F16(s) => bytemuck::cast_slice(s),
            Self::I32(s) => bytemuck::cast_slice(s),
            Self::U32(s) => bytemuck::cast_slice(s),
            #[cfg(feature = "nccl")]
            Self::Device(_) => return Err(not_here()),
        })
    }
}

impl<'a> SliceMut<'a> {
    pub fn dtype(&self) -> Dtype {
        match self {
            Self::F32(_) => Dtype::F32,
            Self::Bf16(_) => Dtype::Bf16,
            Self::F16(_) => Dtype::F16,
            Self::I32(_) => Dtype::I32,
            Self::U32(_) => Dtype::U32,
            #[cfg(feature = "nccl")]
            Self::Device(device) => device.dtype(),
        }
    }

    /// Number of elements.
    #[expect(clippy::len_without_is_empty, reason = "zero elements are an ordinary size here")]
    pub fn len(&self) -> usize {
        match self {
            Self::F32(s) => s.len(),
            Self::Bf16(s) => s.len(),
            Self::F16(s) => s.len(),
            Self::I32(s) => s.len(),
            Self::U32(s) => s.len(),
            #[cfg(feature = "nccl")]
            Self::Device(device) => device.len(),
        }
    }

    /// The elements in memory order; `Usage` where they are not in host memory.
    pub(crate) fn host_bytes(self) -> Result<&'a mut [u8], CollectiveError> {
        Ok(match self {
            Self::F32(s) => bytemuck::cast_slice_mut(s),
            Self::Bf16(s) => bytemuck::cast_slice_mut(s),
            Self::F16(s) => bytemuck::cast_slice_mut(s),
            Self::I32(s) => bytemuck::cast_slice_mut(s),
            Self::U32(s) => bytemuck::cast_slice_mut(s),
            #[cfg(feature = "nccl")]
            Self::Device(_) => return Err(not_here()),
        })
    }
}
