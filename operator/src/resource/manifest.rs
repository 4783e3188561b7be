//! Reads one `InferenceCluster` from a YAML file. What it returns was judged by the CRD and has its defaults.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use lockstep_proto::names::resource::{GROUP, KIND, VERSION};
use serde::Deserialize;
use serde_json::Value;

use super::lines::line_of;
use super::{InferenceCluster, crd, judge};

/// Largest manifest that is read: the API server takes no larger object either.
pub const MAX_MANIFEST_BYTES: u64 = 1536 * 1024;

/// Why a file is no `InferenceCluster`.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("cannot read {file}: {source}")]
    Read { file: String, source: io::Error },
    #[error("{file} has more than {MAX_MANIFEST_BYTES} bytes, which is no manifest that a cluster would take")]
    TooLarge { file: String },
    #[error("{file} is not YAML: {source}")]
    Syntax { file: String, source: serde_yaml::Error },
    #[error("{file} is empty; write an {KIND} into it")]
    Empty { file: String },
    #[error("{file} holds {count} documents; keep one {KIND} in a file and split it at `---`")]
    Several { file: String, count: usize },
    #[error("{file} holds {found}; this command takes an {KIND} of {GROUP}/{VERSION}")]
    OtherKind { file: String, found: String },
    #[error("{file} is not valid:{}", listed(problems))]
    Invalid { file: String, problems: Vec<Problem> },
    #[error("bring {file} into the program's types: {source}")]
    Types { file: String, source: serde_json::Error },
}

/// One violation, with its place in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// From 1; `None` where it cannot be told.
    pub line: Option<usize>,
    /// The field; empty: the whole document.
    pub path: String,
    pub message: String,
}

fn listed(problems: &[Problem]) -> String {
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
/// As `parse`, and where the file cannot be read.
pub fn load(path: &Path) -> Result<InferenceCluster, ManifestError> {
    let file = path.display().to_string();
    let read = |source| ManifestError::Read { file: file.clone(), source };
    let mut bytes = Vec::new();
    // A pipe or a device does not say how long it is.
    let opened = File::open(path).and_then(|from| from.take(MAX_MANIFEST_BYTES + 1).read_to_end(&mut bytes));
    if opened.map_err(read)? as u64 > MAX_MANIFEST_BYTES {
        return Err(ManifestError::TooLarge { file });
    }
    let text = String::from_utf8(bytes).map_err(|error| read(io::Error::new(io::ErrorKind::InvalidData, error)))?;
    parse(&text, &file)
}

/// Parses and judges `text`; `file` names it in messages.
///
/// # Errors
/// Not YAML, not one document, another kind, or against the CRD: then every problem with its line.
pub fn parse(text: &str, file: &str) -> Result<InferenceCluster, ManifestError> {
    let file = file.to_owned();
    let object = match document(text, &file)? {
        object if is_ours(&object) => object,
        other => return Err(ManifestError::OtherKind { found: what_is(&other), file }),
    };
    let types = |source| ManifestError::Types { file: file.clone(), source };
    let crd = serde_json::to_value(crd()).map_err(types)?;
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let judged = judge(schema, &object, None).map_err(|violations| {
        let place = |violation: judge::Violation| Problem {
            line: line_of(text, &violation.path),
            path: violation.path,
            message: violation.message,
        };
        let mut problems: Vec<_> = violations.into_iter().map(place).collect();
        problems.sort_by_key(|problem| problem.line);
        ManifestError::Invalid { file: file.clone(), problems }
    })?;
    serde_json::from_value(judged).map_err(types)
}

/// The one document of `text` that is not empty.
fn document(text: &str, file: &str) -> Result<Value, ManifestError> {
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

fn is_ours(object: &Value) -> bool {
    object["kind"] == KIND && object["apiVersion"] == format!("{GROUP}/{VERSION}")
}

fn what_is(object: &Value) -> String {
    match (object["kind"].as_str(), object["apiVersion"].as_str()) {
        (Some(KIND), Some(version)) => format!("an {KIND} of {version}"),
        (Some(kind), Some(version)) => format!("a {kind} of {version}"),
        (Some(kind), None) => format!("a {kind} without apiVersion"),
        (None, _) if object.is_object() => "a mapping without kind".into(),
        _ => "no mapping".into(),
    }
}
