//! Stop strings, matched on the text and not on the tokens.
//!
//! The first complete stop string ends the answer, wherever tokens begin and end. The matcher holds text back only
//! while the text may be the beginning of a match. The search takes constant time per
//! byte and stop string (Knuth, Morris and Pratt).

/// Result of one more piece of text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// Text that can be shown.
    No(String),
    /// The last text before a stop string, and that string.
    Yes { text: String, stop: String },
}

/// Search for stop strings in an answer's text.
pub(crate) struct StopMatcher {
    patterns: Vec<Pattern>,
    /// Text that is held back: the longest beginning of a stop string at the end of the text so far.
    held: String,
}

/// A stop string with its failure table, and the length of its beginning at the end of the text so far.
struct Pattern {
    bytes: Vec<u8>,
    /// For each length of a matched beginning, the length of the longest shorter beginning that it ends with.
    fallback: Vec<usize>,
    matched: usize,
}

impl StopMatcher {
    /// Makes the search. Ignores empty stop strings.
    pub(crate) fn new<'a>(stops: impl IntoIterator<Item = &'a str>) -> Self {
        let patterns = stops.into_iter().filter(|stop| !stop.is_empty()).map(Pattern::new).collect();
        Self { patterns, held: String::new() }
    }

    /// Takes more text of the answer. After [`Stopped::Yes`] the search is over.
    pub(crate) fn push(&mut self, text: &str) -> Stopped {
        let start = self.held.len();
        self.held.push_str(text);
        for (offset, byte) in text.bytes().enumerate() {
            let complete = self.patterns.iter_mut().filter_map(|pattern| pattern.step(byte)).max();
            if let Some(len) = complete {
                self.held.truncate(start + offset + 1);
                let stop = self.held.split_off(start + offset + 1 - len);
                return Stopped::Yes { text: std::mem::take(&mut self.held), stop };
            }
        }
        let keep = self.patterns.iter().map(|pattern| pattern.matched).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        Stopped::No(std::mem::replace(&mut self.held, rest))
    }

    /// Ends the answer. Returns the text that was held back, because no stop string can be completed any more.
    pub(crate) fn flush(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

impl Pattern {
    fn new(stop: &str) -> Self {
        let bytes = stop.as_bytes().to_vec();
        let mut fallback = vec![0; bytes.len() + 1];
        let mut len = 0;
        for end in 1..bytes.len() {
            while len > 0 && bytes[len] != bytes[end] {
                len = fallback[len];
            }
            if bytes[len] == bytes[end] {
                len += 1;
            }
            fallback[end + 1] = len;
        }
        Self { bytes, fallback, matched: 0 }
    }

    /// Takes one byte. Returns the pattern's length if the pattern is now complete.
    fn step(&mut self, byte: u8) -> Option<usize> {
        while self.matched > 0 && self.bytes[self.matched] != byte {
            self.matched = self.fallback[self.matched];
        }
        if self.bytes[self.matched] == byte {
            self.matched += 1;
        }
        (self.matched == self.bytes.len()).then_some(self.matched)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds the pieces; returns the shown text and whether a stop string ended it.
    fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let mut matcher = StopMatcher::new(stops.iter().copied());
        let mut shown = String::new();
        for piece in pieces {
            match matcher.push(piece) {
                Stopped::No(text) => shown.push_str(&text),
                Stopped::Yes { text, stop } => {
                    assert!(stops.contains(&stop.as_str()), "{stop}");
                    return (shown + &text, true);
                }
            }
        }
        (shown + &matcher.flush(), false)
    }

    #[test]
    fn stops_where_the_first_stop_string_is_complete() {
        let cases: [(&[&str], &[&str], &str, bool); 10] = [
            (&[], &["abc"], "abc", false),
            (&[""], &["abc"], "abc", false),
            (&["b"], &["abc"], "a", true),
            (&["END"], &["an E", "N", "D and more"], "an ", true),
            (&["END"], &["an EN", "EMY"], "an ENEMY", false),
            (&["aab"], &["a", "a", "a", "b"], "a", true),
            (&["abcd", "bc"], &["abcd"], "a", true),
            (&["bc", "abc"], &["xabc"], "x", true),
            (&["語"], &["日本", "語!"], "日本", true),
            (&["\n\n"], &["one\n", "two\n", "\nthree"], "one\ntwo", true),
        ];
        for (stops, pieces, shown, stopped) in cases {
            assert_eq!(run(stops, pieces), (shown.to_owned(), stopped), "{stops:?} in {pieces:?}");
        }
    }

    #[test]
    fn names_the_longest_stop_string_that_is_complete() {
        let mut matcher = StopMatcher::new(["bc", "abc"]);
        assert_eq!(matcher.push("xa"), Stopped::No("x".into()));
        assert_eq!(matcher.push("bcd"), Stopped::Yes { text: String::new(), stop: "abc".into() });
    }

    #[test]
    fn holds_text_back_only_while_it_may_match() {
        let mut matcher = StopMatcher::new(["END"]);
        let shown = ["an E", "N", "EM", "Y"].map(|piece| matcher.push(piece));
        assert_eq!(shown, ["an ", "", "ENEM", "Y"].map(|text| Stopped::No(text.into())));
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(text in "[abé]{0,24}", stops in prop::collection::vec("[abé]{1,4}", 0..4), cut in 0usize..24) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let cut = text.char_indices().map(|(at, _)| at).nth(cut).unwrap_or(text.len());
            let whole = run(&stops, &[&text]);
            prop_assert_eq!(&run(&stops, &[&text[..cut], &text[cut..]]), &whole);
            let pieces: Vec<&str> = text.split_inclusive(|_| true).collect();
            prop_assert_eq!(run(&stops, &pieces), whole);
        }
    }
}
