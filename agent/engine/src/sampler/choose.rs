//! The choice of one token from candidates that all ranks hold alike. Pure: no tensor, no communication.

use lockstep_kernels::uniform;
use lockstep_schedule::plan::SamplingParams;

use super::math;

/// A logit and its token id.
pub type Candidate = (f32, u32);

/// Below this a temperature means greedy: logits divided by less would leave the range of f32.
const GREEDY_BELOW: f32 = 1e-5;

/// How the next token of one sequence is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Method {
    /// The greatest logit.
    Greedy,
    /// From the whole vocabulary.
    Pure { temperature: f32 },
    /// From the `top_k` most likely ones (0: all), of those from the least that have `top_p` of their mass, of those
    /// from the ones that are at least `min_p` times as likely as the first.
    Cut { temperature: f32, top_k: usize, top_p: f32, min_p: f32 },
}

impl Method {
    /// `top_k` of `vocab_size` and above is no cut.
    pub fn of(params: &SamplingParams, vocab_size: usize) -> Self {
        let temperature = params.temperature;
        let top_k = params.top_k as usize;
        let top_k = if top_k >= vocab_size { 0 } else { top_k };
        if temperature.is_nan() || temperature < GREEDY_BELOW || top_k == 1 {
            Self::Greedy
        } else if top_k == 0 && params.top_p >= 1.0 && params.min_p <= 0.0 {
            Self::Pure { temperature }
        } else {
            Self::Cut { temperature, top_k, top_p: params.top_p, min_p: params.min_p }
        }
    }
}

/// The candidates that are known of one row.
pub struct Known<'a> {
    /// The greatest of the vocabulary, in falling order, equal ones by rising id.
    pub candidates: &'a [Candidate],
    /// They are the whole vocabulary.
    pub complete: bool,
    /// `ln Σ exp((logit - greatest) / temperature)` over the vocabulary; needed where `top_p` cuts without a `top_k`.
    pub log_mass: Option<f64>,
}

/// Chooses; `None` where what is known does not suffice, never where it is complete.
pub fn choose(known: &Known<'_>, method: Method, params: &SamplingParams, position: u32) -> Option<Candidate> {
    let (temperature, kept) = match method {
        Method::Greedy => return known.candidates.first().copied(),
        Method::Pure { temperature } => (temperature, known.complete.then_some(known.candidates)?),
        Method::Cut { temperature, top_k, top_p, min_p } => {
            (temperature, cut(known, temperature, top_k, top_p, min_p)?)
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

/// The candidates that survive `top_k`, then `top_p`, then `min_p`; at least one.
fn cut<'a>(known: &Known<'a>, temperature: f32, top_k: usize, top_p: f32, min_p: f32) -> Option<&'a [Candidate]> {
    let (list, closed) = match top_k {
        0 => (known.candidates, known.complete),
        k if known.candidates.len() >= k => (&known.candidates[..k], true),
        _ => (known.candidates, known.complete),
    };
    if top_k > 0 && !closed {
        return None;
    }
    // What any cut keeps is a beginning of the list, so where `min_p` ends within it the rest need not be known.
    let likely = likely(list, temperature, min_p);
    let closed = closed || likely.len() < list.len();
    if top_p >= 1.0 {
        return closed.then_some(likely);
    }
    let most = f64::from(list.first()?.0) / f64::from(temperature);
    let weight = |candidate: &Candidate| math::exp(f64::from(candidate.0) / f64::from(temperature) - most);
    let mass = match known.log_mass {
        Some(log_mass) if top_k == 0 => math::exp(log_mass),
        _ => list.iter().map(weight).sum(),
    };
    let wanted = f64::from(top_p) * mass;
    let mut before = 0.0;
    for (index, candidate) in likely.iter().enumerate() {
        if index > 0 && before >= wanted {
            return Some(&likely[..index]);
        }
        before += weight(candidate);
    }
    (closed || before >= wanted).then_some(likely)
}

/// Those of a falling list that are at least `min_p` times as likely as the first; at least one.
fn likely(list: &[Candidate], temperature: f32, min_p: f32) -> &[Candidate] {
    let Some((most, _)) = list.first().filter(|_| min_p > 0.0) else { return list };
    let least = f64::from(*most) + f64::from(temperature) * math::ln(f64::from(min_p));
    &list[..list.partition_point(|(logit, _)| f64::from(*logit) >= least).max(1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(known: &[Candidate], complete: bool, top_k: usize, top_p: f32) -> Option<Vec<u32>> {
        ids_above(known, complete, (top_k, top_p, 0.0))
    }

    fn ids_above(known: &[Candidate], complete: bool, (top_k, top_p, min_p): (usize, f32, f32)) -> Option<Vec<u32>> {
        let mass: f64 = [8.0f64, 4.0, 2.0, 1.0, 1.0].iter().sum();
        let known = Known { candidates: known, complete, log_mass: Some((mass / 8.0).ln()) };
        cut(&known, 1.0, top_k, top_p, min_p).map(|kept| kept.iter().map(|(_, id)| *id).collect())
    }

    /// Five tokens of weight 8, 4, 2, 1, 1.
    #[test]
    fn cuts_keep_the_least_that_suffices() {
        let list: Vec<Candidate> =
            [(8f32, 3), (4.0, 1), (2.0, 0), (1.0, 2), (1.0, 4)].iter().map(|(w, id)| (w.ln(), *id)).collect();
        assert_eq!(ids(&list, true, 0, 0.49), Some(vec![3]));
        assert_eq!(ids(&list, true, 0, 0.51), Some(vec![3, 1]));
        assert_eq!(ids(&list, true, 0, 0.80), Some(vec![3, 1, 0]));
        assert_eq!(ids(&list, true, 0, 0.99), Some(vec![3, 1, 0, 2, 4]));
        assert_eq!(ids(&list, true, 2, 1.0), Some(vec![3, 1]));
        assert_eq!(ids(&list, true, 2, 0.6), Some(vec![3]), "8 of 12");
        assert_eq!(ids(&list, true, 9, 1.0), Some(vec![3, 1, 0, 2, 4]));
        assert_eq!(ids(&list[..2], false, 0, 0.7), Some(vec![3, 1]));
        assert_eq!(ids(&list[..2], false, 0, 0.8), None, "more than the list has");
        assert_eq!(ids(&list[..2], false, 3, 1.0), None);
        assert_eq!(ids(&list[..2], false, 2, 0.9), Some(vec![3, 1]));
        assert_eq!(ids_above(&list, true, (0, 1.0, 0.2)), Some(vec![3, 1, 0]));
        assert_eq!(ids_above(&list, true, (2, 1.0, 0.2)), Some(vec![3, 1]));
        assert_eq!(ids_above(&list, true, (0, 0.51, 0.2)), Some(vec![3, 1]));
        assert_eq!(ids_above(&list, true, (0, 0.99, 1.0)), Some(vec![3]));
        assert_eq!(ids_above(&list[..2], false, (0, 1.0, 0.6)), Some(vec![3]), "what is unknown is less likely");
        assert_eq!(ids_above(&list[..2], false, (0, 1.0, 0.3)), None);
        assert_eq!(ids_above(&list[..2], false, (0, 0.9, 0.6)), Some(vec![3]));
    }

    #[test]
    fn methods_follow_the_parameters() {
        let method = |temperature, top_k, top_p| {
            Method::of(&SamplingParams { temperature, top_k, top_p, ..SamplingParams::default() }, 100)
        };
        assert_eq!(method(0.0, 5, 0.5), Method::Greedy);
        assert_eq!(method(f32::NAN, 0, 1.0), Method::Greedy);
        assert_eq!(method(1e-9, 0, 1.0), Method::Greedy);
        assert_eq!(method(0.7, 1, 1.0), Method::Greedy);
        assert_eq!(method(0.7, 0, 1.0), Method::Pure { temperature: 0.7 });
        assert_eq!(method(0.7, 100, 1.0), Method::Pure { temperature: 0.7 });
        assert_eq!(method(0.7, 99, 0.9), Method::Cut { temperature: 0.7, top_k: 99, top_p: 0.9, min_p: 0.0 });
        let params = SamplingParams { temperature: 0.7, min_p: 0.1, ..SamplingParams::default() };
        assert_eq!(Method::of(&params, 100), Method::Cut { temperature: 0.7, top_k: 0, top_p: 1.0, min_p: 0.1 });
    }

    #[test]
    fn draws_follow_the_weights_of_what_is_kept() {
        let list: Vec<Candidate> = [(3f32, 5), (1.0, 6), (1.0, 7)].iter().map(|(w, id)| (w.ln(), *id)).collect();
        let known = Known { candidates: &list, complete: true, log_mass: None };
        let params = SamplingParams { temperature: 1.0, top_k: 2, seed: 9, ..SamplingParams::default() };
        let method = Method::of(&params, 1000);
        let draws = 10_000;
        let fives = (0..draws).filter(|position| choose(&known, method, &params, *position).unwrap().1 == 5).count();
        let share = fives as f64 / f64::from(draws);
        assert!((share - 0.75).abs() < 0.02, "{share}");
    }
}
