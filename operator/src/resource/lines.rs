//! Finds the line of a field in the text of a manifest. The YAML parser keeps no positions, so this module reads the
//! indentation. For a field inside `{…}`, it finds the line on which the flow mapping starts. The line is a hint for
//! people. No decision rests on it.

/// Returns the line of the field at `path` (names with dots between), counted from 1. If the field is not found,
/// returns the line of its nearest ancestor.
pub(super) fn line_of(text: &str, path: &str) -> Option<usize> {
    let lines: Vec<KeyLine<'_>> = text.lines().enumerate().filter_map(KeyLine::parse).collect();
    let mut within = &lines[..];
    let mut found = None;
    for name in path.split('.').filter(|name| !name.is_empty()) {
        let Some(indent) = within.first().map(|line| line.indent) else { break };
        let Some(at) = within.iter().position(|line| line.indent == indent && line.key == name) else { break };
        found = Some(within[at].number);
        let below = &within[at + 1..];
        let end = below.iter().position(|line| line.indent <= indent).unwrap_or(below.len());
        within = &below[..end];
    }
    found
}

/// A line that holds a key.
struct KeyLine<'a> {
    number: usize,
    indent: usize,
    key: &'a str,
}

impl<'a> KeyLine<'a> {
    /// Parses a line. Returns `None` for a comment, a blank line or a document mark.
    fn parse((index, text): (usize, &'a str)) -> Option<Self> {
        let body = text.trim_start();
        if body.is_empty() || body.starts_with('#') || text.starts_with("---") {
            return None;
        }
        let key = body.split(':').next().unwrap_or("").trim().trim_matches(['"', '\'']);
        Some(Self { number: index + 1, indent: text.len() - body.len(), key })
    }
}

#[cfg(test)]
mod tests {
    use super::line_of;

    const TEXT: &str =
        "# x\napiVersion: a\nmetadata: { name: n }\nspec:\n  # c\n  model:\n    source: s\n\n  'workers': 1\n";

    #[test]
    fn fields_have_lines() {
        for (path, line) in [
            ("apiVersion", Some(2)),
            ("metadata.name", Some(3)),
            ("spec.model", Some(6)),
            ("spec.model.source", Some(7)),
            ("spec.model.dtype", Some(6)),
            ("spec.workers", Some(9)),
            ("kind", None),
            ("", None),
        ] {
            assert_eq!(line_of(TEXT, path), line, "{path}");
        }
    }
}
