//! Slices of the elements of CPU tensors, and tensors of vectors, without copies.

use std::ops::Deref;

use candle_core::{CpuStorage, Device, Shape, Storage, Tensor, WithDType};
use half::{bf16, f16};

use crate::error::{Error, Result};

/// Read lock on a CPU tensor's elements. The tensor is contiguous.
pub(crate) struct HostTensor<Guard> {
    storage: Guard,
    start: usize,
    length: usize,
    what: &'static str,
}

/// Borrows a contiguous CPU tensor's elements. `what` names the tensor in errors.
pub(crate) fn borrow(what: &'static str, tensor: &Tensor) -> Result<HostTensor<impl Deref<Target = Storage>>> {
    let (storage, layout) = tensor.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else {
        return Err(Error::Placement { what, expected: "CPU" });
    };
    Ok(HostTensor { storage, start, length: end - start, what })
}

/// Elements by dtype. Half-precision elements are given as their bits.
pub(crate) enum HostElements<'a> {
    F32(&'a [f32]),
    Bf16(&'a [u16]),
    F16(&'a [u16]),
}

impl<Guard: Deref<Target = Storage>> HostTensor<Guard> {
    /// Returns the elements of an f32 tensor.
    pub(crate) fn f32(&self) -> Result<&[f32]> {
        match self.elements()? {
            HostElements::F32(elements) => Ok(elements),
            _ => self.refuse("f32"),
        }
    }

    /// Returns the elements of an f32, bf16 or f16 tensor.
    pub(crate) fn elements(&self) -> Result<HostElements<'_>> {
        let Storage::Cpu(storage) = &*self.storage else {
            return Err(Error::Placement { what: self.what, expected: "CPU" });
        };
        let range = self.start..self.start + self.length;
        match storage {
            CpuStorage::F32(elements) => Ok(HostElements::F32(&elements[range])),
            CpuStorage::BF16(elements) => Ok(HostElements::Bf16(bits_of_bf16(&elements[range]))),
            CpuStorage::F16(elements) => Ok(HostElements::F16(bits_of_f16(&elements[range]))),
            _ => self.refuse("f32, bf16 or f16"),
        }
    }

    fn refuse<T>(&self, expected: &'static str) -> Result<T> {
        Err(Error::Dtype { what: self.what, expected, got: self.storage.dtype() })
    }
}

fn bits_of_bf16(elements: &[bf16]) -> &[u16] {
    // SAFETY: `bf16` is a transparent wrapper of `u16`.
    unsafe { std::slice::from_raw_parts(elements.as_ptr().cast(), elements.len()) }
}

fn bits_of_f16(elements: &[f16]) -> &[u16] {
    // SAFETY: `f16` is a transparent wrapper of `u16`.
    unsafe { std::slice::from_raw_parts(elements.as_ptr().cast(), elements.len()) }
}

/// Creates a CPU tensor that takes over `elements`.
pub(crate) fn tensor<T: WithDType>(elements: Vec<T>, shape: impl Into<Shape>) -> Result<Tensor> {
    Ok(Tensor::from_vec(elements, shape.into(), &Device::Cpu)?)
}
