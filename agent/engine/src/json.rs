//! JSON files of a model, as Python writes them.

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::EngineError;

/// Numbers that Python's `json` writes and JSON does not have.
const PYTHON_NUMBERS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// Parses the JSON file `file`. A byte order mark is skipped. `NaN` and `Infinity` are accepted at keys that nothing reads.
///
/// # Errors
/// [`EngineError::Format`] naming the file and the key.
pub(crate) fn parse<T: DeserializeOwned>(file: &str, bytes: &[u8]) -> Result<T, EngineError> {
    let text = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let wrong = |error: serde_json::Error| EngineError::format(file, error.to_string());
    let value = serde_json::from_slice(text).or_else(|error| match quote_python_numbers(text) {
        Cow::Borrowed(_) => Err(error),
        Cow::Owned(quoted) => serde_json::from_slice(&quoted),
    });
    from_value(file, value.map_err(wrong)?)
}

/// Turns JSON of the file `file` into a type.
///
/// # Errors
/// [`EngineError::Format`] naming the file and the key.
pub(crate) fn from_value<T: DeserializeOwned>(file: &str, value: Value) -> Result<T, EngineError> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let (path, cause) = (error.path().to_string(), error.into_inner());
        EngineError::format(file, if path == "." { cause.to_string() } else { format!("`{path}`: {cause}") })
    })
}

/// Puts quotes around Python's numbers outside of strings. So a key that must be a number names them in its error.
fn quote_python_numbers(text: &[u8]) -> Cow<'_, [u8]> {
    let mut quoted = Vec::new();
    let (mut rest, mut in_string, mut found) = (text, false, false);
    while let Some((first, after)) = rest.split_first() {
        let number = PYTHON_NUMBERS.iter().find(|number| !in_string && rest.starts_with(number.as_bytes()));
        if let Some(number) = number {
            quoted.extend_from_slice(format!("\"{number}\"").as_bytes());
            rest = &rest[number.len()..];
            found = true;
            continue;
        }
        quoted.push(*first);
        rest = after;
        if in_string && *first == b'\\' {
            quoted.extend(rest.first());
            rest = rest.get(1..).unwrap_or_default();
        } else if *first == b'"' {
            in_string = !in_string;
        }
    }
    if found { Cow::Owned(quoted) } else { Cow::Borrowed(text) }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    struct Model {
        size: Option<usize>,
        name: Option<String>,
    }

    #[test]
    fn files_are_read_as_python_writes_them() {
        let parse = |text: &str| parse::<Model>("f.json", text.as_bytes()).map_err(|error| error.to_string());
        let model = |size, name: &str| Ok(Model { size: Some(size), name: Some(name.into()) });
        assert_eq!(parse("\u{FEFF}{\"size\": 3, \"name\": \"a\"}"), model(3, "a"));
        assert_eq!(
            parse(r#"{"loss": NaN, "size": 3, "x": [-Infinity, 1], "name": "NaN \" Infinity"}"#),
            model(3, "NaN \" Infinity")
        );
        for (text, expected) in [
            (r#"{"size": Infinity}"#, "f.json: `size`: invalid type: string \"Infinity\""),
            (r#"{"size": -1}"#, "f.json: `size`: invalid value: integer `-1`"),
            (r#"{"size": 1"#, "f.json: EOF"),
            (r#"{"size": NaN"#, "f.json: EOF"),
            ("[]", "f.json: invalid length 0"),
        ] {
            let message = parse(text).unwrap_err();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }
}
