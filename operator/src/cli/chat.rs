//! `lockstep chat`: a conversation on the terminal. Ctrl-C stops an answer; twice where none runs, it ends the
//! conversation. Its language is [`lockstep_proto::chat`]'s.

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use lockstep_proto::chat::{self, Input};
use lockstep_proto::v1::ChatMessage;
use lockstep_proto::v1::inference_client::InferenceClient;
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin};
use tonic::transport::Channel;

use super::answer::{self, Question, message};
use super::endpoint::EndpointFlag;
use super::kubernetes::{KubernetesFlags, forward};
use super::sampling::Sampling;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  lockstep chat               the group that `lockstep up` runs here\n  lockstep chat \
                        quickstart    an InferenceCluster in Kubernetes"
)]
pub(super) struct Options {
    /// An InferenceCluster in Kubernetes to talk to, through the API server, instead of --endpoint
    name: Option<String>,
    #[command(flatten)]
    kubernetes: KubernetesFlags,
    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    endpoint: EndpointFlag,
    #[command(flatten)]
    sampling: Sampling,
}

struct Conversation {
    client: InferenceClient<Channel>,
    sampling: Sampling,
    /// What the model is told before the conversation.
    system: Option<String>,
    said: Vec<ChatMessage>,
    terminal: bool,
}

pub(super) async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let (client, place) = match &options.name {
        Some(name) => (forward::inference(&options.kubernetes.connect().await?, name).await?, name.clone()),
        None => (options.endpoint.endpoint.inference().await?, options.endpoint.endpoint.to_string()),
    };
    let terminal = std::io::stdin().is_terminal();
    let Options { system, sampling, .. } = options;
    let mut chat = Conversation { client, sampling, system, said: Vec::new(), terminal };
    if terminal {
        eprintln!("Talking to {place}. Ctrl-C stops an answer; /help lists the commands.");
    }
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(text) = next(&mut lines, terminal).await? {
        if !chat.take(Input::parse(&text)).await? {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The next input, of one line or several; `None`: the conversation is over.
async fn next(lines: &mut Lines<BufReader<Stdin>>, terminal: bool) -> anyhow::Result<Option<String>> {
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
            bail!("more than {} bytes at once: give less", chat::MAX_INPUT_BYTES);
        }
        text.push('\n');
        interrupted = false;
    }
}

impl Conversation {
    /// Does what was typed. False: that was the end.
    async fn take(&mut self, input: Input) -> anyhow::Result<bool> {
        match input {
            Input::Nothing => {}
            Input::Quit => return Ok(false),
            Input::Help => eprintln!("{}", chat::HELP),
            Input::Clear => {
                self.said.clear();
                eprintln!("[forgotten]");
            }
            Input::System(system) => self.system = system,
            Input::Set(setting) => self.sampling.set(setting),
            Input::Wrong(told) => eprintln!("error: {told}"),
            Input::Say(question) => self.ask(&question).await?,
        }
        Ok(true)
    }

    /// One turn. A refusal is told and leaves the conversation as it was; off a terminal it ends it.
    async fn ask(&mut self, question: &str) -> anyhow::Result<()> {
        self.said.push(message("user", question));
        let system = self.system.iter().map(|text| message("system", text));
        let conversation = Question::Conversation(system.chain(self.said.iter().cloned()).collect());
        let mut so_far = String::new();
        let out = |text: &str| {
            so_far.push_str(text);
            super::print(text)
        };
        let answer = tokio::select! {
            answer = answer::stream(&mut self.client, conversation, &self.sampling, out) => Some(answer),
            _ = tokio::signal::ctrl_c() => None,
        };
        super::print("\n")?;
        match answer {
            None => {
                eprintln!("[stopped]");
                self.said.push(message("assistant", so_far));
            }
            Some(Ok(answer)) => {
                if self.terminal {
                    eprintln!("[{}]", answer.figures);
                }
                self.said.push(message("assistant", answer.text));
            }
            Some(Err(error)) if self.terminal => {
                eprintln!("error: {error}");
                self.said.pop();
            }
            Some(Err(error)) => return Err(error.into()),
        }
        Ok(())
    }
}
