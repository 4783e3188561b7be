//! Typed elements in the memory of a CUDA device.

use std::sync::Arc;

use cudarc::driver::{CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut, SyncOnDrop};
use half::{bf16, f16};

use crate::dtype::Dtype;

/// Untyped view of elements on the device. Until the call that uses it has been queued, the caller keeps the elements
/// alive and in order on the stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeviceMemory {
    pub(crate) address: cudarc::driver::sys::CUdeviceptr,
    pub(crate) count: usize,
    pub(crate) dtype: Dtype,
}

impl DeviceMemory {
    pub(crate) fn as_ptr(self) -> *const std::ffi::c_void {
        self.address as *const _
    }

    pub(crate) fn as_mut_ptr(self) -> *mut std::ffi::c_void {
        self.address as *mut _
    }

    /// Returns `count` elements, starting `skip` elements after the first.
    pub(crate) fn subrange(self, skip: usize, count: usize) -> Self {
        Self { address: self.address + (skip * self.dtype.size()) as u64, count, dtype: self.dtype }
    }
}

/// Typed elements to read, in device memory.
#[derive(Debug, Clone, Copy)]
pub enum DeviceSlice<'a> {
    F32(&'a CudaView<'a, f32>),
    Bf16(&'a CudaView<'a, bf16>),
    F16(&'a CudaView<'a, f16>),
    I32(&'a CudaView<'a, i32>),
    U32(&'a CudaView<'a, u32>),
}

/// Typed elements to read and write, in device memory.
#[derive(Debug)]
pub enum DeviceSliceMut<'a> {
    F32(CudaViewMut<'a, f32>),
    Bf16(CudaViewMut<'a, bf16>),
    F16(CudaViewMut<'a, f16>),
    I32(CudaViewMut<'a, i32>),
    U32(CudaViewMut<'a, u32>),
}

/// Runs an expression on the view of any element type.
macro_rules! with_view {
    ($self:expr, $view:ident => $body:expr) => {
        match $self {
            Self::F32($view) => $body,
            Self::Bf16($view) => $body,
            Self::F16($view) => $body,
            Self::I32($view) => $body,
            Self::U32($view) => $body,
        }
    };
}

/// Implements the methods that both slices have.
macro_rules! impl_device_slice {
    ($type:ident) => {
        impl $type<'_> {
            pub fn dtype(&self) -> Dtype {
                match self {
                    Self::F32(_) => Dtype::F32,
                    Self::Bf16(_) => Dtype::Bf16,
                    Self::F16(_) => Dtype::F16,
                    Self::I32(_) => Dtype::I32,
                    Self::U32(_) => Dtype::U32,
                }
            }

            /// Returns the number of elements.
            #[expect(clippy::len_without_is_empty, reason = "zero elements are an ordinary size here")]
            pub fn len(&self) -> usize {
                with_view!(self, view => view.len())
            }
        }
    };
}

impl_device_slice!(DeviceSlice);
impl_device_slice!(DeviceSliceMut);

impl<'a> DeviceSlice<'a> {
    /// Returns the elements for reading, after making `stream` wait for their writers. The caller drops the guard once
    /// the reading is queued.
    pub(crate) fn memory(self, stream: &'a Arc<CudaStream>) -> (DeviceMemory, SyncOnDrop<'a>) {
        let (dtype, count) = (self.dtype(), self.len());
        let (address, guard) = with_view!(self, view => view.device_ptr(stream));
        (DeviceMemory { address, count, dtype }, guard)
    }
}

impl DeviceSliceMut<'_> {
    /// Returns the elements for writing, after making `stream` wait for their users. The caller drops the guard once
    /// the writing is queued.
    pub(crate) fn memory<'b>(&'b mut self, stream: &'b Arc<CudaStream>) -> (DeviceMemory, SyncOnDrop<'b>) {
        let (dtype, count) = (self.dtype(), self.len());
        let (address, guard) = with_view!(self, view => view.device_ptr_mut(stream));
        (DeviceMemory { address, count, dtype }, guard)
    }
}
