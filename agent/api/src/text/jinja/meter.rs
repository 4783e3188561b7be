//! Memory and time of one rendering.
//!
//! The author of a template may be anybody. minijinja's fuel counts instructions, and one instruction can make a text or a
//! list of any length. So each operator, filter, function and method spends the bytes that it reads and makes, and each
//! round of a loop and each call of a macro the bytes that stand between its tags. Nothing is given back: what a rendering
//! holds is less than what it has spent.

use std::time::{Duration, Instant};

use minijinja::functions::Function;
use minijinja::value::{FunctionArgs, FunctionResult, Rest, Tuple, ValueKind, ValueOrKwargs};
use minijinja::{Error, State, Value};

use super::arguments::described;
use super::python::{self, MAX_DEPTH, Number, check_length, refuse};

/// Variable with the number of bytes of the conversation. No template can spell it.
pub(in crate::text) const INPUT: &str = "bytes of the conversation";
/// Bytes that a rendering may spend, and those for each byte of the conversation. Tests are quicker with less.
const BASE_BYTES: usize = if cfg!(test) { 4 << 20 } else { 64 << 20 };
const BYTES_FOR_INPUT: usize = 16;
/// Bytes of an item of a list.
const ITEM_BYTES: usize = size_of::<Value>();
/// Bytes of a call and of a list, beside their values.
pub(super) const CALL_BYTES: usize = 128;
/// Bytes for the visit of a value in a list.
const VISIT_BYTES: usize = 8;
/// Bytes that an instruction of the template engine makes, such as an empty list.
const INSTRUCTION_BYTES: usize = 32;
/// Most items of a list that an operator makes.
const MAX_ITEMS: usize = 1 << 20;
/// Time after which a rendering ends. Operators that only read, such as comparisons of long texts, spend nothing else.
const MAX_TIME: Duration = Duration::from_secs(20);
/// Payments between two looks at the clock.
const CLOCK_INTERVAL: u32 = 64;

/// What a rendering has spent.
struct Meter {
    spent: usize,
    limit: usize,
    payments: u32,
    began: Instant,
}

impl Meter {
    fn of_conversation(bytes: usize) -> Self {
        let limit = BASE_BYTES.saturating_add(bytes.saturating_mul(BYTES_FOR_INPUT));
        Self { spent: 0, limit, payments: 0, began: Instant::now() }
    }
}

/// Spends bytes.
///
/// # Errors
/// The rendering has spent too much, or takes too long.
pub(super) fn spend(state: &mut State, bytes: usize) -> Result<(), Error> {
    let instructions = state.fuel_levels().map_or(0, |(consumed, _)| consumed as usize);
    let meter = match state.get_extension_mut::<Meter>() {
        Some(meter) => meter,
        None => {
            let input = state.lookup(INPUT).and_then(|input| input.as_usize()).unwrap_or_default();
            state.get_or_insert_extension(Meter::of_conversation(input))
        }
    };
    meter.spent = meter.spent.saturating_add(bytes);
    meter.payments = meter.payments.wrapping_add(1);
    if meter.spent.saturating_add(instructions.saturating_mul(INSTRUCTION_BYTES)) > meter.limit {
        return Err(refuse(format!("it makes more than {} bytes of texts and lists", meter.limit)));
    }
    match meter.payments.is_multiple_of(CLOCK_INTERVAL) && meter.began.elapsed() > MAX_TIME {
        true => Err(refuse(format!("it takes more than {} s", MAX_TIME.as_secs()))),
        false => Ok(()),
    }
}

/// Spends the bytes of a text. Other values spend nothing.
pub(super) fn spend_text(state: &mut State, value: &Value) -> Result<(), Error> {
    spend(state, value.as_str().map_or(0, str::len))
}

/// Spends the items of a list of the characters of a text or of the values of a list.
pub(super) fn spend_items(state: &mut State, value: &Value) -> Result<(), Error> {
    spend_count(state, value.as_str().map_or_else(|| count_items(value), str::len))
}

/// Spends a number of items.
pub(super) fn spend_count(state: &mut State, items: usize) -> Result<(), Error> {
    spend(state, items.saturating_mul(ITEM_BYTES))
}

/// Spends the items of the lists in a list that an operation has made.
fn spend_lists(state: &mut State, value: &Value) -> Result<(), Error> {
    if value.kind() != ValueKind::Seq {
        return Ok(());
    }
    let is_list = |item: &Value| matches!(item.kind(), ValueKind::Seq | ValueKind::Iterable);
    let bytes = |item: Value| count_items(&item).saturating_mul(ITEM_BYTES).saturating_add(CALL_BYTES);
    let sum = value.try_iter()?.filter(is_list).map(bytes).fold(0, usize::saturating_add);
    spend(state, sum)
}

/// Returns the number of items of a list or a mapping.
fn count_items(value: &Value) -> usize {
    match value.as_object().map(|_| value.len()) {
        None => 0,
        Some(Some(length)) => length,
        Some(None) => value.try_iter().map_or(0, |items| items.take(MAX_ITEMS + 1).count()),
    }
}

/// Spends all values in a value, and the texts among them.
///
/// # Errors
/// The value has too many levels, or the rendering has spent too much.
pub(super) fn spend_deep(state: &mut State, value: &Value) -> Result<(), Error> {
    walk(state, value, 0, &mut |state, value| spend(state, VISIT_BYTES + value.as_str().map_or(0, str::len)))
}

/// Visits a value and all values in it.
fn walk(
    state: &mut State,
    value: &Value,
    level: usize,
    visit: &mut dyn FnMut(&mut State, &Value) -> Result<(), Error>,
) -> Result<(), Error> {
    if level > MAX_DEPTH {
        return Err(refuse(format!("a value of more than {MAX_DEPTH} levels")));
    }
    visit(state, value)?;
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => {
            value.try_iter()?.checked().try_for_each(|item| walk(state, &item?, level + 1, visit))
        }
        ValueKind::Map => value.try_iter()?.checked().try_for_each(|key| {
            let key = key?;
            walk(state, &key, level + 1, visit)?;
            walk(state, &value.get_item(&key)?, level + 1, visit)
        }),
        _ => Ok(()),
    }
}

/// Spends a sum that the template engine has computed. A sum of lists refers to its parts, and becomes a list of its own
/// after some dozens of them.
///
/// # Errors
/// The sum is too long, or the rendering has spent too much.
pub(super) fn sum(state: &mut State, value: Value) -> Result<Value, Error> {
    spend_text(state, &value)?;
    if value.as_object().is_some() {
        let items = count_items(&value);
        check_items(items)?;
        spend(state, CALL_BYTES + 2 * items)?;
    }
    Ok(value)
}

/// Spends a slice that the template engine has computed. A slice of a list becomes a list of its own.
///
/// # Errors
/// The rendering has spent too much.
pub(super) fn slice(state: &mut State, value: Value) -> Result<Value, Error> {
    spend_text(state, &value)?;
    listed(state, value)
}

/// Returns a list instead of a value that is computed anew each time, and that may refer to more than its items.
///
/// # Errors
/// The rendering has spent too much.
pub(super) fn listed(state: &mut State, value: Value) -> Result<Value, Error> {
    if value.kind() != ValueKind::Iterable {
        return Ok(value);
    }
    spend_items(state, &value)?;
    value.try_iter()?.checked().collect::<Result<Vec<Value>, Error>>().map(Value::from)
}

/// Returns `left * right`: a product, or a text or a list several times.
///
/// # Errors
/// The values have no product, or the rendering has spent too much.
pub(super) fn multiply(state: &mut State, left: Value, right: Value) -> Result<Value, Error> {
    let repeats =
        |value: &Value| value.as_str().is_some() || matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable);
    let impossible = || refuse(format!("cannot compute {} * {}", described(&left), described(&right)));
    let (value, count) = match (repeats(&left), repeats(&right)) {
        (true, false) => (&left, &right),
        (false, true) => (&right, &left),
        _ => return multiply_numbers(&left, &right).ok_or_else(impossible),
    };
    let Some(Number::Whole(count)) = python::as_number(count) else { return Err(impossible()) };
    let count = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
    if let Some(text) = value.as_str() {
        check_length(text.len().saturating_mul(count))?;
        spend(state, text.len() * count)?;
        return Ok(Value::from(text.repeat(count)));
    }
    check_items(count_items(value).saturating_mul(count))?;
    spend(state, CALL_BYTES + count_items(value) * count * ITEM_BYTES)?;
    let items = value.try_iter()?.checked().collect::<Result<Vec<Value>, Error>>()?;
    let items: Vec<Value> = (0..count).flat_map(|_| items.iter().cloned()).collect();
    Ok(if value.is_tuple() { Value::from(Tuple::from(items)) } else { Value::from(items) })
}

fn multiply_numbers(left: &Value, right: &Value) -> Option<Value> {
    match (python::as_number(left)?, python::as_number(right)?) {
        (Number::Whole(left), Number::Whole(right)) => left.checked_mul(right).map(python::whole),
        (left, right) => Some(Value::from(left.as_fraction() * right.as_fraction())),
    }
}

/// Fails if a list is longer than [`MAX_ITEMS`].
pub(super) fn check_items(items: usize) -> Result<(), Error> {
    match items <= MAX_ITEMS {
        true => Ok(()),
        false => Err(refuse(format!("a list of more than {MAX_ITEMS} items"))),
    }
}

/// Returns the value of a variable that a template sets.
///
/// # Errors
/// The value has too many levels: it would take too deep a stack to drop it.
pub(super) fn keep(state: &mut State, value: Value) -> Result<Value, Error> {
    walk(state, &value, 0, &mut |state, _| spend(state, VISIT_BYTES))?;
    Ok(value)
}

/// Returns the value of a namespace's field that a template sets.
///
/// # Errors
/// The value has too many levels, or holds variables: such values could hold each other, and would never be freed.
pub(super) fn keep_field(state: &mut State, value: Value) -> Result<Value, Error> {
    walk(state, &value, 0, &mut |state, value| match holds_variables(value) {
        true => Err(refuse("a field of a namespace cannot be a namespace, a loop or a function")),
        false => spend(state, VISIT_BYTES),
    })?;
    Ok(value)
}

fn holds_variables(value: &Value) -> bool {
    let names = ["::Namespace", "::Loop", "::Macro"];
    value.kind() == ValueKind::Plain
        || value.as_object().is_some_and(|object| names.iter().any(|name| object.type_name().ends_with(name)))
}

/// Returns a function that spends `before` on its arguments, and `after` on its result.
fn metered_by(
    function: Value,
    before: fn(&mut State, &[Value]) -> Result<(), Error>,
    after: fn(&mut State, Value) -> Result<Value, Error>,
) -> impl Fn(&mut State, Rest<ValueOrKwargs>) -> Result<Value, Error> + Send + Sync + 'static {
    move |state: &mut State, arguments: Rest<ValueOrKwargs>| {
        let arguments = arguments.into_values();
        before(state, &arguments)?;
        let made = function.call(state, &arguments)?;
        after(state, made)
    }
}

/// Returns a function of texts that spends its arguments and its result.
pub(super) fn metered<F, Made, Args>(
    function: F,
) -> impl Fn(&mut State, Rest<ValueOrKwargs>) -> Result<Value, Error> + Send + Sync + 'static
where
    F: Function<Made, Args>,
    Made: FunctionResult,
    Args: for<'a> FunctionArgs<'a>,
{
    let before =
        |state: &mut State, arguments: &[Value]| arguments.iter().try_for_each(|argument| spend_text(state, argument));
    let after = |state: &mut State, made: Value| {
        spend(state, CALL_BYTES + made.as_str().map_or(0, str::len))?;
        Ok(made)
    };
    metered_by(Value::from_function(function), before, after)
}

/// Returns a function that makes a list of its first argument, and spends the list.
pub(super) fn metered_list<F, Made, Args>(
    function: F,
) -> impl Fn(&mut State, Rest<ValueOrKwargs>) -> Result<Value, Error> + Send + Sync + 'static
where
    F: Function<Made, Args>,
    Made: FunctionResult,
    Args: for<'a> FunctionArgs<'a>,
{
    let before = |state: &mut State, arguments: &[Value]| {
        spend(state, CALL_BYTES)?;
        arguments.first().map_or(Ok(()), |items| spend_items(state, items))
    };
    let after = |state: &mut State, made: Value| {
        let made = listed(state, made)?;
        spend_lists(state, &made)?;
        Ok(made)
    };
    metered_by(Value::from_function(function), before, after)
}

/// Returns a function that orders its first argument, and spends the values for each comparison.
pub(super) fn metered_order<F, Made, Args>(
    function: F,
) -> impl Fn(&mut State, Rest<ValueOrKwargs>) -> Result<Value, Error> + Send + Sync + 'static
where
    F: Function<Made, Args>,
    Made: FunctionResult,
    Args: for<'a> FunctionArgs<'a>,
{
    let function = metered_list(function);
    move |state: &mut State, arguments: Rest<ValueOrKwargs>| {
        if let Some(items) = arguments.first() {
            let items = items.clone().into_value();
            let comparisons = count_items(&items).max(1).ilog2() + 1;
            (0..comparisons).try_for_each(|_| spend_deep(state, &items))?;
        }
        function(state, arguments)
    }
}
