//! Finds the line of a field in the text of a manifest. The parser keeps no positions, so this reads the indentation;
//! inside `{…}` the answer is the line where the flow mapping starts. A hint for people, never a basis for a decision.

/// Line, from 1, of the field at `path` (dots between names), or of the nearest field above it that can be found.
pub(super) fn line_of(text: &str, path: &str) -> Option<usize> {
    let lines: Vec<Line<'_>> = text.lines().enumerate().filter_map(Line::read).collect();
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

struct Line<'a> {
    number: usize,
    indent: usize,
    key: &'a str,
}

impl<'a> Line<'a> {
    /// A line that holds something; comments, blank lines and document marks do not.
    fn read((index, text): (usize, &'a str)) -> Option<Self> {
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
    fn lines_of_fields() {
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
