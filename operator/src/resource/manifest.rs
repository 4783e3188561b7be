//! Reads one `InferenceCluster` from a YAML file, judges it by the CRD and fills in the defaults.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use lockstep_proto::names::resource::{GROUP, KIND, VERSION};
use serde::Deserialize;
use serde_json::Value;

use super::lines::line_of;
use super::{InferenceCluster, crd, judge};

/// Largest manifest in bytes that is read. The API server accepts no larger object either.
pub const MAX_MANIFEST_BYTES: u64 = 1536 * 1024;

/// Reason why a file is not a valid `InferenceCluster`.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("cannot read {file}: {source}")]
    Read { file: String, source: io::Error },
    #[error("{file} has more than {MAX_MANIFEST_BYTES} bytes; the API server accepts no manifest of this size")]
    TooLarge { file: String },
    #[error("{file} is not YAML: {source}")]
    Syntax { file: String, source: serde_yaml::Error },
    #[error("{file} is empty; write an {KIND} to the file")]
    Empty { file: String },
    #[error("{file} has {count} documents; split the file at `---` and keep one {KIND} in each file")]
    Several { file: String, count: usize },
    #[error("{file} holds {found}; this command takes an {KIND} of {GROUP}/{VERSION}")]
    OtherKind { file: String, found: String },
    #[error("{file} is not valid:{}", list_problems(problems))]
    Invalid { file: String, problems: Vec<Problem> },
    #[error("cannot convert {file} to an {KIND}: {source}")]
    Types { file: String, source: serde_json::Error },
}

/// One violation, with its line in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line in the file, from 1. `None` if the line is not known.
    pub line: Option<usize>,
    /// Path of the field. Empty for the whole document.
    pub path: String,
    pub message: String,
}

fn list_problems(problems: &[Problem]) -> String {
    let one = |problem: &Problem| {
        let line = problem.line.map(|line| format!("line {line}: ")).unwrap_or_default();
        let path = if problem.path.is_empty() { String::new() } else { format!("{}: ", problem.path) };
        format!("\n  {line}{path}{}", problem.message)
    };
    problems.iter().map(one).collect()
}

/// Reads and judges the file at `path`.
///
/// # Errors
/// Fails if the file cannot be read, is too large, or is refused by `parse`.
pub fn load(path: &Path) -> Result<InferenceCluster, ManifestError> {
    let file = path.display().to_string();
    let cannot_read = |source| ManifestError::Read { file: file.clone(), source };
    let mut bytes = Vec::new();
    // The size of a pipe or a device is not known beforehand.
    let length = File::open(path).and_then(|from| from.take(MAX_MANIFEST_BYTES + 1).read_to_end(&mut bytes));
    if length.map_err(cannot_read)? as u64 > MAX_MANIFEST_BYTES {
        return Err(ManifestError::TooLarge { file });
    }
    let text =
        String::from_utf8(bytes).map_err(|error| cannot_read(io::Error::new(io::ErrorKind::InvalidData, error)))?;
    parse(&text, &file)
}

/// Parses and judges `text`. Messages call it `file`.
///
/// # Errors
/// Fails if `text` is not YAML, not exactly one document, or of another kind. If the CRD refuses the document, the
/// error lists every problem with its line.
pub fn parse(text: &str, file: &str) -> Result<InferenceCluster, ManifestError> {
    let file = file.to_owned();
    let object = read_document(text, &file)?;
    if !is_inference_cluster(&object) {
        return Err(ManifestError::OtherKind { found: name_kind(&object), file });
    }
    let cannot_convert = |source| ManifestError::Types { file: file.clone(), source };
    let crd = serde_json::to_value(crd()).map_err(cannot_convert)?;
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let judged = judge(schema, &object, None).map_err(|violations| {
        let with_line = |violation: judge::Violation| Problem {
            line: line_of(text, &violation.path),
            path: violation.path,
            message: violation.message,
        };
        let mut problems: Vec<_> = violations.into_iter().map(with_line).collect();
        problems.sort_by_key(|problem| problem.line);
        ManifestError::Invalid { file: file.clone(), problems }
    })?;
    serde_json::from_value(judged).map_err(cannot_convert)
}

/// Returns the only document of `text` that is not empty.
fn read_document(text: &str, file: &str) -> Result<Value, ManifestError> {
    let mut documents = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let value = serde_yaml::Value::deserialize(document)
            .and_then(|value| serde_json::to_value(value).map_err(serde::de::Error::custom))
            .map_err(|source| ManifestError::Syntax { file: file.to_owned(), source })?;
        if !value.is_null() {
            documents.push(value);
        }
    }
    match (documents.len(), documents.pop()) {
        (1, Some(document)) => Ok(document),
        (0, _) | (_, None) => Err(ManifestError::Empty { file: file.to_owned() }),
        (count, _) => Err(ManifestError::Several { file: file.to_owned(), count }),
    }
}

fn is_inference_cluster(object: &Value) -> bool {
    object["kind"] == KIND && object["apiVersion"] == format!("{GROUP}/{VERSION}")
}

/// Names the kind of a document that is not an `InferenceCluster` of this version.
fn name_kind(object: &Value) -> String {
    match (object["kind"].as_str(), object["apiVersion"].as_str()) {
        (Some(KIND), Some(version)) => format!("an {KIND} of {version}"),
        (Some(kind), Some(version)) => format!("a {kind} of {version}"),
        (Some(kind), None) => format!("a {kind} without apiVersion"),
        (None, _) if object.is_object() => "a mapping without kind".into(),
        _ => "a document that is not a mapping".into(),
    }
}
