//! The merging of many containers' logs by time. Each log keeps its own order.

use super::line::Line;

/// Returns all lines of `logs` in order of time. A line without a time follows its predecessor.
pub(super) fn merge(logs: Vec<Vec<Line>>) -> Vec<Line> {
    let mut all = Vec::new();
    for log in logs {
        let mut latest = None;
        for line in log {
            latest = line.at.max(latest);
            all.push((latest, line));
        }
    }
    // The sort is stable: equal times keep the order of containers.
    all.sort_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, line)| line).collect()
}

#[cfg(test)]
mod tests {
    use super::super::line::{Line, Source};

    #[test]
    fn lines_of_two_pods_are_merged_by_time() {
        let lines_of = |pod: &str, lines: &[&str]| {
            let source = Source { group: None, rank: None, pod: pod.into(), container: "rank".into() };
            lines.iter().map(|line| Line::new(source.clone(), line)).collect::<Vec<_>>()
        };
        let a = lines_of("a", &["2026-01-01T00:00:01Z one", "goes on", "2026-01-01T00:00:04Z four"]);
        let b = lines_of("b", &["2026-01-01T00:00:02Z two", "2026-01-01T00:00:03Z three"]);
        let merged = super::merge(vec![a, b]);
        let texts: Vec<_> = merged.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(texts, ["one", "goes on", "two", "three", "four"]);
    }
}
