//! Python's formatting by `%`.

use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Tuple, ValueKind};
use minijinja::{Error, Value};

use super::arguments::{check_width, described, split_named};
use super::python::{check_length, refuse, repr, text};

/// Formats as `format % value` does: the values of a tuple one after the other, else the one value, whose keys `%(key)s`
/// names.
///
/// # Errors
/// The format is wrong, or the values do not fit the format.
pub(super) fn percent(format: &str, value: &Value) -> Result<Value, Error> {
    let values = match value.is_tuple() {
        true => value.try_iter()?.checked().collect::<Result<Vec<Value>, Error>>()?,
        false => vec![value.clone()],
    };
    let mut fields = Fields { rest: format, values: &values, used: 0, out: String::new() };
    fields.write_all()?;
    // Python ignores a list or a mapping that the format does not use.
    if fields.used < values.len() && (value.is_tuple() || value.as_object().is_none()) {
        return Err(refuse("the format does not use all values"));
    }
    Ok(Value::from(fields.out))
}

/// Formats as the filter `format` does: values by position, or else by name.
///
/// # Errors
/// As [`percent`].
pub(super) fn format_filter(format: &str, arguments: &[Value]) -> Result<Value, Error> {
    let (positional, named) = split_named(arguments);
    match (positional.is_empty(), named.is_empty()) {
        (false, false) => Err(refuse("values by position and values by name exclude each other")),
        (true, false) => percent(format, &Value::from_pairs(named)),
        _ => percent(format, &Value::from(Tuple::from(positional.to_vec()))),
    }
}

struct Fields<'a> {
    rest: &'a str,
    values: &'a [Value],
    used: usize,
    out: String,
}

/// Flags, width and precision of a field.
struct Spec {
    flags: String,
    width: Option<usize>,
    precision: Option<usize>,
}

impl Fields<'_> {
    fn write_all(&mut self) -> Result<(), Error> {
        while let Some((before, field)) = self.rest.split_once('%') {
            self.out.push_str(before);
            self.rest = field;
            match self.rest.strip_prefix('%') {
                Some(rest) => {
                    self.out.push('%');
                    self.rest = rest;
                }
                None => self.write_field()?,
            }
            check_length(self.out.len())?;
        }
        self.out.push_str(self.rest);
        Ok(())
    }

    fn write_field(&mut self) -> Result<(), Error> {
        let key = match self.rest.strip_prefix('(') {
            None => None,
            Some(rest) => {
                let (key, rest) = rest.split_once(')').ok_or_else(|| refuse("a key of the format has no end"))?;
                self.rest = rest;
                Some(key)
            }
        };
        let mut spec = Spec { flags: self.take_while(|char| "#0- +".contains(char)), width: None, precision: None };
        spec.width = self.take_number()?;
        if let Some(rest) = self.rest.strip_prefix('.') {
            self.rest = rest;
            spec.precision = Some(self.take_number()?.unwrap_or(0));
        }
        self.take_while(|char| "hlL".contains(char));
        let mut chars = self.rest.chars();
        let kind = chars.next().ok_or_else(|| refuse("the format ends within a field"))?;
        self.rest = chars.as_str();
        let value = match key {
            None => self.take_value()?,
            Some(key) => self.find_value(key)?,
        };
        let written = spec.write(kind, &value)?;
        self.out.push_str(&written);
        Ok(())
    }

    fn take_while(&mut self, takes: impl Fn(char) -> bool) -> String {
        let (taken, rest) = self.rest.split_at(self.rest.find(|char| !takes(char)).unwrap_or(self.rest.len()));
        self.rest = rest;
        taken.to_owned()
    }

    /// Takes a number, or the value for `*`.
    fn take_number(&mut self) -> Result<Option<usize>, Error> {
        if let Some(rest) = self.rest.strip_prefix('*') {
            self.rest = rest;
            let value = self.take_value()?;
            let number = value.as_i64().filter(|_| value.is_integer());
            return check_width(number.ok_or_else(|| refuse("`*` needs a whole number"))?).map(Some);
        }
        match self.take_while(|char| char.is_ascii_digit()).as_str() {
            "" => Ok(None),
            digits => check_width(digits.parse().unwrap_or(i64::MAX)).map(Some),
        }
    }

    fn take_value(&mut self) -> Result<Value, Error> {
        let value = self.values.get(self.used).ok_or_else(|| refuse("the format needs more values"))?;
        self.used += 1;
        Ok(value.clone())
    }

    fn find_value(&self, key: &str) -> Result<Value, Error> {
        let mapping = self.values.first().filter(|values| values.kind() == ValueKind::Map);
        let value = mapping.ok_or_else(|| refuse("the format needs a mapping"))?.get_item(&Value::from(key))?;
        match value.is_undefined() {
            true => Err(refuse(format!("the mapping has no `{key}`"))),
            false => Ok(value),
        }
    }
}

impl Spec {
    fn write(&self, kind: char, value: &Value) -> Result<String, Error> {
        let wrong = || refuse(format!("`%{kind}` cannot write {}", described(value)));
        match kind {
            's' => Ok(self.pad(&text(value)?)),
            'r' | 'a' => {
                let written = repr(value)?;
                Ok(self.pad(&if kind == 'a' { in_ascii(&written) } else { written }))
            }
            'd' | 'i' | 'u' => {
                let whole = match value.kind() {
                    ValueKind::Bool => Value::from(i64::from(value.is_true())),
                    ValueKind::Number if value.is_integer() => value.clone(),
                    ValueKind::Number => {
                        let fraction = f64::try_from(value.clone())?;
                        Value::from(fraction.is_finite().then_some(fraction as i128).ok_or_else(wrong)?)
                    }
                    _ => return Err(wrong()),
                };
                self.write_number('d', &whole)
            }
            'o' | 'x' | 'X' if value.is_integer() => self.write_number(kind, value),
            'e' | 'E' | 'f' | 'F' | 'g' | 'G' if value.is_number() => self.write_number(kind, value),
            'c' if value.is_integer() || value.as_str().is_some() => self.write_number(kind, value),
            'o' | 'x' | 'X' | 'e' | 'E' | 'f' | 'F' | 'g' | 'G' | 'c' => Err(wrong()),
            _ => Err(refuse(format!("`%{kind}` is no conversion"))),
        }
    }

    fn write_number(&self, kind: char, value: &Value) -> Result<String, Error> {
        let width = self.width.map(|width| width.to_string()).unwrap_or_default();
        let precision = match self.precision {
            Some(precision) if "eEfFgG".contains(kind) => format!(".{precision}"),
            Some(_) => return Err(refuse(format!("`%{kind}` takes no precision"))),
            None => String::new(),
        };
        format(FormatStyle::Printf, &format!("%{}{width}{precision}{kind}", self.flags), std::slice::from_ref(value))
    }

    /// Cuts a text to the precision and fills it to the width.
    fn pad(&self, text: &str) -> String {
        let text: String = text.chars().take(self.precision.unwrap_or(usize::MAX)).collect();
        let fill = " ".repeat(self.width.unwrap_or(0).saturating_sub(text.chars().count()));
        if self.flags.contains('-') { text + &fill } else { fill + &text }
    }
}

/// Writes the characters beyond ASCII as Python's escapes.
fn in_ascii(text: &str) -> String {
    let mut out = String::new();
    for char in text.chars() {
        match u32::from(char) {
            ..=0x7F => out.push(char),
            code @ ..=0xFF => out.push_str(&format!("\\x{code:02x}")),
            code @ ..=0xFFFF => out.push_str(&format!("\\u{code:04x}")),
            code => out.push_str(&format!("\\U{code:08x}")),
        }
    }
    out
}
