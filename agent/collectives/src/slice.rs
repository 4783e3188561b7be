//! Typed slices: the arguments of collectives.

use half::{bf16, f16};

use crate::dtype::Dtype;
use crate::error::CollectiveError;

/// Typed elements to read.
#[derive(Debug, Clone, Copy)]
pub enum Slice<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    F16(&'a [f16]),
    I32(&'a [i32]),
    U32(&'a [u32]),
    /// Elements in the memory of a CUDA device. Only the backend `nccl` takes them.
    #[cfg(feature = "nccl")]
    Device(crate::device::DeviceSlice<'a>),
}

/// Typed elements to read and write.
#[derive(Debug)]
pub enum SliceMut<'a> {
    F32(&'a mut [f32]),
    Bf16(&'a mut [bf16]),
    F16(&'a mut [f16]),
    I32(&'a mut [i32]),
    U32(&'a mut [u32]),
    /// Elements in the memory of a CUDA device. Only the backend `nccl` takes them.
    #[cfg(feature = "nccl")]
    Device(crate::device::DeviceSliceMut<'a>),
}

/// Implements the methods that both slices have; they differ in the bytes' type and in the cast to it.
macro_rules! impl_slice {
    ($type:ident, $bytes:ty, $cast:path) => {
        impl<'a> $type<'a> {
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

            /// Returns the number of elements.
            #[expect(clippy::len_without_is_empty, reason = "zero elements are an ordinary size here")]
            pub fn len(&self) -> usize {
                match self {
                    Self::F32(elements) => elements.len(),
                    Self::Bf16(elements) => elements.len(),
                    Self::F16(elements) => elements.len(),
                    Self::I32(elements) => elements.len(),
                    Self::U32(elements) => elements.len(),
                    #[cfg(feature = "nccl")]
                    Self::Device(device) => device.len(),
                }
            }

            /// Returns the elements' bytes in memory order; `Usage` if they are not in host memory.
            pub(crate) fn host_bytes(self) -> Result<$bytes, CollectiveError> {
                Ok(match self {
                    Self::F32(elements) => $cast(elements),
                    Self::Bf16(elements) => $cast(elements),
                    Self::F16(elements) => $cast(elements),
                    Self::I32(elements) => $cast(elements),
                    Self::U32(elements) => $cast(elements),
                    #[cfg(feature = "nccl")]
                    Self::Device(_) => return Err(needs_host_memory()),
                })
            }
        }
    };
}

impl_slice!(Slice, &'a [u8], bytemuck::cast_slice);
impl_slice!(SliceMut, &'a mut [u8], bytemuck::cast_slice_mut);

#[cfg(feature = "nccl")]
fn needs_host_memory() -> CollectiveError {
    CollectiveError::Usage("this backend takes host memory: copy the tensor to the host, or use nccl".into())
}
