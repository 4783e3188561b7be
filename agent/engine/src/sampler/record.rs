//! What a rank tells the others about its part of one row of logits: a few words of 32 bits, always as many.

use super::choose::Candidate;

/// Words before the list.
const HEADING: usize = 6;

/// One rank's summary of one row.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Record {
    /// Every logit is a finite number; the rest means nothing otherwise.
    pub finite: bool,
    /// `ln Σ exp(logit)`.
    pub log_sum: f32,
    /// `ln Σ exp((logit - greatest of the list) / temperature)`.
    pub scaled_log_sum: f32,
    /// What the greatest of wins: the logit, or the Gumbel key.
    pub key: f32,
    /// The winner of this part, with its logit.
    pub winner: Candidate,
    /// The greatest logits of this part, falling.
    pub list: Vec<Candidate>,
}

impl Record {
    /// Words that a record with a list of `list_length` takes.
    pub fn words(list_length: usize) -> usize {
        HEADING + 2 * list_length
    }

    /// Appends the record to `words`; a list shorter than `list_length` is padded.
    pub fn write(&self, list_length: usize, words: &mut Vec<u32>) {
        let (logit, id) = self.winner;
        let heading = [
            u32::from(self.finite),
            self.log_sum.to_bits(),
            self.scaled_log_sum.to_bits(),
            self.key.to_bits(),
            logit.to_bits(),
            id,
        ];
        words.extend(heading);
        let padding = std::iter::repeat((f32::NEG_INFINITY, u32::MAX));
        let list = self.list.iter().copied().chain(padding).take(list_length);
        words.extend(list.flat_map(|(logit, id)| [logit.to_bits(), id]));
    }

    /// Reads one record of exactly [`Record::words`] words.
    pub fn read(words: &[u32]) -> Self {
        let (heading, list) = words.split_at(HEADING);
        let float = |index: usize| f32::from_bits(heading[index]);
        let pairs = list.chunks_exact(2).map(|pair| (f32::from_bits(pair[0]), pair[1]));
        Self {
            finite: heading[0] == 1,
            log_sum: float(1),
            scaled_log_sum: float(2),
            key: float(3),
            winner: (float(4), heading[5]),
            list: pairs.filter(|(_, id)| *id != u32::MAX).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_as_it_went() {
        let record = Record {
            finite: true,
            log_sum: 1.5,
            scaled_log_sum: -2.5,
            key: 7.25,
            winner: (3.5, 11),
            list: vec![(3.5, 11), (1.0, 12)],
        };
        for list_length in [2, 5] {
            let mut words = Vec::new();
            record.write(list_length, &mut words);
            assert_eq!(words.len(), Record::words(list_length));
            assert_eq!(Record::read(&words), record);
        }
    }
}
