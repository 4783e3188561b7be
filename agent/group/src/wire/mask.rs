//! Conversion of token sets to messages and back.
//!
//! A grammar mostly allows a few tokens (a brace, the rest of a name) or nearly all (the inside of a string). Such a
//! set consists of few runs, and the length of a run takes one to three bytes. A bit for each token of a vocabulary
//! takes about 16 KiB. A message has the lengths of the runs if they take fewer bytes, and the bits otherwise.

use lockstep_proto::node as pb;
use lockstep_schedule::plan::TokenMask;

/// Most words of a set that a node accepts. A word has a bit for each of 32 tokens, so this is a vocabulary of 4 Mi
/// tokens.
const MAX_WORDS: u32 = 1 << 17;

/// Converts a set of tokens to its message.
pub(super) fn to_wire(mask: &TokenMask) -> pb::TokenMask {
    let runs = run_lengths(mask.words());
    let bytes: usize = runs.iter().map(|run| varint_bytes(*run)).sum();
    let words = mask.words().len() as u32;
    if bytes < size_of_val(mask.words()) {
        return pb::TokenMask { words, runs, bits: Vec::new() };
    }
    let bits = mask.words().iter().flat_map(|word| word.to_le_bytes()).collect();
    pb::TokenMask { words, runs: Vec::new(), bits }
}

/// Converts a set of tokens from its message.
///
/// # Errors
/// Fails if the set is too large, or if its bits or runs do not match its size.
pub(super) fn from_wire(wire: pb::TokenMask) -> Result<TokenMask, String> {
    if wire.words > MAX_WORDS {
        return Err(format!("a set of tokens of {} words, more than {MAX_WORDS}", wire.words));
    }
    let size = wire.words as usize;
    if wire.runs.is_empty() {
        let (words, rest) = wire.bits.as_chunks();
        if words.len() != size || !rest.is_empty() {
            return Err(format!("a set of tokens of {size} words came as {} bytes", wire.bits.len()));
        }
        return Ok(TokenMask::new(words.iter().map(|word| u32::from_le_bytes(*word)).collect()));
    }
    let total: u64 = wire.runs.iter().map(|run| u64::from(*run)).sum();
    if total != u64::from(wire.words) * u64::from(u32::BITS) {
        return Err(format!("a set of tokens of {size} words came as runs of {total} tokens"));
    }
    let mut words = vec![0; size];
    let (mut start, mut is_allowed) = (0usize, false);
    for run in wire.runs {
        let end = start + run as usize;
        if is_allowed {
            (start..end).for_each(|id| words[id / 32] |= 1 << (id % 32));
        }
        (start, is_allowed) = (end, !is_allowed);
    }
    Ok(TokenMask::new(words))
}

/// Returns the lengths of the runs of absent and present tokens in turn. The first run has absent tokens and may be
/// empty.
fn run_lengths(words: &[u32]) -> Vec<u32> {
    let (mut runs, mut length, mut is_present) = (Vec::new(), 0, false);
    for word in words {
        let mut remaining_bits = u32::BITS;
        let mut bits = *word;
        while remaining_bits > 0 {
            let run_bits = if is_present { bits.trailing_ones() } else { bits.trailing_zeros() }.min(remaining_bits);
            length += run_bits;
            remaining_bits -= run_bits;
            if remaining_bits > 0 {
                bits >>= run_bits;
                runs.push(std::mem::take(&mut length));
                is_present = !is_present;
            }
        }
    }
    runs.push(length);
    runs
}

/// Returns the size of a number in protobuf's encoding, in bytes.
fn varint_bytes(number: u32) -> usize {
    (u32::BITS - number.leading_zeros()).div_ceil(7).max(1) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_set_of_few_runs_is_sent_as_runs() {
        let mut words = vec![0; 4096];
        words[100] = 0b110;
        assert_eq!(run_lengths(&words), [3201, 2, 4096 * 32 - 3203]);
        assert!(to_wire(&TokenMask::new(words)).bits.is_empty());
        assert_eq!(run_lengths(&[u32::MAX, 1]), [0, 33, 31]);
        let scattered = to_wire(&TokenMask::new(vec![0x5555_5555; 8]));
        assert_eq!((scattered.bits.len(), scattered.runs.len()), (32, 0));
    }

    #[test]
    fn malformed_sets_are_refused() {
        let cases = [
            (pb::TokenMask { words: 2, runs: vec![63], bits: vec![] }, "2 words came as runs of 63"),
            (pb::TokenMask { words: 2, runs: vec![u32::MAX, u32::MAX], bits: vec![] }, "runs of 8589934590"),
            (pb::TokenMask { words: 2, runs: vec![], bits: vec![0; 9] }, "2 words came as 9 bytes"),
            (pb::TokenMask { words: u32::MAX, runs: vec![], bits: vec![] }, "more than 131072"),
        ];
        for (wire, expected) in cases {
            let error = from_wire(wire).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    proptest! {
        #[test]
        fn sets_are_unchanged_by_the_wire(words in prop::collection::vec(prop_oneof![Just(0), Just(u32::MAX), any::<u32>()], 0..40)) {
            let mask = TokenMask::new(words);
            prop_assert_eq!(from_wire(to_wire(&mask)), Ok(mask));
        }
    }
}
