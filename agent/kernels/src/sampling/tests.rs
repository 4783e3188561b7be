//! Sampling must not depend on the sharding of the vocabulary, and must draw from the softmax.

use super::*;

fn row(length: usize, seed: u64) -> Vec<f32> {
    (0..length as u32).map(|id| (uniform(seed, 0, 0, id) * 40.0).round() / 4.0).collect()
}

fn greater(a: (f32, u32), b: (f32, u32)) -> (f32, u32) {
    if b.0 > a.0 { b } else { a }
}

#[test]
fn shards_agree_with_the_whole() {
    for (length, parts) in [(1, 1), (7, 2), (100, 3), (1000, 7)] {
        let row = row(length, length as u64);
        let size = length.div_ceil(parts);
        let shards = || row.chunks(size).zip((0..).step_by(size));
        let best = shards().map(|(part, first)| argmax(part, first).unwrap());
        assert_eq!(best.reduce(greater).unwrap(), argmax(&row, 0).unwrap());
        let drawn = shards().map(|(part, first)| gumbel_argmax(part, first, 0.7, 5, 1, 9).unwrap());
        assert_eq!(drawn.reduce(greater).unwrap(), gumbel_argmax(&row, 0, 0.7, 5, 1, 9).unwrap());
        let mut listed: Vec<_> = shards().flat_map(|(part, first)| top_k(part, first, 5).unwrap()).collect();
        listed.sort_by(descending);
        listed.truncate(5);
        assert_eq!(listed, top_k(&row, 0, 5).unwrap());
    }
}

#[test]
fn ties_go_to_the_lowest_id() {
    let row = [1.0, 3.0, -0.0, 3.0, 0.0];
    assert_eq!(argmax(&row, 10).unwrap(), (3.0, 11));
    let ids: Vec<u32> = top_k(&row, 10, 9).unwrap().iter().map(|(_, id)| *id).collect();
    assert_eq!(ids, [11, 13, 10, 12, 14]);
    assert!(top_k(&row, 10, 0).unwrap().is_empty());
}

#[test]
fn gumbel_draws_from_the_softmax() {
    let row = [0.0f32, 1.0, 2.0];
    let total: f32 = row.iter().map(|logit| logit.exp()).sum();
    let mut counts = [0u32; 3];
    let draws = 20_000;
    for position in 0..draws {
        counts[gumbel_argmax(&row, 0, 1.0, 42, 0, position).unwrap().1 as usize] += 1;
    }
    for (logit, count) in row.iter().zip(counts) {
        let expected = logit.exp() / total;
        assert!((count as f32 / draws as f32 - expected).abs() < 0.015, "{counts:?}");
    }
}

#[test]
fn log_sum_exp_does_not_overflow() {
    let cases: [(&[f32], f32); 4] = [
        (&[], f32::NEG_INFINITY),
        (&[f32::NEG_INFINITY], f32::NEG_INFINITY),
        (&[1000.0, 1000.0], 1000.0 + std::f32::consts::LN_2),
        (&[0.0; 8], 2.079_441_5),
    ];
    for (row, expected) in cases {
        let got = log_sum_exp(row);
        assert!(got == expected || (got - expected).abs() < 1e-4, "{row:?}: {got}");
    }
}

#[test]
fn bad_rows_are_refused() {
    let row = [0.0, f32::NAN];
    assert!(matches!(argmax(&row, 0), Err(Error::NotANumber { index: 1 })));
    assert!(matches!(top_k(&row, 0, 1), Err(Error::NotANumber { index: 1 })));
    assert!(argmax(&[], 0).is_err());
    for temperature in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        assert!(gumbel_argmax(&[1.0], 0, temperature, 0, 0, 0).is_err());
    }
}

#[test]
fn uniform_numbers_are_in_the_open_interval() {
    for id in 0..100_000 {
        let u = uniform(3, 1, 2, id);
        assert!(u > 0.0 && u < 1.0);
    }
}
