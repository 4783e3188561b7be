//! Requests, their outputs, and the errors and numbers that the scheduler reports.

use crate::config::Micros;
use crate::plan::{PromptToken, SamplingParams, SeqId, TokenLogprobs};

/// Greatest priority that makes a difference, in both directions. One step is worth [`PRIORITY_STEP`] places in the queue.
/// So a request waits for a bounded number of others, whatever their priorities are.
pub const MAX_PRIORITY: i32 = 100;
/// Places in the order of arrival that one step of a priority is worth.
const PRIORITY_STEP: i64 = 32;

/// Request for one answer. A client that asks for several choices causes several requests.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Number that the head has never used before.
    pub id: SeqId,
    /// Token ids of the prompt, at least one.
    pub prompt: Vec<u32>,
    /// Place in the queue: a lower number comes first, within the bounds of [`MAX_PRIORITY`]. 0 is usual.
    pub priority: i32,
    /// Word that the prefix cache tells apart. Only requests with the same one share blocks. Empty is usual.
    pub cache_salt: String,
    pub sampling: SamplingParams,
    /// Most tokens to generate. With 0, the sequence ends once its prompt is computed.
    pub max_tokens: u32,
    /// Tokens that end the sequence. They are not reported as tokens of the answer.
    pub stop_token_ids: Vec<u32>,
    /// Moment at which the request fails if it has not ended before.
    pub deadline: Option<Micros>,
    /// Set if the head must know each token before the next step (for a grammar). No step is then planned ahead.
    pub needs_head: bool,
    /// Number of likeliest tokens to report beside each token of the prompt, with their log-probabilities and that of
    /// the prompt's token. `None` reports none. The prefix cache holds no log-probabilities, so the ranks compute all
    /// tokens of such a prompt.
    pub prompt_logprobs: Option<u32>,
}

impl Request {
    /// Returns the place in the queue of the request that arrives as number `arrival`.
    pub(crate) fn place(&self, arrival: u64) -> i64 {
        let steps = i64::from(self.priority.clamp(-MAX_PRIORITY, MAX_PRIORITY));
        i64::try_from(arrival).unwrap_or(i64::MAX).saturating_add(steps * PRIORITY_STEP)
    }
}

/// Reason for which [`Scheduler::submit`](crate::Scheduler::submit) refuses a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    #[error("the queue is full ({limit} requests wait): retry later, or raise the limit of waiting requests")]
    QueueFull { limit: usize },
    #[error("the prompt is empty: send at least one token")]
    EmptyPrompt,
    #[error(
        "the prompt has {tokens} tokens, and the context of {limit} tokens must also hold at least one token of the \
         answer: shorten the prompt, or serve with a longer context (serving.contextLength)"
    )]
    PromptTooLong { tokens: usize, limit: u32 },
    #[error(
        "prompt and answer may need {needed} KV blocks and the group has {total}: shorten the prompt, ask for fewer \
         tokens (max_tokens), or give the ranks more memory (serving.kvCacheMemory)"
    )]
    TooManyBlocks { needed: u32, total: u32 },
    #[error("sequence {id} is already in the scheduler: give every sequence its own id")]
    DuplicateId { id: SeqId },
}

/// Message for the client of a request. A sequence has one `Started` before its first token. It ends with exactly one
/// `Finished` or `Failed`, unless it is cancelled, and no output follows the end.
#[derive(Debug, Clone, PartialEq)]
pub enum RequestOutput {
    /// End of the sequence's first step. The prefix cache held the first `cached_tokens` tokens of the prompt.
    Started {
        id: SeqId,
        cached_tokens: u32,
    },
    /// The next tokens of the prompt, from the second one on, if the request asks for their log-probabilities. All of
    /// them come before the first `Token`, and each comes once.
    Prompt {
        id: SeqId,
        tokens: Vec<PromptToken>,
    },
    Token {
        id: SeqId,
        token: u32,
        logprobs: Option<TokenLogprobs>,
    },
    Finished {
        id: SeqId,
        reason: FinishReason,
    },
    Failed {
        id: SeqId,
        reason: Failure,
    },
}

/// Reason for which a sequence finished without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The ranks sampled this stop token.
    StopToken(u32),
    /// The answer is complete without a stop token: its form allows nothing more. The caller of the scheduler finds that.
    Stop,
    /// The answer has `max_tokens` tokens, or the context is full.
    Length,
}

/// Reason for which a submitted request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("the request's deadline passed: allow more time")]
    Deadline,
    #[error("the group did not recover in time: retry, and see the cluster's status for the rank that is missing")]
    RecoveryTimeout,
    #[error(
        "prompt and answer may need {needed} KV blocks and the group came back with {total}: ask for fewer tokens \
         (max_tokens), or give the ranks more memory (serving.kvCacheMemory)"
    )]
    TooManyBlocks { needed: u32, total: u32 },
}

/// Contradiction between a step's result and the plans. The rank that sent it is out of step, so the caller should end
/// the epoch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompleteError {
    #[error(
        "a result of epoch {got} arrived in epoch {current}: the sender is ahead of the head; form the group again"
    )]
    FutureEpoch { got: u64, current: u64 },
    #[error(
        "the result of step {got} arrived, but step {expected} is due: results must come in order; form the group again"
    )]
    OutOfOrder { got: u64, expected: u64 },
    #[error("the result of step {got} arrived, but no step is in flight: form the group again")]
    NothingInFlight { got: u64 },
    #[error("step {step} sampled for sequences {got:?}, but its plan asked for {expected:?}: form the group again")]
    OtherSequences { step: u64, got: Vec<SeqId>, expected: Vec<SeqId> },
    #[error(
        "step {step} has log-probabilities of prompts {got:?}, but its plan asked for {expected:?} (sequence, number of \
         tokens): form the group again"
    )]
    OtherPrompts { step: u64, got: Vec<(SeqId, usize)>, expected: Vec<(SeqId, usize)> },
}

/// Numbers that describe the scheduler at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SchedulerStats {
    /// Sequences that hold blocks.
    pub running: usize,
    /// Sequences that wait, including those that were preempted or whose epoch ended.
    pub waiting: usize,
    /// Blocks that running sequences refer to.
    pub blocks_used: u32,
    /// Blocks that no sequence refers to. The prefix cache keeps them until another sequence needs the room.
    pub blocks_cached: u32,
    /// All blocks of the current epoch; 0 between epochs.
    pub blocks_total: u32,
    pub steps_in_flight: usize,
    /// Tokens of all admissions since the start. A sequence that is admitted again counts again.
    pub prefix_query_tokens: u64,
    /// Those of `prefix_query_tokens` that the prefix cache held.
    pub prefix_hit_tokens: u64,
    /// Tokens that the next step may compute.
    pub token_budget: usize,
    /// Preemptions since the start. The sequence that arrived last is preempted when a decode finds no block.
    pub preemptions: u64,
}
