//! Changes to a template's source, for two differences between transformers' templates and minijinja.
//!
//! In Python's Jinja, a backslash at the end of a line continues a string. transformers adds the tag `{% generation %}`
//! to Jinja. The tag marks text for training, and rendering ignores it.

/// Returns the template in minijinja's dialect.
pub(crate) fn adapt(source: &str) -> String {
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
            _ if tag.starts_with("{#") => out.push_str(tag),
            _ => continue_lines(tag, &mut out),
        }
        rest = after;
    }
    out.push_str(rest);
    out
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

/// Copies a tag. Leaves out each backslash at the end of a line, together with the line end.
fn continue_lines(tag: &str, out: &mut String) {
    let mut chars = tag.chars();
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
            ("{", "{"),
        ];
        for (source, adapted) in cases {
            assert_eq!(adapt(source), adapted);
        }
    }
}
