//! The configuration of the command `bench`.

use super::ServingConfig;
use lockstep_proto::limits::{MAX_CONTEXT_LENGTH, MAX_NUM_SEQS};

use super::args::{BenchArgs, GlobalArgs};
use super::error::ConfigError;
use super::values::Setting;

const DEFAULT_BATCH_SIZES: &[u32] = &[1, 2, 4, 8];
const DEFAULT_PROMPT: u32 = 512;
const DEFAULT_ANSWER: u32 = 32;
const DEFAULT_ROUNDS: u32 = 5;
/// Most measured rounds. More rounds show nothing new.
const MAX_ROUNDS: u32 = 1000;
/// Most batch sizes of one run.
const MAX_BATCH_SIZES: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BenchConfig {
    /// Numbers of sequences in a batch: at least one number, each at most `max_num_seqs`.
    pub batch_sizes: Vec<u32>,
    /// Tokens of each prompt in the measurement of prefill.
    pub prompt_tokens: u32,
    /// Number of tokens that each sequence decodes, at least 2.
    pub answer_tokens: u32,
    /// Measured rounds. Another round before them warms up.
    pub rounds: u32,
    /// True if the report is JSON, not text.
    pub json: bool,
}

/// Checks the arguments of `bench`.
///
/// # Errors
/// A number is out of range, or a batch has more sequences than may run at once.
pub(super) fn from_arguments(
    bench: &BenchArgs,
    options: &GlobalArgs,
    serving: &ServingConfig,
) -> Result<BenchConfig, ConfigError> {
    if options.interactive {
        return Err(ConfigError::Conflict {
            first: "-i".into(),
            second: "bench".into(),
            remedy: "the requests of a conversation would disturb the measurement; use one of the two",
        });
    }
    let setting = |flag: &str, value: &str| Setting { name: format!("--{flag}"), value: value.to_owned() };
    let number = |flag: &str, typed: &Option<String>, range, default| {
        typed.as_ref().map_or(Ok(default), |value| setting(flag, value).integer(range))
    };
    let config = BenchConfig {
        batch_sizes: match &bench.batch_sizes {
            None => DEFAULT_BATCH_SIZES.iter().copied().filter(|size| *size <= serving.max_num_seqs).collect(),
            Some(sizes) => parse_batch_sizes(&setting("batch-sizes", sizes))?,
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
            "this limit holds for a batch too; raise --max-seqs or leave the batch size out",
        ));
    }
    Ok(config)
}

fn parse_batch_sizes(setting: &Setting) -> Result<Vec<u32>, ConfigError> {
    let sizes: Result<Vec<u32>, _> = setting
        .value
        .split(',')
        .map(|size| Setting { name: setting.name.clone(), value: size.trim().to_owned() }.integer(1..=MAX_NUM_SEQS))
        .collect();
    match sizes? {
        sizes if sizes.len() <= MAX_BATCH_SIZES => Ok(sizes),
        _ => Err(setting.invalid(format!("give at most {MAX_BATCH_SIZES} sizes"))),
    }
}
