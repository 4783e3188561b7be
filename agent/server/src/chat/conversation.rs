//! One conversation: what was said so far, how answers are chosen, and how they are shown.

use std::io::{self, Write as _};
use std::time::Instant;

use lockstep_api::{Answer, Api, ChatMessage, Delta, Finish, GenerateInput, PromptInput, RequestError, request_id};
use lockstep_proto::chat::{Figures, HELP, Input, Setting};
use lockstep_proto::v1::FinishReason;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::signals::Signals;

pub struct Conversation {
    api: Api,
    signals: Signals,
    runtime: Handle,
    /// Somebody looks on.
    terminal: bool,
    /// Tell the figures of each answer.
    throughput: bool,
    /// What the model is told before the conversation.
    system: Option<String>,
    said: Vec<ChatMessage>,
    how: GenerateInput,
}

/// What there is of an answer.
#[derive(Default)]
struct Reply {
    text: String,
    figures: Figures,
    stopped: bool,
}

/// Why there is no answer.
enum Unanswered {
    Refused(RequestError),
    Unshown(io::Error),
}

impl Conversation {
    pub fn new(api: Api, signals: Signals, runtime: Handle, terminal: bool, throughput: bool) -> Self {
        let how = GenerateInput::default();
        Self { api, signals, runtime, terminal, throughput, system: None, said: Vec::new(), how }
    }

    pub fn greet(&self) {
        if !self.terminal {
            return;
        }
        let ranks = self.api.status().borrow().world_size;
        let over = if ranks == 1 { "1 rank".into() } else { format!("{ranks} ranks") };
        let name = &self.api.model().name;
        tell(&format!("Talking to {name} on {over}. Ctrl-C stops an answer; /help lists the commands."));
        if !self.api.text().has_chat_template() {
            tell("The model has no chat template: it continues each text by itself.");
        }
    }

    /// Does what was typed. False: that was the end.
    ///
    /// # Errors
    /// Standard output fails; off a terminal also a question that is not answered.
    pub fn take(&mut self, input: Input) -> anyhow::Result<bool> {
        match input {
            Input::Nothing => {}
            Input::Quit => return Ok(false),
            Input::Help => tell(HELP),
            Input::Clear => {
                self.said.clear();
                tell("[forgotten]");
            }
            Input::System(system) => self.system = system,
            Input::Set(setting) => self.set(setting),
            Input::Wrong(told) => tell(&format!("error: {told}")),
            Input::Say(question) => return self.ask(question),
        }
        Ok(true)
    }

    fn set(&mut self, setting: Setting) {
        let GenerateInput { sampling, limits, .. } = &mut self.how;
        match setting {
            Setting::Temperature(temperature) => sampling.temperature = temperature,
            Setting::TopK(top_k) => sampling.top_k = top_k,
            Setting::TopP(top_p) => sampling.top_p = top_p,
            Setting::Seed(seed) => sampling.seed = seed,
            Setting::MaxTokens(max_tokens) => limits.max_tokens = max_tokens,
        }
    }

    /// One turn. A refusal leaves the conversation as it was.
    fn ask(&mut self, question: String) -> anyhow::Result<bool> {
        self.said.push(message("user", question));
        let input = GenerateInput { prompt: self.prompt(), request_id: request_id(None), ..self.how.clone() };
        let interrupt = self.signals.claim_interrupt();
        let reply = self.runtime.block_on(stream(&self.api, input, &interrupt));
        self.signals.release_interrupt();
        match reply {
            Ok(reply) => {
                if reply.stopped {
                    tell("[stopped]");
                }
                if self.throughput {
                    tell(&format!("[{}]", reply.figures));
                }
                self.said.push(message("assistant", reply.text));
            }
            Err(Unanswered::Refused(error)) if self.terminal => {
                tell(&format!("error: {error}"));
                self.said.pop();
            }
            Err(Unanswered::Refused(error)) => return Err(error.into()),
            // Whoever read the answers is gone.
            Err(Unanswered::Unshown(error)) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(false),
            Err(Unanswered::Unshown(error)) => return Err(error.into()),
        }
        Ok(true)
    }

    /// The whole conversation; where the model has no template for one, the last text alone.
    fn prompt(&mut self) -> PromptInput {
        if !self.api.text().has_chat_template() {
            let last = self.said.pop();
            self.said.clear();
            let text = last.map(|message| message.content).unwrap_or_default();
            return PromptInput::Text(text);
        }
        let system = self.system.iter().map(|text| message("system", text));
        let messages = system.chain(self.said.iter().cloned()).collect();
        PromptInput::Chat(lockstep_api::Conversation { messages, ..Default::default() })
    }
}

/// Shows one answer as it grows, to its end or to the interrupt.
async fn stream(api: &Api, input: GenerateInput, interrupt: &CancellationToken) -> Result<Reply, Unanswered> {
    let asked = Instant::now();
    let mut reply = Reply::default();
    let shown = tokio::select! {
        shown = show(api, input, asked, &mut reply) => shown,
        () = interrupt.cancelled() => {
            reply.stopped = true;
            Ok(())
        }
    };
    // Whatever follows is on a line of its own.
    if shown.is_ok() || !reply.text.is_empty() {
        print("\n")?;
    }
    shown.map(|()| reply)
}

async fn show(api: &Api, input: GenerateInput, asked: Instant, reply: &mut Reply) -> Result<(), Unanswered> {
    let Some(mut answer) = api.generate(input).await?.pop() else { return Ok(()) };
    let mut first = None;
    while let Some(delta) = answer.next().await {
        let delta = delta?;
        if !delta.tokens.is_empty() {
            let first = *first.get_or_insert_with(Instant::now);
            reply.figures.first = first - asked;
            reply.figures.rest = first.elapsed();
        }
        count(&mut reply.figures, &answer, &delta);
        print(&delta.reasoning)?;
        print(&delta.text)?;
        reply.text.push_str(&delta.text);
    }
    Ok(())
}

fn count(figures: &mut Figures, answer: &Answer, delta: &Delta) {
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

impl From<RequestError> for Unanswered {
    fn from(error: RequestError) -> Self {
        Self::Refused(error)
    }
}

impl From<io::Error> for Unanswered {
    fn from(error: io::Error) -> Self {
        Self::Unshown(error)
    }
}

fn message(role: &str, content: impl Into<String>) -> ChatMessage {
    ChatMessage::new(role, content)
}

/// To standard output, at once.
///
/// # Errors
/// Whoever read it is gone, or it cannot be written.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// To whoever looks on; nobody can be told where standard error is closed.
pub fn tell(text: &str) {
    writeln!(io::stderr(), "{text}").ok();
}
