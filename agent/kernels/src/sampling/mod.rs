//! Sampling primitives on one rank's part of a row of logits, on the host.
//!
//! Results depend on token ids and values, never on the sharding of the vocabulary: ties go to the lowest id, and
//! random numbers are keyed by (seed, choice, position, token id). A NaN is an error.

mod philox;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;

use crate::error::{Error, Result, argument};

/// Returns the greatest logit and its token id. `row[i]` belongs to the id `first_id + i`.
pub fn argmax(row: &[f32], first_id: u32) -> Result<(f32, u32)> {
    best(row, first_id, |logit, _| logit)
}

/// Computes `ln Σ exp(row)`; minus infinity for an empty row.
pub fn log_sum_exp(row: &[f32]) -> f32 {
    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if top == f32::NEG_INFINITY {
        return top;
    }
    let sum: f64 = row.iter().map(|logit| f64::from((logit - top).exp())).sum();
    top + sum.ln() as f32
}

/// Returns the `k` greatest logits with their ids, in descending order, equal ones by ascending id.
pub fn top_k(row: &[f32], first_id: u32, k: usize) -> Result<Vec<(f32, u32)>> {
    refuse_nan(row)?;
    let mut candidates: Vec<(f32, u32)> = row.iter().zip(first_id..).map(|(logit, id)| (*logit, id)).collect();
    if k < candidates.len() && k > 0 {
        candidates.select_nth_unstable_by(k - 1, descending);
    }
    candidates.truncate(k);
    candidates.sort_unstable_by(descending);
    Ok(candidates)
}

/// Draws the Gumbel-max sample of `softmax(row / temperature)`: the greatest `logit / temperature + g`, with `g =
/// -ln(-ln(1 - u))` and `u` from [`uniform`]. Returns (key, id). The sample over several shards is the one with the
/// greatest key.
pub fn gumbel_argmax(
    row: &[f32],
    first_id: u32,
    temperature: f32,
    seed: u64,
    choice: u32,
    position: u32,
) -> Result<(f32, u32)> {
    if !(temperature > 0.0 && temperature.is_finite()) {
        return argument("temperature", format!("{temperature} is not a positive number"));
    }
    best(row, first_id, |logit, id| {
        let u = uniform(seed, choice, position, id);
        logit / temperature - (-(-u).ln_1p()).ln()
    })
}

/// Returns a random number in the open interval (0, 1) that depends on these four values alone: the first word of
/// Philox4x32-10 with key `seed` and counter (token id, position, choice, 0).
pub fn uniform(seed: u64, choice: u32, position: u32, token_id: u32) -> f32 {
    /// Greatest f32 below 1. Rounding could otherwise carry to 1.
    const BELOW_ONE: f32 = 1.0 - f32::EPSILON / 2.0;
    let key = [seed as u32, (seed >> 32) as u32];
    let word = philox::philox([token_id, position, choice, 0], key)[0];
    let value = (f64::from(word) + 0.5) * f64::from(2.0f32.powi(-32));
    (value as f32).min(BELOW_ONE)
}

/// Returns the greatest key of the row and its id. Ties go to the lowest id.
fn best(row: &[f32], first_id: u32, key: impl Fn(f32, u32) -> f32) -> Result<(f32, u32)> {
    refuse_nan(row)?;
    let mut keys = row.iter().zip(first_id..).map(|(logit, id)| (key(*logit, id), id));
    let Some(first) = keys.next() else {
        return argument("row", "is empty; a rank without a part of the vocabulary cannot sample");
    };
    Ok(keys.fold(first, |best, next| if next.0 > best.0 { next } else { best }))
}

fn refuse_nan(row: &[f32]) -> Result<()> {
    match row.iter().position(|logit| logit.is_nan()) {
        Some(index) => Err(Error::NotANumber { index }),
        None => Ok(()),
    }
}

/// Orders by descending value, then by ascending id. NaN was refused before, and the two zeros are equal.
fn descending(a: &(f32, u32), b: &(f32, u32)) -> Ordering {
    b.0.partial_cmp(&a.0).unwrap_or(Ordering::Equal).then(a.1.cmp(&b.1))
}
