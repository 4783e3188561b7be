//! Inputs that stand for several files or answers.

/// Line between two parts of an input.
const BETWEEN: &[u8] = b"\n====\n";
/// End of a first line that repeats a part, as in `3000 times`.
const TIMES: &[u8] = b" times\n";
/// Longest file that a part may stand for, in bytes: more than any reader of small files accepts.
const LONGEST: usize = 3 << 19;

/// Splits an input into its parts, at least one.
pub fn split_parts(bytes: &[u8]) -> Vec<&[u8]> {
    let (mut parts, mut rest) = (Vec::new(), bytes);
    while let Some(at) = find(rest, BETWEEN) {
        parts.push(&rest[..at]);
        rest = &rest[at + BETWEEN.len()..];
    }
    parts.push(rest);
    parts
}

/// Returns the file that a part stands for. `N times` on the first line makes a large file of a small input.
pub fn expand_part(part: &[u8]) -> Vec<u8> {
    let Some(at) = find(part, TIMES) else { return part.to_vec() };
    let times = std::str::from_utf8(&part[..at]).ok().and_then(|number| number.parse().ok());
    let Some(times) = times else { return part.to_vec() };
    let once = &part[at + TIMES.len()..];
    once.repeat(LONGEST.checked_div(once.len()).unwrap_or_default().min(times))
}

fn find(bytes: &[u8], separator: &[u8]) -> Option<usize> {
    bytes.windows(separator.len()).position(|window| window == separator)
}
