//! The filter `tojson` as transformers defines it: Python's `json.dumps` without escapes for HTML.

use minijinja::value::{Rest, ValueKind, ValueOrKwargs};
use minijinja::{Error, Value};

use super::arguments::{Arguments, described};
use super::python::{self, MAX_DEPTH, check_length, refuse};

/// Widest indentation.
const MAX_INDENT: i64 = 256;

/// Writes a value as JSON: `tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
///
/// # Errors
/// An argument is wrong, or the value has a part that is no JSON.
pub(super) fn tojson(value: &Value, arguments: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let arguments = Arguments::bind(&arguments.into_values(), ["ensure_ascii", "indent", "separators", "sort_keys"])?;
    let indent = arguments.get(1).map(read_indent).transpose()?.flatten();
    let (item, key) = match arguments.get(2).filter(|separators| !separators.is_none()) {
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
        Some(separators) => read_separators(separators)?,
    };
    let ascii = arguments.truth(0, false);
    let mut writer = Writer { ascii, indent, item, key, sorted: arguments.truth(3, false), out: String::new() };
    writer.write(value, 0)?;
    Ok(Value::from(writer.out))
}

/// Writes a value as JSON with an indentation.
///
/// # Errors
/// The value has a part that is no JSON.
pub(in crate::text) fn to_json(value: &Value, indent: usize) -> Result<String, Error> {
    let (item, key) = (",".to_owned(), ": ".to_owned());
    let indent = Some(" ".repeat(indent));
    let mut writer = Writer { ascii: false, indent, item, key, sorted: false, out: String::new() };
    writer.write(value, 0)?;
    Ok(writer.out)
}

/// Returns the text of one level of indentation. A number counts spaces.
fn read_indent(value: &Value) -> Result<Option<String>, Error> {
    match value.kind() {
        ValueKind::None => Ok(None),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            check_indent(text.len() as i64)?;
            Ok(Some(text.to_owned()))
        }
        ValueKind::Number | ValueKind::Bool => {
            let width = value.as_i64().filter(|_| value.kind() == ValueKind::Bool || value.is_integer());
            let width =
                width.ok_or_else(|| refuse(format!("`indent` is {}: expected a whole number", described(value))))?;
            check_indent(width)?;
            Ok(Some(" ".repeat(width.max(0) as usize)))
        }
        _ => Err(refuse(format!("`indent` is {}: expected a number or a text", described(value)))),
    }
}

pub(super) fn check_indent(width: i64) -> Result<(), Error> {
    match width <= MAX_INDENT {
        true => Ok(()),
        false => Err(refuse(format!("an indentation of {width} is more than {MAX_INDENT}"))),
    }
}

/// Returns the texts between items, and between a key and its value.
fn read_separators(value: &Value) -> Result<(String, String), Error> {
    let parts: Vec<Value> = value.try_iter()?.collect();
    match &parts[..] {
        [item, key] => match (item.as_str(), key.as_str()) {
            (Some(item), Some(key)) => Ok((item.to_owned(), key.to_owned())),
            _ => Err(refuse("`separators` are two texts, e.g. (',', ':')")),
        },
        _ => Err(refuse("`separators` are two texts, e.g. (',', ':')")),
    }
}

struct Writer {
    ascii: bool,
    indent: Option<String>,
    item: String,
    key: String,
    sorted: bool,
    out: String,
}

impl Writer {
    fn write(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(refuse(format!("a value of more than {MAX_DEPTH} levels")));
        }
        check_length(self.out.len())?;
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&number(value)),
            ValueKind::String => self.write_text(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => self.write_list(value, depth)?,
            ValueKind::Map => self.write_object(value, depth)?,
            _ => return Err(refuse(format!("a value {} is no JSON", described(value)))),
        }
        Ok(())
    }

    fn write_list(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.out.push('[');
        let mut is_empty = true;
        for item in value.try_iter()?.checked() {
            let item = item?;
            self.begin_item(std::mem::take(&mut is_empty), depth + 1);
            self.write(&item, depth + 1)?;
        }
        self.end(is_empty, ']', depth);
        Ok(())
    }

    fn write_object(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        let mut keys = value.try_iter()?.checked().collect::<Result<Vec<Value>, Error>>()?;
        if self.sorted {
            keys.sort();
        }
        self.out.push('{');
        for (at, key) in keys.iter().enumerate() {
            self.begin_item(at == 0, depth + 1);
            self.write_text(&key_text(key)?);
            self.out.push_str(&self.key);
            self.write(&value.get_item(key)?, depth + 1)?;
        }
        self.end(keys.is_empty(), '}', depth);
        Ok(())
    }

    fn begin_item(&mut self, is_first: bool, depth: usize) {
        if !is_first {
            self.out.push_str(&self.item);
        }
        self.begin_line(depth);
    }

    fn end(&mut self, is_empty: bool, close: char, depth: usize) {
        if !is_empty {
            self.begin_line(depth);
        }
        self.out.push(close);
    }

    fn begin_line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            (0..depth).for_each(|_| self.out.push_str(indent));
        }
    }

    fn write_text(&mut self, text: &str) {
        self.out.push('"');
        for char in text.chars() {
            match char {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{C}' => self.out.push_str("\\f"),
                '\0'..='\u{1F}' => self.write_escaped(char),
                ' '..='~' => self.out.push(char),
                _ if self.ascii => self.write_escaped(char),
                _ => self.out.push(char),
            }
        }
        self.out.push('"');
    }

    /// Writes a character as its UTF-16 escapes.
    fn write_escaped(&mut self, char: char) {
        for unit in char.encode_utf16(&mut [0; 2]) {
            self.out.push_str(&format!("\\u{unit:04x}"));
        }
    }
}

/// Returns a number as JSON. Python also writes those that JSON lacks.
fn number(value: &Value) -> String {
    match python::number(value).as_str() {
        "nan" => "NaN".into(),
        "inf" => "Infinity".into(),
        "-inf" => "-Infinity".into(),
        text => text.into(),
    }
}

/// Returns a key as text. Python allows texts, numbers, truths and `none` as keys.
fn key_text(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::Number => Ok(number(key)),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.into()),
        ValueKind::None => Ok("null".into()),
        _ => Err(refuse(format!("a key {} is no JSON", described(key)))),
    }
}
