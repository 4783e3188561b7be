//! Filters of Jinja2 that minijinja lacks or does otherwise.
//!
//! Jinja2's `random`, `urlize` and `wordwrap` are left out: no prompt is random, a web page, or a printed one.

use minijinja::value::{Kwargs, Rest, Tuple, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, State, Value, filters};

use super::arguments::{Arguments, described};
use super::html;
use super::json;
use super::meter::{check_items, metered, metered_list, metered_order};
use super::printf;
use super::python::{self, MAX_DEPTH, Number, check_length, is_space, refuse, text};
use super::strings;

/// Most items of a row or rows of a list that `batch` and `slice` may fill.
const MAX_ITEMS: i64 = 100_000;

type Others = Rest<ValueOrKwargs>;

/// Adds the filters to an environment.
pub(super) fn add(environment: &mut Environment) {
    add_filters_of_texts(environment);
    add_filters_of_values(environment);
    add_filters_of_lists(environment);
    add_filters_of_order(environment);
    html::add(environment);
}

/// Adds the filters that take a text or write one.
fn add_filters_of_texts(environment: &mut Environment) {
    environment.add_filter("string", metered(|value: Value| text(&value).map(|text| Value::from(text.as_ref()))));
    environment.add_filter("lower", metered(filters::lower));
    environment.add_filter("upper", metered(filters::upper));
    environment.add_filter("title", metered(filters::title));
    environment.add_filter("capitalize", metered(filters::capitalize));
    environment.add_filter("trim", metered(filters::trim));
    environment.add_filter("replace", metered(replace));
    let format = |format: Value, others: Others| printf::format_filter(&text(&format)?, &others.into_values());
    environment.add_filter("format", metered(format));
    environment.add_filter("indent", metered(indent));
    let center = |value: Value, others: Others| {
        let arguments = Arguments::bind(&others.into_values(), ["width"])?;
        strings::center(&text(&value)?, arguments.width(0)?.unwrap_or(80))
    };
    environment.add_filter("center", metered(center));
    environment.add_filter("wordcount", metered(|value: Value| text(&value).map(|text| count_words(&text))));
    environment.add_filter("truncate", metered(truncate));
    environment.add_filter("filesizeformat", |value: Value, others: Others| {
        let arguments = Arguments::bind(&others.into_values(), ["binary"])?;
        let bytes = number(&value).ok_or_else(|| refuse(format!("{} is no number", described(&value))))?;
        Ok::<_, Error>(minijinja_contrib::filters::filesizeformat(bytes, Some(arguments.truth(0, false))))
    });
}

/// Adds the filters that take any value.
fn add_filters_of_values(environment: &mut Environment) {
    environment.add_filter("tojson", metered(json::tojson));
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    for name in ["length", "count"] {
        environment.add_filter(name, length);
    }
    for name in ["default", "d"] {
        environment.add_filter(name, default);
    }
    environment.add_filter("pprint", metered(pprint));
}

/// Adds the filters that read lists and mappings.
fn add_filters_of_lists(environment: &mut Environment) {
    // Jinja2 has no such filters.
    ["chain", "zip", "split", "lines"].into_iter().for_each(|name| environment.remove_filter(name));
    environment.add_filter("join", metered(join));
    let list = |state: &State, value: Value| match value.is_none() {
        true => Err(refuse("none is no list")),
        false => filters::list(state, value),
    };
    environment.add_filter("list", metered_list(list));
    environment.add_filter("items", metered_list(items));
    let batch = |state: &State, value: Value, others: Others| {
        let (count, fill) = read_rows(&others.into_values(), "linecount")?;
        filters::batch(state, value, count, fill)
    };
    environment.add_filter("batch", metered_list(batch));
    let slice = |state: &State, value: Value, others: Others| {
        let (count, fill) = read_rows(&others.into_values(), "slices")?;
        filters::slice(state, value, count, fill)
    };
    environment.add_filter("slice", metered_list(slice));
    environment.add_filter("reverse", metered_list(filters::reverse));
    environment.add_filter("sum", metered_list(filters::sum));
    environment.add_filter("map", metered_list(filters::map));
    environment.add_filter("select", metered_list(filters::select));
    environment.add_filter("reject", metered_list(filters::reject));
    environment.add_filter("selectattr", metered_list(filters::selectattr));
    environment.add_filter("rejectattr", metered_list(filters::rejectattr));
}

/// Adds the filters that compare the items of a list or a mapping.
fn add_filters_of_order(environment: &mut Environment) {
    let dictsort = |value: Value, others: Others| {
        filters::dictsort(&value, name_all(others, ["case_sensitive", "by", "reverse"])?)
    };
    environment.add_filter("dictsort", metered_order(dictsort));
    let sort = |state: &State, value: Value, others: Others| {
        filters::sort(state, value, name_all(others, ["reverse", "case_sensitive", "attribute"])?)
    };
    environment.add_filter("sort", metered_order(sort));
    let unique = |state: &State, value: Value, others: Others| {
        filters::unique(state, value, name_all(others, ["case_sensitive", "attribute"])?)
    };
    environment.add_filter("unique", metered_order(unique));
    let min = |state: &State, value: Value, others: Others| {
        filters::min(state, value, name_all(others, ["case_sensitive", "attribute"])?)
    };
    environment.add_filter("min", metered_order(min));
    let max = |state: &State, value: Value, others: Others| {
        filters::max(state, value, name_all(others, ["case_sensitive", "attribute"])?)
    };
    environment.add_filter("max", metered_order(max));
    let groupby = |value: Value, others: Others| {
        filters::groupby(value, None, name_all(others, ["attribute", "default", "case_sensitive"])?)
    };
    environment.add_filter("groupby", metered_order(groupby));
}

/// Returns the arguments by their names.
fn name_all<const N: usize>(others: Others, names: [&'static str; N]) -> Result<Kwargs, Error> {
    let arguments = Arguments::bind(&others.into_values(), names)?;
    let named = names.into_iter().enumerate().filter_map(|(at, name)| Some((name, arguments.get(at)?.clone())));
    Ok(named.filter(|(_, value)| !value.is_none()).collect())
}

fn join(value: Value, others: Others) -> Result<Value, Error> {
    let arguments = Arguments::bind(&others.into_values(), ["d", "attribute"])?;
    let separator = arguments.get(0).map(text).transpose()?.unwrap_or_default();
    let attribute = arguments.optional_text(1)?;
    if value.is_none() {
        return Err(refuse("none is no list"));
    }
    let mut joined = String::new();
    for (at, item) in value.try_iter()?.checked().enumerate() {
        let mut item = item?;
        for name in attribute.into_iter().flat_map(|path| path.split('.')) {
            item = item.get_attr(name)?;
        }
        if at > 0 {
            joined.push_str(&separator);
        }
        joined.push_str(&text(&item)?);
        check_length(joined.len())?;
    }
    Ok(Value::from(joined))
}

fn replace(value: Value, others: Others) -> Result<Value, Error> {
    let arguments = Arguments::bind(&others.into_values(), ["old", "new", "count"])?;
    let (old, new) = (text(arguments.required(0)?)?, text(arguments.required(1)?)?);
    strings::replace(&text(&value)?, &old, &new, arguments.number(2)?).map(Value::from)
}

fn indent(value: Value, others: Others) -> Result<Value, Error> {
    let arguments = Arguments::bind(&others.into_values(), ["width", "first", "blank"])?;
    let width = match arguments.get(0).and_then(Value::as_str) {
        Some(width) => width.to_owned(),
        None => {
            let width = arguments.number(0)?.unwrap_or(4);
            json::check_indent(width)?;
            " ".repeat(width.max(0) as usize)
        }
    };
    json::check_indent(width.len() as i64)?;
    // A line end at the end begins one more line.
    let written = text(&value)?.into_owned() + "\n";
    check_items(python::count_lines(&written))?;
    let (first, blank) = (arguments.truth(1, false), arguments.truth(2, false));
    let mut out = String::new();
    for (at, line) in python::lines(&written, false).into_iter().enumerate() {
        if at > 0 {
            out.push('\n');
        }
        if if at == 0 { first } else { blank || !line.is_empty() } {
            out.push_str(&width);
        }
        out.push_str(line);
        check_length(out.len())?;
    }
    Ok(Value::from(out))
}

/// Counts the runs of letters, digits and `_`.
fn count_words(text: &str) -> usize {
    text.split(|char: char| !char.is_alphanumeric() && char != '_').filter(|word| !word.is_empty()).count()
}

fn truncate(state: &mut State, value: Value, others: Others) -> Result<Value, Error> {
    if value.as_str().is_none() && !value.is_undefined() {
        return Err(refuse(format!("{} is no text", described(&value))));
    }
    minijinja_contrib::filters::truncate(state, &value, name_all(others, ["length", "killwords", "end", "leeway"])?)
}

/// Returns the number of items or characters. Undefined values have none.
fn length(value: Value) -> Result<usize, Error> {
    match value.len() {
        Some(length) => Ok(length),
        None if value.is_undefined() => Ok(0),
        None if value.kind() == ValueKind::Iterable => Ok(value.try_iter()?.count()),
        None => Err(refuse(format!("{} has no length", described(&value)))),
    }
}

fn default(value: Value, others: Others) -> Result<Value, Error> {
    let arguments = Arguments::bind(&others.into_values(), ["default_value", "boolean"])?;
    let missing = value.is_undefined() || arguments.truth(1, false) && !value.is_true();
    Ok(if missing { arguments.get(0).cloned().unwrap_or_else(|| Value::from("")) } else { value })
}

/// Returns the text without white space around it and without `_` between its digits, which Python allows in numbers.
fn digits(text: &str) -> Option<String> {
    let text = text.trim_matches(is_space);
    let between = |at: usize| {
        let neighbours = (text[..at].chars().next_back(), text[at + 1..].chars().next());
        matches!(neighbours, (Some(before), Some(after)) if before.is_ascii_alphanumeric() && after.is_ascii_alphanumeric())
    };
    text.match_indices('_').all(|(at, _)| between(at)).then(|| text.replace('_', ""))
}

fn parse_int(text: &str, base: u32) -> Option<i128> {
    let text = digits(text)?.to_ascii_lowercase();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(&text)),
    };
    let prefix = [(2, "0b"), (8, "0o"), (16, "0x")].into_iter().find(|(known, _)| *known == base);
    let digits = prefix.and_then(|(_, prefix)| digits.strip_prefix(prefix)).unwrap_or(digits);
    let digits = digits.starts_with(|first: char| first.is_ascii_alphanumeric()).then_some(digits)?;
    i128::from_str_radix(&format!("{sign}{digits}"), base).ok()
}

fn parse_float(text: &str) -> Option<f64> {
    digits(text)?.parse().ok()
}

/// Returns a number, or that of a text.
fn number(value: &Value) -> Option<f64> {
    match value.as_str() {
        Some(text) => parse_float(text),
        None => python::as_number(value).map(Number::as_fraction),
    }
}

fn check_defined(value: &Value) -> Result<(), Error> {
    match value.is_undefined() {
        true => Err(refuse("an undefined value is no number")),
        false => Ok(()),
    }
}

fn int(value: Value, others: Others) -> Result<Value, Error> {
    let arguments = Arguments::bind(&others.into_values(), ["default", "base"])?;
    let base = arguments.number(1)?.unwrap_or(10);
    let base = u32::try_from(base).ok().filter(|base| (2..=36).contains(base));
    let base = base.ok_or_else(|| refuse("`base` is not from 2 to 36"))?;
    if value.is_integer() {
        return Ok(value);
    }
    check_defined(&value)?;
    if let Some(whole) = value.as_str().and_then(|text| parse_int(text, base)) {
        return Ok(Value::from(whole));
    }
    match number(&value) {
        Some(fraction) if fraction.is_finite() => Ok(Value::from(fraction as i128)),
        Some(_) if value.as_str().is_none() => Err(refuse(format!("{} is no whole number", described(&value)))),
        _ => Ok(arguments.get(0).cloned().unwrap_or_else(|| Value::from(0))),
    }
}

fn float(value: Value, others: Others) -> Result<Value, Error> {
    let arguments = Arguments::bind(&others.into_values(), ["default"])?;
    check_defined(&value)?;
    Ok(match number(&value) {
        Some(number) => Value::from(number),
        None => arguments.get(0).cloned().unwrap_or_else(|| Value::from(0.0)),
    })
}

fn items(value: Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(Value::from(Vec::<Value>::new())),
        ValueKind::Map => {
            let pair = |key: Result<Value, Error>| {
                let key = key?;
                let item = value.get_item(&key)?;
                Ok(Value::from(Tuple::from([key, item])))
            };
            value.try_iter()?.checked().map(pair).collect::<Result<Vec<Value>, Error>>().map(Value::from)
        }
        _ => Err(refuse(format!("{} has no items", described(&value)))),
    }
}

/// Returns the number of items or rows, and the value that fills the last of them.
fn read_rows(arguments: &[Value], name: &'static str) -> Result<(usize, Option<Value>), Error> {
    let arguments = Arguments::bind(arguments, [name, "fill_with"])?;
    let count = arguments.number(0)?.filter(|count| (1..=MAX_ITEMS).contains(count));
    let count = count.ok_or_else(|| refuse(format!("`{name}` is not from 1 to {MAX_ITEMS}")))?;
    Ok((count as usize, arguments.get(1).filter(|fill| !fill.is_none()).cloned()))
}

/// Writes a value that fits one line of 80 characters as Python's `pprint` does.
fn pprint(value: Value) -> Result<Value, Error> {
    // The order of keys changes no length.
    match python::repr(&value)?.chars().count() <= 80 {
        true => python::repr(&sort_keys(&value, 0)?).map(Value::from),
        false => Err(refuse("`pprint` of a value that does not fit a line is not supported: use `tojson`")),
    }
}

/// Returns the value with the keys of its dictionaries in order.
fn sort_keys(value: &Value, depth: usize) -> Result<Value, Error> {
    if depth > MAX_DEPTH {
        return Err(refuse(format!("a value of more than {MAX_DEPTH} levels")));
    }
    match value.kind() {
        ValueKind::Map => {
            let mut keys = value.try_iter()?.checked().collect::<Result<Vec<Value>, Error>>()?;
            keys.sort();
            let pair = |key: Value| {
                let item = sort_keys(&value.get_item(&key)?, depth + 1)?;
                Ok((key, item))
            };
            Ok(Value::from_pairs(keys.into_iter().map(pair).collect::<Result<Vec<_>, Error>>()?))
        }
        ValueKind::Seq if !value.is_tuple() => {
            let items = value.try_iter()?.checked().map(|item| sort_keys(&item?, depth + 1));
            items.collect::<Result<Vec<Value>, Error>>().map(Value::from)
        }
        _ => Ok(value.clone()),
    }
}
