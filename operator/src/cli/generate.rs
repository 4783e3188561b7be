//! `lockstep generate`: one prompt, streamed.

use std::io::{IsTerminal, Read};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;

use super::answer::{self, Question};
use super::endpoint::EndpointFlag;
use super::kubernetes::{KubernetesFlags, forward};
use super::sampling::Sampling;

/// Longest prompt that is read from standard input, in bytes.
const MAX_PROMPT_BYTES: u64 = 16 * 1024 * 1024;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  lockstep generate \"Once upon a time\"              the group that `lockstep up` runs \
                        here\n  lockstep generate quickstart \"Once upon a time\"   an InferenceCluster in Kubernetes\n  \
                        kubectl lockstep generate --cluster quickstart < FILE"
)]
pub(super) struct Options {
    /// The text to continue; `-` or nothing reads standard input. Where two are given, the first one is the name of an
    /// InferenceCluster
    #[arg(value_name = "[NAME] PROMPT", num_args = 0..=2)]
    prompt: Vec<String>,
    /// An InferenceCluster in Kubernetes to ask, through the API server, instead of --endpoint
    #[arg(short, long, value_name = "NAME")]
    cluster: Option<String>,
    #[command(flatten)]
    kubernetes: KubernetesFlags,
    #[command(flatten)]
    endpoint: EndpointFlag,
    #[command(flatten)]
    sampling: Sampling,
}

pub(super) async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let (name, prompt) = addressed(options.cluster, options.prompt)?;
    let prompt = match prompt {
        Some(prompt) if prompt != "-" => prompt,
        None if std::io::stdin().is_terminal() => bail!("give a prompt: lockstep generate \"Once upon a time\""),
        _ => {
            let mut text = String::new();
            let read = std::io::stdin().take(MAX_PROMPT_BYTES).read_to_string(&mut text);
            read.context("read the prompt from standard input")?;
            text
        }
    };
    let mut client = match &name {
        Some(name) => forward::inference(&options.kubernetes.connect().await?, name).await?,
        None => options.endpoint.endpoint.inference().await?,
    };
    let answer = tokio::select! {
        answer = answer::stream(&mut client, Question::Prompt(prompt), &options.sampling, super::print) => answer?,
        _ = tokio::signal::ctrl_c() => {
            eprintln!();
            return Ok(ExitCode::from(super::INTERRUPTED));
        }
    };
    super::print("\n")?;
    if std::io::stderr().is_terminal() {
        eprintln!("[{}]", answer.figures);
    }
    Ok(ExitCode::SUCCESS)
}

/// Whom to ask and what: two words are NAME and PROMPT, one is the prompt.
fn addressed(cluster: Option<String>, words: Vec<String>) -> anyhow::Result<(Option<String>, Option<String>)> {
    let mut words = words.into_iter();
    match (cluster, words.next(), words.next()) {
        (Some(_), Some(_), Some(_)) => bail!("the cluster is named twice: by --cluster and before the prompt"),
        (None, Some(name), Some(prompt)) => Ok((Some(name), Some(prompt))),
        (cluster, prompt, _) => Ok((cluster, prompt)),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn whom_to_ask() {
        let ask = |cluster: Option<&str>, words: &[&str]| {
            super::addressed(cluster.map(str::to_owned), words.iter().map(ToString::to_string).collect()).ok()
        };
        let is = |name: Option<&str>, prompt: Option<&str>| Some((name.map(str::to_owned), prompt.map(str::to_owned)));
        assert_eq!(ask(None, &["hello"]), is(None, Some("hello")));
        assert_eq!(ask(None, &["quick", "hello"]), is(Some("quick"), Some("hello")));
        assert_eq!(ask(Some("quick"), &["hello"]), is(Some("quick"), Some("hello")));
        assert_eq!(ask(Some("quick"), &[]), is(Some("quick"), None));
        assert_eq!(ask(Some("quick"), &["quick", "hello"]), None);
    }
}
