//! Jinja2's filters for HTML and URLs. No text is escaped unless a template asks for it.

use minijinja::value::{Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, Value};

use super::arguments::{Arguments, described};
use super::meter::metered;
use super::python::{check_length, is_space, refuse, text};

/// Adds the filters to an environment.
pub(super) fn add(environment: &mut Environment) {
    for name in ["escape", "e", "forceescape"] {
        environment.add_filter(name, metered(|value: Value| escape(&text(&value)?).map(Value::from)));
    }
    let striptags = |value: Value| text(&value).map(|text| minijinja_contrib::filters::striptags(text.into_owned()));
    environment.add_filter("striptags", metered(striptags));
    environment.add_filter("urlencode", metered(urlencode));
    environment.add_filter("xmlattr", metered(xmlattr));
}

fn escape(text: &str) -> Result<String, Error> {
    let marks = text.matches(['&', '<', '>', '\'', '"']).count();
    check_length(text.len() + 4 * marks)?;
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            _ => out.push(char),
        }
    }
    Ok(out)
}

/// Escapes a text for a URL's path, or pairs for a URL's query.
fn urlencode(value: Value) -> Result<Value, Error> {
    if value.as_str().is_some() || matches!(value.kind(), ValueKind::None | ValueKind::Bool | ValueKind::Number) {
        return quote(&text(&value)?, "/").map(Value::from);
    }
    let is_map = value.kind() == ValueKind::Map;
    let mut out = String::new();
    for item in value.try_iter()?.checked() {
        let item = item?;
        let pair = match is_map {
            true => [item.clone(), value.get_item(&item)?],
            false => <[Value; 2]>::try_from(item.try_iter()?.collect::<Vec<Value>>())
                .map_err(|_| refuse(format!("an item is {}: expected a pair", described(&item))))?,
        };
        if !out.is_empty() {
            out.push('&');
        }
        let [key, value] = pair.map(|part| text(&part).and_then(|part| quote(&part, "")));
        out.push_str(&format!("{}={}", key?, value?).replace("%20", "+"));
        check_length(out.len())?;
    }
    Ok(Value::from(out))
}

/// Returns the text with each byte that a URL cannot have as `%` and two digits.
fn quote(text: &str, safe: &str) -> Result<String, Error> {
    check_length(text.len().saturating_mul(3))?;
    let mut out = String::new();
    for byte in text.bytes() {
        let char = char::from(byte);
        match char.is_ascii_alphanumeric() || "_.-~".contains(char) || safe.contains(char) {
            true => out.push(char),
            false => out.push_str(&format!("%{byte:02X}")),
        }
    }
    Ok(out)
}

/// Writes a dictionary as attributes of an HTML element.
fn xmlattr(value: Value, others: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let arguments = Arguments::bind(&others.into_values(), ["autospace"])?;
    if value.kind() != ValueKind::Map {
        return Err(refuse(format!("{} has no items", described(&value))));
    }
    let (mut written, mut length) = (Vec::new(), 0);
    for key in value.try_iter()?.checked() {
        let key = key?;
        let item = value.get_item(&key)?;
        if item.is_none() || item.is_undefined() {
            continue;
        }
        let name = text(&key)?;
        if name.contains(|char: char| is_space(char) || "/>=".contains(char)) {
            return Err(refuse(format!("`{name}` is no name of an attribute")));
        }
        written.push(format!("{}=\"{}\"", escape(&name)?, escape(&text(&item)?)?));
        length += written.last().map_or(0, String::len);
        check_length(length)?;
    }
    let space = if arguments.truth(0, true) && !written.is_empty() { " " } else { "" };
    Ok(Value::from(format!("{space}{}", written.join(" "))))
}
