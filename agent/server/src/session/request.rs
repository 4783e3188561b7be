//! From what a client asked for to a checked [`Submission`]: every bound of every field, and the defaults.

use std::time::Duration;

use lockstep_schedule::plan::SamplingParams;

use super::{RequestError, text_error};
use crate::service::Submission;
use crate::text::{ChatMessage, GenerationDefaults, Text};

/// Above this, sampling is uniform for all that anyone can tell.
const MAX_TEMPERATURE: f32 = 100.0;
/// Enough for every dialect's turn markers; each costs a comparison per byte of the answer.
const MAX_STOPS: usize = 16;
const MAX_STOP_BYTES: usize = 256;
const MAX_STOP_TOKEN_IDS: usize = 64;
/// Most likely tokens reported beside the chosen one.
pub const MAX_LOGPROBS: u32 = 20;
/// Messages of one conversation.
const MAX_MESSAGES: usize = 4096;
const MAX_ROLE_BYTES: usize = 64;

/// What a client asked for, whatever the API.
#[derive(Debug, Clone, Default)]
pub struct GenerateInput {
    /// Empty or `default`: the served model.
    pub model: String,
    pub prompt: PromptInput,
    pub sampling: SamplingInput,
    pub limits: LimitsInput,
    pub logprobs: Option<u32>,
    pub request_id: String,
    /// Time that the client gives the whole request.
    pub deadline: Option<Duration>,
}

#[derive(Debug, Clone)]
pub enum PromptInput {
    /// The tokenizer adds the special tokens that it is configured to add.
    Text(String),
    Tokens(Vec<u32>),
    Chat(Vec<ChatMessage>),
}

impl Default for PromptInput {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

/// Unset fields take the model's generation defaults, and where it has none: temperature 1, no cut, a random seed.
#[derive(Debug, Clone, Copy, Default)]
pub struct SamplingInput {
    pub temperature: Option<f32>,
    pub top_k: Option<u32>,
    pub top_p: Option<f32>,
    pub seed: Option<u64>,
}

#[derive(Debug, Clone, Default)]
pub struct LimitsInput {
    /// Unset: what the context has left.
    pub max_tokens: Option<u32>,
    pub stop: Vec<String>,
    pub stop_token_ids: Vec<u32>,
    pub ignore_eos: bool,
}

/// A request that can be submitted, with what stays on the client side of the seam.
#[derive(Debug)]
pub struct Prepared {
    pub submission: Submission,
    pub stop: Vec<String>,
}

/// Checks a request against the served model; the cheap checks come before the text is encoded.
///
/// # Errors
/// Names the first field that is out of its bounds.
pub async fn prepare(text: &Text, input: GenerateInput) -> Result<Prepared, RequestError> {
    let sampling = sampling(input.sampling, input.logprobs, &text.generation)?;
    check_limits(&input.limits, text.vocab_size)?;
    let (field, prompt) = prompt(text, input.prompt).await?;
    let room = room(field, prompt.len(), text.context_length)?;
    let max_tokens = input.limits.max_tokens.map_or(room, |asked| asked.min(room));
    let stop_token_ids = stop_token_ids(text, &input.limits);
    let LimitsInput { stop, .. } = input.limits;
    let submission = Submission {
        request_id: input.request_id,
        prompt,
        sampling,
        max_tokens,
        stop_token_ids,
        deadline: input.deadline,
    };
    Ok(Prepared { submission, stop })
}

/// Token ids of the prompt, with the name of the field that it came in.
async fn prompt(text: &Text, input: PromptInput) -> Result<(&'static str, Vec<u32>), RequestError> {
    let (field, ids) = match input {
        PromptInput::Text(prompt) => ("prompt", text.encode(prompt, true).await),
        PromptInput::Tokens(ids) => ("prompt", Ok(ids)),
        PromptInput::Chat(messages) => {
            check_messages(&messages)?;
            ("messages", text.encode_chat(messages).await)
        }
    };
    let ids = ids.map_err(|error| text_error(field, error))?;
    // Text too: a tokenizer may know more tokens than its model.
    check_vocabulary(field, &ids, text.vocab_size)?;
    if ids.is_empty() {
        return Err(RequestError::field(field, "the prompt is empty: send at least one token"));
    }
    Ok((field, ids))
}

fn check_messages(messages: &[ChatMessage]) -> Result<(), RequestError> {
    if messages.is_empty() {
        return Err(RequestError::field("messages", "the conversation is empty: send at least one message"));
    }
    if messages.len() > MAX_MESSAGES {
        return Err(RequestError::field(
            "messages",
            format!("{} messages, more than {MAX_MESSAGES}: leave the oldest out", messages.len()),
        ));
    }
    match messages.iter().position(|message| !(1..=MAX_ROLE_BYTES).contains(&message.role.len())) {
        Some(at) => Err(RequestError::field(
            "messages",
            format!("message {at} has no role of 1 to {MAX_ROLE_BYTES} bytes, e.g. `user`"),
        )),
        None => Ok(()),
    }
}

/// Tokens that the context has left for the answer, at least 1.
fn room(field: &'static str, prompt: usize, context_length: u32) -> Result<u32, RequestError> {
    let context = context_length as usize;
    if prompt < context {
        return Ok((context - prompt) as u32);
    }
    Err(RequestError::field(
        field,
        format!(
            "the prompt has {prompt} tokens, but the context holds {context} with the answer: shorten it to {} tokens \
             or fewer, or serve the model with a larger context length",
            context.saturating_sub(1)
        ),
    ))
}

fn sampling(
    input: SamplingInput,
    logprobs: Option<u32>,
    defaults: &GenerationDefaults,
) -> Result<SamplingParams, RequestError> {
    let default_temperature = match defaults.do_sample {
        Some(false) => 0.0,
        _ => defaults.temperature.unwrap_or(1.0),
    };
    let temperature = input.temperature.unwrap_or(default_temperature);
    if !(0.0..=MAX_TEMPERATURE).contains(&temperature) {
        return Err(out_of_range("temperature", temperature, "0 (greedy) to 100"));
    }
    let top_p = input.top_p.or(defaults.top_p).unwrap_or(1.0);
    if !(top_p > 0.0 && top_p <= 1.0) {
        return Err(out_of_range("top_p", top_p, "above 0 to 1"));
    }
    if logprobs.is_some_and(|count| count > MAX_LOGPROBS) {
        return Err(out_of_range("logprobs", logprobs.unwrap_or_default(), "0 to 20"));
    }
    let top_k = input.top_k.or(defaults.top_k).unwrap_or(0);
    let seed = input.seed.unwrap_or_else(random_seed);
    Ok(SamplingParams { temperature, top_k, top_p, seed, choice: 0, logprobs })
}

fn out_of_range(field: &'static str, value: impl std::fmt::Display, bounds: &str) -> RequestError {
    RequestError::field(field, format!("{value} is out of range: {bounds}"))
}

fn random_seed() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}

fn check_limits(limits: &LimitsInput, vocab_size: u32) -> Result<(), RequestError> {
    if limits.max_tokens == Some(0) {
        return Err(RequestError::field("max_tokens", "0 is out of range: at least 1"));
    }
    if limits.stop.len() > MAX_STOPS {
        return Err(RequestError::field("stop", format!("{} strings, more than {MAX_STOPS}", limits.stop.len())));
    }
    if let Some(at) = limits.stop.iter().position(|stop| !(1..=MAX_STOP_BYTES).contains(&stop.len())) {
        let bytes = limits.stop[at].len();
        return Err(RequestError::field("stop", format!("string {at} has {bytes} bytes: 1 to {MAX_STOP_BYTES}")));
    }
    if limits.stop_token_ids.len() > MAX_STOP_TOKEN_IDS {
        let count = limits.stop_token_ids.len();
        return Err(RequestError::field("stop_token_ids", format!("{count} ids, more than {MAX_STOP_TOKEN_IDS}")));
    }
    check_vocabulary("stop_token_ids", &limits.stop_token_ids, vocab_size)
}

/// # Errors
/// Names the first id that the model has no token for.
pub fn check_vocabulary(field: &'static str, ids: &[u32], vocab_size: u32) -> Result<(), RequestError> {
    match ids.iter().position(|id| *id >= vocab_size) {
        Some(at) => Err(RequestError::field(
            field,
            format!("token {} at index {at} is not in the vocabulary: ids are below {vocab_size}", ids[at]),
        )),
        None => Ok(()),
    }
}

/// The model's end tokens, the client's, and the special tokens that a stop string spells: special tokens never show
/// in the text, where the string could be found.
fn stop_token_ids(text: &Text, limits: &LimitsInput) -> Vec<u32> {
    let own = if limits.ignore_eos { &[][..] } else { &text.eos_token_ids[..] };
    let spelled = limits.stop.iter().filter_map(|stop| text.tokenizer().special_token_id(stop));
    let mut ids: Vec<u32> = own.iter().copied().chain(limits.stop_token_ids.iter().copied()).chain(spelled).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::{ModelText, fixtures};

    fn text() -> Text {
        let template = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}";
        Text::new(ModelText {
            tokenizer_json: fixtures::byte_level_json(),
            chat_template: Some(template.into()),
            vocab_size: fixtures::BYTE_LEVEL_VOCAB,
            context_length: 16,
            eos_token_ids: vec![fixtures::END],
            generation: GenerationDefaults { top_k: Some(40), temperature: Some(0.6), ..Default::default() },
            ..Default::default()
        })
        .unwrap()
    }

    fn input(prompt: &str) -> GenerateInput {
        GenerateInput { prompt: PromptInput::Text(prompt.into()), ..Default::default() }
    }

    async fn refusal(change: impl FnOnce(&mut GenerateInput)) -> String {
        let mut input = input("hi");
        change(&mut input);
        prepare(&text(), input).await.map(|prepared| format!("{:?}", prepared.submission)).unwrap_err().to_string()
    }

    #[tokio::test]
    async fn every_bound_is_named() {
        let chat = |role: &str| PromptInput::Chat(vec![ChatMessage { role: role.into(), content: "x".into() }]);
        let cases = [
            (
                refusal(|i| i.sampling.temperature = Some(-0.1)).await,
                "temperature: -0.1 is out of range: 0 (greedy) to 100",
            ),
            (refusal(|i| i.sampling.temperature = Some(f32::NAN)).await, "temperature: NaN is out"),
            (refusal(|i| i.sampling.top_p = Some(0.0)).await, "top_p: 0 is out of range: above 0 to 1"),
            (refusal(|i| i.sampling.top_p = Some(1.1)).await, "top_p: 1.1 is out"),
            (refusal(|i| i.logprobs = Some(21)).await, "logprobs: 21 is out of range: 0 to 20"),
            (refusal(|i| i.limits.max_tokens = Some(0)).await, "max_tokens: 0 is out of range: at least 1"),
            (refusal(|i| i.limits.stop = vec!["x".into(); 17]).await, "stop: 17 strings, more than 16"),
            (
                refusal(|i| i.limits.stop = vec!["x".into(), String::new()]).await,
                "stop: string 1 has 0 bytes: 1 to 256",
            ),
            (refusal(|i| i.limits.stop = vec!["x".repeat(257)]).await, "stop: string 0 has 257 bytes"),
            (refusal(|i| i.limits.stop_token_ids = vec![1; 65]).await, "stop_token_ids: 65 ids, more than 64"),
            (refusal(|i| i.limits.stop_token_ids = vec![1, 900]).await, "stop_token_ids: token 900 at index 1 is not"),
            (
                refusal(|i| i.prompt = PromptInput::Tokens(vec![265])).await,
                "prompt: token 265 at index 0 is not in the vocabulary: ids are below 265",
            ),
            (refusal(|i| i.prompt = PromptInput::Tokens(vec![])).await, "prompt: the prompt is empty"),
            (refusal(|i| i.prompt = PromptInput::Text(String::new())).await, "prompt: the prompt is empty"),
            (
                refusal(|i| i.prompt = PromptInput::Tokens(vec![1; 16])).await,
                "prompt: the prompt has 16 tokens, but the context holds 16 with the answer: shorten it to 15",
            ),
            (refusal(|i| i.prompt = PromptInput::Text("x".repeat(5000))).await, "prompt: the text has 5000 bytes"),
            (refusal(|i| i.prompt = PromptInput::Chat(vec![])).await, "messages: the conversation is empty"),
            (refusal(|i| i.prompt = chat("")).await, "messages: message 0 has no role"),
        ];
        for (error, expected) in cases {
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[tokio::test]
    async fn unset_fields_take_the_defaults() {
        let prepared = prepare(&text(), input("hello")).await.unwrap();
        let submission = prepared.submission;
        assert_eq!(submission.prompt, [256 + 3]);
        assert_eq!((submission.sampling.temperature, submission.sampling.top_k), (0.6, 40));
        assert_eq!((submission.sampling.top_p, submission.sampling.logprobs), (1.0, None));
        assert_eq!((submission.max_tokens, submission.stop_token_ids), (15, vec![fixtures::END]));

        let defaults = GenerationDefaults { do_sample: Some(false), temperature: Some(0.6), ..Default::default() };
        let greedy = sampling(SamplingInput::default(), None, &defaults).unwrap();
        assert_eq!(greedy.temperature, 0.0);
        let asked = SamplingInput { temperature: Some(0.9), ..Default::default() };
        assert_eq!(sampling(asked, None, &defaults).unwrap().temperature, 0.9);
        assert_eq!(sampling(SamplingInput::default(), None, &Default::default()).unwrap().temperature, 1.0);
    }

    #[tokio::test]
    async fn limits_are_kept() {
        let mut asked = input("hi");
        asked.limits = LimitsInput {
            max_tokens: Some(99),
            stop: vec!["<|user|>".into(), "plain".into()],
            stop_token_ids: vec![5],
            ignore_eos: true,
        };
        let prepared = prepare(&text(), asked).await.unwrap();
        assert_eq!(prepared.submission.max_tokens, 14, "cut to what the context has left");
        assert_eq!(prepared.submission.stop_token_ids, [5, fixtures::END + 1]);
        assert_eq!(prepared.stop.len(), 2);
    }

    #[tokio::test]
    async fn a_conversation_is_rendered() {
        let message = ChatMessage { role: "user".into(), content: "hi".into() };
        let chat = GenerateInput { prompt: PromptInput::Chat(vec![message]), ..Default::default() };
        let prepared = prepare(&text(), chat).await.unwrap();
        assert_eq!(text().tokenizer().decode(&prepared.submission.prompt, false), "user:hi;");
    }
}
