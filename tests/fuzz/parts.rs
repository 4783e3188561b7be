//! Inputs that stand for several files or answers.

/// Between two parts of an input.
const BETWEEN: &[u8] = b"\n====\n";
/// Before a part that is meant so many times, as in `3000 times`.
const TIMES: &[u8] = b" times\n";
/// Longest file that is made of a part: more than any reader of small files takes.
const LONGEST: usize = 3 << 19;

/// The parts of an input, one at least.
pub fn parts(bytes: &[u8]) -> Vec<&[u8]> {
    let (mut parts, mut rest) = (Vec::new(), bytes);
    while let Some(at) = find(rest, BETWEEN) {
        parts.push(&rest[..at]);
        rest = &rest[at + BETWEEN.len()..];
    }
    parts.push(rest);
    parts
}

/// A part as the file that it stands for: `N times` before it makes a large file of a small input.
pub fn file_of(part: &[u8]) -> Vec<u8> {
    let Some(at) = find(part, TIMES) else { return part.to_vec() };
    let times = std::str::from_utf8(&part[..at]).ok().and_then(|number| number.parse().ok());
    let Some(times) = times else { return part.to_vec() };
    let once = &part[at + TIMES.len()..];
    once.repeat(LONGEST.checked_div(once.len()).unwrap_or_default().min(times))
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
