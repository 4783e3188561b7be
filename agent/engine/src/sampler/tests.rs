//! Sampling at every world size gives the same token with the same log-probabilities.

use lockstep_collectives::memory::{Faults, form_group};

use super::*;

/// Returns logits in steps of a quarter, so that there are ties.
fn logits(rows: usize, vocab_size: usize, seed: u64, spread: f32) -> Vec<f32> {
    let value = |index: usize| lockstep_kernels::uniform(seed, 0, 0, u32::try_from(index).unwrap());
    (0..rows * vocab_size).map(|index| (value(index) * spread * 4.0).round() / 4.0).collect()
}

/// Samples on `world_size` ranks and checks that all of them return the same.
fn sample(
    world_size: usize,
    vocab_size: usize,
    logits: &[f32],
    params: &[SamplingParams],
) -> Result<Vec<Sampled>, EngineError> {
    sample_allowed(world_size, vocab_size, logits, params, None)
}

/// Samples like [`sample`], from the allowed tokens alone.
fn sample_allowed(
    world_size: usize,
    vocab_size: usize,
    logits: &[f32],
    params: &[SamplingParams],
    allowed: Option<&TokenMask>,
) -> Result<Vec<Sampled>, EngineError> {
    let row = |(params, seq)| SamplingRow { seq, params, counts: None, allowed, position: 7 + seq as u32 };
    let rows: Vec<SamplingRow> = params.iter().zip(1..).map(row).collect();
    on_all_ranks(world_size, vocab_size, logits, |sampler, logits, member| sampler.sample(&rows, logits, member))
}

/// Calls `run` on `world_size` ranks, each with its sampler and its part of the logits, and checks that all of them
/// return the same.
fn on_all_ranks<T: std::fmt::Debug + Send>(
    world_size: usize,
    vocab_size: usize,
    logits: &[f32],
    run: impl Fn(Sampler, &[f32], &mut dyn Communicator) -> Result<T, EngineError> + Sync,
) -> Result<T, EngineError> {
    let run = |mut member: lockstep_collectives::Mesh| {
        let sampler = Sampler::new(member.group(), vocab_size);
        let vocab_range = sampler.vocab_range(member.group().rank());
        let own_logits: Vec<f32> =
            logits.chunks(vocab_size).flat_map(|row| row[vocab_range.clone()].iter().copied()).collect();
        run(sampler, &own_logits, &mut member)
    };
    let members = form_group(world_size, &Faults::default()).unwrap();
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = members.into_iter().map(|member| scope.spawn(|| run(member))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let descriptions: Vec<String> = results.iter().map(|result| format!("{result:?}")).collect();
    assert!(descriptions.windows(2).all(|pair| pair[0] == pair[1]), "{descriptions:?}");
    results.into_iter().next().unwrap()
}

fn all_sampling_params() -> Vec<SamplingParams> {
    let mut all_params = Vec::new();
    for temperature in [0.0, 0.7, 1.5] {
        for top_k in [0, 1, 5, 100, 300] {
            for top_p in [1.0, 0.9, 0.3, 1e-6] {
                for min_p in [0.0, 0.05] {
                    let seed = all_params.len() as u64;
                    all_params.push(SamplingParams {
                        temperature,
                        top_k,
                        top_p,
                        min_p,
                        seed,
                        choice: 1,
                        ..Default::default()
                    });
                }
            }
        }
    }
    all_params
}

#[test]
fn every_method_gives_the_same_at_every_world_size() {
    for (vocab_size, spread) in [(1000, 0.1), (1000, 40.0), (37, 3.0)] {
        let params = all_sampling_params();
        let logits = logits(params.len(), vocab_size, 3, spread);
        let alone = sample(1, vocab_size, &logits, &params).unwrap();
        for world_size in [2, 3, 4] {
            assert_eq!(sample(world_size, vocab_size, &logits, &params).unwrap(), alone, "{world_size} ranks");
        }
    }
}

#[test]
fn greedy_sampling_takes_the_lowest_id_of_equal_logits() {
    let logits = [0.0, 2.0, 1.0, 2.0, 2.0, -1.0];
    for world_size in 1..=4 {
        let sampled = sample(world_size, 6, &logits, &[SamplingParams::default()]).unwrap();
        assert_eq!((sampled[0].seq, sampled[0].token), (1, 1));
    }
}

#[test]
fn logprobs_are_those_of_the_whole_row() {
    let vocab_size = 300;
    let logits = logits(2, vocab_size, 5, 8.0);
    // 300 are more than a summary has.
    let params = [(0.0, 20), (0.9, 300)].map(|(temperature, count)| SamplingParams {
        temperature,
        logprobs: Some(count),
        seed: 2,
        ..SamplingParams::default()
    });
    for world_size in [1, 3] {
        let sampled = sample(world_size, vocab_size, &logits, &params).unwrap();
        for ((sampled, row), count) in sampled.iter().zip(logits.chunks(300)).zip([20, 300]) {
            let sum: f64 = row.iter().map(|logit| f64::from(*logit).exp()).sum();
            let expected = |id: u32| f64::from(row[id as usize]) - sum.ln();
            let logprobs = sampled.logprobs.as_ref().unwrap();
            assert!((f64::from(logprobs.chosen) - expected(sampled.token)).abs() < 1e-5);
            let greatest = top_k(row, 0, count).unwrap();
            assert_eq!(
                logprobs.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(),
                greatest.iter().map(|b| b.1).collect::<Vec<_>>()
            );
            assert!(logprobs.top.iter().all(|(id, value)| (f64::from(*value) - expected(*id)).abs() < 1e-5));
        }
    }
}

#[test]
fn a_target_has_its_place_among_all_tokens() {
    let (vocab_size, rows) = (300, 4);
    // There are ties, in which the lower id is first.
    let logits = logits(rows, vocab_size, 9, 6.0);
    let targets: Vec<TargetRow> = (0..4).map(|row| TargetRow { seq: 1, token: row * 99, top: row * 7 }).collect();
    for world_size in 1..=4 {
        let tokens =
            on_all_ranks(world_size, vocab_size, &logits, |sampler, own, member| sampler.score(&targets, own, member));
        for ((target, token), row) in targets.iter().zip(tokens.unwrap()).zip(logits.chunks(vocab_size)) {
            let order = top_k(row, 0, vocab_size).unwrap();
            let sum: f64 = row.iter().map(|logit| f64::from(*logit).exp()).sum();
            let is_near = |logit: f32, got: f32| (f64::from(logit) - sum.ln() - f64::from(got)).abs() < 1e-5;
            assert!(is_near(row[target.token as usize], token.logprobs.chosen), "{token:?}");
            assert_eq!(order[token.rank as usize - 1].1, target.token, "{world_size} ranks");
            assert_eq!(token.logprobs.top.len(), target.top as usize);
            let mut pairs = token.logprobs.top.iter().zip(&order);
            assert!(pairs.all(|(top, greatest)| top.0 == greatest.1 && is_near(greatest.0, top.1)), "{token:?}");
        }
    }
    let infinite = [0.0, 1.0, f32::INFINITY, 0.0];
    let target = [TargetRow { seq: 4, token: 0, top: 1 }];
    let refused = on_all_ranks(2, 4, &infinite, |sampler, own, member| sampler.score(&target, own, member));
    assert!(matches!(refused, Err(EngineError::Logits { seq: 4, rank: 1 })), "{refused:?}");
}

#[test]
fn the_error_for_a_nan_logit_names_its_sequence() {
    for (value, index) in [(f32::NAN, 15), (f32::INFINITY, 12), (f32::NEG_INFINITY, 19)] {
        let mut logits = logits(2, 10, 1, 1.0);
        logits[index] = value;
        let params = vec![SamplingParams::default(); 2];
        let error = sample(2, 10, &logits, &params).unwrap_err();
        assert!(matches!(error, EngineError::Logits { seq: 2, .. }), "{error}");
    }
}

#[test]
fn suppressed_tokens_are_neither_chosen_nor_reported() {
    let vocab_size = 12;
    let logits = logits(1, vocab_size, 4, 2.0);
    let allowed = 7;
    let suppressed: Vec<u32> = (0..12).filter(|id| *id != allowed).collect();
    for temperature in [0.0, 1.0] {
        for (top_k, top_p, min_p) in [(0, 1.0, 0.0), (5, 1.0, 0.0), (0, 0.9, 0.0), (0, 1.0, 0.2)] {
            let cuts = SamplingParams { temperature, top_k, top_p, min_p, ..Default::default() };
            let params =
                SamplingParams { logprobs: Some(3), suppressed: suppressed.clone(), suppressed_until: 9, ..cuts };
            for world_size in 1..=4 {
                let sampled = sample(world_size, vocab_size, &logits, std::slice::from_ref(&params)).unwrap();
                assert_eq!(sampled[0].token, allowed, "{params:?}");
                let logprobs = sampled[0].logprobs.as_ref().unwrap();
                assert_eq!((logprobs.top.len(), logprobs.top[0].0), (1, allowed));
                assert!(logprobs.chosen.abs() < 1e-6);
            }
        }
    }
}

#[test]
fn only_allowed_tokens_are_chosen_at_any_world_size() {
    let vocab_size = 100;
    let params = all_sampling_params();
    let logits = logits(params.len(), vocab_size, 6, 5.0);
    let allowed = TokenMask::new(vec![0, 1 << 3 | 1 << 9, 0, 0b1000]);
    let alone = sample_allowed(1, vocab_size, &logits, &params, Some(&allowed)).unwrap();
    assert!(alone.iter().all(|sampled| allowed.contains(sampled.token)), "{alone:?}");
    assert!([35, 41, 99].iter().all(|id| alone.iter().any(|sampled| sampled.token == *id)), "each is chosen sometimes");
    for world_size in [2, 3, 4] {
        assert_eq!(sample_allowed(world_size, vocab_size, &logits, &params, Some(&allowed)).unwrap(), alone);
    }
}

#[test]
fn a_flat_row_with_top_p_draws_from_its_whole_tail() {
    let vocab_size = 1000;
    let logits = vec![0.0; vocab_size];
    let tokens: Vec<u32> = (0..40)
        .map(|seed| SamplingParams { temperature: 1.0, top_p: 0.95, seed, ..SamplingParams::default() })
        .map(|params| sample(2, vocab_size, &logits, &[params]).unwrap()[0].token)
        .collect();
    assert!(tokens.iter().all(|token| *token <= 950), "{tokens:?}");
    assert!(tokens.iter().any(|token| *token > 500), "{tokens:?}");
}

/// Makes the same choice, written without ranks, candidate lists and speed in mind.
fn naive(row: &[f32], params: &SamplingParams, position: u32) -> u32 {
    let scaled: Vec<f64> = row.iter().map(|logit| f64::from(*logit) / f64::from(params.temperature)).collect();
    let mut kept: Vec<usize> = (0..row.len()).collect();
    kept.sort_by(|a, b| scaled[*b].partial_cmp(&scaled[*a]).unwrap());
    if params.top_k > 0 {
        kept.truncate(params.top_k as usize);
    }
    let mass: f64 = kept.iter().map(|id| scaled[*id].exp()).sum();
    let mut before = 0.0;
    kept.retain(|id| {
        let keep = before < f64::from(params.top_p) * mass;
        before += scaled[*id].exp();
        keep
    });
    let most = scaled[kept[0]];
    kept.retain(|id| (scaled[*id] - most).exp() >= f64::from(params.min_p));
    let key = |id: &usize| {
        let u = lockstep_kernels::uniform(params.seed, params.choice, position, u32::try_from(*id).unwrap());
        scaled[*id] - (-(1.0 - f64::from(u)).ln()).ln()
    };
    let greatest = kept.into_iter().max_by(|a, b| key(a).partial_cmp(&key(b)).unwrap()).unwrap();
    u32::try_from(greatest).unwrap()
}

#[test]
fn choices_match_the_naive_sampler() {
    let vocab_size = 500;
    let mut params = Vec::new();
    for seed in 0..30 {
        for (top_k, top_p) in [(0, 1.0), (0, 0.95), (0, 0.4), (12, 1.0), (12, 0.7), (300, 0.99)] {
            let temperature = 0.3 + 0.1 * (seed % 10) as f32;
            for min_p in [0.0, 0.1] {
                params.push(SamplingParams { temperature, top_k, top_p, min_p, seed, choice: 2, ..Default::default() });
            }
        }
    }
    let value = |index: usize| lockstep_kernels::uniform(11, 1, 1, u32::try_from(index).unwrap()) * 9.0;
    let logits: Vec<f32> = (0..params.len() * vocab_size).map(value).collect();
    let sampled = sample(3, vocab_size, &logits, &params).unwrap();
    for (index, (sampled, row)) in sampled.iter().zip(logits.chunks(vocab_size)).enumerate() {
        let position = 8 + u32::try_from(index).unwrap();
        assert_eq!(sampled.token, naive(row, &params[index], position), "{:?}", params[index]);
    }
}
