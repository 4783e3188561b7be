//! Random changes that make new inputs of old ones.

use lockstep_tests::random::Random;

/// Numbers at which parsers tend to break.
const EDGES: &[&[u8]] = &[
    b"0",
    b"-1",
    b"1e308",
    b"18446744073709551615",
    b"18446744073709551616",
    b"4294967296",
    b"null",
    b"[]",
    b"{}",
    b"\"\"",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x00\x00\x00\x00\x00\x00\x00\x80",
    b"\xed\xa0\x80",
];
/// Number of the entries of `EDGES` that are written as text.
const NUMBERS: usize = 6;

/// Returns an input of the corpus with a few changes, no longer than `longest`.
pub fn change_input(corpus: &[Vec<u8>], longest: usize, random: &mut Random) -> Vec<u8> {
    let mut input = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(6) {
        change(&mut input, corpus, random);
    }
    input.truncate(longest);
    input
}

fn change(input: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut Random) {
    let at = random.below(input.len() + 1);
    let end = (at + 1 + random.below(16)).min(input.len());
    match random.below(9) {
        0 if at < input.len() => input[at] ^= 1 << random.below(8),
        1 if at < input.len() => input[at] = random.below(256) as u8,
        2 => input.truncate(at),
        3 => drop(input.drain(at.min(end)..end)),
        4 => {
            let again = input[at.min(end)..end].to_vec();
            input.splice(at..at, again.repeat(1 + random.below(20)));
        }
        5 => drop(input.splice(at.min(end)..end, EDGES[random.below(EDGES.len())].iter().copied())),
        6 => {
            let other = &corpus[random.below(corpus.len())];
            let from = random.below(other.len() + 1);
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        7 => insert_part(input, at, corpus, random),
        _ => replace_number(input, random),
    }
}

/// Inserts a part of another input at some place.
fn insert_part(input: &mut Vec<u8>, at: usize, corpus: &[Vec<u8>], random: &mut Random) {
    let other = &corpus[random.below(corpus.len())];
    let from = random.below(other.len() + 1);
    let to = (from + random.below(64)).min(other.len());
    input.splice(at..at, other[from..to].iter().copied());
}

/// Replaces a run of digits by one of the numbers at which parsers break.
fn replace_number(input: &mut Vec<u8>, random: &mut Random) {
    let digits: Vec<usize> = (0..input.len()).filter(|at| input[*at].is_ascii_digit()).collect();
    if digits.is_empty() {
        return;
    }
    let from = digits[random.below(digits.len())];
    let to = (from..input.len()).find(|at| !input[*at].is_ascii_digit()).unwrap_or(input.len());
    input.splice(from..to, EDGES[random.below(NUMBERS)].iter().copied());
}
