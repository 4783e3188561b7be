//! Fields of a request's JSON object, and of the objects inside it. The module `body` reads them from a request.
//!
//! An endpoint takes each field that it obeys. [`known`] has the rule for the others: a field without an effect is
//! taken, a field that cannot be obeyed is refused unless its value asks for nothing, and [`Unknown`] notes a field that
//! nobody knows. One answer names all fields at fault, in the order of the body.

mod kinds;
pub(crate) mod known;
mod taken;
mod unknown;

use std::collections::HashMap;

use axum::http::StatusCode;
use serde_json::{Map, Value};

use self::kinds::describe_kind;
pub(crate) use self::kinds::{FromField, other_kind, read_kind};
use self::known::{Scope, Verdict, judge};
pub(crate) use self::taken::{TokenSpelling, take_top};
pub(crate) use self::unknown::{Unknown, report};
use super::error::ApiError;
use crate::guard::BodyMemory;

/// Most faults that one answer names.
const MAX_FAULTS: usize = 16;
/// Longest part of an unknown name that an answer, a header or the log shows, in characters.
const MAX_NAME_CHARS: usize = 96;

/// Fault of a field that nobody knows, if the server refuses such fields.
const UNKNOWN: &str = "no such field: check its spelling, or leave it out (the server runs with --strict-fields)";

/// Fields of one object. A field that is `null` counts as absent.
#[derive(Debug)]
pub(crate) struct Fields {
    scope: Scope,
    /// Path of the object in the request: empty, or as in `messages[0]`.
    path: String,
    /// A field that was taken is `null`, so that the others keep their order.
    fields: Map<String, Value>,
    faults: Vec<ApiError>,
    unknown: Unknown,
    /// Set if a header has the request's id.
    is_named: bool,
    /// Memory of the body that the fields come from.
    _memory: Option<BodyMemory>,
}

impl Fields {
    /// Parses the body.
    ///
    /// # Errors
    /// The body is no JSON object.
    pub(crate) fn parse(body: &[u8], unknown: Unknown) -> Result<Self, ApiError> {
        let value: Value = serde_json::from_slice(body)
            .map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, format!("the body is not JSON: {error}")))?;
        match value {
            Value::Object(fields) => Ok(Self {
                scope: Scope::Request,
                path: String::new(),
                fields,
                faults: Vec::new(),
                unknown,
                is_named: false,
                _memory: None,
            }),
            other => Err(ApiError::new(
                StatusCode::BAD_REQUEST,
                format!("the body must be a JSON object, not {}", describe_kind(&other, "a JSON object")),
            )),
        }
    }

    /// Lets a header have the request's id if `is_named` is set. The id of the body does not count then.
    pub(crate) fn named_by_header(self, is_named: bool) -> Self {
        Self { is_named, ..self }
    }

    /// Keeps the memory of the body until all fields are read.
    pub(in crate::http) fn in_memory(self, memory: BodyMemory) -> Self {
        Self { _memory: Some(memory), ..self }
    }

    /// Returns the fields of an object inside this one. [`Self::close`] ends the work on the inner object.
    pub(crate) fn open(&self, scope: Scope, path: impl Into<String>, fields: Map<String, Value>) -> Self {
        let (path, unknown) = (path.into(), self.unknown.clone());
        Self { scope, path, fields, faults: Vec::new(), unknown, is_named: false, _memory: None }
    }

    /// Judges the fields of an inner object that were not taken, and adopts its faults.
    pub(crate) fn close(&mut self, mut inner: Self) {
        inner.judge_rest();
        inner.faults.into_iter().for_each(|fault| self.add_fault(fault));
    }

    /// Adopts the faults of an inner object whose fields may have any name. Returns those that were not taken.
    pub(crate) fn close_open(&mut self, mut inner: Self) -> Map<String, Value> {
        std::mem::take(&mut inner.faults).into_iter().for_each(|fault| self.add_fault(fault));
        inner.fields.retain(|_, value| !value.is_null());
        inner.fields
    }

    /// Takes a field. Returns `None` if the field is absent.
    ///
    /// # Errors
    /// The field has another type.
    pub(crate) fn take_field<T: FromField>(&mut self, name: &str) -> Result<Option<T>, ApiError> {
        let Some(value) = self.take_value(name) else { return Ok(None) };
        read_kind(value).map(Some).map_err(|reason| self.fault(name, reason))
    }

    /// Takes a field as [`Self::take_field`] does. Notes a fault and returns `None` if the field has another type.
    pub(crate) fn read<T: FromField>(&mut self, name: &str) -> Option<T> {
        let taken = self.take_field(name);
        self.note(taken)
    }

    /// Returns true if the object has the field and no one has taken it.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.fields.get(name).is_some_and(|value| !value.is_null())
    }

    /// Takes a field of any type.
    pub(crate) fn take_value(&mut self, name: &str) -> Option<Value> {
        self.fields.get_mut(name).map(Value::take).filter(|value| !value.is_null())
    }

    /// Returns the error for a field of this object.
    pub(crate) fn fault(&self, name: &str, reason: impl std::fmt::Display) -> ApiError {
        ApiError::field(self.path_of(name), reason)
    }

    /// Returns the path of a field in the request.
    pub(crate) fn path_of(&self, name: &str) -> String {
        let separator = if self.path.is_empty() { "" } else { "." };
        format!("{}{separator}{name}", self.path)
    }

    /// Returns the value, or notes the fault and returns the default.
    pub(crate) fn note<T: Default>(&mut self, result: Result<T, ApiError>) -> T {
        result.unwrap_or_else(|fault| {
            self.add_fault(fault);
            T::default()
        })
    }

    /// Adds a fault, unless there are more than an answer names. A hostile body has any number of them.
    fn add_fault(&mut self, fault: ApiError) {
        if self.faults.len() <= MAX_FAULTS {
            self.faults.push(fault);
        }
    }

    /// Takes fields by a function that may fail, and notes its fault.
    pub(crate) fn noting<T: Default>(&mut self, take: impl FnOnce(&mut Self) -> Result<T, ApiError>) -> T {
        let taken = take(self);
        self.note(taken)
    }

    /// Returns true if the server refuses what it would leave out of account.
    pub(crate) fn is_strict(&self) -> bool {
        self.unknown.is_strict()
    }

    /// Judges a field that nobody knows, of an object at `path` inside the request.
    pub(crate) fn judge_unknown(&mut self, path: &str, name: &str) {
        let name: String = name.chars().take(MAX_NAME_CHARS).collect();
        if !self.is_strict() {
            return self.ignore(&format!("{}.", without_places(path)), &name);
        }
        self.add_fault(ApiError::field(format!("{path}.{name}"), UNKNOWN));
    }

    /// Notes that a part of the request is left out of account.
    pub(crate) fn ignore(&self, path: &str, name: &str) {
        self.unknown.add(path, name);
    }

    /// Ends the work on the request: judges the fields that were not taken.
    ///
    /// # Errors
    /// Names all fields at fault.
    pub(crate) fn refuse_rest(mut self) -> Result<(), ApiError> {
        self.judge_rest();
        if self.faults.is_empty() {
            return Ok(());
        }
        let places: HashMap<&str, usize> =
            self.fields.keys().enumerate().map(|(at, name)| (name.as_str(), at)).collect();
        let place = |fault: &ApiError| {
            let path = fault.param.as_deref().unwrap_or_default();
            let name = path.split(['.', '[']).next().unwrap_or_default();
            places.get(path).or_else(|| places.get(name)).copied()
        };
        self.faults.sort_by_key(place);
        Err(join(self.faults))
    }

    /// Judges the fields that were not taken.
    fn judge_rest(&mut self) {
        let mut faults = Vec::new();
        for (name, value) in self.fields.iter().filter(|(_, value)| !value.is_null()) {
            let reason = match judge(self.scope, name, value) {
                Verdict::Taken => continue,
                Verdict::Refused(reason) => reason,
                Verdict::Unknown if self.unknown.is_strict() => UNKNOWN.into(),
                Verdict::Unknown => {
                    self.unknown.add(self.scope.path(), name);
                    continue;
                }
            };
            let name: String = name.chars().take(MAX_NAME_CHARS).collect();
            faults.push(self.fault(&name, reason));
            if faults.len() > MAX_FAULTS {
                break;
            }
        }
        faults.into_iter().for_each(|fault| self.add_fault(fault));
    }
}

/// Returns a path without the places in its lists: `a[].b` for `a[3].b`.
fn without_places(path: &str) -> String {
    let mut inside = false;
    let is_kept = |letter: &char| {
        inside = if *letter == '[' { true } else { inside && *letter != ']' };
        !inside || *letter == '['
    };
    path.chars().filter(is_kept).collect()
}

/// Returns one error that names all faults, at least one. Its `param` is that of the first fault.
fn join(faults: Vec<ApiError>) -> ApiError {
    let more = faults.len().saturating_sub(MAX_FAULTS);
    let mut faults = faults.into_iter().take(MAX_FAULTS);
    let Some(mut first) = faults.next() else { return ApiError::new(StatusCode::BAD_REQUEST, "a field is wrong") };
    for fault in faults {
        first.message.push_str("; ");
        first.message.push_str(&fault.message);
    }
    if more > 0 {
        first.message.push_str("; and more");
    }
    first
}

#[cfg(test)]
mod tests;
