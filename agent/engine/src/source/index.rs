//! The weight files of a model: one, or several that an index names.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::ModelFiles;
use crate::EngineError;
use crate::json;

pub(super) const SINGLE_FILE: &str = "model.safetensors";
/// Name of the weights of a GGUF file, or of its first part, however the file itself is called.
pub const GGUF_FILE: &str = "model.gguf";
/// Name of the index of a sharded model.
pub(super) const INDEX_FILE: &str = "model.safetensors.index.json";

/// The weight files of a model.
#[derive(Debug)]
pub struct Index {
    file: Option<&'static str>,
    shards: Vec<String>,
}

#[derive(Deserialize)]
struct RawIndex {
    weight_map: BTreeMap<String, String>,
}

/// Returns the name of part `index` of a GGUF file, counted from 0.
pub fn gguf_part(index: usize) -> String {
    if index == 0 { GGUF_FILE.to_owned() } else { format!("model-{:05}.gguf", index + 1) }
}

impl Index {
    /// Finds `model.safetensors`, a GGUF file, or the files that the index names, in order of name.
    ///
    /// # Errors
    /// [`EngineError::Missing`] if there is none of them, [`EngineError::Format`] for a malformed index.
    pub fn from_files(files: &dyn ModelFiles) -> Result<Self, EngineError> {
        if files.size(SINGLE_FILE)?.is_some() {
            return Ok(Self { file: None, shards: vec![SINGLE_FILE.into()] });
        }
        if files.size(GGUF_FILE)?.is_some() {
            let mut shards = vec![GGUF_FILE.to_owned()];
            while files.size(&gguf_part(shards.len()))?.is_some() {
                shards.push(gguf_part(shards.len()));
            }
            return Ok(Self { file: None, shards });
        }
        let Some(text) = files.read_all(INDEX_FILE)? else {
            return Err(EngineError::Missing { file: SINGLE_FILE.into(), origin: files.source().into() });
        };
        let raw: RawIndex = json::parse(INDEX_FILE, &text)?;
        let shards: BTreeSet<String> = raw.weight_map.into_values().collect();
        if shards.is_empty() {
            return Err(EngineError::format(INDEX_FILE, "it names no weight file"));
        }
        Ok(Self { file: Some(INDEX_FILE), shards: shards.into_iter().collect() })
    }

    /// Returns the name of the index, if there is one.
    pub fn file(&self) -> Option<&str> {
        self.file
    }

    /// Returns the names of the weight files; at least one.
    pub fn shards(&self) -> &[String] {
        &self.shards
    }
}
