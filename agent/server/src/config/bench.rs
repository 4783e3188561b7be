//! `bench`: what is measured.

use super::args::{Bench, Options};
use super::error::ConfigError;
use super::values::Setting;
use super::{MAX_CONTEXT_LENGTH, MAX_NUM_SEQS, ServingConfig};

const DEFAULT_BATCH_SIZES: &[u32] = &[1, 2, 4, 8];
const DEFAULT_PROMPT: u32 = 512;
const DEFAULT_ANSWER: u32 = 32;
const DEFAULT_ROUNDS: u32 = 5;
/// More rounds tell nothing new.
const MAX_ROUNDS: u32 = 1000;
/// Batch sizes of one run.
const MAX_BATCH_SIZES: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BenchConfig {
    /// At least one, each at most the sequences that may run at once.
    pub batch_sizes: Vec<u32>,
    /// Tokens of each prompt whose prefill is measured.
    pub prompt_tokens: u32,
    /// Tokens that each sequence decodes, at least 2.
    pub answer_tokens: u32,
    /// Measured, beside one that warms up.
    pub rounds: u32,
    /// JSON in place of text.
    pub json: bool,
}

/// Checks what was typed after `bench`.
///
/// # Errors
/// A number is out of range, or a batch larger than what may run at once.
pub(super) fn of_head(bench: &Bench, options: &Options, serving: &ServingConfig) -> Result<BenchConfig, ConfigError> {
    if options.interactive {
        return Err(ConfigError::Conflict {
            first: "-i".into(),
            second: "bench".into(),
            remedy: "a conversation would be measured with the rest; use one of the two",
        });
    }
    let said = |flag: &str, value: &str| Setting { name: format!("--{flag}"), value: value.to_owned() };
    let number = |flag: &str, typed: &Option<String>, range, default| {
        typed.as_ref().map_or(Ok(default), |value| said(flag, value).integer(range))
    };
    let config = BenchConfig {
        batch_sizes: match &bench.batch_sizes {
            None => DEFAULT_BATCH_SIZES.iter().copied().filter(|size| *size <= serving.max_num_seqs).collect(),
            Some(sizes) => batch_sizes(&said("batch-sizes", sizes))?,
        },
        prompt_tokens: number("prompt-tokens", &bench.prompt_tokens, 1..=MAX_CONTEXT_LENGTH, DEFAULT_PROMPT)?,
        answer_tokens: number("answer-tokens", &bench.answer_tokens, 2..=MAX_CONTEXT_LENGTH, DEFAULT_ANSWER)?,
        rounds: number("rounds", &bench.rounds, 1..=MAX_ROUNDS, DEFAULT_ROUNDS)?,
        json: bench.json,
    };
    let largest = config.batch_sizes.iter().max().copied().unwrap_or(1);
    if largest > serving.max_num_seqs {
        return Err(ConfigError::contradiction(
            format!("--batch-sizes names {largest}"),
            format!("--max-seqs is {}", serving.max_num_seqs),
            "no more run at once; raise the second or leave the size out",
        ));
    }
    Ok(config)
}

fn batch_sizes(said: &Setting) -> Result<Vec<u32>, ConfigError> {
    let sizes: Result<Vec<u32>, _> = said
        .value
        .split(',')
        .map(|size| Setting { name: said.name.clone(), value: size.trim().to_owned() }.integer(1..=MAX_NUM_SEQS))
        .collect();
    match sizes? {
        sizes if sizes.len() <= MAX_BATCH_SIZES => Ok(sizes),
        _ => Err(said.invalid(format!("give at most {MAX_BATCH_SIZES} sizes"))),
    }
}
