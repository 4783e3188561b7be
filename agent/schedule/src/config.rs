//! What the operator of a group chooses. Values are bounds: none of them changes which tokens a request gets.

use std::time::Duration;

/// A moment: microseconds since an origin that the caller chose and keeps.
pub type Micros = u64;

/// Limits and choices of a [`Scheduler`](crate::Scheduler).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// Tokens per KV block, at least 1.
    pub block_size: u32,
    /// Sequences that may hold blocks at once, at least 1.
    pub max_num_seqs: usize,
    /// Tokens that one step may compute, at least 1. Also bounds the sequences that run at once, since each of them
    /// has a token in every step.
    pub max_num_batched_tokens: usize,
    /// Tokens of a sequence, prompt and answer together.
    pub context_length: u32,
    /// Requests that may wait and were never started. Requests that were preempted or lost their group do not count.
    pub max_waiting: usize,
    /// Plans that may be on their way at once, at least 1. One more than there are stages: one step ahead; as many: none.
    pub max_steps_in_flight: usize,
    /// Pipeline stages of the ranks, at least 1: each computes another step, so the work is spread over as many steps,
    /// no two of which wait for each other.
    pub pipeline_stages: usize,
    /// About how long a step may last: the token budget adapts to it.
    pub target_step: Duration,
    /// Key of the prefix hashes, drawn at random by the caller: clients cannot construct a collision without it.
    pub prefix_key: [u8; 16],
    /// Reuse the blocks of equal prefixes.
    pub prefix_caching: bool,
    /// How long a request may be without a working group before it fails.
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
            recovery_timeout: Duration::from_secs(120),
        }
    }
}

impl SchedulerConfig {
    /// Sequences that may run at once: each must find a place for one token in every step.
    pub(crate) fn max_running(&self) -> usize {
        self.max_num_seqs.min(self.max_num_batched_tokens)
    }

    /// Tokens that may be on their way for one sequence: one for each step that it may be planned ahead, and the one that
    /// the ranks compute.
    pub(crate) fn max_pending(&self) -> usize {
        (self.max_steps_in_flight + 1).saturating_sub(self.pipeline_stages).max(1)
    }
}
