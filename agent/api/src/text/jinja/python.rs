//! Values as Python's `str` and `repr` write them.

use std::borrow::Cow;

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

/// Longest text that one operation of a template may make, in bytes: that of the longest request.
pub(super) const MAX_TEXT: usize = 16 << 20;
/// Most levels of lists and dictionaries that are written. A namespace may hold itself.
pub(super) const MAX_DEPTH: usize = 256;

/// Returns the error of an operation that Python refuses as well.
pub(super) fn refuse(reason: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}

/// Fails if a text is longer than [`MAX_TEXT`].
pub(super) fn check_length(bytes: usize) -> Result<(), Error> {
    match bytes <= MAX_TEXT {
        true => Ok(()),
        false => Err(refuse(format!("a text of more than {MAX_TEXT} bytes"))),
    }
}

/// Returns `str(value)`. An undefined value is an empty text.
///
/// # Errors
/// The value is nested too deeply, or its text is too long.
pub(super) fn text(value: &Value) -> Result<Cow<'_, str>, Error> {
    if let Some(text) = value.as_str() {
        return Ok(Cow::Borrowed(text));
    }
    if value.is_undefined() {
        return Ok(Cow::Borrowed(""));
    }
    repr(value).map(Cow::Owned)
}

/// Returns `repr(value)`.
///
/// # Errors
/// The value is nested too deeply, or its text is too long.
pub(super) fn repr(value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    write_repr(value, 0, &mut out)?;
    Ok(out)
}

fn write_repr(value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(refuse(format!("a value of more than {MAX_DEPTH} levels")));
    }
    check_length(out.len())?;
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::Number => out.push_str(&number(value)),
        ValueKind::String => write_quoted(value.as_str().unwrap_or_default(), out),
        ValueKind::Seq | ValueKind::Iterable => {
            let is_tuple = value.is_tuple();
            out.push(if is_tuple { '(' } else { '[' });
            let mut count = 0;
            for item in value.try_iter()?.checked() {
                if count > 0 {
                    out.push_str(", ");
                }
                write_repr(&item?, depth + 1, out)?;
                count += 1;
            }
            out.push_str(match (is_tuple, count) {
                (true, 1) => ",)",
                (true, _) => ")",
                (false, _) => "]",
            });
        }
        ValueKind::Map => {
            out.push('{');
            for (at, key) in value.try_iter()?.checked().enumerate() {
                let key = key?;
                if at > 0 {
                    out.push_str(", ");
                }
                write_repr(&key, depth + 1, out)?;
                out.push_str(": ");
                write_repr(&value.get_item(&key)?, depth + 1, out)?;
            }
            out.push('}');
        }
        _ => out.push_str(&value.to_string()),
    }
    Ok(())
}

/// A number as Python computes with it. A truth is 0 or 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Number {
    Whole(i128),
    Fraction(f64),
}

impl Number {
    pub(super) fn as_fraction(self) -> f64 {
        match self {
            Self::Whole(number) => number as f64,
            Self::Fraction(number) => number,
        }
    }
}

/// Returns the number, or `None` for another value and for a number beyond 128 bits.
pub(super) fn as_number(value: &Value) -> Option<Number> {
    match value.kind() {
        ValueKind::Bool => Some(Number::Whole(value.is_true().into())),
        ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok().map(Number::Whole),
        ValueKind::Number => f64::try_from(value.clone()).ok().map(Number::Fraction),
        _ => None,
    }
}

/// Returns a whole number as a value.
pub(super) fn whole(number: i128) -> Value {
    i64::try_from(number).map_or_else(|_| Value::from(number), Value::from)
}

/// Returns a number as Python writes it.
pub(super) fn number(value: &Value) -> String {
    match as_number(value) {
        Some(Number::Fraction(fraction)) => float(fraction),
        _ => value.to_string(),
    }
}

/// Returns `repr` of a float: the shortest text that reads as the same number. The exponent has a sign and at least two
/// digits.
pub(super) fn float(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    // Rust turns to exponents at the same sizes as Python.
    let text = format!("{value:?}");
    match text.split_once('e') {
        Some((digits, exponent)) => match exponent.strip_prefix('-') {
            Some(exponent) => format!("{digits}e-{exponent:0>2}"),
            None => format!("{digits}e+{exponent:0>2}"),
        },
        None => text,
    }
}

fn write_quoted(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for char in text.chars() {
        match char {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            _ if char == quote => out.extend(['\\', quote]),
            _ if is_printable(char) => out.push(char),
            _ => match u32::from(char) {
                code @ ..=0xFF => out.push_str(&format!("\\x{code:02x}")),
                code @ ..=0xFFFF => out.push_str(&format!("\\u{code:04x}")),
                code => out.push_str(&format!("\\U{code:08x}")),
            },
        }
    }
    out.push(quote);
}

/// Returns true if `repr` writes the character as it is: it is no control character, no separator but the space, and no
/// unassigned code.
pub(super) fn is_printable(char: char) -> bool {
    // Rust writes the same characters as they are, but for quotes, the backslash, and a combining mark at the beginning.
    matches!(char, ' '..='~') || ["x", char.encode_utf8(&mut [0; 4])].concat().escape_debug().nth(1) != Some('\\')
}

/// Returns true for Python's white space.
pub(super) fn is_space(char: char) -> bool {
    char.is_whitespace() || matches!(char, '\u{1C}'..='\u{1F}')
}

fn is_line_end(char: char) -> bool {
    matches!(char, '\n' | '\r' | '\u{B}' | '\u{C}' | '\u{1C}'..='\u{1E}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// Returns the most lines that a text can have.
pub(super) fn count_lines(text: &str) -> usize {
    text.matches(is_line_end).count() + 1
}

/// Returns the lines of a text with or without their ends, as `splitlines` does.
pub(super) fn lines(text: &str, with_ends: bool) -> Vec<&str> {
    let (mut lines, mut rest) = (Vec::new(), text);
    while let Some(at) = rest.find(is_line_end) {
        let end = match rest[at..].chars().next() {
            Some('\r') if rest[at + 1..].starts_with('\n') => at + 2,
            char => at + char.map_or(1, char::len_utf8),
        };
        lines.push(&rest[..if with_ends { end } else { at }]);
        rest = &rest[end..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected texts are Python's.
    #[test]
    fn floats_are_written_as_python_writes_them() {
        let cases = [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (-0.0, "-0.0"),
            (1e-7, "1e-07"),
            (1e-5, "1e-05"),
            (0.0001, "0.0001"),
            (1e16, "1e+16"),
            (123456789012345.0, "123456789012345.0"),
            (1e15, "1000000000000000.0"),
            (1.5e300, "1.5e+300"),
            (-2.5e-10, "-2.5e-10"),
            (5e-324, "5e-324"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, "nan"),
        ];
        for (value, expected) in cases {
            assert_eq!(float(value), expected);
        }
    }

    #[test]
    fn texts_are_quoted_as_python_quotes_them() {
        let cases = [
            ("a", "'a'"),
            ("it's", "\"it's\""),
            ("'\"", "'\\'\"'"),
            ("\\\n\t\r\0", "'\\\\\\n\\t\\r\\x00'"),
            ("é日🎉", "'é日🎉'"),
            ("\u{A0}\u{AD}\u{200B}\u{2028}\u{E000}\u{10FFFF}", "'\\xa0\\xad\\u200b\\u2028\\ue000\\U0010ffff'"),
            ("e\u{301}", "'e\u{301}'"),
        ];
        for (text, expected) in cases {
            assert_eq!(repr(&Value::from(text)).unwrap(), expected);
        }
    }

    #[test]
    fn lines_end_where_python_ends_them() {
        let cases: [(&str, &[&str]); 5] = [
            ("", &[]),
            ("\n", &[""]),
            ("a\nb", &["a", "b"]),
            ("a\r\nb\rc\n\n", &["a", "b", "c", ""]),
            ("a\u{B}b\u{2028}c\u{85}", &["a", "b", "c"]),
        ];
        for (text, expected) in cases {
            assert_eq!(lines(text, false), expected, "{text:?}");
            assert_eq!(lines(text, true).concat(), text);
        }
    }
}
