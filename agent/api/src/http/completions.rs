//! `/v1/completions`: one prompt or several, as text or as token ids.

use std::borrow::Cow;
use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::fields::{Fields, FromField, TokenSpelling, other_kind, take_top};
use super::format::take_grammar;
use super::generate::{ChoiceFormat, Streaming, WholeAnswer, check_answers, respond, stop_reason, token_ids};
use super::prompt::{Echo, prompt_logprobs, take_prompt_logprobs};
use super::{Id, RequestId, with_request_id};
use crate::model::Text;
use crate::session::{
    ALL_LOGPROBS, Answer, Api, Delta, GenerateInput, GeneratedToken, MAX_CHOICES, MAX_LOGPROBS, PromptInput,
};
use crate::text::take_characters;

/// OpenAI's default of this endpoint.
pub(super) const DEFAULT_MAX_TOKENS: u32 = 16;

pub(crate) async fn create(
    State(api): State<Api>,
    Extension(RequestId(id)): Id,
    fields: Fields,
) -> Result<Response, ApiError> {
    let parsed = parse(fields)?;
    let ParsedCompletion { prompts, input, best_of, logprobs, prompt_logprobs, spelling, streaming, request_id } =
        parsed;
    let id = request_id.unwrap_or(id);
    let several = prompts.len() > 1;
    let choices = input.choices.unwrap_or(1) as usize;
    let echoed: Vec<PromptInput> = if input.echo { prompts.clone() } else { Vec::new() };
    let inputs = prompts.into_iter().enumerate().map(|(at, prompt)| {
        let request_id = if several { format!("{id}-{at}") } else { id.clone() };
        GenerateInput { prompt, request_id, choices: best_of.or(input.choices), ..input.clone() }
    });
    let answers = api.generate_batch(inputs.collect()).await?;
    // The head refused a request for no choices.
    let each = best_of.map_or(choices, |best_of| best_of as usize).max(1);
    let echo = |(at, answer): (usize, &Answer)| Some(make_echo(api.text(), echoed.get(at / each)?, answer.prompt()));
    let format = CompletionFormat {
        prompt_logprobs,
        echoes: answers.iter().enumerate().filter_map(echo).collect(),
        text: api.text().clone(),
        logprobs,
        spelling,
        choices: choices.max(1),
        best_of: each,
        prompts: answers.iter().step_by(each).map(|answer| answer.prompt().clone()).collect(),
        offsets: vec![Offset::default(); answers.len()],
        begun: vec![false; answers.len()],
    };
    Ok(with_request_id(respond(&api, &id, answers, streaming, format).await?, id))
}

struct ParsedCompletion {
    prompts: Vec<PromptInput>,
    /// Input of each prompt, without the prompt.
    input: GenerateInput,
    /// Number of answers of which the best become choices.
    best_of: Option<u32>,
    logprobs: Option<u32>,
    prompt_logprobs: Option<u32>,
    spelling: TokenSpelling,
    streaming: Option<Streaming>,
    request_id: Option<String>,
}

/// Returns the prompt that begins an answer: the client's own text, or that of its tokens.
fn make_echo(text: &Text, prompt: &PromptInput, ids: &[u32]) -> Echo {
    let text = match prompt {
        PromptInput::Text(text) => text.clone(),
        _ => text.tokenizer().decode(ids, false),
    };
    Echo { text, first: ids.first().copied(), reported: Vec::new() }
}

/// Reads the request.
fn parse(mut fields: Fields) -> Result<ParsedCompletion, ApiError> {
    let prompts = fields.noting(|fields| parse_prompts(fields.take_value("prompt")));
    let streaming = fields.take_streaming();
    let mut limits = fields.take_limits();
    limits.max_tokens.get_or_insert(DEFAULT_MAX_TOKENS);
    let shared = fields.take_shared(limits);
    let (request_id, spelling) = (fields.take_request_id(), fields.take_token_spelling());
    let choices: Option<u32> = fields.read("n");
    let best_of = fields.noting(|fields| take_best_of(fields, choices, streaming, shared.beams.is_some()));
    let logprobs = fields.noting(|fields| take_top(fields, "logprobs"));
    let echo = fields.read("echo").unwrap_or_default();
    if echo && logprobs == Some(ALL_LOGPROBS) {
        let fault = fields.fault("logprobs", format!("-1 (all) not together with echo: 0 to {MAX_LOGPROBS}"));
        fields.note(Err::<(), _>(fault));
    }
    let prompt_logprobs = fields.noting(|fields| take_prompt_logprobs(fields, streaming));
    let input = GenerateInput {
        no_special_tokens: !fields.read("add_special_tokens").unwrap_or(true),
        // The best answers are found by their log-probabilities.
        logprobs: logprobs.or(best_of.map(|_| 0)),
        choices,
        grammar: fields.noting(take_grammar),
        prompt_logprobs: prompt_logprobs.max(logprobs.filter(|_| echo)),
        echo,
        ..shared
    };
    fields.refuse_rest()?;
    let (count, each) = (prompts.len(), best_of.or(choices).unwrap_or(1) as usize);
    let of_each = if best_of.is_some() { "best_of" } else { "n" };
    check_answers((of_each, each), ("prompt", count, "prompts"))?;
    Ok(ParsedCompletion { prompts, input, best_of, logprobs, prompt_logprobs, spelling, streaming, request_id })
}

/// Takes `best_of`. Returns `None` if each answer becomes a choice.
fn take_best_of(
    fields: &mut Fields,
    n: Option<u32>,
    streaming: Option<Streaming>,
    searches: bool,
) -> Result<Option<u32>, ApiError> {
    const NAME: &str = "best_of";
    let n = n.unwrap_or(1);
    match fields.take_field::<u32>(NAME)? {
        Some(best_of) if best_of < n => Err(ApiError::field(NAME, format!("{best_of} is less than n, which is {n}"))),
        Some(best_of) if best_of > MAX_CHOICES => {
            Err(ApiError::field(NAME, format!("{best_of} is out of range: 1 to {MAX_CHOICES}")))
        }
        Some(best_of) if best_of > n && streaming.is_some() => {
            Err(ApiError::field(NAME, "not together with stream: the best answers are known at the end"))
        }
        Some(best_of) if best_of > n && searches => {
            Err(ApiError::field(NAME, "not together with use_beam_search: n is the number of beams"))
        }
        best_of => Ok(best_of.filter(|best_of| *best_of > n)),
    }
}

/// Reads the prompts: a string, a list of token ids, or a list of either.
///
/// # Errors
/// The field is missing or has another type.
fn parse_prompts(prompt: Option<Value>) -> Result<Vec<PromptInput>, ApiError> {
    let values = match prompt {
        None => return Err(ApiError::field("prompt", "missing: send a string or a list of token ids")),
        Some(Value::String(text)) => return Ok(vec![PromptInput::Text(text)]),
        Some(Value::Array(values)) => values,
        Some(other) => {
            return Err(ApiError::field("prompt", other_kind(&other, "a string or a list of token ids")));
        }
    };
    if values.is_empty() {
        return Err(ApiError::field("prompt", "the list is empty: send at least one token"));
    }
    if values[0].is_number() {
        let ids = Vec::from_field(Value::Array(values));
        let ids = ids.ok_or_else(|| ApiError::field("prompt", "a list of token ids has something else in it"))?;
        return Ok(vec![PromptInput::Tokens(ids)]);
    }
    let parse_one = |(at, value): (usize, Value)| match value {
        Value::String(text) => Ok(PromptInput::Text(text)),
        other => Vec::from_field(other).map(PromptInput::Tokens).ok_or_else(|| {
            ApiError::field("prompt", format!("prompt {at} is neither a string nor a list of token ids"))
        }),
    };
    values.into_iter().enumerate().map(parse_one).collect()
}

/// Choices of a completion.
struct CompletionFormat {
    text: Text,
    /// Number of most likely tokens beside each token, if the client asked for log probabilities.
    logprobs: Option<u32>,
    /// The same for the prompt, if the client asked for `prompt_logprobs`.
    prompt_logprobs: Option<u32>,
    /// Prompts that the answers begin with, by answer. Empty if the client did not ask for them. A streamed answer takes its
    /// prompt out for its first chunk.
    echoes: Vec<Echo>,
    spelling: TokenSpelling,
    /// Number of choices to each prompt.
    choices: usize,
    /// Number of answers to each prompt, at least `choices`.
    best_of: usize,
    /// Tokens of each prompt.
    prompts: Vec<Arc<[u32]>>,
    /// Place in the text of each streamed choice.
    offsets: Vec<Offset>,
    /// Set for each streamed choice that has begun.
    begun: Vec<bool>,
}

/// Place in a text, of which tokens may be parts of a character.
#[derive(Debug, Clone, Default)]
struct Offset {
    /// Number of whole characters so far.
    characters: usize,
    /// Bytes of the next character.
    bytes: Vec<u8>,
}

impl Offset {
    fn advance(&mut self, token: &[u8]) {
        self.bytes.extend_from_slice(token);
        self.characters += take_characters(&mut self.bytes).chars().count();
    }
}

impl CompletionFormat {
    /// Returns the log probabilities of an echoed prompt's tokens and then of `tokens`, or null if the client did not ask
    /// for them. Moves `offset` behind these tokens.
    fn logprobs(&self, echo: &Echo, tokens: &[GeneratedToken], offset: &mut Offset) -> Value {
        let Some(most) = self.logprobs else { return Value::Null };
        let (mut texts, mut chosen, mut top, mut offsets) = (vec![], vec![], vec![], vec![]);
        for token in echo.tokens(most).map(Cow::Owned).chain(tokens.iter().map(Cow::Borrowed)) {
            let text = self.token(token.id);
            let logprob = token.logprobs.as_ref().map(|logprobs| logprobs.chosen);
            top.push(self.top_logprobs(&token, &text));
            offsets.push(offset.characters);
            offset.advance(&self.text.tokenizer().token_bytes(token.id));
            texts.push(text);
            chosen.push(logprob);
        }
        json!({"tokens": texts, "token_logprobs": chosen, "top_logprobs": top, "text_offset": offsets})
    }

    /// Returns a token as OpenAI spells it: its text, or its bytes if it is a part of a character.
    fn token(&self, id: u32) -> String {
        if self.spelling.by_id {
            return format!("token_id:{id}");
        }
        String::from_utf8(self.text.tokenizer().token_bytes(id)).unwrap_or_else(|error| {
            let bytes = error.as_bytes().iter().map(|byte| format!("\\x{byte:02x}"));
            format!("bytes:{}", bytes.collect::<String>())
        })
    }

    /// Returns the most likely tokens by their text. The chosen token is always among them.
    fn top_logprobs(&self, token: &GeneratedToken, text: &str) -> Value {
        let Some(logprobs) = &token.logprobs else { return Value::Null };
        let mut map = Map::new();
        for (id, logprob) in &logprobs.top {
            map.entry(self.token(*id)).or_insert(json!(logprob));
        }
        map.entry(text).or_insert(json!(logprobs.chosen));
        Value::Object(map)
    }
}

impl ChoiceFormat for CompletionFormat {
    const ID_PREFIX: &str = "cmpl";
    const OBJECT: &str = "text_completion";
    const CHUNK_OBJECT: &str = Self::OBJECT;

    fn choice(&self, index: usize, answer: WholeAnswer) -> Value {
        let WholeAnswer { prompt, mut text, tokens, finish_reason, .. } = answer;
        let list = self.prompt_logprobs.map(|top| prompt_logprobs(self.text.tokenizer(), &prompt, top));
        let mut echo = Echo::default();
        if let Some(Echo { text: before, first, .. }) = self.echoes.get(index / self.choices * self.best_of) {
            text.insert_str(0, before);
            echo = Echo { first: *first, reported: prompt, ..echo };
        }
        let logprobs = self.logprobs(&echo, &tokens, &mut Offset::default());
        let mut choice = json!({"index": index, "text": text, "logprobs": logprobs,
            "finish_reason": finish_reason, "stop_reason": stop_reason(answer.stop_reason.as_ref())});
        if let Some(list) = list {
            choice["prompt_logprobs"] = list;
        }
        if self.spelling.ids {
            choice["token_ids"] = json!(token_ids(&tokens, answer.stop_token));
            choice["prompt_token_ids"] = json!(self.prompts[index / self.choices][..]);
        }
        choice
    }

    fn first_chunk(&self, _index: usize) -> Option<Value> {
        None
    }

    fn chunk(&mut self, index: usize, mut delta: Delta, finish_reason: Option<&'static str>) -> Option<Value> {
        if let Some(echo) = self.echoes.get_mut(index) {
            echo.reported.append(&mut delta.prompt);
        }
        let shows_tokens = (self.logprobs.is_some() || self.spelling.ids) && !delta.tokens.is_empty();
        if delta.text.is_empty() && finish_reason.is_none() && !shows_tokens {
            return None;
        }
        let echo = self.echoes.get_mut(index).map(std::mem::take).unwrap_or_default();
        delta.text.insert_str(0, &echo.text);
        let mut offset = std::mem::take(&mut self.offsets[index]);
        let logprobs = self.logprobs(&echo, &delta.tokens, &mut offset);
        self.offsets[index] = offset;
        let mut choice =
            json!({"index": index, "text": delta.text, "logprobs": logprobs, "finish_reason": finish_reason});
        if finish_reason.is_some() {
            choice["stop_reason"] = stop_reason(delta.stop_reason.as_ref());
        }
        if self.spelling.ids {
            choice["token_ids"] = json!(token_ids(&delta.tokens, delta.stop_token));
            if !std::mem::replace(&mut self.begun[index], true) {
                choice["prompt_token_ids"] = json!(self.prompts[index / self.choices][..]);
            }
        }
        Some(choice)
    }

    /// Returns the most likely answers to each prompt, the most likely first, if there are more answers than choices.
    fn select(&self, answers: Vec<WholeAnswer>) -> Vec<WholeAnswer> {
        if self.best_of == self.choices {
            return answers;
        }
        let likelihood = |answer: &WholeAnswer| {
            let logprobs = answer.tokens.iter().filter_map(|token| token.logprobs.as_ref());
            logprobs.map(|logprobs| f64::from(logprobs.chosen)).sum::<f64>()
        };
        let mut selected = Vec::new();
        let mut answers = answers.into_iter().peekable();
        while answers.peek().is_some() {
            let mut group: Vec<WholeAnswer> = answers.by_ref().take(self.best_of).collect();
            group.sort_by(|a, b| likelihood(b).total_cmp(&likelihood(a)));
            selected.extend(group.into_iter().take(self.choices));
        }
        selected
    }
}
