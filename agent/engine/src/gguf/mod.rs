//! GGUF files: one file that holds configuration, tokenizer, chat template and weights.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, versions 2 and 3, little-endian. The header is
//! read here with a bound on everything; what it says is turned into the files that a model folder has
//! (`GgufFiles`), so that nothing else knows the format.

mod config;
mod family;
mod files;
mod header;
mod names;
mod reader;
mod rope;
mod tensors;
mod tokenizer;
mod value;

pub(crate) use files::{GgufFiles, is_gguf, only_gguf, read_header};
pub(crate) use tensors::entries;

use crate::EngineError;
use crate::config::ModelConfig;
use crate::source::read_slice;
use config::config;
use header::Header;
use rope::RopeFactors;
use tokenizer::{tokenizer, tokenizer_config};

/// Reads a header from bytes and all that is made of it, for fuzzing: nothing may panic, whatever the bytes are.
///
/// # Errors
/// What is wrong with the bytes, by key or offset.
pub fn check_bytes(bytes: &[u8]) -> Result<(), EngineError> {
    const FILE: &str = "model.gguf";
    let mut read = |offset: u64, buffer: &mut [u8]| read_slice(FILE, bytes, offset, buffer);
    let header = Header::parse(FILE, bytes.len() as u64, read)?;
    let json = config(&header, &RopeFactors::read(&header, &mut read)?)?;
    ModelConfig::parse(json.to_string().as_bytes())?;
    tokenizer(&header)?;
    tokenizer_config(&header)?;
    entries(&header)?;
    Ok(())
}
