//! The header of one safetensors file.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::DType;
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use crate::EngineError;
use crate::source::ModelFiles;

/// Largest header, the format's own bound.
const MAX_HEADER: u64 = 100_000_000;

/// Where a tensor lies.
#[derive(Debug)]
pub struct Entry {
    pub file: Arc<str>,
    pub shape: Vec<usize>,
    /// Of its first byte, from the start of the file.
    pub offset: u64,
    stored: Dtype,
}

impl Entry {
    /// Type as a tensor's; `name` is for the error.
    pub fn dtype(&self, name: &str) -> Result<DType, EngineError> {
        match self.stored {
            Dtype::F32 => Ok(DType::F32),
            Dtype::BF16 => Ok(DType::BF16),
            Dtype::F16 => Ok(DType::F16),
            _ => Err(self.refuse_dtype(name)),
        }
    }

    /// The error for a type that cannot be used.
    pub fn refuse_dtype(&self, name: &str) -> EngineError {
        EngineError::Dtype { tensor: name.into(), file: self.file.to_string(), found: format!("{:?}", self.stored) }
    }

    /// Bytes of its data.
    pub fn bytes(&self) -> u64 {
        (self.shape.iter().product::<usize>() * self.stored.bitsize() / 8) as u64
    }
}

/// Reads and checks the header of `file`: its tensors lie side by side and fill the file exactly.
///
/// # Errors
/// [`EngineError::Missing`], [`EngineError::Truncated`], [`EngineError::Format`].
pub fn read(files: &dyn ModelFiles, file: &str) -> Result<HashMap<String, Entry>, EngineError> {
    let missing = || EngineError::Missing { file: file.into(), origin: files.source().into() };
    let size = files.size(file)?.ok_or_else(missing)?;
    let mut length = [0; 8];
    files.read_at(file, 0, &mut length)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER {
        return Err(EngineError::format(file, format!("a header of {length} bytes is more than {MAX_HEADER}")));
    }
    let data = 8 + length;
    if data > size {
        return Err(EngineError::Truncated { file: file.into(), size, expected: data });
    }
    let mut json = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    files.read_at(file, 8, &mut json)?;
    let metadata: Metadata =
        serde_json::from_slice(&json).map_err(|error| EngineError::format(file, format!("header: {error}")))?;
    let expected = data + metadata.data_len() as u64;
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
        stored: info.dtype,
    };
    Ok(metadata.tensors().into_iter().map(|(name, info)| (name, entry(info))).collect())
}
