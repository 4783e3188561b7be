//! GGUF files: one file that holds configuration, tokenizer, chat template and weights.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, versions 2 and 3, little-endian. The header is
//! read here with a bound on everything; what it says is turned into the files that a model folder has
//! (`source::GgufFiles`), so that nothing else knows the format.

mod config;
mod header;
mod reader;
mod tensors;
mod tokenizer;
mod value;

pub(crate) use config::config;
pub(crate) use header::Header;
pub(crate) use tensors::entries;
pub(crate) use tokenizer::{tokenizer, tokenizer_config};

/// Reads a header from bytes and all that is made of it, for fuzzing: nothing may panic, whatever the bytes are.
///
/// # Errors
/// What is wrong with the bytes, by key or offset.
pub fn check_bytes(bytes: &[u8]) -> Result<(), crate::EngineError> {
    let header = Header::parse("model.gguf", bytes.len() as u64, |offset, buffer| {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let truncated = || crate::EngineError::Truncated {
            file: "model.gguf".into(),
            size: bytes.len() as u64,
            expected: offset.saturating_add(buffer.len() as u64),
        };
        let end = start.checked_add(buffer.len()).ok_or_else(truncated)?;
        buffer.copy_from_slice(bytes.get(start..end).ok_or_else(truncated)?);
        Ok(())
    })?;
    let json = config(&header, None)?;
    crate::config::ModelConfig::parse(json.to_string().as_bytes())?;
    tokenizer(&header)?;
    tokenizer_config(&header)?;
    entries(&header)?;
    Ok(())
}
