//! The header of one safetensors file.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::DType;
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use crate::EngineError;
use crate::entry::{Entry, RowOrder, Stored};
use crate::source::{ModelFiles, read_slice, refuse_pointer};

/// Largest header, the format's own bound.
const MAX_HEADER: u64 = 100_000_000;

/// Reads and checks the header of `file`. Its tensors lie side by side and fill the file exactly.
///
/// # Errors
/// [`EngineError::Missing`], [`EngineError::Truncated`], [`EngineError::Format`].
pub fn read_header(files: &dyn ModelFiles, file: &str) -> Result<HashMap<String, Entry>, EngineError> {
    let missing = || EngineError::Missing { file: file.into(), origin: files.source().into() };
    let size = files.size(file)?.ok_or_else(missing)?;
    parse(file, size, |offset, buffer| files.read_at(file, offset, buffer))
}

/// Reads a header from bytes, for fuzzing. No bytes may cause a panic.
///
/// # Errors
/// [`EngineError::Truncated`], [`EngineError::Format`].
pub fn check_safetensors(bytes: &[u8]) -> Result<(), EngineError> {
    const FILE: &str = "model.safetensors";
    parse(FILE, bytes.len() as u64, |offset, buffer| read_slice(FILE, bytes, offset, buffer)).map(drop)
}

/// Reads the header of a file of `size` bytes through `read`, which fills a buffer from an offset on.
fn parse(
    file: &str,
    size: u64,
    read: impl Fn(u64, &mut [u8]) -> Result<(), EngineError>,
) -> Result<HashMap<String, Entry>, EngineError> {
    let mut length = [0; 8];
    read(0, &mut length)?;
    refuse_pointer(file, &length)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER {
        return Err(EngineError::format(file, format!("a header of {length} bytes is more than {MAX_HEADER}")));
    }
    let data = 8 + length;
    if data > size {
        return Err(EngineError::Truncated { file: file.into(), size, expected: data });
    }
    let mut json = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    read(8, &mut json)?;
    let metadata: Metadata =
        serde_json::from_slice(&json).map_err(|error| EngineError::format(file, format!("header: {error}")))?;
    let expected = data.saturating_add(metadata.data_len() as u64);
    if size < expected {
        return Err(EngineError::Truncated { file: file.into(), size, expected });
    }
    if size > expected {
        return Err(EngineError::format(file, format!("{} bytes after the last tensor", size - expected)));
    }
    let file: Arc<str> = file.into();
    let entry = |info: &safetensors::tensor::TensorInfo| Entry {
        file: Arc::clone(&file),
        shape: info.shape.clone(),
        offset: data + info.data_offsets.0 as u64,
        bytes: (info.data_offsets.1 - info.data_offsets.0) as u64,
        stored: stored(info.dtype),
        order: RowOrder::Plain,
    };
    Ok(metadata.tensors().into_iter().map(|(name, info)| (name, entry(info))).collect())
}

fn stored(dtype: Dtype) -> Stored {
    match dtype {
        Dtype::F32 => Stored::Float(DType::F32),
        Dtype::BF16 => Stored::Float(DType::BF16),
        Dtype::F16 => Stored::Float(DType::F16),
        other => Stored::Other(format!("{other:?}")),
    }
}
