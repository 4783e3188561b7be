//! The settings of a group's scheduler. They bound requests and steps, or tune speed. None of them changes which token
//! comes next in an answer.

use std::time::Duration;

/// A moment, in microseconds since an origin that the caller chose and keeps.
pub type Micros = u64;

/// Settings of a [`Scheduler`](crate::Scheduler).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// Tokens per KV block, at least 1.
    pub block_size: u32,
    /// Most sequences that may hold blocks at once, at least 1.
    pub max_num_seqs: usize,
    /// Most tokens that one step may compute, at least 1. This also bounds the running sequences, because each of them
    /// may need one token in a step.
    pub max_num_batched_tokens: usize,
    /// Most tokens of a sequence, prompt and answer together.
    pub context_length: u32,
    /// Most requests that may wait before they have ever run. A request that was preempted, or whose epoch ended, does
    /// not count.
    pub max_waiting: usize,
    /// Most plans whose results are still due, at least 1. With as many plans as pipeline stages, the first stage waits
    /// for each plan until another result has reached the head. With one more, the head plans one step ahead.
    pub max_steps_in_flight: usize,
    /// Pipeline stages of the ranks, at least 1. Each stage computes a step of its own, so the scheduler spreads the
    /// work over as many steps as there are stages. None of these steps waits for a token of another one.
    pub pipeline_stages: usize,
    /// Duration that a step should not exceed. The token budget adapts to it.
    pub target_step: Duration,
    /// Key of the block hashes. The caller draws it at random, so that no client can construct a collision.
    pub prefix_key: [u8; 16],
    /// True if sequences with an equal prefix share its blocks.
    pub prefix_caching: bool,
    /// True if the scheduler reports what the prefix cache gains and loses. Blocks with a salt are never reported.
    pub block_events: bool,
    /// Time that a request may spend without a working group before it fails.
    pub recovery_timeout: Duration,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            block_size: 16,
            max_num_seqs: 64,
            max_num_batched_tokens: 4096,
            context_length: 8192,
            max_waiting: 1024,
            max_steps_in_flight: 2,
            pipeline_stages: 1,
            target_step: Duration::from_millis(500),
            prefix_key: [0; 16],
            prefix_caching: true,
            block_events: false,
            recovery_timeout: Duration::from_secs(120),
        }
    }
}

impl SchedulerConfig {
    /// Returns how many sequences may run at once. Each step must have room for a token of every one of them.
    pub(crate) fn max_running(&self) -> usize {
        self.max_num_seqs.min(self.max_num_batched_tokens)
    }

    /// Returns how many tokens of one sequence may be in flight: the token that the ranks compute now, and one more for
    /// each step that the head may plan ahead.
    pub(crate) fn max_tokens_in_flight(&self) -> usize {
        (self.max_steps_in_flight + 1).saturating_sub(self.pipeline_stages).max(1)
    }
}
