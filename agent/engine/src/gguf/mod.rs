//! GGUF files. One file holds configuration, tokenizer, chat template and weights.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, versions 2 and 3, little-endian. The header is
//! read here with a bound on everything. `GgufFiles` turns it into the files of a model folder, so nothing else knows the
//! format.

mod config;
mod family;
mod files;
mod header;
mod names;
mod pre_tokenizer;
mod reader;
mod rope;
mod tensors;
mod tokenizer;
mod value;

pub(crate) use files::{GgufFiles, is_gguf, only_gguf, read_parts};
pub(crate) use names::in_gguf;
pub(crate) use tensors::entries;

use crate::EngineError;
use crate::config::ModelConfig;
use crate::source::read_slice;
use config::config;
use header::Header;
use rope::RopeFactors;
use tokenizer::{tokenizer, tokenizer_config};

/// Name of a file that is only bytes, for errors.
const FILE: &str = "model.gguf";

/// Returns the `tokenizer.json` that the vocabulary of a GGUF file means. The file may have no tensors.
///
/// # Errors
/// [`EngineError::Format`] naming the key or offset, [`EngineError::Truncated`].
pub fn tokenizer_json(bytes: &[u8]) -> Result<Vec<u8>, EngineError> {
    let header = Header::parse(FILE, bytes.len() as u64, |offset, buffer| read_slice(FILE, bytes, offset, buffer))?;
    Ok(tokenizer(&header)?.to_string().into_bytes())
}

/// Reads a header from bytes, and makes of it all that a file's header becomes, for fuzzing. No bytes may cause a panic.
///
/// # Errors
/// [`EngineError::Format`] naming the key or offset, [`EngineError::Truncated`], [`EngineError::Architecture`],
/// [`EngineError::Config`].
pub fn check_bytes(bytes: &[u8]) -> Result<(), EngineError> {
    let read = |offset: u64, buffer: &mut [u8]| read_slice(FILE, bytes, offset, buffer);
    let header = Header::parse(FILE, bytes.len() as u64, read)?;
    let rope = RopeFactors::from_header(&header, &mut |tensor, buffer| read(tensor.offset, buffer))?;
    let json = config(&header, &rope)?;
    ModelConfig::parse(json.to_string().as_bytes())?;
    tokenizer(&header)?;
    tokenizer_config(&header)?;
    entries(&header)?;
    Ok(())
}
