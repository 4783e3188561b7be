//! A client's input becomes a checked [`Submission`]: the bounds and the defaults of every field.

use std::time::Duration;

use super::beams::{self, BeamsInput};
use super::error::{RequestError, check_vocabulary, out_of_range, text_error};
use super::sampling::{MAX_LOGPROBS, SamplingInput, resolve_logprobs, resolve_sampling};
use super::tools::{self, ToolChoice, ToolsInput};
use crate::grammar::{Grammar, GrammarError, Guide, TokenRules};
use crate::model::Text;
use crate::output::OutputFormat;
use crate::service::{ServeError, Submission};
use crate::text::{ChatMessage, Conversation, PromptEnding};

/// Most stop strings: enough for the turn markers of any chat template. Each costs a comparison per byte of the answer.
pub(crate) const MAX_STOPS: usize = 16;
const MAX_STOP_BYTES: usize = 256;
pub(crate) const MAX_STOP_TOKEN_IDS: usize = 64;
/// Most answers to one request. Each is a sequence of its own.
pub(crate) const MAX_CHOICES: u32 = 64;
/// Most messages of one conversation.
const MAX_MESSAGES: usize = 4096;
const MAX_ROLE_BYTES: usize = 64;
/// Most texts that an answer may not contain. Each costs the head two comparisons for each token.
const MAX_BAD_WORDS: usize = 128;
const BAD_WORDS: &str = "bad_words";
const ALLOWED: &str = "allowed_token_ids";

/// A client's request, from either API.
#[derive(Debug, Clone, Default)]
pub struct GenerateInput {
    /// Name of the model. Empty and `default` mean the served model.
    pub model: String,
    pub prompt: PromptInput,
    /// Place in the queue: a lower number comes first. 0 is usual.
    pub priority: i32,
    /// Only requests with the same salt share blocks of the prefix cache. Empty is usual.
    pub cache_salt: String,
    pub sampling: SamplingInput,
    pub limits: LimitsInput,
    pub output: OutputInput,
    pub truncation: Option<Truncation>,
    /// Set if the tokenizer leaves its special tokens out of a prompt that is a text.
    pub no_special_tokens: bool,
    /// Tokens that the answer may have. Empty: all.
    pub allowed_token_ids: Vec<u32>,
    /// Texts that the answer may not contain.
    pub bad_words: Vec<String>,
    /// Form of the answer, and the field that asks for it.
    pub grammar: Option<(&'static str, Grammar)>,
    /// Tools that the answer of a chat may call.
    pub tools: ToolsInput,
    pub logprobs: Option<u32>,
    /// Number of likeliest tokens to report beside each token of the prompt, with all log-probabilities.
    pub prompt_logprobs: Option<u32>,
    /// Set if the answer begins with the prompt.
    pub echo: bool,
    /// Number of answers. Each has random numbers of its own. Unset: one.
    pub choices: Option<u32>,
    /// Set if the answers come from a beam search, with as many beams as answers.
    pub beams: Option<BeamsInput>,
    pub request_id: String,
    /// Time that the client gives the whole request.
    pub deadline: Option<Duration>,
}

#[derive(Debug, Clone)]
pub enum PromptInput {
    /// The tokenizer adds the special tokens that it is configured to add.
    Text(String),
    Tokens(Vec<u32>),
    Chat(Conversation),
}

impl Default for PromptInput {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

#[derive(Debug, Clone, Default)]
pub struct LimitsInput {
    /// Most tokens of the answer. Unset: as many as fit the context.
    pub max_tokens: Option<u32>,
    /// Number of first tokens within which no end token, stop token or stop string ends the answer.
    pub min_tokens: u32,
    pub stop: Vec<String>,
    pub stop_token_ids: Vec<u32>,
    pub ignore_eos: bool,
}

/// Wishes about the text of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OutputInput {
    /// Set if the text includes the stop string or the stop token that ends the answer.
    pub include_stop: bool,
    /// Set if special tokens show in the text.
    pub show_special_tokens: bool,
    /// Set if reasoning is content.
    pub reasoning_as_content: bool,
}

/// Way to shorten a prompt that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Truncation {
    /// Most tokens of the prompt. Unset: as many as the context has room for.
    pub max_tokens: Option<u32>,
    /// Set if the first tokens of the prompt stay, instead of the last ones.
    pub keeps_first: bool,
}

/// A checked request: the submission for the head, and the settings that only this crate needs.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// Submission of the first choice.
    pub submission: Submission,
    /// Number of answers, at least 1.
    pub choices: u32,
    pub stop: Vec<String>,
    /// Format by which answers are parsed.
    pub format: OutputFormat,
    /// Number of first tokens whose text is not searched for stop strings.
    pub min_tokens: u32,
    /// Tokens that end the answer and are listed with its tokens.
    pub listed_ends: Vec<u32>,
    /// True if the answer is the rest of the prompt's text. An answer in a conversation is a text of its own.
    pub continues_prompt: bool,
    pub output: OutputInput,
    /// Set if the answer must be calls. Anything else in it is a part of a call that was cut off.
    pub only_calls: bool,
    /// Tokens that end the answer because the client asked for them, and not because the model's makers did.
    pub asked_stop_tokens: Vec<u32>,
    pub beams: Option<BeamsInput>,
}

impl Prepared {
    /// Returns the submission of each choice.
    pub(crate) fn submissions(&self) -> impl Iterator<Item = Submission> + '_ {
        let several = self.choices > 1;
        (0..self.choices).map(move |choice| {
            let mut submission = self.submission.clone();
            submission.sampling.choice = choice;
            if several {
                submission.request_id = format!("{}-{choice}", submission.request_id);
            }
            submission
        })
    }
}

/// Checks a request against the served model. The cheap checks come before the text is encoded.
///
/// # Errors
/// Names the first field that is out of its bounds.
pub(crate) async fn prepare(text: &Text, mut input: GenerateInput) -> Result<Prepared, RequestError> {
    tools::check_tools(&input.tools, text)?;
    show_tools(&mut input);
    let choices = input.choices.unwrap_or(1);
    let most_tokens = input.limits.max_tokens.map(|tokens| tokens.saturating_mul(choices));
    let logprobs = resolve_logprobs(input.logprobs, most_tokens, text.vocab_size)?;
    let mut sampling = resolve_sampling(input.sampling, logprobs, &text.sampling_defaults, text.vocab_size)?;
    if let Some(top) = input.prompt_logprobs.filter(|top| *top > MAX_LOGPROBS) {
        return Err(out_of_range("prompt_logprobs", top, "0 to 20"));
    }
    let shows_prompt = input.echo || input.prompt_logprobs.is_some();
    check_limits(&input.limits, shows_prompt, text.vocab_size)?;
    if !(1..=MAX_CHOICES).contains(&choices) {
        return Err(out_of_range("n", choices, "1 to 64"));
    }
    if let Some(grammar) = tools::call_grammar(&input.tools, text)? {
        if let Some((field, _)) = input.grammar {
            return Err(RequestError::field("tool_choice", format!("a required call and {field} exclude each other")));
        }
        input.grammar = Some(("tools", grammar));
    }
    let only_calls = matches!(input.tools.choice, ToolChoice::Required | ToolChoice::Named(_));
    let is_chat = matches!(input.prompt, PromptInput::Chat(_));
    let continues_prompt = match &input.prompt {
        PromptInput::Chat(conversation) => conversation.ending == PromptEnding::OpenMessage,
        PromptInput::Text(_) | PromptInput::Tokens(_) => true,
    };
    let (field, prompt, mut format) = encode_prompt(text, input.prompt, input.no_special_tokens).await?;
    let prompt = truncate_prompt(prompt, input.truncation, input.limits.max_tokens, text.context_length);
    if is_chat {
        format.tools = tools::call_format(&input.tools, text);
    }
    let remaining = remaining_tokens(field, prompt.len(), text.context_length)?;
    let max_tokens = input.limits.max_tokens.map_or(remaining, |asked| asked.min(remaining));
    let asked_stop_tokens = asked_stop_tokens(text, &input.limits);
    let mut stop_token_ids = stop_token_ids(text, &asked_stop_tokens, input.limits.ignore_eos);
    let guide = match input.grammar {
        Some((field, grammar)) => Some(compile_guide(text, field, grammar, &input.limits, &format).await?),
        None => None,
    };
    let guide = add_rules(text, guide, &input.allowed_token_ids, &input.bad_words, &stop_token_ids)?;
    if input.beams.is_some() {
        beams::check(&sampling, guide.is_some())?;
    }
    let LimitsInput { stop, min_tokens, .. } = input.limits;
    if min_tokens > max_tokens {
        let reason = format!("{min_tokens} is more than the {max_tokens} tokens that the answer can have");
        return Err(RequestError::field("min_tokens", reason));
    }
    if min_tokens > 0 {
        sampling.suppressed.clone_from(&stop_token_ids);
        sampling.suppressed_until = prompt.len() as u32 + min_tokens;
    }
    // An echoed answer lists every token that the ranks generate. So a client that asks for one token, to have the
    // prompt's log-probabilities, can take the last entry away.
    let lists_ends = input.echo && input.logprobs.is_some() && guide.is_none();
    let listed_ends = if lists_ends { std::mem::take(&mut stop_token_ids) } else { Vec::new() };
    let submission = Submission {
        request_id: input.request_id,
        prompt,
        priority: input.priority,
        cache_salt: input.cache_salt,
        sampling,
        max_tokens,
        stop_token_ids,
        deadline: input.deadline,
        guide: guide.map(Box::new),
        prompt_logprobs: input.prompt_logprobs,
    };
    Ok(Prepared {
        submission,
        choices,
        stop,
        format,
        min_tokens,
        listed_ends,
        continues_prompt,
        output: input.output,
        only_calls,
        asked_stop_tokens,
        // An answer without tokens has nothing to search for.
        beams: input.beams.filter(|_| max_tokens > 0),
    })
}

/// Returns the number of tokens of a request's prompt.
///
/// # Errors
/// Names the first field about the prompt that is out of its bounds.
pub(crate) async fn count_prompt(text: &Text, mut input: GenerateInput) -> Result<usize, RequestError> {
    tools::check_tools(&input.tools, text)?;
    show_tools(&mut input);
    let (_, prompt, _) = encode_prompt(text, input.prompt, input.no_special_tokens).await?;
    Ok(prompt.len())
}

/// Hands the definitions of the tools to the chat template, unless the answer may call none.
fn show_tools(input: &mut GenerateInput) {
    if let PromptInput::Chat(conversation) = &mut input.prompt
        && input.tools.choice != ToolChoice::None
    {
        conversation.tools = std::mem::take(&mut input.tools.definitions);
    }
}

/// Compiles the grammar of the answer.
///
/// # Errors
/// Names the faulty grammar, or a limit that cannot be combined with a grammar.
async fn compile_guide(
    text: &Text,
    field: &'static str,
    grammar: Grammar,
    limits: &LimitsInput,
    format: &OutputFormat,
) -> Result<Guide, RequestError> {
    let ended = "the answer ends where its form is complete";
    if limits.ignore_eos {
        return Err(RequestError::field("ignore_eos", format!("not together with {field}: {ended}")));
    }
    if limits.min_tokens > 0 {
        return Err(RequestError::field("min_tokens", format!("not together with {field}: {ended}")));
    }
    let guide = text.compile(grammar).await.map_err(|error| match error {
        GrammarError::Invalid(reason) => RequestError::field(field, reason),
        GrammarError::Internal(reason) => RequestError::Serve(ServeError::Internal(reason)),
    })?;
    // If the prompt has begun the reasoning, the grammar applies to the text after the reasoning.
    Ok(match format.reasoning.filter(|_| format.reasoning_begun) {
        Some(style) => guide.after_mark(style.end_mark(), text.tokenizer().clone()),
        None => guide,
    })
}

/// Returns the prompt's token ids, the name of the field that held the prompt, and the format of its answer.
async fn encode_prompt(
    text: &Text,
    input: PromptInput,
    no_special_tokens: bool,
) -> Result<(&'static str, Vec<u32>, OutputFormat), RequestError> {
    let mut format = OutputFormat::default();
    let (field, ids) = match input {
        PromptInput::Text(prompt) => ("prompt", text.encode(prompt, !no_special_tokens).await),
        PromptInput::Tokens(ids) => ("prompt", Ok(ids)),
        PromptInput::Chat(conversation) => {
            check_messages(&conversation.messages)?;
            let rendered = text.encode_chat(conversation).await.map_err(|error| text_error("messages", error))?;
            format.reasoning = text.reasoning_style;
            format.reasoning_begun = rendered.reasoning_begun;
            ("messages", Ok(rendered.ids))
        }
    };
    let ids = ids.map_err(|error| text_error(field, error))?;
    // Ids that the tokenizer made are checked as well: it may know more tokens than the model.
    check_vocabulary(field, &ids, text.vocab_size)?;
    if ids.is_empty() {
        return Err(RequestError::field(field, "the prompt is empty: send at least one token"));
    }
    Ok((field, ids, format))
}

/// Shortens the prompt as asked.
fn truncate_prompt(
    mut ids: Vec<u32>,
    truncation: Option<Truncation>,
    max_tokens: Option<u32>,
    context: u32,
) -> Vec<u32> {
    let Some(Truncation { max_tokens: most, keeps_first }) = truncation else { return ids };
    let most = most.unwrap_or_else(|| context.saturating_sub(max_tokens.unwrap_or(1)).max(1)) as usize;
    if keeps_first {
        ids.truncate(most);
        ids
    } else {
        ids.split_off(ids.len().saturating_sub(most))
    }
}

/// Adds the rules about the answer's tokens to the guide of its form.
///
/// # Errors
/// Names the rule that is out of its bounds, or a rule that cannot be combined with a form.
fn add_rules(
    text: &Text,
    guide: Option<Guide>,
    allowed: &[u32],
    bad_words: &[String],
    stop_token_ids: &[u32],
) -> Result<Option<Guide>, RequestError> {
    let Some(rules) = token_rules(text, allowed, bad_words, stop_token_ids)? else { return Ok(guide) };
    match guide {
        Some(_) if !allowed.is_empty() => {
            Err(RequestError::field(ALLOWED, "not together with a form of the answer, which allows tokens itself"))
        }
        Some(guide) => Ok(Some(guide.with_rules(rules))),
        None => Ok(Some(Guide::from_rules(rules, text.vocab_size))),
    }
}

/// Returns the rules about the answer's tokens, or `None` if there are none.
///
/// # Errors
/// Names the rule that is out of its bounds.
fn token_rules(
    text: &Text,
    allowed: &[u32],
    bad_words: &[String],
    stop_token_ids: &[u32],
) -> Result<Option<TokenRules>, RequestError> {
    check_vocabulary(ALLOWED, allowed, text.vocab_size)?;
    if !allowed.is_empty() && allowed.iter().all(|id| stop_token_ids.contains(id)) {
        return Err(RequestError::field(ALLOWED, "each of these tokens ends the answer: allow another one"));
    }
    if bad_words.len() > MAX_BAD_WORDS {
        return Err(RequestError::field(BAD_WORDS, format!("{} words, more than {MAX_BAD_WORDS}", bad_words.len())));
    }
    let mut banned = Vec::new();
    for (at, word) in bad_words.iter().enumerate() {
        if !(1..=MAX_STOP_BYTES).contains(&word.len()) {
            let reason = format!("word {at} has {} bytes: 1 to {MAX_STOP_BYTES}", word.len());
            return Err(RequestError::field(BAD_WORDS, reason));
        }
        // A word has other tokens at the beginning of a text than after a space.
        for spelling in [word.clone(), format!(" {}", word.trim_start())] {
            let ids = text.tokenizer().encode(&spelling, false).map_err(|error| text_error(BAD_WORDS, error))?;
            if !ids.is_empty() && !banned.contains(&ids) {
                banned.push(ids);
            }
        }
    }
    let allowed = Some(allowed).filter(|allowed| !allowed.is_empty());
    let has_rules = allowed.is_some() || !banned.is_empty();
    Ok(has_rules.then(|| TokenRules::new(text.vocab_size, allowed, banned)))
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

/// Returns the number of tokens that fit the context after the prompt, at least 1.
fn remaining_tokens(field: &'static str, prompt: usize, context_length: u32) -> Result<u32, RequestError> {
    let context = context_length as usize;
    if prompt < context {
        return Ok((context - prompt) as u32);
    }
    let reason = format!(
        "this model's maximum context length is {context} tokens, and the prompt has {prompt}: shorten it to {} tokens or \
         fewer, or serve the model with a larger context length",
        context.saturating_sub(1)
    );
    Err(RequestError::ContextLength { field, reason })
}

/// Checks the limits. Only an answer that shows its prompt may have no tokens.
fn check_limits(limits: &LimitsInput, shows_prompt: bool, vocab_size: u32) -> Result<(), RequestError> {
    if limits.max_tokens == Some(0) && !shows_prompt {
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

/// Returns the tokens that end the answer: the model's end tokens, the client's stop tokens, and special tokens that a
/// stop string spells. Special tokens do not show in the text, except the marks of calls and of reasoning. So
/// [`StopMatcher`](crate::text::StopMatcher) cannot find them.
fn stop_token_ids(text: &Text, asked: &[u32], ignore_eos: bool) -> Vec<u32> {
    let own = if ignore_eos { &[][..] } else { &text.eos_token_ids[..] };
    let mut ids = [asked, own].concat();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Returns the client's stop tokens, and special tokens that a stop string spells.
fn asked_stop_tokens(text: &Text, limits: &LimitsInput) -> Vec<u32> {
    let spelled = limits.stop.iter().filter_map(|stop| text.tokenizer().special_token_id(stop));
    limits.stop_token_ids.iter().copied().chain(spelled).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ModelText;
    use crate::output::tools::ToolStyle;
    use crate::text::{ChatTemplates, fixtures};
    use lockstep_schedule::plan::SamplingDefaults;

    fn text() -> Text {
        let template = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}";
        Text::new(ModelText {
            tokenizer_json: fixtures::byte_level_json(),
            templates: ChatTemplates { default: Some(template.into()), ..Default::default() },
            vocab_size: fixtures::BYTE_LEVEL_VOCAB,
            context_length: 16,
            eos_token_ids: vec![fixtures::END],
            sampling_defaults: SamplingDefaults { top_k: Some(40), temperature: Some(0.6), ..Default::default() },
            ..Default::default()
        })
        .unwrap()
    }

    fn conversation(messages: Vec<ChatMessage>) -> Conversation {
        Conversation { messages, ..Conversation::default() }
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
        let chat = |role: &str| PromptInput::Chat(conversation(vec![ChatMessage::new(role, "x")]));
        let cases = [
            (refusal(|i| i.sampling.top_p = Some(1.1)).await, "top_p: 1.1 is out"),
            (refusal(|i| i.choices = Some(0)).await, "n: 0 is out of range: 1 to 64"),
            (refusal(|i| i.choices = Some(65)).await, "n: 65 is out of range"),
            (refusal(|i| i.limits.min_tokens = 15).await, "min_tokens: 15 is more than the 14 tokens that"),
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
                "prompt: this model's maximum context length is 16 tokens, and the prompt has 16: shorten it to 15",
            ),
            (
                refusal(|i| i.prompt = PromptInput::Text("x".repeat(5000))).await,
                "prompt: this model's maximum context length is 16",
            ),
            (
                refusal(|i| i.prompt = PromptInput::Chat(conversation(vec![]))).await,
                "messages: the conversation is empty",
            ),
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
    }

    #[tokio::test]
    async fn limits_are_kept() {
        let mut asked = input("hi");
        asked.limits = LimitsInput {
            max_tokens: Some(99),
            min_tokens: 3,
            stop: vec!["<|user|>".into(), "plain".into()],
            stop_token_ids: vec![5],
            ignore_eos: true,
        };
        let prepared = prepare(&text(), asked).await.unwrap();
        assert_eq!(prepared.submission.max_tokens, 14, "cut to what the context has left");
        assert_eq!(prepared.submission.stop_token_ids, [5, fixtures::END + 1]);
        assert_eq!(prepared.stop.len(), 2);
        let sampling = prepared.submission.sampling;
        assert_eq!((sampling.suppressed, sampling.suppressed_until), (vec![5, fixtures::END + 1], 2 + 3));
    }

    #[tokio::test]
    async fn a_shown_prompt_needs_no_answer() {
        let none = LimitsInput { max_tokens: Some(0), ..Default::default() };
        let echo = GenerateInput { echo: true, limits: none.clone(), ..input("hi") };
        let prepared = prepare(&text(), echo.clone()).await.unwrap();
        assert_eq!((prepared.submission.max_tokens, prepared.submission.prompt_logprobs), (0, None));
        assert_eq!((prepared.submission.stop_token_ids, prepared.listed_ends), (vec![fixtures::END], vec![]));
        let listed = GenerateInput { logprobs: Some(1), prompt_logprobs: Some(1), ..echo };
        let prepared = prepare(&text(), listed.clone()).await.unwrap();
        assert_eq!((prepared.submission.prompt_logprobs, prepared.listed_ends), (Some(1), vec![fixtures::END]));
        let scored = GenerateInput { echo: false, ..listed };
        let prepared = prepare(&text(), scored).await.unwrap();
        assert_eq!((prepared.submission.max_tokens, prepared.listed_ends), (0, vec![]));
        let refused = refusal(|i| i.prompt_logprobs = Some(21)).await;
        assert_eq!(refused, "prompt_logprobs: 21 is out of range: 0 to 20");
    }

    #[tokio::test]
    async fn choices_differ_in_their_random_numbers_alone() {
        let asked = GenerateInput { choices: Some(2), request_id: "r".into(), ..input("hi") };
        let prepared = prepare(&text(), asked).await.unwrap();
        let [first, second] = prepared.submissions().collect::<Vec<_>>().try_into().unwrap();
        assert_eq!((first.request_id.as_str(), second.request_id.as_str()), ("r-0", "r-1"));
        assert_eq!((first.sampling.choice, second.sampling.choice), (0, 1));
        assert_eq!((first.sampling.seed, first.prompt), (second.sampling.seed, second.prompt));
    }

    /// functionary v3.2 writes a recipient before content too, so chats without tools need the parser of its calls.
    #[tokio::test]
    async fn framed_answers_are_parsed_without_tools() {
        let mut text = text();
        text.tool_style = Some(ToolStyle::FunctionaryV32);
        let chat = PromptInput::Chat(conversation(vec![ChatMessage::new("user", "hi")]));
        for (prompt, framed) in [(chat, true), (PromptInput::Text("hi".into()), false)] {
            let prepared = prepare(&text, GenerateInput { prompt, ..Default::default() }).await.unwrap();
            assert_eq!(
                prepared.format.tools.map(|tools| (tools.style, tools.max_calls)),
                framed.then_some((ToolStyle::FunctionaryV32, 0))
            );
        }
    }

    #[tokio::test]
    async fn a_conversation_is_rendered() {
        let prompt = PromptInput::Chat(conversation(vec![ChatMessage::new("user", "hi")]));
        let chat = GenerateInput { prompt, ..Default::default() };
        let prepared = prepare(&text(), chat).await.unwrap();
        assert_eq!(text().tokenizer().decode(&prepared.submission.prompt, false), "user:hi;");
    }
}
