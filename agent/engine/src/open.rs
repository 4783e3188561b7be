//! Model sources by their name: a folder, a GGUF file, or the binary itself.

use std::path::Path;
use std::sync::Arc;

use crate::EngineError;
use crate::gguf::{GgufFiles, is_gguf, only_gguf};
use crate::source::{BuiltinFiles, FolderFiles, ModelFiles};

/// Opens `file://PATH`, a plain path, or `builtin://NAME`. A path is a folder, a GGUF file, or a folder that holds one
/// and no checkpoint in safetensors.
///
/// # Errors
/// [`EngineError::Source`] for another scheme, a builtin that does not exist, or a path that is no folder.
pub fn open(source: &str) -> Result<Arc<dyn ModelFiles>, EngineError> {
    let refuse = |reason: &str| EngineError::Source { origin: source.into(), reason: reason.into() };
    match source.split_once("://") {
        Some(("builtin", name)) => Ok(Arc::new(BuiltinFiles::open(source, name)?)),
        Some(("file", path)) => open_path(source, Path::new(path)),
        Some((scheme, _)) => Err(refuse(&format!(
            "scheme `{scheme}` is not read by this agent; use file://FOLDER, a plain path or builtin://tiny"
        ))),
        None if source.is_empty() => Err(refuse("it is empty; use file://FOLDER, a plain path or builtin://tiny")),
        None => open_path(source, Path::new(source)),
    }
}

/// Opens the GGUF model whose parts, in order, have these names among `files`.
///
/// # Errors
/// [`EngineError::Format`], [`EngineError::Truncated`], [`EngineError::Missing`], [`EngineError::Architecture`].
pub fn open_gguf(files: Arc<dyn ModelFiles>, parts: Vec<String>) -> Result<Arc<dyn ModelFiles>, EngineError> {
    Ok(Arc::new(GgufFiles::from_parts(files, parts)?))
}

fn open_path(source: &str, path: &Path) -> Result<Arc<dyn ModelFiles>, EngineError> {
    if is_gguf(path) && path.is_file() {
        return Ok(Arc::new(GgufFiles::open(source, path)?));
    }
    match only_gguf(source, path)? {
        Some(file) => Ok(Arc::new(GgufFiles::open(source, &file)?)),
        None => Ok(Arc::new(FolderFiles::open(source, path)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_that_cannot_be_opened_say_why() {
        let cases = [
            ("hf://org/model", "scheme `hf` is not read"),
            ("", "it is empty"),
            ("/nowhere/at/all", "No such file"),
            ("file:///nowhere/at/all", "No such file"),
            ("builtin://huge", "there is no builtin model `huge`"),
        ];
        for (source, expected) in cases {
            let message = open(source).expect_err(source).to_string();
            assert!(message.contains(expected), "{source}: {message}");
            assert!(message.contains(source), "{source}: {message}");
        }
    }

    #[test]
    fn a_file_in_place_of_a_folder_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let message = open(file.path().to_str().unwrap()).unwrap_err().to_string();
        assert!(message.contains("neither a folder nor a GGUF file"), "{message}");
    }
}
