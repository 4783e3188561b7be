//! Jinja2's filters for HTML and URLs. No text is escaped unless a template asks for it.

use minijinja::value::{Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, Value};

use super::arguments::{Arguments, described};
use super::python::{check_length, is_space, refuse, text};

/// Adds the filters to an environment.
pub(super) fn add(environment: &mut Environment) {
    for name in ["escape", "e", "forceescape"] {
        environment.add_filter(name, |value: Value| text(&value).map(|text| Value::from(escape(&text))));
    }
    environment.add_filter("striptags", |value: Value| {
        text(&value).map(|text| minijinja_contrib::filters::striptags(text.into_owned()))
    });
    environment.add_filter("urlencode", urlencode);
    environment.add_filter("xmlattr", xmlattr);
}

fn escape(text: &str) -> String {
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
    out
}

/// Escapes a text for a URL's path, or pairs for a URL's query.
fn urlencode(value: Value) -> Result<Value, Error> {
    if value.as_str().is_some() || matches!(value.kind(), ValueKind::None | ValueKind::Bool | ValueKind::Number) {
        return Ok(Value::from(quote(&text(&value)?, "/")));
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
        let [key, value] = pair.map(|part| text(&part).map(|part| quote(&part, "").replace("%20", "+")));
        out.push_str(&format!("{}={}", key?, value?));
        check_length(out.len())?;
    }
    Ok(Value::from(out))
}

/// Returns the text with each byte that a URL cannot have as `%` and two digits.
fn quote(text: &str, safe: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        let char = char::from(byte);
        match char.is_ascii_alphanumeric() || "_.-~".contains(char) || safe.contains(char) {
            true => out.push(char),
            false => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Writes a dictionary as attributes of an HTML element.
fn xmlattr(value: Value, others: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let arguments = Arguments::bind(&others.into_values(), ["autospace"])?;
    if value.kind() != ValueKind::Map {
        return Err(refuse(format!("{} has no items", described(&value))));
    }
    let mut written = Vec::new();
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
        written.push(format!("{}=\"{}\"", escape(&name), escape(&text(&item)?)));
    }
    let space = if arguments.truth(0, true) && !written.is_empty() { " " } else { "" };
    Ok(Value::from(format!("{space}{}", written.join(" "))))
}
