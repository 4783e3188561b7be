//! Filters keep the fewest candidates that suffice, and draws follow their weights.

use super::*;

fn kept_ids(known: &[Candidate], is_whole_vocabulary: bool, top_k: usize, top_p: f32) -> Option<Vec<u32>> {
    kept_ids_above(known, is_whole_vocabulary, (top_k, top_p, 0.0))
}

fn kept_ids_above(
    known: &[Candidate],
    is_whole_vocabulary: bool,
    (top_k, top_p, min_p): (usize, f32, f32),
) -> Option<Vec<u32>> {
    let mass: f64 = [8.0f64, 4.0, 2.0, 1.0, 1.0].iter().sum();
    let known = KnownCandidates { candidates: known, is_whole_vocabulary, log_mass: Some((mass / 8.0).ln()) };
    truncate(&known, 1.0, top_k, top_p, min_p).map(|kept| kept.iter().map(|(_, id)| *id).collect())
}

/// The list is five tokens of weight 8, 4, 2, 1, 1.
#[test]
fn filters_keep_the_fewest_candidates_that_suffice() {
    let candidates: Vec<Candidate> =
        [(8f32, 3), (4.0, 1), (2.0, 0), (1.0, 2), (1.0, 4)].iter().map(|(w, id)| (w.ln(), *id)).collect();
    assert_eq!(kept_ids(&candidates, true, 0, 0.49), Some(vec![3]));
    assert_eq!(kept_ids(&candidates, true, 0, 0.51), Some(vec![3, 1]));
    assert_eq!(kept_ids(&candidates, true, 0, 0.80), Some(vec![3, 1, 0]));
    assert_eq!(kept_ids(&candidates, true, 0, 0.99), Some(vec![3, 1, 0, 2, 4]));
    assert_eq!(kept_ids(&candidates, true, 2, 1.0), Some(vec![3, 1]));
    assert_eq!(kept_ids(&candidates, true, 2, 0.6), Some(vec![3]), "8 of 12");
    assert_eq!(kept_ids(&candidates, true, 9, 1.0), Some(vec![3, 1, 0, 2, 4]));
    assert_eq!(kept_ids(&candidates[..2], false, 0, 0.7), Some(vec![3, 1]));
    assert_eq!(kept_ids(&candidates[..2], false, 0, 0.8), None, "more than the list has");
    assert_eq!(kept_ids(&candidates[..2], false, 3, 1.0), None);
    assert_eq!(kept_ids(&candidates[..2], false, 2, 0.9), Some(vec![3, 1]));
    assert_eq!(kept_ids_above(&candidates, true, (0, 1.0, 0.2)), Some(vec![3, 1, 0]));
    assert_eq!(kept_ids_above(&candidates, true, (2, 1.0, 0.2)), Some(vec![3, 1]));
    assert_eq!(kept_ids_above(&candidates, true, (0, 0.51, 0.2)), Some(vec![3, 1]));
    assert_eq!(kept_ids_above(&candidates, true, (0, 0.99, 1.0)), Some(vec![3]));
    assert_eq!(
        kept_ids_above(&candidates[..2], false, (0, 1.0, 0.6)),
        Some(vec![3]),
        "unknown candidates are less likely"
    );
    assert_eq!(kept_ids_above(&candidates[..2], false, (0, 1.0, 0.3)), None);
    assert_eq!(kept_ids_above(&candidates[..2], false, (0, 0.9, 0.6)), Some(vec![3]));
}

#[test]
fn methods_follow_the_parameters() {
    let method = |temperature, top_k, top_p| {
        SamplingMethod::from_params(&SamplingParams { temperature, top_k, top_p, ..SamplingParams::default() }, 100)
    };
    assert_eq!(method(0.0, 5, 0.5), SamplingMethod::Greedy);
    assert_eq!(method(f32::NAN, 0, 1.0), SamplingMethod::Greedy);
    assert_eq!(method(1e-9, 0, 1.0), SamplingMethod::Greedy);
    assert_eq!(method(0.7, 1, 1.0), SamplingMethod::Greedy);
    assert_eq!(method(0.7, 0, 1.0), SamplingMethod::WholeVocabulary { temperature: 0.7 });
    assert_eq!(method(0.7, 100, 1.0), SamplingMethod::WholeVocabulary { temperature: 0.7 });
    assert_eq!(method(0.7, 99, 0.9), SamplingMethod::Truncated { temperature: 0.7, top_k: 99, top_p: 0.9, min_p: 0.0 });
    let params = SamplingParams { temperature: 0.7, min_p: 0.1, ..SamplingParams::default() };
    assert_eq!(
        SamplingMethod::from_params(&params, 100),
        SamplingMethod::Truncated { temperature: 0.7, top_k: 0, top_p: 1.0, min_p: 0.1 }
    );
}

#[test]
fn draws_follow_the_weights_of_the_kept_candidates() {
    let candidates: Vec<Candidate> = [(3f32, 5), (1.0, 6), (1.0, 7)].iter().map(|(w, id)| (w.ln(), *id)).collect();
    let known = KnownCandidates { candidates: &candidates, is_whole_vocabulary: true, log_mass: None };
    let params = SamplingParams { temperature: 1.0, top_k: 2, seed: 9, ..SamplingParams::default() };
    let method = SamplingMethod::from_params(&params, 1000);
    let draws = 10_000;
    let fives = (0..draws).filter(|position| choose_token(&known, method, &params, *position).unwrap().1 == 5).count();
    let share = fives as f64 / f64::from(draws);
    assert!((share - 0.75).abs() < 0.02, "{share}");
}
