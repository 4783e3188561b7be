//! `lockstep generate`: one prompt, streamed.

use std::io::{IsTerminal, Read};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;

use super::answer::{self, Question};
use super::endpoint::EndpointFlag;
use super::sampling::Sampling;

/// Longest prompt that is read from standard input, in bytes.
const MAX_PROMPT_BYTES: u64 = 16 * 1024 * 1024;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// The text to continue; `-` or nothing reads standard input
    prompt: Option<String>,
    #[command(flatten)]
    endpoint: EndpointFlag,
    #[command(flatten)]
    sampling: Sampling,
}

pub(super) async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let prompt = match options.prompt {
        Some(prompt) if prompt != "-" => prompt,
        None if std::io::stdin().is_terminal() => bail!("give a prompt: lockstep generate \"Once upon a time\""),
        _ => {
            let mut text = String::new();
            let read = std::io::stdin().take(MAX_PROMPT_BYTES).read_to_string(&mut text);
            read.context("read the prompt from standard input")?;
            text
        }
    };
    let mut client = options.endpoint.endpoint.inference().await?;
    let answer = tokio::select! {
        answer = answer::stream(&mut client, Question::Prompt(prompt), &options.sampling, super::print) => answer?,
        _ = tokio::signal::ctrl_c() => {
            eprintln!();
            return Ok(ExitCode::from(super::INTERRUPTED));
        }
    };
    super::print("\n")?;
    if std::io::stderr().is_terminal() {
        eprintln!("[{}]", answer.figures());
    }
    Ok(ExitCode::SUCCESS)
}
