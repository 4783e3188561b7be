//! Changes to a template's source, for the differences between transformers' templates and minijinja.
//!
//! In Python's Jinja, a backslash at the end of a line continues a string. transformers adds the tag `{% generation %}`
//! to Jinja. The tag marks text for training, and rendering ignores it. [`operators`] has the other differences.

use super::operators;

/// Returns the template in minijinja's dialect.
pub(in crate::text) fn adapt(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%").into_iter().chain(rest.find("{{")).chain(rest.find("{#")).min() {
        let (text, from_tag) = rest.split_at(at);
        out.push_str(text);
        let (tag, after) = from_tag.split_at(tag_length(from_tag));
        let inner = tag.trim_matches(|char: char| char.is_whitespace() || "{%-+}".contains(char));
        match inner {
            "generation" => out.push_str(&tag.replace(inner, "if true")),
            "endgeneration" => out.push_str(&tag.replace(inner, "endif")),
            "raw" if tag.starts_with("{%") => {
                let (raw, after) = after.split_at(raw_length(after));
                out.extend([tag, raw]);
                rest = after;
                continue;
            }
            _ if tag.starts_with("{#") => out.push_str(tag),
            _ => out.push_str(&adapt_tag(&continue_lines(tag))),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Returns the length in bytes of the text before the tag `endraw`.
fn raw_length(text: &str) -> usize {
    let ends = |at: &usize| {
        let name = text[at + 2..].trim_start_matches(['-', '+']).trim_start();
        name.starts_with("endraw")
    };
    text.match_indices("{%").map(|(at, _)| at).find(ends).unwrap_or(text.len())
}

/// Adapts the expression of a tag.
fn adapt_tag(tag: &str) -> String {
    if !tag.ends_with(if tag.starts_with("{%") { "%}" } else { "}}" }) {
        return tag.to_owned();
    }
    let begin = if tag[2..].starts_with(['-', '+']) { 3 } else { 2 };
    let end = tag.len().saturating_sub(2);
    let end = if tag[..end].ends_with(['-', '+']) { end - 1 } else { end };
    match tag.get(begin..end).and_then(|expression| operators::adapt(expression, tag.starts_with("{%"))) {
        Some(expression) => [&tag[..begin], &expression, &tag[end..]].concat(),
        None => tag.to_owned(),
    }
}

/// Returns the length in bytes of the tag at the beginning of the text. A tag without an end takes the whole text.
fn tag_length(text: &str) -> usize {
    let end = match text.as_bytes().get(1) {
        Some(b'%') => "%}",
        Some(b'{') => "}}",
        _ => return text.find("#}").map_or(text.len(), |at| at + 2),
    };
    let mut quote = None;
    let mut chars = text.char_indices().skip(2);
    while let Some((at, char)) = chars.next() {
        match quote {
            Some(_) if char == '\\' => drop(chars.next()),
            Some(open) if char == open => quote = None,
            Some(_) => {}
            None if matches!(char, '"' | '\'') => quote = Some(char),
            None if text[at..].starts_with(end) => return at + end.len(),
            None => {}
        }
    }
    text.len()
}

/// Returns a tag without each backslash at the end of a line and this line end.
fn continue_lines(tag: &str) -> String {
    let (mut out, mut chars) = (String::with_capacity(tag.len()), tag.chars());
    while let Some(char) = chars.next() {
        match (char, chars.clone().next()) {
            ('\\', Some('\n')) => drop(chars.next()),
            ('\\', Some(escaped)) => {
                out.extend([char, escaped]);
                chars.next();
            }
            _ => out.push(char),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_differences_change() {
        let cases = [
            ("plain \\\n text", "plain \\\n text"),
            ("{{ 'a\\\nb' }}\\\n", "{{ 'ab' }}\\\n"),
            ("{{ 'a\\\\\n' }}", "{{ 'a\\\\\n' }}"),
            ("{{ '}} \\' %}' }}x", "{{ '}} \\' %}' }}x"),
            ("{%- generation -%}x{% endgeneration %}", "{%- if true -%}x{% endif %}"),
            ("{# generation \\\n #}{% set generation = 1 %}", "{# generation \\\n #}{% set generation = 1 %}"),
            ("{% if é %}日{{", "{% if é %}日{{"),
            ("{{- a ~ b -}}{%+ set x = a % 2 %}", "{{- __concatenate__(a, b) -}}{%+ set x = __modulo__(a, 2) %}"),
            (
                "{% raw %}{{ a ~ b }}{%- endraw %}{{ a ~ b }}",
                "{% raw %}{{ a ~ b }}{%- endraw %}{{ __concatenate__(a, b) }}",
            ),
            ("{{ a ~ b", "{{ a ~ b"),
            ("{{~}}{{-}}{%-%}", "{{~}}{{-}}{%-%}"),
            ("{%- for m in ms[1:] -%}{% endfor %}", "{%- for m in __iterate__(ms[1:]) -%}{% endfor %}"),
            ("{", "{"),
        ];
        for (source, adapted) in cases {
            assert_eq!(adapt(source), adapted);
        }
    }
}
