//! `/v1/chat/completions`.

use axum::extract::{Extension, State};
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::fields::known::Scope;
use super::fields::{Fields, TokenSpelling, take_top};
use super::format::take_grammar;
use super::generate::{ChoiceFormat, Streaming, WholeAnswer, check_answers, respond, stop_reason, token_ids};
use super::messages::{take_conversations, take_messages};
use super::prompt::{prompt_logprobs, take_prompt_logprobs};
use super::reasoning::set_thinking;
use super::tools::{call_to_json, take_tools};
use super::{Id, RequestId, with_request_id};
use crate::model::Text;
use crate::session::{Api, Delta, GenerateInput, GeneratedToken, OutputInput, PromptInput};
use crate::text::{ChatMessage, Conversation, PromptEnding};

const KWARGS: &str = "chat_template_kwargs";

/// Variables of the chat template that the server sets, and the fields that set them.
const RESERVED: [(&str, &str); 5] = [
    ("messages", "send messages"),
    ("tools", "send tools"),
    ("bos_token", "it comes with the model"),
    ("eos_token", "it comes with the model"),
    ("chat_template", "serve the model with this template"),
];
/// Efforts of reasoning that clients ask for.
pub(super) const EFFORTS: [&str; 7] = ["none", "minimal", "low", "medium", "high", "xhigh", "max"];

pub(crate) async fn create(
    State(api): State<Api>,
    Extension(RequestId(id)): Id,
    mut fields: Fields,
) -> Result<Response, ApiError> {
    let messages = fields.noting(take_messages);
    answer(&api, id, parse(fields, messages)?, Vec::new()).await
}

/// `/v1/chat/completions/batch`, as vLLM has it: `messages` is a list of conversations, and each gets its choices in turn.
pub(crate) async fn create_batch(
    State(api): State<Api>,
    Extension(RequestId(id)): Id,
    mut fields: Fields,
) -> Result<Response, ApiError> {
    let mut conversations = fields.noting(take_conversations).into_iter();
    let parsed = parse(fields, conversations.next().unwrap_or_default())?;
    if !parsed.shown.echoed.is_empty() {
        return Err(ApiError::field("echo", "not for several conversations: send each as a request of its own"));
    }
    let (each, count) = (parsed.input.choices.unwrap_or(1) as usize, 1 + conversations.len());
    check_answers(("n", each), ("messages", count, "conversations"))?;
    answer(&api, id, parsed, conversations.collect()).await
}

/// Answers a request, and more conversations with the same settings.
async fn answer(api: &Api, id: String, parsed: ParsedChat, more: Vec<Vec<ChatMessage>>) -> Result<Response, ApiError> {
    let ParsedChat { mut input, streaming, shown, request_id } = parsed;
    let id = request_id.unwrap_or(id);
    input.request_id.clone_from(&id);
    let (logprobs, prompt_logprobs) = (input.logprobs.is_some(), input.prompt_logprobs);
    let mut inputs = vec![input];
    for messages in more {
        let mut input = inputs[0].clone();
        if let PromptInput::Chat(conversation) = &mut input.prompt {
            conversation.messages = messages;
        }
        inputs.push(input);
    }
    let answers = api.generate_batch(inputs).await?;
    let held = vec![String::new(); answers.len()];
    let format = ChatFormat { text: api.text().clone(), logprobs, prompt_logprobs, shown, held };
    Ok(with_request_id(respond(api, &id, answers, streaming, format).await?, id))
}

struct ParsedChat {
    input: GenerateInput,
    streaming: Option<Streaming>,
    shown: Shown,
    request_id: Option<String>,
}

/// Parts of an answer that the client wants to see.
struct Shown {
    tokens: TokenSpelling,
    reasoning: bool,
    /// Set if reasoning comes in one piece.
    whole_reasoning: bool,
    /// Text before the content: the message that the answer goes on with.
    echoed: String,
}

fn parse(mut fields: Fields, messages: Vec<ChatMessage>) -> Result<ParsedChat, ApiError> {
    let request_id = fields.take_request_id();
    let conversation = take_conversation(&mut fields, messages);
    let streaming = fields.take_streaming();
    let spelling = fields.take_token_spelling();
    let limits = fields.take_limits();
    let shared = fields.take_shared(limits);
    let reasoning_format = fields.noting(take_reasoning_format);
    let separate_reasoning = fields.read("separate_reasoning").unwrap_or(true) && reasoning_format.unwrap_or(true);
    let shown = Shown {
        tokens: spelling,
        reasoning: fields.read("include_reasoning").unwrap_or(true),
        whole_reasoning: !fields.read("stream_reasoning").unwrap_or(true),
        echoed: fields.noting(|fields| take_echo(fields, &conversation)),
    };
    let input = GenerateInput {
        prompt: PromptInput::Chat(conversation),
        tools: take_tools(&mut fields),
        output: OutputInput { reasoning_as_content: !separate_reasoning, ..shared.output },
        logprobs: fields.noting(take_logprobs),
        choices: fields.read("n"),
        grammar: fields.noting(take_grammar),
        prompt_logprobs: fields.noting(|fields| take_prompt_logprobs(fields, streaming)),
        ..shared
    };
    fields.refuse_rest()?;
    Ok(ParsedChat { input, streaming, shown, request_id })
}

/// Takes everything that the chat template reads beside the `messages` and tools.
pub(crate) fn take_conversation(fields: &mut Fields, messages: Vec<ChatMessage>) -> Conversation {
    let mut variables: Map<String, Value> = fields.read(KWARGS).unwrap_or_default();
    let mut kwargs = fields.open(Scope::TemplateVariables, KWARGS, std::mem::take(&mut variables));
    for (name, remedy) in RESERVED {
        if kwargs.take_value(name).is_some() {
            let fault = kwargs.fault(name, format!("the server sets this variable: {remedy}"));
            kwargs.note(Err::<(), _>(fault));
        }
    }
    // vLLM takes these as variables of the template as well.
    let mut ending = (kwargs.read("add_generation_prompt"), kwargs.read("continue_final_message"));
    let mut documents: Option<Vec<Value>> = kwargs.read("documents");
    variables = fields.close_open(kwargs);
    ending.0 = fields.read("add_generation_prompt").or(ending.0);
    ending.1 = fields.read("continue_final_message").or(ending.1);
    documents = fields.read("documents").or(documents);
    if let Some(thinks) = fields.noting(take_thinking) {
        set_thinking(&mut variables, thinks);
    }
    if let Some(effort) = fields.noting(take_effort) {
        if effort == "none" {
            set_thinking(&mut variables, false);
        }
        variables.entry("reasoning_effort").or_insert(effort.into());
    }
    Conversation {
        messages,
        documents: documents.unwrap_or_default(),
        variables,
        ending: fields.noting(|_| read_ending(ending)),
        adds_special_tokens: fields.read("add_special_tokens").unwrap_or_default(),
        ..Conversation::default()
    }
}

/// Takes `echo`. Returns the message that the answer goes on with, if the client wants to see it.
fn take_echo(fields: &mut Fields, conversation: &Conversation) -> Result<String, ApiError> {
    const NAME: &str = "echo";
    match (fields.take_field(NAME)?, conversation.ending) {
        (Some(true), PromptEnding::OpenMessage) => {
            Ok(conversation.messages.last().map(|message| message.content.clone()).unwrap_or_default())
        }
        (Some(true), _) => Err(ApiError::field(NAME, "only together with continue_final_message: true")),
        _ => Ok(String::new()),
    }
}

/// Returns the end of the prompt by `add_generation_prompt` and `continue_final_message`.
fn read_ending(asked: (Option<bool>, Option<bool>)) -> Result<PromptEnding, ApiError> {
    match asked {
        (Some(true), Some(true)) => Err(ApiError::field(
            "continue_final_message",
            "not together with add_generation_prompt: an answer goes on with a message or is a new one",
        )),
        (_, Some(true)) => Ok(PromptEnding::OpenMessage),
        (Some(false), _) => Ok(PromptEnding::LastMessage),
        _ => Ok(PromptEnding::Answer),
    }
}

/// Takes mistral.rs's `enable_thinking`, and the `thinking` of others.
fn take_thinking(fields: &mut Fields) -> Result<Option<bool>, ApiError> {
    let switch: Option<bool> = fields.take_field("enable_thinking")?;
    match fields.take_field::<Map<String, Value>>("thinking")? {
        None => Ok(switch),
        Some(thinking) => {
            let mut thinking = fields.open(Scope::Thinking, "thinking", thinking);
            let kind = thinking.take_value("type");
            fields.close(thinking);
            match kind.as_ref().and_then(Value::as_str) {
                Some("enabled" | "adaptive") => Ok(Some(true)),
                Some("disabled") => Ok(Some(false)),
                _ => Err(ApiError::field("thinking.type", "expected \"enabled\", \"adaptive\" or \"disabled\"")),
            }
        }
    }
}

fn take_effort(fields: &mut Fields) -> Result<Option<String>, ApiError> {
    const NAME: &str = "reasoning_effort";
    let effort: Option<String> = fields.take_field(NAME)?;
    match effort.as_deref().filter(|effort| !EFFORTS.contains(effort)) {
        Some(_) => Err(ApiError::field(NAME, format!("expected {}", EFFORTS.join(", ")))),
        None => Ok(effort),
    }
}

/// Takes llama.cpp's `reasoning_format`. Returns false if reasoning stays in the content.
fn take_reasoning_format(fields: &mut Fields) -> Result<Option<bool>, ApiError> {
    const NAME: &str = "reasoning_format";
    match fields.take_field::<String>(NAME)?.as_deref() {
        None => Ok(None),
        Some("none") => Ok(Some(false)),
        Some("auto" | "deepseek") => Ok(Some(true)),
        Some(_) => Err(ApiError::field(NAME, "expected \"auto\", \"deepseek\" or \"none\"")),
    }
}

fn take_logprobs(fields: &mut Fields) -> Result<Option<u32>, ApiError> {
    let wanted: bool = fields.take_field("logprobs")?.unwrap_or_default();
    let top = take_top(fields, "top_logprobs")?;
    if top.is_some_and(|top| top > 0) && !wanted {
        return Err(ApiError::field("top_logprobs", "only together with logprobs: true"));
    }
    Ok(wanted.then(|| top.unwrap_or(0)))
}

/// Format of the choices of a chat completion.
struct ChatFormat {
    text: Text,
    /// Set if the client asked for log probabilities.
    logprobs: bool,
    shown: Shown,
    /// Reasoning of each answer that waits for its end.
    held: Vec<String>,
    /// Number of most likely tokens beside each token of the prompt, if the client asked for its log-probabilities.
    prompt_logprobs: Option<u32>,
}

impl ChatFormat {
    /// Returns the log probabilities of `tokens`, or null if the client did not ask for them.
    fn logprobs(&self, tokens: &[GeneratedToken]) -> Value {
        if !self.logprobs {
            return Value::Null;
        }
        json!({"content": logprobs_to_json(&self.text, tokens, self.shown.tokens.by_id), "refusal": null})
    }

    /// Returns the reasoning to show now.
    fn reasoning(&mut self, index: usize, delta: &mut Delta) -> String {
        let reasoning = std::mem::take(&mut delta.reasoning);
        if !self.shown.reasoning {
            return String::new();
        }
        if !self.shown.whole_reasoning {
            return reasoning;
        }
        self.held[index].push_str(&reasoning);
        let is_over = !delta.text.is_empty() || !delta.calls.is_empty() || delta.finish.is_some();
        if is_over { std::mem::take(&mut self.held[index]) } else { String::new() }
    }
}

/// Returns the log probabilities of `tokens`, an entry for each token that has some. `by_id`: tokens are named by their ids.
pub(super) fn logprobs_to_json(text: &Text, tokens: &[GeneratedToken], by_id: bool) -> Vec<Value> {
    let token = |id: u32, logprob: f32| {
        let bytes = text.tokenizer().token_bytes(id);
        let token = if by_id { format!("token_id:{id}") } else { String::from_utf8_lossy(&bytes).into_owned() };
        json!({"token": token, "logprob": logprob, "bytes": bytes})
    };
    let entry = |generated: &GeneratedToken| {
        let logprobs = generated.logprobs.as_ref()?;
        let mut entry = token(generated.id, logprobs.chosen);
        entry["top_logprobs"] = logprobs.top.iter().map(|(id, logprob)| token(*id, *logprob)).collect();
        Some(entry)
    };
    tokens.iter().filter_map(entry).collect()
}

impl ChoiceFormat for ChatFormat {
    const ID_PREFIX: &str = "chatcmpl";
    const OBJECT: &str = "chat.completion";
    const CHUNK_OBJECT: &str = "chat.completion.chunk";

    fn choice(&self, index: usize, answer: WholeAnswer) -> Value {
        let text = format!("{}{}", self.shown.echoed, answer.text);
        let content = if text.is_empty() && !answer.calls.is_empty() { Value::Null } else { text.into() };
        let mut message = json!({"role": "assistant", "content": content, "refusal": null});
        if !answer.reasoning.is_empty() && self.shown.reasoning {
            message["reasoning_content"] = answer.reasoning.into();
        }
        if !answer.calls.is_empty() {
            message["tool_calls"] = answer.calls.iter().map(|call| call_to_json(call, false)).collect();
        }
        let mut choice = json!({"index": index, "message": message, "logprobs": self.logprobs(&answer.tokens),
            "finish_reason": answer.finish_reason, "stop_reason": stop_reason(answer.stop_reason.as_ref())});
        if self.shown.tokens.ids {
            choice["token_ids"] = json!(token_ids(&answer.tokens, answer.stop_token));
        }
        choice
    }

    /// All answers have the same prompt.
    fn response_fields(&self, answers: &[WholeAnswer]) -> Map<String, Value> {
        let list = self.prompt_logprobs.zip(answers.first());
        let list = list.map(|(top, answer)| prompt_logprobs(self.text.tokenizer(), &answer.prompt, top));
        list.map(|list| ("prompt_logprobs".to_owned(), list)).into_iter().collect()
    }

    fn first_chunk(&self, index: usize) -> Option<Value> {
        let delta = json!({"role": "assistant", "content": self.shown.echoed});
        Some(json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": null}))
    }

    fn chunk(&mut self, index: usize, mut delta: Delta, finish_reason: Option<&'static str>) -> Option<Value> {
        let shows_tokens = (self.logprobs || self.shown.tokens.ids) && !delta.tokens.is_empty();
        let reasoning = self.reasoning(index, &mut delta);
        let is_empty = delta.text.is_empty() && reasoning.is_empty() && delta.calls.is_empty();
        if is_empty && finish_reason.is_none() && !shows_tokens {
            return None;
        }
        let mut message = json!({});
        if !reasoning.is_empty() {
            message["reasoning_content"] = reasoning.into();
        }
        // Some clients add up the content of every chunk, even of the last one, so that chunk has some.
        if !delta.text.is_empty() || is_empty && finish_reason.is_some() {
            message["content"] = delta.text.into();
        }
        if !delta.calls.is_empty() {
            message["tool_calls"] = delta.calls.iter().map(|call| call_to_json(call, true)).collect();
        }
        let mut choice = json!({"index": index, "delta": message, "logprobs": self.logprobs(&delta.tokens),
            "finish_reason": finish_reason});
        if finish_reason.is_some() {
            choice["stop_reason"] = stop_reason(delta.stop_reason.as_ref());
        }
        if self.shown.tokens.ids {
            choice["token_ids"] = json!(token_ids(&delta.tokens, delta.stop_token));
        }
        Some(choice)
    }

    fn shows_prompt_token_ids(&self) -> bool {
        self.shown.tokens.ids
    }
}
