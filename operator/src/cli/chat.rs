//! `lockstep chat`: a conversation on the terminal. Ctrl-C stops a running answer. A second Ctrl-C without a running
//! answer ends the conversation. [`lockstep_proto::chat`] defines the slash commands.

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use lockstep_proto::chat::{self, Input};
use lockstep_proto::v1::ChatMessage;
use lockstep_proto::v1::inference_client::InferenceClient;
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin};

use super::access::Connection;
use super::answer::{self, Question, message};
use super::endpoint::EndpointFlags;
use super::kubernetes::{KubernetesFlags, forward};
use super::sampling::SamplingArgs;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  lockstep chat               the group that `lockstep up` runs here\n  lockstep chat \
                        quickstart    an InferenceCluster in Kubernetes"
)]
pub(super) struct ChatArgs {
    /// Name of an InferenceCluster in Kubernetes, reached through the API server instead of --endpoint
    name: Option<String>,
    #[command(flatten)]
    kubernetes: KubernetesFlags,
    /// System message before the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    endpoint: EndpointFlags,
    #[command(flatten)]
    sampling: SamplingArgs,
}

struct Conversation {
    client: InferenceClient<Connection>,
    sampling: SamplingArgs,
    /// System message before the conversation.
    system: Option<String>,
    messages: Vec<ChatMessage>,
    /// True if standard input is a terminal.
    terminal: bool,
}

pub(super) async fn run(args: ChatArgs) -> anyhow::Result<ExitCode> {
    let (client, peer) = match &args.name {
        Some(name) => {
            (forward::inference(&args.kubernetes.connect().await?, name, &args.endpoint.access).await?, name.clone())
        }
        None => {
            let endpoint = args.endpoint.resolve()?;
            (endpoint.inference().await?, endpoint.to_string())
        }
    };
    let terminal = std::io::stdin().is_terminal();
    let ChatArgs { system, sampling, .. } = args;
    let mut chat = Conversation { client, sampling, system, messages: Vec::new(), terminal };
    if terminal {
        eprintln!("Talking to {peer}. Ctrl-C stops an answer; /help lists the commands.");
    }
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(text) = read_input(&mut lines, terminal).await? {
        if !chat.handle(Input::parse(&text)).await? {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads the next input, of one line or several. Returns `None` if the conversation is over.
async fn read_input(lines: &mut Lines<BufReader<Stdin>>, terminal: bool) -> anyhow::Result<Option<String>> {
    let mut text = String::new();
    let mut interrupted = false;
    loop {
        if terminal {
            eprint!("{}", if text.is_empty() { "> " } else { "… " });
        }
        tokio::select! {
            line = lines.next_line() => match line? {
                Some(line) => text.push_str(&line),
                None => return Ok(Some(text).filter(|text| !text.is_empty())),
            },
            _ = tokio::signal::ctrl_c() => {
                eprintln!();
                if interrupted || !terminal {
                    return Ok(None);
                }
                (interrupted, text) = (true, String::new());
                eprintln!("[Ctrl-C again ends the conversation]");
                continue;
            }
        }
        if chat::is_complete(&text) {
            return Ok(Some(text));
        }
        if text.len() > chat::MAX_INPUT_BYTES {
            bail!("the input has more than {} bytes; make it shorter", chat::MAX_INPUT_BYTES);
        }
        text.push('\n');
        interrupted = false;
    }
}

impl Conversation {
    /// Carries out one input. Returns false if the conversation is over.
    async fn handle(&mut self, input: Input) -> anyhow::Result<bool> {
        match input {
            Input::Nothing => {}
            Input::Quit => return Ok(false),
            Input::Help => eprintln!("{}", chat::HELP),
            Input::Clear => {
                self.messages.clear();
                eprintln!("[forgotten]");
            }
            Input::System(system) => self.system = system,
            Input::Set(setting) => self.sampling.apply(setting),
            Input::Wrong(message) => eprintln!("error: {message}"),
            Input::Say(question) => self.answer(&question).await?,
        }
        Ok(true)
    }

    /// Streams the answer to one question. On a terminal, a refusal is printed and the conversation goes on without the
    /// question. Otherwise a refusal ends the conversation.
    async fn answer(&mut self, question: &str) -> anyhow::Result<()> {
        self.messages.push(message("user", question));
        let system = self.system.iter().map(|text| message("system", text));
        let conversation = Question::Conversation(system.chain(self.messages.iter().cloned()).collect());
        let mut streamed = String::new();
        let out = |text: &str| {
            streamed.push_str(text);
            super::print(text)
        };
        let answer = tokio::select! {
            answer = answer::stream_answer(&mut self.client, conversation, &self.sampling, out) => Some(answer),
            _ = tokio::signal::ctrl_c() => None,
        };
        super::print("\n")?;
        match answer {
            None => {
                eprintln!("[stopped]");
                self.messages.push(message("assistant", streamed));
            }
            Some(Ok(answer)) => {
                if self.terminal {
                    eprintln!("[{}]", answer.figures);
                }
                self.messages.push(message("assistant", answer.text));
            }
            Some(Err(error)) if self.terminal => {
                eprintln!("error: {error}");
                self.messages.pop();
            }
            Some(Err(error)) => return Err(error.into()),
        }
        Ok(())
    }
}
