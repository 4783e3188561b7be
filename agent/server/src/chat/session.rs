//! The session of a conversation: its messages so far, the sampling of its answers, and their output.

use std::io::{self, Write as _};
use std::time::Instant;

use lockstep_api::{Answer, Api, ChatMessage, Delta, Finish, GenerateInput, PromptInput, RequestError, request_id};
use lockstep_proto::chat::{Figures, HELP, Input, Setting};
use lockstep_proto::v1::FinishReason;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::signals::Signals;

/// The conversation in the head's terminal.
pub(super) struct ChatSession {
    api: Api,
    signals: Signals,
    runtime: Handle,
    /// True if standard input is a terminal.
    terminal: bool,
    /// True if the session prints the figures of each answer.
    throughput: bool,
    /// System message before the conversation.
    system: Option<String>,
    messages: Vec<ChatMessage>,
    /// Sampling and limits of the following answers.
    template: GenerateInput,
}

/// Answer so far.
#[derive(Default)]
struct Reply {
    text: String,
    figures: Figures,
    stopped: bool,
}

/// Error of a question.
enum QuestionError {
    /// The head refused or failed the request.
    Request(RequestError),
    /// Standard output failed.
    Output(io::Error),
}

impl ChatSession {
    pub(super) fn new(api: Api, signals: Signals, runtime: Handle, terminal: bool, throughput: bool) -> Self {
        let template = GenerateInput::default();
        Self { api, signals, runtime, terminal, throughput, system: None, messages: Vec::new(), template }
    }

    pub(super) fn greet(&self) {
        if !self.terminal {
            return;
        }
        let ranks = self.api.status().borrow().world_size;
        let over = if ranks == 1 { "1 rank".into() } else { format!("{ranks} ranks") };
        let name = &self.api.model().name;
        print_notice(&format!("Talking to {name} on {over}. Ctrl-C stops an answer; /help lists the commands."));
        if !self.api.text().has_chat_template() {
            print_notice("The model has no chat template: it continues each text by itself.");
        }
    }

    /// Carries out an input. Returns false at the end of the conversation.
    ///
    /// # Errors
    /// Standard output fails. Without a terminal, also a question fails.
    pub(super) fn handle_input(&mut self, input: Input) -> anyhow::Result<bool> {
        match input {
            Input::Nothing => {}
            Input::Quit => return Ok(false),
            Input::Help => print_notice(HELP),
            Input::Clear => {
                self.messages.clear();
                print_notice("[forgotten]");
            }
            Input::System(system) => self.system = system,
            Input::Set(setting) => self.apply_setting(setting),
            Input::Wrong(message) => print_notice(&format!("error: {message}")),
            Input::Say(question) => return self.ask_model(question),
        }
        Ok(true)
    }

    fn apply_setting(&mut self, setting: Setting) {
        let GenerateInput { sampling, limits, .. } = &mut self.template;
        match setting {
            Setting::Temperature(temperature) => sampling.temperature = temperature,
            Setting::TopK(top_k) => sampling.top_k = top_k,
            Setting::TopP(top_p) => sampling.top_p = top_p,
            Setting::Seed(seed) => sampling.seed = seed,
            Setting::MaxTokens(max_tokens) => limits.max_tokens = max_tokens,
        }
    }

    /// Asks the model one question. A refused question does not change the conversation.
    fn ask_model(&mut self, question: String) -> anyhow::Result<bool> {
        self.messages.push(message("user", question));
        let input = GenerateInput { prompt: self.prompt(), request_id: request_id(None), ..self.template.clone() };
        let interrupt = self.signals.claim_interrupt();
        let reply = self.runtime.block_on(stream_answer(&self.api, input, &interrupt));
        self.signals.release_interrupt();
        match reply {
            Ok(reply) => {
                if reply.stopped {
                    print_notice("[stopped]");
                }
                if self.throughput {
                    print_notice(&format!("[{}]", reply.figures));
                }
                self.messages.push(message("assistant", reply.text));
            }
            Err(QuestionError::Request(error)) if self.terminal => {
                print_notice(&format!("error: {error}"));
                self.messages.pop();
            }
            Err(QuestionError::Request(error)) => return Err(error.into()),
            // The reader of the answers has closed the pipe.
            Err(QuestionError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(false),
            Err(QuestionError::Output(error)) => return Err(error.into()),
        }
        Ok(true)
    }

    /// Returns the prompt: the whole conversation, or only the last text if the model has no chat template.
    fn prompt(&mut self) -> PromptInput {
        if !self.api.text().has_chat_template() {
            let last = self.messages.pop();
            self.messages.clear();
            let text = last.map(|message| message.content).unwrap_or_default();
            return PromptInput::Text(text);
        }
        let system = self.system.iter().map(|text| message("system", text));
        let messages = system.chain(self.messages.iter().cloned()).collect();
        PromptInput::Chat(lockstep_api::Conversation { messages, ..Default::default() })
    }
}

/// Prints one answer while it grows, until its end or the interrupt.
async fn stream_answer(api: &Api, input: GenerateInput, interrupt: &CancellationToken) -> Result<Reply, QuestionError> {
    let submitted_at = Instant::now();
    let mut reply = Reply::default();
    let printed = tokio::select! {
        printed = print_answer(api, input, submitted_at, &mut reply) => printed,
        () = interrupt.cancelled() => {
            reply.stopped = true;
            Ok(())
        }
    };
    // The next output begins on a new line.
    if printed.is_ok() || !reply.text.is_empty() {
        print("\n")?;
    }
    printed.map(|()| reply)
}

async fn print_answer(
    api: &Api,
    input: GenerateInput,
    submitted_at: Instant,
    reply: &mut Reply,
) -> Result<(), QuestionError> {
    let Some(mut answer) = api.generate(input).await?.pop() else { return Ok(()) };
    let mut first = None;
    while let Some(delta) = answer.next().await {
        let delta = delta?;
        if !delta.tokens.is_empty() {
            let first = *first.get_or_insert_with(Instant::now);
            reply.figures.first = first - submitted_at;
            reply.figures.rest = first.elapsed();
        }
        update_figures(&mut reply.figures, &answer, &delta);
        print(&delta.reasoning)?;
        print(&delta.text)?;
        reply.text.push_str(&delta.text);
    }
    Ok(())
}

fn update_figures(figures: &mut Figures, answer: &Answer, delta: &Delta) {
    let usage = answer.usage();
    figures.prompt_tokens = usage.prompt_tokens;
    figures.cached_tokens = usage.cached_tokens;
    figures.tokens = usage.completion_tokens;
    figures.finish = match delta.finish {
        None => FinishReason::Unspecified,
        Some(Finish::Stop) => FinishReason::Stop,
        Some(Finish::ToolCalls) => FinishReason::ToolCalls,
        Some(Finish::Length) => FinishReason::Length,
        Some(Finish::Cancelled) => FinishReason::Cancelled,
    };
}

impl From<RequestError> for QuestionError {
    fn from(error: RequestError) -> Self {
        Self::Request(error)
    }
}

impl From<io::Error> for QuestionError {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

fn message(role: &str, content: impl Into<String>) -> ChatMessage {
    ChatMessage::new(role, content)
}

/// Prints to standard output without a delay.
///
/// # Errors
/// The reader has closed the pipe, or the write fails.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Prints a notice to standard error. It ignores a closed standard error.
pub(super) fn print_notice(text: &str) {
    writeln!(io::stderr(), "{text}").ok();
}
