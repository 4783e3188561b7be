//! Changes of logits do not depend on the sharding of a row.

use lockstep_schedule::plan::{Penalties, SamplingParams};

use super::*;

fn adjust_whole_and_split(
    params: &SamplingParams,
    counts: Option<&TokenCounts>,
    position: u32,
    logits: &[f32],
) -> Vec<f32> {
    let row = SamplingRow { seq: 1, params, counts, allowed: None, position };
    let whole = adjust_logits(&[row], logits, logits.len(), 0).into_owned();
    let halves = logits.chunks(logits.len() / 2).zip([0, logits.len() as u32 / 2]);
    let halves: Vec<f32> =
        halves.flat_map(|(half, first)| adjust_logits(&[row], half, half.len(), first).into_owned()).collect();
    assert_eq!(whole, halves, "however the row is split");
    whole
}

#[test]
fn penalties_depend_on_the_counts() {
    let penalties = Penalties { repetition: 2.0, presence: 0.5, frequency: 0.25 };
    let params = SamplingParams { penalties, ..Default::default() };
    let mut counts = TokenCounts::from_history(&TokenHistory { prompt: vec![0, 1, 1], answer: vec![1] });
    counts.increment(3);
    counts.increment(3);
    let logits = [4.0, 4.0, 4.0, -4.0];
    assert_eq!(adjust_whole_and_split(&params, Some(&counts), 5, &logits), [2.0, 2.0 - 0.75, 4.0, -8.0 - 1.0]);
}

#[test]
fn biases_are_added_and_suppression_ends_at_its_position() {
    let params = SamplingParams {
        logit_bias: vec![(1, -2.0), (2, 100.0), (9, 1.0)],
        suppressed: vec![2],
        suppressed_until: 6,
        ..Default::default()
    };
    assert_eq!(adjust_whole_and_split(&params, None, 5, &[1.0; 4]), [1.0, -1.0, EXCLUDED, 1.0]);
    assert_eq!(adjust_whole_and_split(&params, None, 6, &[1.0; 4]), [1.0, -1.0, 101.0, 1.0]);
}

#[test]
fn unchanged_rows_are_not_copied() {
    let params = SamplingParams { suppressed: vec![1], suppressed_until: 5, ..Default::default() };
    let row = |position| SamplingRow { seq: 1, params: &params, counts: None, allowed: None, position };
    assert!(matches!(adjust_logits(&[row(5)], &[0.0; 2], 2, 0), Cow::Borrowed(_)));
    assert!(matches!(adjust_logits(&[row(4)], &[0.0; 2], 2, 0), Cow::Owned(_)));
}
