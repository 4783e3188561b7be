//! Changes to a template's source, for the differences between transformers' templates and minijinja.
//!
//! In Python's Jinja, a backslash at the end of a line continues a string. transformers adds the tag `{% generation %}`
//! to Jinja. The tag marks text for training, and rendering ignores it. It gives Jinja no folder of templates, so a tag
//! that names another template is an error. [`operators`] has the other differences.
//!
//! A tag at the begin of each loop and macro counts the text that stands in it.

use super::operators;

/// Names of tags whose content may be rendered often, of the ends of these, and of tags that name another template.
const REPEATED: [&str; 4] = ["for", "macro", "call", "block"];
const ENDS: [&str; 4] = ["endfor", "endmacro", "endcall", "endblock"];
const OTHERS: [&str; 4] = ["include", "import", "from", "extends"];

/// Returns the template in minijinja's dialect.
pub(in crate::text) fn adapt(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    let mut rounds = Rounds::default();
    while let Some(at) = rest.find("{%").into_iter().chain(rest.find("{{")).chain(rest.find("{#")).min() {
        let (text, from_tag) = rest.split_at(at);
        out.push_str(text);
        rounds.count(text);
        let (tag, after) = from_tag.split_at(tag_length(from_tag));
        let inner = tag.trim_matches(|char: char| char.is_whitespace() || "{%-+}".contains(char));
        match inner {
            "generation" => out.push_str(&tag.replace(inner, "if true")),
            "endgeneration" => out.push_str(&tag.replace(inner, "endif")),
            "raw" if tag.starts_with("{%") => {
                let (raw, after) = after.split_at(raw_length(after));
                out.extend([tag, raw]);
                rounds.count(raw);
                rest = after;
                continue;
            }
            _ if tag.starts_with("{#") => out.push_str(tag),
            _ if tag.starts_with("{%") => {
                let name = inner.split(|char: char| !char.is_alphanumeric()).next().unwrap_or_default();
                match OTHERS.contains(&name) {
                    true => out.push_str("{{ raise_exception('a template cannot load another one') }}"),
                    false => out.push_str(&adapt_tag(&continue_lines(tag))),
                }
                rounds.note(name, tag, out.len());
            }
            _ => out.push_str(&adapt_tag(&continue_lines(tag))),
        }
        rest = after;
    }
    out.push_str(rest);
    rounds.insert(&mut out);
    out
}

/// Loops and macros of a template, for the tags that count the text in them.
#[derive(Default)]
struct Rounds<'a> {
    all: Vec<Round<'a>>,
    /// Those that have not ended, as places in `all`.
    open: Vec<usize>,
}

/// A loop or macro: where its content begins, how its tag ends, and the bytes of text in it.
struct Round<'a> {
    begin: usize,
    tag_end: &'a str,
    bytes: usize,
}

impl<'a> Rounds<'a> {
    /// Notes a text outside of tags.
    fn count(&mut self, text: &str) {
        for at in &self.open {
            self.all[*at].bytes += text.len();
        }
    }

    /// Notes a tag that has been written up to `end`.
    fn note(&mut self, name: &str, tag: &'a str, end: usize) {
        if REPEATED.contains(&name) {
            let tag_end = if tag.ends_with("-%}") {
                "-%}"
            } else if tag.ends_with("+%}") {
                "+%}"
            } else {
                "%}"
            };
            self.open.push(self.all.len());
            self.all.push(Round { begin: end, tag_end, bytes: 0 });
        } else if ENDS.contains(&name) {
            self.open.pop();
        }
    }

    /// Inserts the tags that count.
    fn insert(self, out: &mut String) {
        for Round { begin, tag_end, bytes } in self.all.into_iter().rev() {
            out.insert_str(begin, &format!("{{% do {}({bytes}) {tag_end}", operators::ROUND));
        }
    }
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
            (
                "{# generation \\\n #}{% set generation = 1 %}",
                "{# generation \\\n #}{% set generation = __keep__(1) %}",
            ),
            ("{% if é %}日{{", "{% if é %}日{{"),
            (
                "{{- a ~ b -}}{%+ set x = a % 2 %}",
                "{{- __concatenate__(a, b) -}}{%+ set x = __keep__(__modulo__(a, 2)) %}",
            ),
            (
                "{% raw %}{{ a ~ b }}{%- endraw %}{{ a ~ b }}",
                "{% raw %}{{ a ~ b }}{%- endraw %}{{ __concatenate__(a, b) }}",
            ),
            ("{{ a ~ b", "{{ a ~ b"),
            ("{{~}}{{-}}{%-%}", "{{~}}{{-}}{%-%}"),
            (
                "{%- for m in ms[1:] -%}\na{% if b %}c{% endif %}{% endfor %}d",
                "{%- for m in __iterate__(__slice__(ms[1:])) -%}{% do __round__(3) -%}\na{% if b %}c{% endif %}{% endfor %}d",
            ),
            (
                "{% macro f(x) %}é{% for y in x +%}{% endfor %}{% endmacro %}",
                "{% macro f(x) %}{% do __round__(2) %}é{% for y in __iterate__(x) +%}{% do __round__(0) +%}{% endfor %}\
                 {% endmacro %}",
            ),
            ("{% include 'x' %}", "{{ raise_exception('a template cannot load another one') }}"),
            ("{", "{"),
        ];
        for (source, adapted) in cases {
            assert_eq!(adapt(source), adapted);
        }
    }
}
