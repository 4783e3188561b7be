//! A rank's summary of its shard of one row of logits, as all ranks exchange it: a few words of 32 bits, always the
//! same number.

use super::choose::Candidate;

/// Words before the candidates.
const HEADER_WORDS: usize = 6;

/// One rank's summary of one row.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RankSummary {
    /// True if every logit is a finite number. If not, the other fields have no meaning.
    pub finite: bool,
    /// `ln Σ exp(logit)`.
    pub log_sum: f32,
    /// `ln Σ exp((logit - greatest of the candidates) / temperature)`.
    pub scaled_log_sum: f32,
    /// Number by which the ranks' winners are compared: the logit, or the Gumbel key.
    pub key: f32,
    /// Winner of this shard, with its logit.
    pub winner: Candidate,
    /// Greatest logits of this shard, descending.
    pub candidates: Vec<Candidate>,
}

impl RankSummary {
    /// Returns the number of words of a summary with `num_candidates` candidates.
    pub fn num_words(num_candidates: usize) -> usize {
        HEADER_WORDS + 2 * num_candidates
    }

    /// Appends the summary to `words`, with padding if it has fewer than `num_candidates` candidates.
    pub fn append_to(&self, num_candidates: usize, words: &mut Vec<u32>) {
        let (logit, id) = self.winner;
        let header = [
            u32::from(self.finite),
            self.log_sum.to_bits(),
            self.scaled_log_sum.to_bits(),
            self.key.to_bits(),
            logit.to_bits(),
            id,
        ];
        words.extend(header);
        let padding = std::iter::repeat((f32::NEG_INFINITY, u32::MAX));
        let candidates = self.candidates.iter().copied().chain(padding).take(num_candidates);
        words.extend(candidates.flat_map(|(logit, id)| [logit.to_bits(), id]));
    }

    /// Decodes one summary of exactly [`RankSummary::num_words`] words.
    pub fn from_words(words: &[u32]) -> Self {
        let (header, candidates) = words.split_at(HEADER_WORDS);
        let float = |index: usize| f32::from_bits(header[index]);
        let pairs = candidates.chunks_exact(2).map(|pair| (f32::from_bits(pair[0]), pair[1]));
        Self {
            finite: header[0] == 1,
            log_sum: float(1),
            scaled_log_sum: float(2),
            key: float(3),
            winner: (float(4), header[5]),
            candidates: pairs.filter(|(_, id)| *id != u32::MAX).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_survives_its_encoding() {
        let summary = RankSummary {
            finite: true,
            log_sum: 1.5,
            scaled_log_sum: -2.5,
            key: 7.25,
            winner: (3.5, 11),
            candidates: vec![(3.5, 11), (1.0, 12)],
        };
        for num_candidates in [2, 5] {
            let mut words = Vec::new();
            summary.append_to(num_candidates, &mut words);
            assert_eq!(words.len(), RankSummary::num_words(num_candidates));
            assert_eq!(RankSummary::from_words(&words), summary);
        }
    }
}
