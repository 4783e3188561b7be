//! Methods of Python's types that minijinja's own imitation of them lacks or does otherwise. The methods that change a
//! list or a dictionary are missing, because transformers forbids them too.

use minijinja::value::ValueKind;
use minijinja::{Error, State, Value};

use super::arguments::Arguments;
use super::meter;
use super::python::refuse;
use super::strings;

/// Calls a method of a value that has no attribute of this name.
pub(super) fn call(state: &mut State, value: &Value, method: &str, arguments: &[Value]) -> Result<Value, Error> {
    spend_call(state, value, method, arguments)?;
    let made = call_free(state, value, method, arguments)?;
    meter::spend_text(state, &made)?;
    meter::listed(state, made)
}

/// Spends the arguments of a call, and the list that it is about to make.
fn spend_call(state: &mut State, value: &Value, method: &str, arguments: &[Value]) -> Result<(), Error> {
    meter::spend(state, meter::CALL_BYTES)?;
    arguments.iter().try_for_each(|argument| meter::spend_text(state, argument))?;
    meter::spend_text(state, value)?;
    match value.as_str() {
        Some(text) if method.contains("split") => {
            meter::spend_count(state, strings::count_parts(text, method, arguments))
        }
        None if matches!(method, "count" | "index") => meter::spend_deep(state, value),
        _ => Ok(()),
    }
}

fn call_free(state: &mut State, value: &Value, method: &str, arguments: &[Value]) -> Result<Value, Error> {
    let own = match value.kind() {
        ValueKind::String => strings::call(value.as_str().unwrap_or_default(), method, arguments)?,
        ValueKind::Seq | ValueKind::Iterable => call_list(value, method, arguments)?,
        ValueKind::Map if method == "copy" => {
            Arguments::bind(arguments, [])?;
            Some(value.clone())
        }
        ValueKind::Number if method == "is_integer" => {
            Arguments::bind(arguments, [])?;
            Some(Value::from(f64::try_from(value.clone())?.fract() == 0.0))
        }
        _ => None,
    };
    match own {
        Some(result) => Ok(result),
        None => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, arguments),
    }
}

fn call_list(value: &Value, method: &str, arguments: &[Value]) -> Result<Option<Value>, Error> {
    match method {
        "copy" => {
            Arguments::bind(arguments, [])?;
            Ok(Some(value.clone()))
        }
        "count" => {
            let arguments = Arguments::bind(arguments, ["value"])?;
            let wanted = arguments.required(0)?;
            let mut count = 0;
            for item in value.try_iter()?.checked() {
                count += usize::from(item? == *wanted);
            }
            Ok(Some(Value::from(count)))
        }
        "index" => {
            let arguments = Arguments::bind(arguments, ["value", "start", "stop"])?;
            let items = value.try_iter()?.checked().collect::<Result<Vec<Value>, Error>>()?;
            let (start, stop) = strings::bounds(items.len(), arguments.number(1)?, arguments.number(2)?);
            let wanted = arguments.required(0)?;
            let at = items.iter().take(stop).skip(start).position(|item| item == wanted);
            at.map(|at| Some(Value::from(start + at))).ok_or_else(|| refuse("the value is not in the list"))
        }
        _ => Ok(None),
    }
}
