//! The selection of one token from candidates that are equal on all ranks. Pure: no tensor, no communication.

use lockstep_kernels::uniform;
use lockstep_schedule::plan::SamplingParams;

use super::math;

/// A logit and its token id.
pub type Candidate = (f32, u32);

/// Temperature below which sampling is greedy: logits divided by less would leave the range of f32.
const GREEDY_BELOW: f32 = 1e-5;

/// Method that chooses the next token of one sequence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SamplingMethod {
    /// Takes the greatest logit.
    Greedy,
    /// Draws from the whole vocabulary.
    WholeVocabulary { temperature: f32 },
    /// Draws from the tokens that pass three filters in turn: the `top_k` most likely (0: all), the fewest of these
    /// that have `top_p` of their mass, and those that are at least `min_p` times as likely as the first.
    Truncated { temperature: f32, top_k: usize, top_p: f32, min_p: f32 },
}

impl SamplingMethod {
    /// Returns the method of a request. A `top_k` of `vocab_size` or more keeps all tokens.
    pub fn from_params(params: &SamplingParams, vocab_size: usize) -> Self {
        // Every parameter is named, so that a new one does not compile before somebody decides about it. Those that are
        // ignored here change the logits, key the random numbers or are reported.
        let SamplingParams {
            temperature,
            top_k,
            top_p,
            min_p,
            penalties: _,
            logit_bias: _,
            suppressed: _,
            suppressed_until: _,
            seed: _,
            choice: _,
            logprobs: _,
        } = *params;
        let top_k = top_k as usize;
        let top_k = if top_k >= vocab_size { 0 } else { top_k };
        if temperature.is_nan() || temperature < GREEDY_BELOW || top_k == 1 {
            Self::Greedy
        } else if top_k == 0 && top_p >= 1.0 && min_p <= 0.0 {
            // The condition must name every filter of `Truncated`. A filter that the condition does not name has no effect
            // in a request without other filters.
            Self::WholeVocabulary { temperature }
        } else {
            Self::Truncated { temperature, top_k, top_p, min_p }
        }
    }
}

/// The candidates of one row that this rank knows.
pub struct KnownCandidates<'a> {
    /// Greatest logits of the vocabulary, descending, equal ones by ascending id.
    pub candidates: &'a [Candidate],
    /// True if the candidates are the whole vocabulary.
    pub is_whole_vocabulary: bool,
    /// `ln Σ exp((logit - greatest) / temperature)` over the vocabulary. It is needed if `top_p` truncates without a
    /// `top_k`.
    pub log_mass: Option<f64>,
}

/// Chooses a token. Returns `None` if the known candidates do not suffice, which never happens if they are the whole
/// vocabulary.
pub fn choose_token(
    known: &KnownCandidates<'_>,
    method: SamplingMethod,
    params: &SamplingParams,
    position: u32,
) -> Option<Candidate> {
    let (temperature, kept) = match method {
        SamplingMethod::Greedy => return known.candidates.first().copied(),
        SamplingMethod::WholeVocabulary { temperature } => {
            (temperature, known.is_whole_vocabulary.then_some(known.candidates)?)
        }
        SamplingMethod::Truncated { temperature, top_k, top_p, min_p } => {
            (temperature, truncate(known, temperature, top_k, top_p, min_p)?)
        }
    };
    let key = |candidate: &Candidate| {
        let u = f64::from(uniform(params.seed, params.choice, position, candidate.1));
        f64::from(candidate.0) / f64::from(temperature) - math::ln(-math::ln_1p(-u))
    };
    let greater = |best: (f64, Candidate), next: (f64, Candidate)| {
        let wins = next.0 > best.0 || (next.0 == best.0 && next.1.1 < best.1.1);
        if wins { next } else { best }
    };
    kept.iter().map(|candidate| (key(candidate), *candidate)).reduce(greater).map(|(_, candidate)| candidate)
}

/// Returns the candidates that pass `top_k`, then `top_p`, then `min_p`; at least one.
fn truncate<'a>(
    known: &KnownCandidates<'a>,
    temperature: f32,
    top_k: usize,
    top_p: f32,
    min_p: f32,
) -> Option<&'a [Candidate]> {
    let (candidates, is_complete) = match top_k {
        0 => (known.candidates, known.is_whole_vocabulary),
        k if known.candidates.len() >= k => (&known.candidates[..k], true),
        _ => (known.candidates, known.is_whole_vocabulary),
    };
    if top_k > 0 && !is_complete {
        return None;
    }
    // Every filter keeps a prefix of the list. So the unknown candidates do not matter if `min_p` ends within the list.
    let kept = keep_min_p(candidates, temperature, min_p);
    let is_complete = is_complete || kept.len() < candidates.len();
    if top_p >= 1.0 {
        return is_complete.then_some(kept);
    }
    let max = f64::from(candidates.first()?.0) / f64::from(temperature);
    let weight = |candidate: &Candidate| math::exp(f64::from(candidate.0) / f64::from(temperature) - max);
    let mass = match known.log_mass {
        Some(log_mass) if top_k == 0 => math::exp(log_mass),
        _ => candidates.iter().map(weight).sum(),
    };
    let kept_mass = f64::from(top_p) * mass;
    let mut before = 0.0;
    for (index, candidate) in kept.iter().enumerate() {
        if index > 0 && before >= kept_mass {
            return Some(&kept[..index]);
        }
        before += weight(candidate);
    }
    (is_complete || before >= kept_mass).then_some(kept)
}

/// Returns the candidates of a descending list that are at least `min_p` times as likely as the first; at least one.
fn keep_min_p(candidates: &[Candidate], temperature: f32, min_p: f32) -> &[Candidate] {
    let Some((max, _)) = candidates.first().filter(|_| min_p > 0.0) else { return candidates };
    let least = f64::from(*max) + f64::from(temperature) * math::ln(f64::from(min_p));
    &candidates[..candidates.partition_point(|(logit, _)| f64::from(*logit) >= least).max(1)]
}

#[cfg(test)]
mod tests;
