//! Methods of Python's `str`.

use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Kwargs, Tuple};
use minijinja::{Error, Value};

use super::arguments::{Arguments, check_width, described};
use super::python::{self, check_length, is_printable, is_space, lines, refuse};

/// Calls a method. Returns `None` for methods that minijinja's own imitation of Python does well.
pub(super) fn call(text: &str, method: &str, arguments: &[Value]) -> Result<Option<Value>, Error> {
    let result = match method {
        "split" | "rsplit" => split(text, arguments, method == "rsplit")?,
        "splitlines" => {
            let arguments = Arguments::bind(arguments, ["keepends"])?;
            lines(text, arguments.truth(0, false)).into_iter().map(Value::from).collect()
        }
        "partition" | "rpartition" => partition(text, arguments, method == "rpartition")?,
        "strip" | "lstrip" | "rstrip" => strip(text, arguments, method)?,
        "removeprefix" | "removesuffix" => {
            let arguments = Arguments::bind(arguments, ["affix"])?;
            let affix = arguments.text(0)?;
            let rest = if method == "removeprefix" { text.strip_prefix(affix) } else { text.strip_suffix(affix) };
            Value::from(rest.unwrap_or(text))
        }
        "replace" => {
            let arguments = Arguments::bind(arguments, ["old", "new", "count"])?;
            Value::from(replace(text, arguments.text(0)?, arguments.text(1)?, arguments.number(2)?)?)
        }
        "find" | "index" | "rfind" | "rindex" => find(text, arguments, method)?,
        "count" => {
            let arguments = Arguments::bind(arguments, ["sub", "start", "end"])?;
            let part = slice(text, arguments.number(1)?, arguments.number(2)?).map(|(_, part)| part);
            let sub = arguments.text(0)?;
            Value::from(part.map_or(0, |part| part.matches(sub).count()))
        }
        "startswith" | "endswith" => Value::from(has_affix(text, arguments, method == "startswith")?),
        "join" => join(text, arguments)?,
        "zfill" | "ljust" | "rjust" | "center" => pad(text, arguments, method)?,
        "expandtabs" => expand_tabs(text, arguments)?,
        "title" | "swapcase" | "casefold" => {
            Arguments::bind(arguments, [])?;
            Value::from(change_case(text, method))
        }
        "isdecimal" | "isidentifier" | "isprintable" | "istitle" => {
            Arguments::bind(arguments, [])?;
            Value::from(is_of_kind(text, method))
        }
        "format" => {
            check_fields(text, arguments)?;
            Value::from(format(FormatStyle::StrFormat, text, arguments)?)
        }
        "format_map" => {
            check_fields(text, arguments)?;
            let arguments = Arguments::bind(arguments, ["mapping"])?;
            let mapping = arguments.required(0)?;
            let member = |key: Value| Some((key.as_str()?.to_owned(), mapping.get_item(&key).ok()?));
            let named: Kwargs = mapping.try_iter()?.filter_map(member).collect();
            Value::from(format(FormatStyle::StrFormat, text, &[Value::from(named)])?)
        }
        _ => return Ok(None),
    };
    Ok(Some(result))
}

/// Returns the bounds of a slice of `length` items, as Python's slices count them.
pub(super) fn bounds(length: usize, start: Option<i64>, end: Option<i64>) -> (usize, usize) {
    let bound = |bound: i64| match usize::try_from(bound) {
        Ok(bound) => bound.min(length),
        Err(_) => length.saturating_sub(bound.unsigned_abs() as usize),
    };
    (start.map_or(0, bound), end.map_or(length, bound))
}

/// Returns the slice from the character `start` to the character `end`, and the number of characters before it. Returns
/// `None` if it ends before its start.
fn slice(text: &str, start: Option<i64>, end: Option<i64>) -> Option<(usize, &str)> {
    if start.is_none() && end.is_none() {
        return Some((0, text));
    }
    let length = text.chars().count();
    if start.is_some_and(|start| start > length as i64) {
        return None;
    }
    let (start, end) = bounds(length, start, end);
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
    (start <= end).then(|| (start, &text[byte(start)..byte(end)]))
}

fn split(text: &str, arguments: &[Value], from_end: bool) -> Result<Value, Error> {
    let arguments = Arguments::bind(arguments, ["sep", "maxsplit"])?;
    let most = arguments.number(1)?.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
    let parts: Vec<&str> = match arguments.optional_text(0)? {
        Some("") => return Err(refuse("the separator is empty")),
        Some(separator) if from_end => {
            let mut parts: Vec<&str> = text.rsplitn(most.saturating_add(1), separator).collect();
            parts.reverse();
            parts
        }
        Some(separator) => text.splitn(most.saturating_add(1), separator).collect(),
        None if from_end => {
            let (mut parts, mut rest) = (Vec::new(), text.trim_end_matches(is_space));
            while !rest.is_empty() {
                let at = if parts.len() < most { rest.rfind(is_space) } else { None };
                let begin = at.map_or(0, |at| at + rest[at..].chars().next().map_or(0, char::len_utf8));
                parts.push(&rest[begin..]);
                rest = rest[..at.unwrap_or(0)].trim_end_matches(is_space);
            }
            parts.reverse();
            parts
        }
        None => {
            let (mut parts, mut rest) = (Vec::new(), text.trim_start_matches(is_space));
            while !rest.is_empty() {
                let at = if parts.len() < most { rest.find(is_space) } else { None };
                parts.push(&rest[..at.unwrap_or(rest.len())]);
                rest = rest[at.unwrap_or(rest.len())..].trim_start_matches(is_space);
            }
            parts
        }
    };
    Ok(parts.into_iter().map(Value::from).collect())
}

/// Returns the most parts that a method can split a text into.
pub(super) fn count_parts(text: &str, method: &str, arguments: &[Value]) -> usize {
    match arguments.first().and_then(Value::as_str).filter(|separator| !separator.is_empty()) {
        Some(separator) => text.matches(separator).count() + 1,
        None if method == "splitlines" => python::count_lines(text),
        None => text.split(is_space).count(),
    }
}

fn partition(text: &str, arguments: &[Value], from_end: bool) -> Result<Value, Error> {
    let arguments = Arguments::bind(arguments, ["sep"])?;
    let separator = arguments.text(0)?;
    if separator.is_empty() {
        return Err(refuse("the separator is empty"));
    }
    let at = if from_end { text.rfind(separator) } else { text.find(separator) };
    let parts = match at {
        Some(at) => [&text[..at], separator, &text[at + separator.len()..]],
        None if from_end => ["", "", text],
        None => [text, "", ""],
    };
    Ok(Value::from(Tuple::from(parts.map(Value::from).to_vec())))
}

fn strip(text: &str, arguments: &[Value], method: &str) -> Result<Value, Error> {
    let arguments = Arguments::bind(arguments, ["chars"])?;
    let chars: Option<Vec<char>> = arguments.optional_text(0)?.map(|chars| chars.chars().collect());
    let strips = |char: char| match &chars {
        Some(chars) => chars.contains(&char),
        None => is_space(char),
    };
    let text = if method == "rstrip" { text } else { text.trim_start_matches(strips) };
    Ok(Value::from(if method == "lstrip" { text } else { text.trim_end_matches(strips) }))
}

/// Replaces the first `count` places of `old`, or all if `count` is negative or not given.
pub(super) fn replace(text: &str, old: &str, new: &str, count: Option<i64>) -> Result<String, Error> {
    let count = count.and_then(|count| usize::try_from(count).ok());
    let places = text.matches(old).count().min(count.unwrap_or(usize::MAX));
    check_length(text.len().saturating_add(places.saturating_mul(new.len())))?;
    Ok(match count {
        Some(count) => text.replacen(old, new, count),
        None => text.replace(old, new),
    })
}

fn find(text: &str, arguments: &[Value], method: &str) -> Result<Value, Error> {
    let arguments = Arguments::bind(arguments, ["sub", "start", "end"])?;
    let wanted = arguments.text(0)?;
    let found = slice(text, arguments.number(1)?, arguments.number(2)?).and_then(|(before, part)| {
        let at = if method.starts_with('r') { part.rfind(wanted) } else { part.find(wanted) };
        at.map(|at| before + part[..at].chars().count())
    });
    match found {
        Some(at) => Ok(Value::from(at)),
        None if method.ends_with("find") => Ok(Value::from(-1)),
        None => Err(refuse(format!("{wanted:?} is not in the text"))),
    }
}

/// Returns true if the text begins or ends with one of the affixes: a text, or a list of texts.
fn has_affix(text: &str, arguments: &[Value], at_start: bool) -> Result<bool, Error> {
    let arguments = Arguments::bind(arguments, ["affix", "start", "end"])?;
    let Some((_, part)) = slice(text, arguments.number(1)?, arguments.number(2)?) else { return Ok(false) };
    let fits = |affix: &str| if at_start { part.starts_with(affix) } else { part.ends_with(affix) };
    let affix = arguments.required(0)?;
    if let Some(affix) = affix.as_str() {
        return Ok(fits(affix));
    }
    if !affix.is_tuple() {
        return Err(refuse(format!("the affix is {}: expected a text or a tuple of texts", described(affix))));
    }
    for affix in affix.try_iter()?.checked() {
        let affix = affix?;
        match affix.as_str() {
            Some(affix) if fits(affix) => return Ok(true),
            Some(_) => {}
            None => return Err(refuse(format!("an affix is {}: expected a text", described(&affix)))),
        }
    }
    Ok(false)
}

fn join(separator: &str, arguments: &[Value]) -> Result<Value, Error> {
    let arguments = Arguments::bind(arguments, ["items"])?;
    let mut joined = String::new();
    for (at, item) in arguments.required(0)?.try_iter()?.checked().enumerate() {
        let item = item?;
        let text =
            item.as_str().ok_or_else(|| refuse(format!("item {at} is {}: expected a text", described(&item))))?;
        if at > 0 {
            joined.push_str(separator);
        }
        joined.push_str(text);
        check_length(joined.len())?;
    }
    Ok(Value::from(joined))
}

fn pad(text: &str, arguments: &[Value], method: &str) -> Result<Value, Error> {
    let arguments = Arguments::bind(arguments, ["width", "fillchar"])?;
    let width = check_width(arguments.number(0)?.ok_or_else(|| refuse("the width is missing"))?)?;
    let fill = match (method, arguments.optional_text(1)?) {
        ("zfill", None) => "0",
        (_, None) => " ",
        (_, Some(fill)) if method != "zfill" && fill.chars().count() == 1 => fill,
        _ => return Err(refuse("the fill is one character")),
    };
    let missing = width.saturating_sub(text.chars().count());
    let (sign, rest) = match text.chars().next() {
        Some('+' | '-') if method == "zfill" => text.split_at(1),
        _ => ("", text),
    };
    let before = match method {
        "ljust" => 0,
        // Python puts the odd space before the text if the width is odd.
        "center" => missing / 2 + (missing & width & 1),
        _ => missing,
    };
    Ok(Value::from(format!("{sign}{}{rest}{}", fill.repeat(before), fill.repeat(missing - before))))
}

/// Centres a text in a width, as `center(width)` does.
pub(super) fn center(text: &str, width: usize) -> Result<Value, Error> {
    pad(text, &[Value::from(width)], "center")
}

fn expand_tabs(text: &str, arguments: &[Value]) -> Result<Value, Error> {
    let arguments = Arguments::bind(arguments, ["tabsize"])?;
    let size = arguments.width(0)?.unwrap_or(8);
    let (mut out, mut column) = (String::new(), 0);
    for char in text.chars() {
        match char {
            '\t' => {
                let spaces = if size == 0 { 0 } else { size - column % size };
                out.extend(std::iter::repeat_n(' ', spaces));
                column += spaces;
                check_length(out.len())?;
            }
            _ => {
                out.push(char);
                column = if matches!(char, '\n' | '\r') { 0 } else { column + 1 };
            }
        }
    }
    Ok(Value::from(out))
}

fn is_cased(char: char) -> bool {
    char.is_lowercase() || char.is_uppercase()
}

fn change_case(text: &str, method: &str) -> String {
    let (mut out, mut after_cased) = (String::new(), false);
    for char in text.chars() {
        match method {
            "title" if after_cased => out.extend(char.to_lowercase()),
            "title" => out.extend(char.to_uppercase()),
            "swapcase" if char.is_uppercase() => out.extend(char.to_lowercase()),
            "swapcase" => out.extend(char.to_uppercase()),
            _ if matches!(char, 'ß' | 'ẞ') => out.push_str("ss"),
            _ if char == 'ς' => out.push('σ'),
            _ => out.extend(char.to_lowercase()),
        }
        after_cased = is_cased(char);
    }
    out
}

fn is_of_kind(text: &str, method: &str) -> bool {
    let mut chars = text.chars();
    match method {
        "isdecimal" => !text.is_empty() && text.chars().all(char::is_numeric),
        "isprintable" => text.chars().all(is_printable),
        "istitle" => text.chars().any(is_cased) && change_case(text, "title") == text,
        _ => {
            let begins = chars.next().is_some_and(|char| char.is_alphabetic() || char == '_');
            begins && chars.all(|char| char.is_alphanumeric() || char == '_')
        }
    }
}

/// Fails if a format can make too long a text: by a large number in a field, a width or a precision, or by as many values
/// as it has fields.
fn check_fields(format: &str, arguments: &[Value]) -> Result<(), Error> {
    let values =
        arguments.iter().map(|argument| python::text(argument).map(|text| text.len())).sum::<Result<usize, Error>>()?;
    check_length(format.len().saturating_add(format.matches('{').count().saturating_mul(values)))?;
    let fields = format.split('{').skip(1).filter_map(|field| field.split('}').next());
    for digits in fields.flat_map(|field| field.split(|char: char| !char.is_ascii_digit())) {
        if !digits.is_empty() {
            check_width(digits.parse().unwrap_or(i64::MAX))?;
        }
    }
    Ok(())
}
