//! Arguments of the functions, filters and methods that Python has, by position or by name.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

use super::python::{refuse, text};

/// Widest text that padding may make, in characters.
const MAX_WIDTH: i64 = 1 << 16;

/// Arguments of one call, in the order of the parameters.
pub(super) struct Arguments<const N: usize> {
    names: [&'static str; N],
    values: [Option<Value>; N],
}

impl<const N: usize> Arguments<N> {
    /// Assigns the arguments to parameters as Python does.
    ///
    /// # Errors
    /// There are more arguments than parameters, or a name that no parameter has.
    pub(super) fn bind(arguments: &[Value], names: [&'static str; N]) -> Result<Self, Error> {
        let (positional, named) = split_named(arguments);
        if positional.len() > N {
            let reason = format!("{} arguments instead of at most {N}", positional.len());
            return Err(Error::new(ErrorKind::TooManyArguments, reason));
        }
        let mut values = [const { None }; N];
        for (value, argument) in values.iter_mut().zip(positional) {
            *value = Some(argument.clone());
        }
        for (name, argument) in named {
            match names.iter().position(|known| *known == name) {
                Some(at) if values[at].is_none() => values[at] = Some(argument),
                Some(_) => return Err(refuse(format!("the argument `{name}` is given twice"))),
                None => return Err(refuse(format!("there is no argument `{name}`: known are {}", names.join(", ")))),
            }
        }
        Ok(Self { names, values })
    }

    /// Returns the value of a parameter, or `None` if the call leaves it out.
    pub(super) fn get(&self, at: usize) -> Option<&Value> {
        self.values[at].as_ref()
    }

    /// Returns a value that the call must give.
    pub(super) fn required(&self, at: usize) -> Result<&Value, Error> {
        self.get(at).ok_or_else(|| refuse(format!("the argument `{}` is missing", self.names[at])))
    }

    /// Returns a text that the call must give.
    pub(super) fn text(&self, at: usize) -> Result<&str, Error> {
        as_text(self.required(at)?, self.names[at])
    }

    /// Returns a text, or `None` if the call leaves it out or gives `none`.
    pub(super) fn optional_text(&self, at: usize) -> Result<Option<&str>, Error> {
        self.given(at).map(|value| as_text(value, self.names[at])).transpose()
    }

    /// Returns a whole number, or `None` if the call leaves it out or gives `none`.
    pub(super) fn number(&self, at: usize) -> Result<Option<i64>, Error> {
        self.given(at).map(|value| as_number(value, self.names[at])).transpose()
    }

    /// Returns a width in characters. A negative width is 0.
    pub(super) fn width(&self, at: usize) -> Result<Option<usize>, Error> {
        self.number(at)?.map(check_width).transpose()
    }

    /// Returns true if the value is true. Left out, it is `default`.
    pub(super) fn truth(&self, at: usize, default: bool) -> bool {
        self.get(at).map_or(default, Value::is_true)
    }

    fn given(&self, at: usize) -> Option<&Value> {
        self.get(at).filter(|value| !value.is_none())
    }
}

/// Splits the arguments by name off the end.
pub(super) fn split_named(arguments: &[Value]) -> (&[Value], Vec<(String, Value)>) {
    let Some((last, positional)) = arguments.split_last().filter(|(last, _)| last.is_kwargs()) else {
        return (arguments, Vec::new());
    };
    let Ok(named) = Kwargs::try_from(last.clone()) else { return (arguments, Vec::new()) };
    let named = named.args().map(|name| (name.to_owned(), named.peek::<Value>(name).unwrap_or_default()));
    (positional, named.collect())
}

/// Returns the width if it is not too large.
pub(super) fn check_width(width: i64) -> Result<usize, Error> {
    match width {
        ..=MAX_WIDTH => Ok(width.max(0) as usize),
        _ => Err(refuse(format!("a width of {width} is more than {MAX_WIDTH}"))),
    }
}

fn as_text<'a>(value: &'a Value, name: &str) -> Result<&'a str, Error> {
    value.as_str().ok_or_else(|| refuse(format!("`{name}` is {}: expected a text", described(value))))
}

fn as_number(value: &Value, name: &str) -> Result<i64, Error> {
    let whole = value.is_integer() || value.kind() == ValueKind::Bool;
    let number = value.as_i64().filter(|_| whole);
    number.ok_or_else(|| refuse(format!("`{name}` is {}: expected a whole number", described(value))))
}

/// Returns a short description of a value for an error.
pub(super) fn described(value: &Value) -> String {
    match value.kind() {
        ValueKind::None | ValueKind::Bool | ValueKind::Number => text(value).unwrap_or_default().into_owned(),
        kind => format!("of type {kind}"),
    }
}
