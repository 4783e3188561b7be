//! Sampling parameters: their bounds, and the defaults from the model's `generation_config.json`.

use lockstep_schedule::plan::{Penalties, SamplingDefaults, SamplingParams};

use super::error::{RequestError, check_vocabulary, out_of_range};
use crate::service::EVENT_BACKLOG;

/// Highest temperature. Sampling is practically uniform above it.
pub(crate) const MAX_TEMPERATURE: f32 = 100.0;
/// Highest repetition penalty. A token with a higher penalty would never be chosen again.
pub(crate) const MAX_REPETITION_PENALTY: f32 = 100.0;
/// Largest presence or frequency penalty, as with OpenAI.
pub(crate) const MAX_PENALTY: f32 = 2.0;
/// Largest bias of a token's logit, as with OpenAI.
pub(crate) const MAX_BIAS: f32 = 100.0;
/// Most biases of a request. Each bias costs every rank a few operations for each token.
const MAX_BIASES: usize = 1024;
/// Highest number of most likely tokens to report beside the chosen token.
pub(crate) const MAX_LOGPROBS: u32 = 20;
/// Number of log-probabilities that stands for those of the whole vocabulary.
pub(crate) const ALL_LOGPROBS: u32 = u32::MAX;
/// Most log-probabilities of a request that wants those of the whole vocabulary. They are about 20 MB of JSON.
const MAX_ALL_LOGPROBS: u32 = 1 << 18;

/// Sampling parameters of a request. An unset field takes the model's generation default. Without such a default, the
/// temperature is 1, nothing is cut off or penalized, and the seed is random.
#[derive(Debug, Clone, Default)]
pub struct SamplingInput {
    pub temperature: Option<f32>,
    pub top_k: Option<u32>,
    pub top_p: Option<f32>,
    pub min_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
    pub presence_penalty: Option<f32>,
    pub frequency_penalty: Option<f32>,
    /// Token ids, each once, with the number to add to each one's logit.
    pub logit_bias: Vec<(u32, f32)>,
    pub seed: Option<u64>,
}

/// Returns the number of most likely tokens to report beside each of the answers' tokens, of which there are up to
/// `most_tokens`.
///
/// # Errors
/// The number is out of range, or the client asks for the whole vocabulary at too many places.
pub(crate) fn resolve_logprobs(
    asked: Option<u32>,
    most_tokens: Option<u32>,
    vocab_size: u32,
) -> Result<Option<u32>, RequestError> {
    const FIELD: &str = "logprobs";
    match asked {
        Some(ALL_LOGPROBS) => {}
        Some(count) if count > MAX_LOGPROBS => return Err(out_of_range(FIELD, count, "0 to 20, or -1 (all)")),
        _ => return Ok(asked),
    }
    let most = (MAX_ALL_LOGPROBS / vocab_size.max(1)).clamp(1, EVENT_BACKLOG as u32);
    if most_tokens.is_some_and(|tokens| tokens <= most) {
        return Ok(Some(vocab_size));
    }
    let tokens = most_tokens.map_or("no limit of tokens".to_owned(), |tokens| format!("up to {tokens} tokens"));
    let reason = format!(
        "-1 (all) reports {vocab_size} log-probabilities with each token, and the request has {tokens}: ask for {most} or \
         fewer in all (max_tokens, n)"
    );
    Err(RequestError::field(FIELD, reason))
}

/// Checks the client's parameters and fills unset fields. `logprobs` is the result of [`resolve_logprobs`].
///
/// # Errors
/// Names the first field that is out of its bounds.
pub(crate) fn resolve_sampling(
    input: SamplingInput,
    logprobs: Option<u32>,
    defaults: &SamplingDefaults,
    vocab_size: u32,
) -> Result<SamplingParams, RequestError> {
    let temperature = input.temperature.or(defaults.temperature).unwrap_or(1.0);
    if !(0.0..=MAX_TEMPERATURE).contains(&temperature) {
        return Err(out_of_range("temperature", temperature, "0 (greedy) to 100"));
    }
    let top_p = input.top_p.or(defaults.top_p).unwrap_or(1.0);
    if !(top_p > 0.0 && top_p <= 1.0) {
        return Err(out_of_range("top_p", top_p, "above 0 to 1"));
    }
    let min_p = input.min_p.or(defaults.min_p).unwrap_or(0.0);
    if !(0.0..=1.0).contains(&min_p) {
        return Err(out_of_range("min_p", min_p, "0 (all) to 1"));
    }
    Ok(SamplingParams {
        temperature,
        top_k: input.top_k.or(defaults.top_k).unwrap_or(0),
        top_p,
        min_p,
        penalties: penalties(&input, defaults)?,
        logit_bias: logit_bias(input.logit_bias, vocab_size)?,
        seed: input.seed.unwrap_or_else(random_seed),
        logprobs,
        // `prepare` sets the suppressed tokens, and `Prepared::submissions` sets the choice.
        suppressed: Vec::new(),
        suppressed_until: 0,
        choice: 0,
    })
}

fn penalties(input: &SamplingInput, defaults: &SamplingDefaults) -> Result<Penalties, RequestError> {
    let repetition = input.repetition_penalty.or(defaults.repetition_penalty).unwrap_or(1.0);
    if !(repetition > 0.0 && repetition <= MAX_REPETITION_PENALTY) {
        return Err(out_of_range("repetition_penalty", repetition, "above 0 to 100, where 1 is none"));
    }
    let penalty = |field: &'static str, asked: Option<f32>| {
        let asked = asked.unwrap_or(0.0);
        let fits = (-MAX_PENALTY..=MAX_PENALTY).contains(&asked);
        if fits { Ok(asked) } else { Err(out_of_range(field, asked, "-2 to 2")) }
    };
    Ok(Penalties {
        repetition,
        presence: penalty("presence_penalty", input.presence_penalty)?,
        frequency: penalty("frequency_penalty", input.frequency_penalty)?,
    })
}

fn logit_bias(biases: Vec<(u32, f32)>, vocab_size: u32) -> Result<Vec<(u32, f32)>, RequestError> {
    const FIELD: &str = "logit_bias";
    if biases.len() > MAX_BIASES {
        return Err(RequestError::field(FIELD, format!("{} tokens, more than {MAX_BIASES}", biases.len())));
    }
    let ids: Vec<u32> = biases.iter().map(|(id, _)| *id).collect();
    check_vocabulary(FIELD, &ids, vocab_size)?;
    match biases.iter().find(|(_, bias)| !(-MAX_BIAS..=MAX_BIAS).contains(bias)) {
        Some((id, bias)) => Err(out_of_range(FIELD, format!("{bias} for token {id}"), "-100 to 100")),
        None => Ok(biases),
    }
}

fn random_seed() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(input: SamplingInput, defaults: &SamplingDefaults) -> SamplingParams {
        resolve_sampling(input, None, defaults, 10).unwrap()
    }

    #[test]
    fn a_clients_parameter_overrides_the_models_default() {
        let greedy = SamplingDefaults { temperature: Some(0.0), ..Default::default() };
        assert_eq!(resolve(SamplingInput::default(), &greedy).temperature, 0.0);
        let asked = SamplingInput { temperature: Some(0.9), ..Default::default() };
        assert_eq!(resolve(asked, &greedy).temperature, 0.9);
        let plain = resolve(SamplingInput::default(), &Default::default());
        assert_eq!((plain.temperature, plain.min_p, plain.penalties), (1.0, 0.0, Penalties::default()));

        let makers =
            SamplingDefaults { min_p: Some(0.1), repetition_penalty: Some(1.1), ..SamplingDefaults::default() };
        let defaulted = resolve(SamplingInput::default(), &makers);
        assert_eq!((defaulted.min_p, defaulted.penalties.repetition), (0.1, 1.1));
        let asked = SamplingInput {
            min_p: Some(0.0),
            repetition_penalty: Some(1.0),
            presence_penalty: Some(-2.0),
            frequency_penalty: Some(0.5),
            logit_bias: vec![(3, -100.0)],
            ..Default::default()
        };
        let client_set = resolve(asked, &makers);
        assert_eq!(client_set.penalties, Penalties { repetition: 1.0, presence: -2.0, frequency: 0.5 });
        assert_eq!((client_set.min_p, client_set.logit_bias), (0.0, vec![(3, -100.0)]));
    }

    #[test]
    fn every_bound_is_named() {
        let refusal = |change: fn(&mut SamplingInput)| {
            let mut input = SamplingInput::default();
            change(&mut input);
            resolve_sampling(input, None, &SamplingDefaults::default(), 10).unwrap_err().to_string()
        };
        let cases = [
            (refusal(|i| i.temperature = Some(-0.1)), "temperature: -0.1 is out of range: 0 (greedy) to 100"),
            (refusal(|i| i.temperature = Some(f32::NAN)), "temperature: NaN is out"),
            (refusal(|i| i.top_p = Some(0.0)), "top_p: 0 is out of range: above 0 to 1"),
            (refusal(|i| i.top_p = Some(1.1)), "top_p: 1.1 is out"),
            (refusal(|i| i.min_p = Some(1.1)), "min_p: 1.1 is out of range: 0 (all) to 1"),
            (refusal(|i| i.repetition_penalty = Some(0.0)), "repetition_penalty: 0 is out of range: above 0"),
            (refusal(|i| i.repetition_penalty = Some(f32::INFINITY)), "repetition_penalty: inf is out"),
            (refusal(|i| i.presence_penalty = Some(2.1)), "presence_penalty: 2.1 is out of range: -2 to 2"),
            (refusal(|i| i.frequency_penalty = Some(f32::NAN)), "frequency_penalty: NaN is out"),
            (refusal(|i| i.logit_bias = vec![(10, 0.0)]), "logit_bias: token 10 at index 0 is not in the vocabulary"),
            (refusal(|i| i.logit_bias = vec![(2, 101.0)]), "logit_bias: 101 for token 2 is out of range: -100"),
            (refusal(|i| i.logit_bias = vec![(2, 0.0); 1025]), "logit_bias: 1025 tokens, more than 1024"),
        ];
        for (error, expected) in cases {
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn all_log_probabilities_are_bounded_by_their_sum() {
        let resolve = |asked, tokens| resolve_logprobs(asked, tokens, 1000).map_err(|error| error.to_string());
        assert_eq!(resolve(None, None), Ok(None));
        assert_eq!(resolve(Some(20), None), Ok(Some(20)));
        assert_eq!(resolve(Some(21), None).unwrap_err(), "logprobs: 21 is out of range: 0 to 20, or -1 (all)");
        assert_eq!(resolve(Some(ALL_LOGPROBS), Some(262)), Ok(Some(1000)));
        for (tokens, told) in [(Some(263), "up to 263 tokens"), (None, "no limit of tokens")] {
            let error = resolve(Some(ALL_LOGPROBS), tokens).unwrap_err();
            assert!(error.contains(told) && error.contains("ask for 262 or fewer in all (max_tokens, n)"), "{error}");
        }
        // One token is always allowed.
        assert_eq!(resolve_logprobs(Some(ALL_LOGPROBS), Some(1), 1 << 20).unwrap(), Some(1 << 20));
    }
}
