//! Dates for chat templates: the directives of `strftime` that templates use, in UTC.

use jiff::Timestamp;

/// The directives that are written out. Python's other directives, and flags between `%` and the letter, stay as they
/// are, so a template cannot ask for a long text.
const DIRECTIVES: [char; 11] = ['Y', 'y', 'm', 'd', 'H', 'M', 'S', 'B', 'b', 'A', 'a'];

/// Source of the time that templates see.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum Clock {
    #[default]
    System,
    #[cfg(test)]
    At(Timestamp),
}

impl Clock {
    /// Returns the time now in a `strftime` format.
    pub(crate) fn now(self, format: &str) -> String {
        match self {
            Self::System => strftime(Timestamp::now(), format),
            #[cfg(test)]
            Self::At(time) => strftime(time, format),
        }
    }
}

fn strftime(time: Timestamp, format: &str) -> String {
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(char) = chars.next() {
        if char != '%' {
            out.push(char);
            continue;
        }
        match chars.next() {
            Some('%') | None => out.push('%'),
            Some(letter) if DIRECTIVES.contains(&letter) => {
                out.push_str(&time.strftime(&format!("%{letter}")).to_string());
            }
            Some(other) => out.extend(['%', other]),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_dates() {
        let cases = [
            (0, "%Y-%m-%d %H:%M:%S %A", "1970-01-01 00:00:00 Thursday"),
            (951_782_400, "%d %b %Y", "29 Feb 2000"),
            (1_735_689_599, "%d %B %y %a 100%% %Q", "31 December 24 Tue 100% %Q"),
        ];
        for (seconds, format, text) in cases {
            assert_eq!(strftime(Timestamp::from_second(seconds).unwrap(), format), text);
        }
    }
}
