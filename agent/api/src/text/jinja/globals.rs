//! Functions, objects and tests of Jinja2 that minijinja lacks or does otherwise. Jinja2's `lipsum` is left out: no
//! prompt is random.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use minijinja::value::{Object, ObjectRepr, Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value, functions};

use super::arguments::{Arguments, described, split_named};
use super::meter::{self, metered, metered_list};
use super::operators::{CONCATENATE, ITERATE, KEEP, KEEP_FIELD, MODULO, MULTIPLY, ROUND, SLICE, SUM};
use super::printf;
use super::python::{self, Number, check_length, refuse, text};
use crate::text::clock::Clock;

type Others = Rest<ValueOrKwargs>;

/// Longest format of a time, in bytes.
const MAX_TIME_FORMAT: usize = 1000;
/// Bytes of a namespace with a few fields.
const NAMESPACE_BYTES: usize = 1024;

/// Adds functions and tests to an environment.
pub(super) fn add(environment: &mut Environment) {
    environment.remove_global("debug");
    environment.add_function("raise_exception", |message: Value| -> Result<Value, Error> {
        Err(refuse(text(&message)?.into_owned()))
    });
    environment.add_function("strftime_now", |format: String| match format.len() <= MAX_TIME_FORMAT {
        true => Ok(Clock::default().now(&format)),
        false => Err(refuse(format!("a format of more than {MAX_TIME_FORMAT} bytes"))),
    });
    environment.add_function(MODULO, metered(modulo));
    environment.add_function(CONCATENATE, metered(concatenate));
    environment.add_function(SUM, meter::sum);
    environment.add_function(MULTIPLY, meter::multiply);
    environment.add_function(SLICE, meter::slice);
    environment.add_function(KEEP, meter::keep);
    environment.add_function(KEEP_FIELD, meter::keep_field);
    environment.add_function(ROUND, |state: &mut State, bytes: usize| meter::spend(state, bytes));
    environment.add_function(ITERATE, |values: Value| match values.is_none() {
        true => Err(refuse("a loop over none")),
        false => Ok(values),
    });
    environment.add_function("dict", metered_list(dict));
    environment.add_function("namespace", |state: &mut State, fields: Option<ValueOrKwargs>| {
        meter::spend(state, NAMESPACE_BYTES)?;
        functions::namespace(fields)
    });
    environment.add_function("cycler", |state: &mut State, items: Rest<Value>| match items.is_empty() {
        true => Err(refuse("at least one item has to be provided")),
        false => {
            meter::spend(state, NAMESPACE_BYTES)?;
            Ok(Value::from_object(Cycler { items: items.to_vec(), at: AtomicUsize::new(0) }))
        }
    });
    environment.add_function("joiner", |state: &mut State, others: Others| {
        meter::spend(state, NAMESPACE_BYTES)?;
        let arguments = Arguments::bind(&others.into_values(), ["sep"])?;
        Ok::<_, Error>(minijinja_contrib::globals::joiner(arguments.get(0).cloned()))
    });
    environment.add_test("iterable", is_iterable);
    environment.add_test("sequence", |value: Value| {
        matches!(value.kind(), ValueKind::Undefined | ValueKind::String | ValueKind::Seq | ValueKind::Map)
            || value.kind() == ValueKind::Iterable && value.len().is_some()
    });
    environment.add_test("callable", |value: Value| matches!(value.kind(), ValueKind::Plain));
    environment.add_test("divisibleby", |value: Value, divisor: Value| {
        modulo(value, divisor).map(|rest| rest == Value::from(0))
    });
}

/// Returns true for values that are iterable in Python: a string is, `None` is not.
fn is_iterable(value: &Value) -> bool {
    !value.is_none() && (value.as_str().is_some() || value.try_iter().is_ok())
}

/// Returns `left % right`: the rest of a division with the sign of the divisor, or a formatted text.
fn modulo(left: Value, right: Value) -> Result<Value, Error> {
    if let Some(format) = left.as_str() {
        return printf::percent(format, &right);
    }
    let (Some(dividend), Some(divisor)) = (python::as_number(&left), python::as_number(&right)) else {
        return Err(refuse(format!("cannot compute {} % {}", described(&left), described(&right))));
    };
    match (dividend, divisor) {
        (_, divisor) if divisor.as_fraction() == 0.0 => Err(refuse("the divisor of % is 0")),
        (Number::Whole(dividend), Number::Whole(divisor)) => {
            let rest = dividend.wrapping_rem(divisor);
            let rest = if rest != 0 && (rest < 0) != (divisor < 0) { rest + divisor } else { rest };
            Ok(python::whole(rest))
        }
        (dividend, divisor) => {
            let divisor = divisor.as_fraction();
            let rest = dividend.as_fraction() % divisor;
            Ok(Value::from(if rest != 0.0 && (rest < 0.0) != (divisor < 0.0) { rest + divisor } else { rest }))
        }
    }
}

/// Returns `a ~ b ~ …`: the texts of all values, joined.
fn concatenate(values: Rest<Value>) -> Result<Value, Error> {
    let mut joined = String::new();
    for value in values.iter() {
        joined.push_str(&text(value)?);
        check_length(joined.len())?;
    }
    Ok(Value::from(joined))
}

/// Makes a dictionary of a mapping or of pairs, and of arguments by name.
fn dict(arguments: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let arguments = arguments.into_values();
    let (positional, named) = split_named(&arguments);
    let mut pairs: Vec<(Value, Value)> = match positional {
        [] => Vec::new(),
        [value] if value.kind() == ValueKind::Map => {
            let keys = value.try_iter()?.checked();
            keys.map(|key| key.and_then(|key| Ok((key.clone(), value.get_item(&key)?))))
                .collect::<Result<_, Error>>()?
        }
        [value] => {
            let pair = |item: Value| match <[Value; 2]>::try_from(item.try_iter()?.collect::<Vec<Value>>()) {
                Ok([key, value]) => Ok((key, value)),
                Err(_) => Err(refuse(format!("an item is {}: expected a pair", described(&item)))),
            };
            value.try_iter()?.checked().map(|item| pair(item?)).collect::<Result<_, Error>>()?
        }
        _ => return Err(refuse("`dict` takes one mapping")),
    };
    pairs.extend(named.into_iter().map(|(name, value)| (Value::from(name), value)));
    Ok(Value::from_pairs(pairs))
}

/// Values that `next()` returns in turn.
#[derive(Debug)]
struct Cycler {
    items: Vec<Value>,
    at: AtomicUsize,
}

impl Object for Cycler {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let current = || self.items.get(self.at.load(Ordering::Relaxed)).cloned();
        key.as_str().filter(|name| *name == "current").and_then(|_| current())
    }

    fn call_method(
        self: &Arc<Self>,
        _state: &mut State<'_, '_>,
        method: &str,
        arguments: &[Value],
    ) -> Result<Value, Error> {
        Arguments::bind(arguments, [])?;
        let at = self.at.load(Ordering::Relaxed);
        match method {
            "next" => {
                self.at.store((at + 1) % self.items.len(), Ordering::Relaxed);
                Ok(self.items[at].clone())
            }
            "reset" => {
                self.at.store(0, Ordering::Relaxed);
                Ok(Value::from(()))
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }
}
