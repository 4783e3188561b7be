//! `lockstep generate`: streams the continuation of one prompt.

use std::io::{IsTerminal, Read};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;

use super::answer::{self, Question};
use super::endpoint::EndpointFlags;
use super::kubernetes::{KubernetesFlags, forward};
use super::sampling::SamplingArgs;

/// Largest number of bytes that are read from standard input.
const MAX_PROMPT_BYTES: u64 = 16 * 1024 * 1024;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  lockstep generate \"Once upon a time\"              the group that `lockstep up` runs \
                        here\n  lockstep generate quickstart \"Once upon a time\"   an InferenceCluster in Kubernetes\n  \
                        kubectl lockstep generate --cluster quickstart < FILE"
)]
pub(super) struct GenerateArgs {
    /// Text to continue. `-` or no text reads standard input. The first of two arguments is the name of an
    /// InferenceCluster
    #[arg(value_name = "[NAME] PROMPT", num_args = 0..=2)]
    prompt: Vec<String>,
    /// Name of an InferenceCluster in Kubernetes, reached through the API server instead of --endpoint
    #[arg(short, long, value_name = "NAME")]
    cluster: Option<String>,
    #[command(flatten)]
    kubernetes: KubernetesFlags,
    #[command(flatten)]
    endpoint: EndpointFlags,
    #[command(flatten)]
    sampling: SamplingArgs,
}

pub(super) async fn run(args: GenerateArgs) -> anyhow::Result<ExitCode> {
    let (name, prompt) = split_target(args.cluster, args.prompt)?;
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
        Some(name) => forward::inference(&args.kubernetes.connect().await?, name, &args.endpoint.access).await?,
        None => args.endpoint.resolve()?.inference().await?,
    };
    let answer = tokio::select! {
        answer = answer::stream_answer(&mut client, Question::Prompt(prompt), &args.sampling, super::print) => answer?,
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

/// Splits the arguments into the name of a cluster and the prompt. Two words are NAME and PROMPT; one word is the
/// prompt.
fn split_target(cluster: Option<String>, words: Vec<String>) -> anyhow::Result<(Option<String>, Option<String>)> {
    let mut words = words.into_iter();
    match (cluster, words.next(), words.next()) {
        (Some(_), Some(_), Some(_)) => {
            bail!("the cluster is named twice, by --cluster and before the prompt; name it once")
        }
        (None, Some(name), Some(prompt)) => Ok((Some(name), Some(prompt))),
        (cluster, prompt, _) => Ok((cluster, prompt)),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_first_of_two_words_names_the_cluster() {
        let split = |cluster: Option<&str>, words: &[&str]| {
            super::split_target(cluster.map(str::to_owned), words.iter().map(ToString::to_string).collect()).ok()
        };
        let target =
            |name: Option<&str>, prompt: Option<&str>| Some((name.map(str::to_owned), prompt.map(str::to_owned)));
        assert_eq!(split(None, &["hello"]), target(None, Some("hello")));
        assert_eq!(split(None, &["quick", "hello"]), target(Some("quick"), Some("hello")));
        assert_eq!(split(Some("quick"), &["hello"]), target(Some("quick"), Some("hello")));
        assert_eq!(split(Some("quick"), &[]), target(Some("quick"), None));
        assert_eq!(split(Some("quick"), &["quick", "hello"]), None);
    }
}
