//! The header of a GGUF file: everything before its tensors' data.

use std::collections::HashMap;
use std::sync::Arc;

use super::reader::{ReadAt, Reader};
use super::value::Value;
use crate::EngineError;
use crate::source::refuse_pointer;

pub const MAGIC: &[u8; 4] = b"GGUF";
/// Bounds on counts, far above any real file.
const MAX_VALUES: u64 = 1 << 16;
const MAX_TENSORS: u64 = 1 << 20;
const MAX_DIMENSIONS: u32 = 4;
const DEFAULT_ALIGNMENT: i64 = 32;

/// A file, or a part of a model in several files.
#[derive(Debug)]
pub struct FilePart {
    pub name: Arc<str>,
    pub size: u64,
}

/// One tensor's entry in the header.
#[derive(Debug, Clone)]
pub struct TensorInfo {
    /// File that holds the tensor.
    pub part: Arc<FilePart>,
    pub name: String,
    /// Sizes with the rows first. The file has them in the opposite order.
    pub shape: Vec<u64>,
    /// Number that ggml has for the type.
    pub kind: u32,
    /// Offset from the start of the file.
    pub offset: u64,
}

/// A checked header: counts are bounded, and every tensor begins inside the file.
#[derive(Debug)]
pub struct Header {
    /// Name of the file, or of the first part, for errors.
    pub file: String,
    values: HashMap<String, Value>,
    pub tensors: Vec<TensorInfo>,
}

impl Header {
    /// Reads the header of a file of `size` bytes through `read`, which fills a buffer from an offset on.
    ///
    /// # Errors
    /// [`EngineError::Format`] naming the key or offset, [`EngineError::Truncated`], and those of reading.
    pub fn parse(
        file: &str,
        size: u64,
        mut read: impl FnMut(u64, &mut [u8]) -> Result<(), EngineError>,
    ) -> Result<Self, EngineError> {
        let mut read = |offset: u64, buffer: &mut [u8]| read(offset, buffer);
        let read: &mut ReadAt<'_> = &mut read;
        let mut reader = Reader::new(file, size, read);
        let magic = reader.array::<4>()?;
        if magic == *b"vers" {
            refuse_pointer(file, b"version ")?;
        }
        if magic != *MAGIC {
            return Err(EngineError::format(file, "it does not begin with GGUF: it is no GGUF file"));
        }
        let version = reader.u32()?;
        if !matches!(version, 2 | 3) {
            let reason =
                format!("GGUF version {version} is not read (2 and 3 are; version 1 and big-endian files are not)");
            return Err(EngineError::format(file, reason));
        }
        let (tensors, values) = (reader.u64()?, reader.u64()?);
        if tensors > MAX_TENSORS || values > MAX_VALUES {
            return Err(reader.wrong(format!("{tensors} tensors and {values} values are more than any model has")));
        }
        let values = read_values(&mut reader, values)?;
        let mut header = Self { file: file.into(), values, tensors: Vec::new() };
        let part = Arc::new(FilePart { name: file.into(), size });
        for _ in 0..tensors {
            header.tensors.push(read_tensor(&mut reader, &part)?);
        }
        header.resolve_offsets(reader.offset(), size)?;
        Ok(header)
    }

    /// Adds the tensors of another part of the same model. The first part has the values of all parts.
    pub fn join(&mut self, part: Self) {
        self.tensors.extend(part.tensors);
    }

    /// Turns offsets in the data into those in the file.
    fn resolve_offsets(&mut self, end: u64, size: u64) -> Result<(), EngineError> {
        let alignment = self.integer("general.alignment")?.unwrap_or(DEFAULT_ALIGNMENT);
        let alignment = match u64::try_from(alignment) {
            Ok(alignment) if alignment > 0 && alignment <= 1 << 20 => alignment,
            _ => return Err(self.wrong("general.alignment", "it must be from 1 to 1048576")),
        };
        let data = end.next_multiple_of(alignment);
        for tensor in &mut self.tensors {
            let offset = data.checked_add(tensor.offset).filter(|offset| *offset <= size);
            let Some(offset) = offset else {
                let (file, expected) = (self.file.clone(), data.saturating_add(tensor.offset));
                return Err(EngineError::Truncated { file, size, expected });
            };
            tensor.offset = offset;
        }
        Ok(())
    }

    /// Returns the error for the value of `key`.
    pub fn wrong(&self, key: &str, reason: impl std::fmt::Display) -> EngineError {
        EngineError::format(&self.file, format!("`{key}`: {reason}"))
    }

    pub fn integer(&self, key: &str) -> Result<Option<i64>, EngineError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Integer(number)) => Ok(Some(*number)),
            // Some converters write one number a layer. Only equal numbers can be used.
            Some(Value::Integers(numbers)) if numbers.windows(2).all(|pair| pair[0] == pair[1]) => {
                Ok(numbers.first().map(|number| i64::from(*number)))
            }
            Some(Value::Integers(_)) => Err(self.wrong(key, "it differs between layers, which is not supported")),
            Some(_) => Err(self.wrong(key, "it is no whole number")),
        }
    }

    /// Returns a number that must be there.
    pub fn need_integer(&self, key: &str) -> Result<i64, EngineError> {
        self.integer(key)?.ok_or_else(|| self.wrong(key, "it is missing"))
    }

    pub fn float(&self, key: &str) -> Result<Option<f64>, EngineError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Float(number)) => Ok(Some(*number)),
            #[expect(clippy::cast_precision_loss, reason = "a number written without a point")]
            Some(Value::Integer(number)) => Ok(Some(*number as f64)),
            Some(_) => Err(self.wrong(key, "it is no number")),
        }
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>, EngineError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.wrong(key, "it is no boolean")),
        }
    }

    pub fn text(&self, key: &str) -> Result<Option<&str>, EngineError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(key, "it is no string")),
        }
    }

    pub fn texts(&self, key: &str) -> Result<Option<&[String]>, EngineError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Strings(texts)) => Ok(Some(texts)),
            Some(_) => Err(self.wrong(key, "it is no array of strings")),
        }
    }

    pub fn integers(&self, key: &str) -> Result<&[i32], EngineError> {
        match self.values.get(key) {
            None => Ok(&[]),
            Some(Value::Integers(numbers)) => Ok(numbers),
            Some(_) => Err(self.wrong(key, "it is no array of whole numbers")),
        }
    }

    pub fn floats(&self, key: &str) -> Result<&[f32], EngineError> {
        match self.values.get(key) {
            None => Ok(&[]),
            Some(Value::Floats(numbers)) => Ok(numbers),
            Some(_) => Err(self.wrong(key, "it is no array of numbers")),
        }
    }

    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}

fn read_values(reader: &mut Reader<'_>, count: u64) -> Result<HashMap<String, Value>, EngineError> {
    let mut values = HashMap::new();
    for _ in 0..count {
        let key = reader.string()?;
        let value = Value::parse(reader).map_err(|error| match error {
            EngineError::Format { file, reason } => EngineError::Format { file, reason: format!("`{key}` {reason}") },
            other => other,
        })?;
        if values.contains_key(&key) {
            return Err(reader.wrong(format!("`{key}` is there twice")));
        }
        values.insert(key, value);
    }
    Ok(values)
}

fn read_tensor(reader: &mut Reader<'_>, part: &Arc<FilePart>) -> Result<TensorInfo, EngineError> {
    let name = reader.string()?;
    let dimensions = reader.u32()?;
    if dimensions > MAX_DIMENSIONS {
        return Err(reader.wrong(format!("tensor `{name}` has {dimensions} dimensions; {MAX_DIMENSIONS} at most")));
    }
    let mut shape = (0..dimensions).map(|_| reader.u64()).collect::<Result<Vec<_>, _>>()?;
    shape.reverse();
    Ok(TensorInfo { part: Arc::clone(part), name, shape, kind: reader.u32()?, offset: reader.u64()? })
}
