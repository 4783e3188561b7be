//! Objects inside a request.

use serde_json::{Map, Value};

use super::error::ApiError;
use super::fields::{Fields, FromField, other_kind, read_kind};

/// An object inside a request, with its path for errors. A field that is `null` counts as absent.
#[derive(Debug)]
pub(super) struct Object {
    path: String,
    fields: Map<String, Value>,
}

impl Object {
    /// Reads an object.
    ///
    /// # Errors
    /// The value is no object. `expected` describes the object.
    pub(super) fn new(path: impl Into<String>, value: Value, expected: &str) -> Result<Self, ApiError> {
        let path = path.into();
        match value {
            Value::Object(mut fields) => {
                fields.retain(|_, value| !value.is_null());
                Ok(Self { path, fields })
            }
            other => Err(ApiError::field(path, other_kind(&other, expected))),
        }
    }

    /// Takes the object of a field. Returns `None` if the field is absent.
    ///
    /// # Errors
    /// The field is no object.
    pub(super) fn take(fields: &mut Fields, name: &str) -> Result<Option<Self>, ApiError> {
        fields.take_value(name).map(|value| Self::new(name, value, "an object")).transpose()
    }

    /// Takes a field. Returns `None` if the field is absent.
    ///
    /// # Errors
    /// The field has another type.
    pub(super) fn field<T: FromField>(&mut self, name: &str) -> Result<Option<T>, ApiError> {
        let Some(value) = self.fields.remove(name) else { return Ok(None) };
        read_kind(value).map(Some).map_err(|reason| self.error(name, reason))
    }

    /// Takes a field that must be present.
    ///
    /// # Errors
    /// The field is absent or has another type.
    pub(super) fn required<T: FromField>(&mut self, name: &str) -> Result<T, ApiError> {
        self.field(name)?.ok_or_else(|| self.error(name, format!("missing: send {}", T::EXPECTED)))
    }

    /// Takes a field of any type.
    pub(super) fn value(&mut self, name: &str) -> Option<Value> {
        self.fields.remove(name)
    }

    /// Returns an error for one of the fields.
    pub(super) fn error(&self, name: &str, reason: impl std::fmt::Display) -> ApiError {
        ApiError::field(self.field_path(name), reason)
    }

    pub(super) fn field_path(&self, name: &str) -> String {
        format!("{}.{name}", self.path)
    }

    /// Checks fields that this server knows and does not obey.
    ///
    /// # Errors
    /// Names a field that asks for something.
    pub(super) fn refuse_unsupported(&mut self, table: &[Unsupported]) -> Result<(), ApiError> {
        for unsupported in table {
            if let Some(value) = self.fields.remove(unsupported.name) {
                unsupported.check(&self.field_path(unsupported.name), &value)?;
            }
        }
        Ok(())
    }

    /// Leaves the fields that were not taken to `rest`, which knows the rule for unknown fields.
    pub(super) fn leave_rest(self, rest: &mut Fields) {
        for name in self.fields.keys() {
            rest.judge_unknown(&self.path, name);
        }
    }
}

/// A known field that this server does not obey.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unsupported {
    pub name: &'static str,
    /// Values that ask for nothing, as JSON.
    pub neutral: &'static [&'static str],
    /// Advice to the client. `None` if every value asks for nothing.
    pub remedy: Option<&'static str>,
}

impl Unsupported {
    /// Makes a field with no effect on the answer.
    pub(super) const fn taken(name: &'static str) -> Self {
        Self { name, neutral: &[], remedy: None }
    }

    /// Makes a field that would change the answer.
    pub(super) const fn refused(name: &'static str, neutral: &'static [&'static str], remedy: &'static str) -> Self {
        Self { name, neutral, remedy: Some(remedy) }
    }

    /// Checks a value of the field at `path`.
    ///
    /// # Errors
    /// The value asks for something.
    pub(super) fn check(&self, path: &str, value: &Value) -> Result<(), ApiError> {
        let is_neutral = |neutral: &&str| serde_json::from_str::<Value>(neutral).is_ok_and(|neutral| neutral == *value);
        match self.remedy {
            Some(remedy) if !self.neutral.iter().any(is_neutral) => {
                Err(ApiError::field(path, format!("not supported: {remedy}")))
            }
            _ => Ok(()),
        }
    }
}

/// Returns a content: a text, or a list of text parts of one of `kinds`, which are joined by line ends.
///
/// # Errors
/// Names the malformed part.
pub(super) fn parse_content(path: &str, value: Option<Value>, kinds: &[&str]) -> Result<String, ApiError> {
    let parts = match value {
        Some(Value::String(text)) => return Ok(text),
        Some(Value::Array(parts)) => parts,
        _ => return Err(ApiError::field(path, "expected a string or a list of text parts")),
    };
    let first = kinds.first().copied().unwrap_or_default();
    let part = |(at, part): (usize, Value)| match (part["type"].as_str(), part["text"].as_str()) {
        (Some(kind), Some(text)) if kinds.contains(&kind) => Ok(text.to_owned()),
        (Some(kind), _) if !kinds.contains(&kind) => {
            let kind: String = kind.chars().take(64).collect();
            Err(ApiError::field(format!("{path}[{at}].type"), format!("{kind:?} is not supported: send {first:?}")))
        }
        _ => {
            Err(ApiError::field(format!("{path}[{at}]"), format!("expected an object with type {first:?} and a text")))
        }
    };
    let texts: Vec<String> = parts.into_iter().enumerate().map(part).collect::<Result<_, _>>()?;
    Ok(texts.join("\n"))
}

/// Checks fields of the request that this server knows and does not obey.
///
/// # Errors
/// Names a field that asks for something.
pub(super) fn refuse_unsupported(fields: &mut Fields, table: &[Unsupported]) -> Result<(), ApiError> {
    for unsupported in table {
        if let Some(value) = fields.take_value(unsupported.name) {
            unsupported.check(unsupported.name, &value)?;
        }
    }
    Ok(())
}
