//! `lockstep chat`: a conversation on the terminal. Ctrl-C stops an answer, and ends the conversation where none runs.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Args;
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
    /// The system message, if there is one, and all that was said.
    said: Vec<ChatMessage>,
    /// Messages that a reset keeps.
    fixed: usize,
    terminal: bool,
}

pub(super) async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let (client, place) = match &options.name {
        Some(name) => (forward::inference(&options.kubernetes.connect().await?, name).await?, name.clone()),
        None => (options.endpoint.endpoint.inference().await?, options.endpoint.endpoint.to_string()),
    };
    let said: Vec<_> = options.system.map(|text| message("system", text)).into_iter().collect();
    let terminal = std::io::stdin().is_terminal();
    let mut chat = Conversation { client, sampling: options.sampling, fixed: said.len(), said, terminal };
    if terminal {
        eprintln!("Talking to {}. Ctrl-C stops an answer; /reset forgets, /exit ends.", place);
    }
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = next(&mut lines, terminal).await? {
        match line.trim() {
            "" => {}
            "/exit" | "/quit" => break,
            "/reset" => {
                chat.said.truncate(chat.fixed);
                eprintln!("[forgotten]");
            }
            question => chat.ask(question).await?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn next(lines: &mut Lines<BufReader<Stdin>>, terminal: bool) -> anyhow::Result<Option<String>> {
    if terminal {
        eprint!("> ");
    }
    tokio::select! {
        line = lines.next_line() => Ok(line?),
        _ = tokio::signal::ctrl_c() => {
            eprintln!();
            Ok(None)
        }
    }
}

impl Conversation {
    /// One turn. A refusal is told and leaves the conversation as it was; off a terminal it ends it.
    async fn ask(&mut self, question: &str) -> anyhow::Result<()> {
        self.said.push(message("user", question));
        let conversation = Question::Conversation(self.said.clone());
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
                    eprintln!("[{}]", answer.figures());
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
