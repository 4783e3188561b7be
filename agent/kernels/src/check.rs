//! Checks that every public function makes before a kernel may trust its arguments.

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};

/// Checks for a contiguous f32 tensor `[length]`.
pub(crate) fn vector(what: &'static str, x: &Tensor, length: usize) -> Result<()> {
    activations(what, x)?;
    if x.dims() == [length] { Ok(()) } else { wrong_shape(what, format!("[{length}]"), x) }
}

/// Checks for a contiguous f32 tensor of rank 2, and returns its dimensions.
pub(crate) fn rows(what: &'static str, x: &Tensor) -> Result<(usize, usize)> {
    activations(what, x)?;
    match *x.dims() {
        [rows, columns] => Ok((rows, columns)),
        _ => wrong_shape(what, "[rows, columns]".to_owned(), x),
    }
}

/// Checks for a contiguous f32 tensor `[tokens, heads, head_dim]`, and returns its dimensions.
pub(crate) fn heads(what: &'static str, x: &Tensor) -> Result<(usize, usize, usize)> {
    activations(what, x)?;
    match *x.dims() {
        [tokens, heads, head_dim] => Ok((tokens, heads, head_dim)),
        _ => wrong_shape(what, "[tokens, heads, head_dim]".to_owned(), x),
    }
}

/// Checks for a weight, which is contiguous, of rank 2 and f32, bf16 or f16, and returns its dimensions.
pub(crate) fn weight(what: &'static str, x: &Tensor) -> Result<(usize, usize)> {
    if !matches!(x.dtype(), DType::F32 | DType::BF16 | DType::F16) {
        return Err(Error::Dtype { what, expected: "f32, bf16 or f16", got: x.dtype() });
    }
    contiguous(what, x)?;
    match *x.dims() {
        [rows, columns] => Ok((rows, columns)),
        _ => wrong_shape(what, "[rows, columns]".to_owned(), x),
    }
}

/// Checks that `x` has the shape `expected`.
pub(crate) fn same_shape(what: &'static str, x: &Tensor, expected: &[usize]) -> Result<()> {
    if x.dims() == expected { Ok(()) } else { wrong_shape(what, format!("{expected:?}"), x) }
}

/// Checks that `x` lies on `device`.
pub(crate) fn same_device(what: &'static str, x: &Tensor, device: &Device) -> Result<()> {
    if x.device().same_device(device) {
        return Ok(());
    }
    Err(Error::Placement { what, expected: "same" })
}

pub(crate) fn wrong_shape<T>(what: &'static str, expected: String, x: &Tensor) -> Result<T> {
    Err(Error::Shape { what, expected, got: x.dims().to_vec() })
}

fn activations(what: &'static str, x: &Tensor) -> Result<()> {
    if x.dtype() != DType::F32 {
        return Err(Error::Dtype { what, expected: "f32", got: x.dtype() });
    }
    contiguous(what, x)
}

fn contiguous(what: &'static str, x: &Tensor) -> Result<()> {
    if x.is_contiguous() { Ok(()) } else { Err(Error::Placement { what, expected: "same" }) }
}
