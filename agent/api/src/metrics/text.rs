//! Prometheus' own text format, version 0.0.4, from OpenMetrics text.
//!
//! The formats differ in the names of counters: OpenMetrics describes `requests` and counts `requests_total`, and a
//! scraper of the older format would find no description of `requests_total`.

/// Rewrites a page of OpenMetrics.
pub(super) fn to_prometheus(page: &str) -> String {
    let mut text = String::with_capacity(page.len());
    let mut add = |parts: &[&str]| {
        parts.iter().for_each(|part| text.push_str(part));
        text.push('\n');
    };
    let mut help = None;
    for line in page.lines() {
        let Some(comment) = line.strip_prefix("# ") else {
            add(&[line]);
            continue;
        };
        let mut words = comment.splitn(3, ' ');
        match (words.next(), words.next(), words.next().unwrap_or_default()) {
            // The type, which comes next, says how the family is called here.
            (Some("HELP"), Some(_), words) => help = Some(words),
            (Some("TYPE"), Some(name), kind) => {
                let (suffix, kind) = match kind {
                    "counter" => ("_total", kind),
                    "info" => ("_info", "gauge"),
                    "unknown" => ("", "untyped"),
                    _ => ("", kind),
                };
                if let Some(help) = help.take() {
                    add(&["# HELP ", name, suffix, " ", help]);
                }
                add(&["# TYPE ", name, suffix, " ", kind]);
            }
            // A unit and the end of the page have no line in this format.
            _ => {}
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_described_by_the_name_that_counts() {
        let page = "# HELP a_requests Requests that ended.\n# TYPE a_requests counter\n\
                    a_requests_total{outcome=\"a # b\"} 7\n# HELP a_wait_seconds Wait.\n# TYPE a_wait_seconds histogram\n\
                    # UNIT a_wait_seconds seconds\na_wait_seconds_bucket{le=\"+Inf\"} 1\n# TYPE b gauge\nb 2\n# EOF\n";
        let expected = "# HELP a_requests_total Requests that ended.\n# TYPE a_requests_total counter\n\
                        a_requests_total{outcome=\"a # b\"} 7\n# HELP a_wait_seconds Wait.\n\
                        # TYPE a_wait_seconds histogram\na_wait_seconds_bucket{le=\"+Inf\"} 1\n# TYPE b gauge\nb 2\n";
        assert_eq!(to_prometheus(page), expected);
    }
}
