//! Settings of the service: limits of requests, the memory of the KV cache, and the model's spellings.

use std::time::Duration;

use lockstep_api::{ReasoningStyle, StyleChoice, ToolStyle};
use lockstep_proto::limits::{
    DEFAULT_KV_CACHE_PERCENT, DEFAULT_NUM_BATCHED_TOKENS, DEFAULT_NUM_SEQS, DEFAULT_RECOVERY_TIMEOUT_S,
    MAX_CONTEXT_LENGTH, MAX_NUM_BATCHED_TOKENS, MAX_NUM_SEQS,
};

use super::args::{self, Flag};
use super::environment::Build;
use super::error::ConfigError;
use super::settings::Settings;
use super::values::KvCacheMemory;

/// Most requests that may wait.
const MAX_WAITING: u32 = 1 << 16;
const DEFAULT_WAITING: u32 = 1024;
const DEFAULT_RECOVERY: Duration = Duration::from_secs(DEFAULT_RECOVERY_TIMEOUT_S);
const DEFAULT_DRAIN: Duration = Duration::from_secs(30);
/// Default on the CPU. A rank shares this memory with everything else on the machine, so the default is small.
const DEFAULT_KV_CPU: KvCacheMemory = KvCacheMemory::Bytes(1 << 30);
/// Default on a device. A device's memory belongs to the rank alone.
const DEFAULT_KV_DEVICE: KvCacheMemory = KvCacheMemory::Fraction(DEFAULT_KV_CACHE_PERCENT as f32 / 100.0);

/// Limits of the requests that the head serves, and the model's spellings.
#[derive(Debug, Clone, PartialEq)]
pub struct ServingConfig {
    pub max_num_seqs: u32,
    /// At least `max_num_seqs`, so that every running sequence can take its token in one step.
    pub max_num_batched_tokens: u32,
    /// Most tokens of one sequence. `None`: the length that the model was trained for.
    pub context_length: Option<u32>,
    pub kv_cache: KvCacheMemory,
    /// Time that a request waits for the group to form again.
    pub recovery_timeout: Duration,
    pub drain_timeout: Duration,
    /// Most requests in the queue.
    pub max_waiting: u32,
    /// Spelling of the model's tool calls.
    pub tool_style: StyleChoice<ToolStyle>,
    /// Spelling of the model's reasoning.
    pub reasoning_style: StyleChoice<ReasoningStyle>,
    /// Set if HTTP requests with a field that nobody knows are refused.
    pub strict_fields: bool,
    /// Set if clients may subscribe to the events of the prefix cache.
    pub kv_events: bool,
}

impl ServingConfig {
    /// Reads the settings from flags and variables.
    pub(super) fn resolve(settings: &Settings<'_>, build: &Build) -> Result<Self, ConfigError> {
        let options = settings.options;
        let max_num_seqs = settings.integer(&options.max_num_seqs, args::MAX_NUM_SEQS, 1..=MAX_NUM_SEQS)?;
        let max_num_seqs = max_num_seqs.unwrap_or(DEFAULT_NUM_SEQS);
        let (tokens, range) = (&options.max_num_batched_tokens, 1..=MAX_NUM_BATCHED_TOKENS);
        let max_num_batched_tokens = settings.integer(tokens, args::MAX_NUM_BATCHED_TOKENS, range)?;
        let max_num_batched_tokens = max_num_batched_tokens.unwrap_or(DEFAULT_NUM_BATCHED_TOKENS.max(max_num_seqs));
        if max_num_batched_tokens < max_num_seqs {
            return Err(ConfigError::contradiction(
                format!("--max-num-batched-tokens is {max_num_batched_tokens}"),
                format!("--max-seqs is {max_num_seqs}"),
                "each running sequence needs a token in every step; raise the first or lower the second",
            ));
        }
        let kv_default = if build.visible_devices > 0 { DEFAULT_KV_DEVICE } else { DEFAULT_KV_CPU };
        let second = Duration::from_secs(1);
        Ok(Self {
            max_num_seqs,
            max_num_batched_tokens,
            context_length: settings.integer(&options.context_length, args::CONTEXT_LENGTH, 1..=MAX_CONTEXT_LENGTH)?,
            kv_cache: settings.memory(&options.kv_cache_memory, args::KV_CACHE_MEMORY)?.unwrap_or(kv_default),
            recovery_timeout: settings
                .duration(&options.recovery_timeout, args::RECOVERY_TIMEOUT, second)?
                .unwrap_or(DEFAULT_RECOVERY),
            drain_timeout: settings
                .duration(&options.drain_timeout, args::DRAIN_TIMEOUT, Duration::ZERO)?
                .unwrap_or(DEFAULT_DRAIN),
            max_waiting: settings
                .integer(&options.max_waiting, args::MAX_WAITING, 1..=MAX_WAITING)?
                .unwrap_or(DEFAULT_WAITING),
            tool_style: style(settings, &options.tool_call_parser, args::TOOL_CALL_PARSER, ToolStyle::NAMES)?,
            reasoning_style: style(settings, &options.reasoning_parser, args::REASONING_PARSER, ReasoningStyle::NAMES)?,
            strict_fields: settings.switch(&options.strict_fields, args::STRICT_FIELDS)?,
            kv_events: settings.switch(&options.kv_events, args::KV_EVENTS)?,
        })
    }
}

/// Returns a style by its name, or `auto`, or `none`.
fn style<T: Copy>(
    settings: &Settings<'_>,
    typed: &Option<String>,
    flag: Flag,
    names: &[(&'static str, T)],
) -> Result<StyleChoice<T>, ConfigError> {
    let Some(setting) = settings.setting(typed, flag)? else { return Ok(StyleChoice::Auto) };
    let styles = names.iter().map(|(name, style)| (*name, StyleChoice::Is(*style)));
    let all: Vec<_> = [("auto", StyleChoice::Auto), ("none", StyleChoice::Off)].into_iter().chain(styles).collect();
    setting.choice(&all)
}
