//! Structural tags: free text in which certain texts begin a part with a form, as vLLM, SGLang and XGrammar spell them.

use std::fmt::Write;

use serde_json::Value;

use super::compile::with_whitespace;
use super::literal;

/// Deepest level of formats.
const MAX_DEPTH: usize = 32;

/// Translates structural tags to Lark: the older form with `structures` and `triggers`, or the newer with `format`.
///
/// # Errors
/// Names the field that is wrong.
pub(crate) fn to_lark(tag: &Value) -> Result<String, String> {
    let mut lark = Lark::default();
    let start = match tag.get("format") {
        Some(format) => lark.format(format, "format", MAX_DEPTH)?,
        None => {
            let tags: Vec<Tag<'_>> = list(tag, "structures")?.iter().map(Tag::of_structure).collect();
            lark.triggered(&tags, list(tag, "triggers")?, "structures", Triggered::default(), MAX_DEPTH)?
        }
    };
    Ok(format!("start: {start}\n{}", lark.rules))
}

fn list<'a>(value: &'a Value, name: &str) -> Result<&'a Vec<Value>, String> {
    value[name].as_array().ok_or_else(|| format!("{name}: expected a list"))
}

fn text<'a>(value: &'a Value, path: &str) -> Result<&'a str, String> {
    value.as_str().ok_or_else(|| format!("{path}: expected a string"))
}

/// A part with a form.
struct Tag<'a> {
    begin: &'a Value,
    content: Content<'a>,
    end: &'a Value,
}

enum Content<'a> {
    Schema(&'a Value),
    Format(&'a Value),
}

impl<'a> Tag<'a> {
    fn of_structure(structure: &'a Value) -> Self {
        Self { begin: &structure["begin"], content: Content::Schema(&structure["schema"]), end: &structure["end"] }
    }

    fn of_format(format: &'a Value) -> Self {
        Self { begin: &format["begin"], content: Content::Format(&format["content"]), end: &format["end"] }
    }
}

/// Options of parts that a text begins.
#[derive(Default, Clone, Copy)]
struct Triggered {
    at_least_one: bool,
    stop_after_first: bool,
}

/// Rules of a grammar that is being written.
#[derive(Default)]
struct Lark {
    rules: String,
    count: usize,
}

impl Lark {
    /// Adds a rule or a terminal. Returns its name.
    fn add(&mut self, prefix: &str, attribute: &str, body: &str) -> String {
        self.count += 1;
        let name = format!("{prefix}{}", self.count);
        writeln!(self.rules, "{name}{attribute}: {body}").ok();
        name
    }

    fn schema(&mut self, schema: &Value, path: &str) -> Result<String, String> {
        let schema = with_whitespace(schema.clone()).map_err(|error| format!("{path}: {error}"))?;
        Ok(self.add("rule", "", &format!("%json {schema}")))
    }

    /// Adds a terminal of any text that contains none of `texts`.
    fn text_without(&mut self, texts: &[&str]) -> String {
        let any = self.add("ANY", "", r"/(?s:.*)/");
        let texts: Vec<String> = texts.iter().filter(|text| !text.is_empty()).map(|text| literal(text)).collect();
        if texts.is_empty() {
            return any;
        }
        self.add("TEXT", "", &format!("{any} & ~({any} ({}) {any})", texts.join(" | ")))
    }

    /// Returns an expression for the content and the end of a tag, of whose begin the first `taken` bytes are read.
    fn tag(&mut self, tag: &Tag<'_>, taken: usize, path: &str, depth: usize) -> Result<String, String> {
        let (begin, end) = (text(tag.begin, &format!("{path}.begin"))?, text(tag.end, &format!("{path}.end"))?);
        let rest = &begin[taken..];
        let rest = if rest.is_empty() { String::new() } else { literal(rest) };
        let end_text = if end.is_empty() { String::new() } else { literal(end) };
        let content = match tag.content {
            Content::Schema(schema) => self.schema(schema, &format!("{path}.schema"))?,
            Content::Format(format) if format["type"] == "any_text" => {
                let free = self.text_without(&[end]);
                let whole = self.add("until", "[lazy]", &format!("{free} {end_text}"));
                return Ok(self.add("rule", "", &format!("{rest} {whole}")));
            }
            Content::Format(format) => self.format(format, &format!("{path}.content"), depth)?,
        };
        Ok(self.add("rule", "", &format!("{rest} {content} {end_text}")))
    }

    /// Returns an expression for free text with tags, each of which one of the `triggers` begins.
    fn triggered(
        &mut self,
        tags: &[Tag<'_>],
        triggers: &[Value],
        path: &str,
        options: Triggered,
        depth: usize,
    ) -> Result<String, String> {
        let triggers: Vec<&str> = triggers.iter().map(|trigger| text(trigger, "triggers")).collect::<Result<_, _>>()?;
        if triggers.iter().any(|trigger| trigger.is_empty()) || triggers.is_empty() {
            return Err("triggers: expected at least one text, and none that is empty".into());
        }
        let free = self.text_without(&triggers);
        let mut alternatives: Vec<Vec<String>> = vec![Vec::new(); triggers.len()];
        for (at, tag) in tags.iter().enumerate() {
            let path = format!("{path}[{at}]");
            let begin = text(tag.begin, &format!("{path}.begin"))?;
            let Some(trigger) = triggers.iter().position(|trigger| begin.starts_with(trigger)) else {
                return Err(format!("{path}.begin: it begins with none of the triggers"));
            };
            alternatives[trigger].push(self.tag(tag, triggers[trigger].len(), &path, depth)?);
        }
        let mut parts = Vec::new();
        for (trigger, alternatives) in triggers.iter().zip(&alternatives).filter(|(_, tags)| !tags.is_empty()) {
            let before = self.add("before", "[lazy]", &format!("{free} {}", literal(trigger)));
            parts.push(format!("{before} ({})", alternatives.join(" | ")));
        }
        if parts.is_empty() {
            return Err(format!("{path}: expected at least one tag"));
        }
        let part = self.add("rule", "", &parts.join(" | "));
        let body = match (options.at_least_one, options.stop_after_first) {
            (true, true) => part,
            (false, true) => format!("{part} | {free}"),
            (true, false) => format!("{part}+ {free}"),
            (false, false) => format!("{part}* {free}"),
        };
        Ok(self.add("rule", "", &body))
    }

    /// Returns an expression for a format of the newer form.
    fn format(&mut self, format: &Value, path: &str, depth: usize) -> Result<String, String> {
        if depth == 0 {
            return Err(format!("{path}: more than {MAX_DEPTH} levels"));
        }
        let depth = depth - 1;
        let tags = || list(format, "tags").map(|tags| tags.iter().map(Tag::of_format).collect::<Vec<_>>());
        let options = Triggered {
            at_least_one: format["at_least_one"] == true,
            stop_after_first: format["stop_after_first"] == true,
        };
        let tags_path = format!("{path}.tags");
        match format["type"].as_str().unwrap_or_default() {
            "const_string" => Ok(literal(text(&format["value"], &format!("{path}.value"))?)),
            "json_schema" => self.schema(&format["json_schema"], &format!("{path}.json_schema")),
            "regex" => {
                let regex = text(&format["pattern"], &format!("{path}.pattern"))?;
                Ok(self.add("REGEX", "", &format!("/{}/", regex.replace('/', "\\/"))))
            }
            "any_text" => Ok(self.text_without(&[])),
            "tag" => self.tag(&Tag::of_format(format), 0, path, depth),
            "triggered_tags" => self.triggered(&tags()?, list(format, "triggers")?, &tags_path, options, depth),
            "sequence" | "or" => {
                let is_sequence = format["type"] == "sequence";
                let mut parts = Vec::new();
                for (at, element) in list(format, "elements")?.iter().enumerate() {
                    parts.push(self.format(element, &format!("{path}.elements[{at}]"), depth)?);
                }
                if parts.is_empty() {
                    return Err(format!("{path}.elements: the list is empty"));
                }
                Ok(self.add("rule", "", &parts.join(if is_sequence { " " } else { " | " })))
            }
            "tags_with_separator" => {
                let separator = literal(text(&format["separator"], &format!("{path}.separator"))?);
                let mut alternatives = Vec::new();
                for (at, tag) in tags()?.iter().enumerate() {
                    alternatives.push(self.tag(tag, 0, &format!("{tags_path}[{at}]"), depth)?);
                }
                if alternatives.is_empty() {
                    return Err(format!("{tags_path}: the list is empty"));
                }
                let tag = self.add("rule", "", &alternatives.join(" | "));
                let more = if options.stop_after_first { String::new() } else { format!(" ({separator} {tag})*") };
                let all = format!("{tag}{more}");
                let body = if options.at_least_one { all } else { format!("({all})?") };
                Ok(self.add("rule", "", &body))
            }
            other => Err(format!(
                "{path}.type: {other:?} is not supported: send const_string, json_schema, regex, any_text, tag, \
                 triggered_tags, tags_with_separator, sequence or or"
            )),
        }
    }
}
