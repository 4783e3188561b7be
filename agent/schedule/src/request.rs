//! What goes into the scheduler and what comes out of it.

use crate::config::Micros;
use crate::plan::{SamplingParams, SeqId, TokenLogprobs};

/// One answer that is wanted: a request with several choices is several of these.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Never used before in the life of the head.
    pub id: SeqId,
    /// Token ids, at least one.
    pub prompt: Vec<u32>,
    pub sampling: SamplingParams,
    /// At most that many tokens are generated, at least 1.
    pub max_tokens: u32,
    /// Each of these ends the sequence and is not reported as a token.
    pub stop_token_ids: Vec<u32>,
    /// The request fails at this moment if it has not ended by then.
    pub deadline: Option<Micros>,
    /// Each next step needs the head's knowledge of the last token (a grammar): never planned ahead.
    pub needs_head: bool,
}

/// Why a request was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    #[error("the queue is full ({limit} requests wait): retry later, or raise the limit of waiting requests")]
    QueueFull { limit: usize },
    #[error("the prompt is empty: send at least one token")]
    EmptyPrompt,
    #[error("no tokens are wanted: ask for at least one (max_tokens)")]
    NoTokensRequested,
    #[error(
        "the prompt has {tokens} tokens and the context holds {limit} with at least one of the answer: shorten the \
         prompt, or serve with a longer context (serving.contextLength)"
    )]
    PromptTooLong { tokens: usize, limit: u32 },
    #[error(
        "prompt and answer may need {needed} KV blocks and the group has {total}: shorten the prompt, ask for fewer \
         tokens (max_tokens), or give the ranks more memory (serving.kvCacheMemory)"
    )]
    TooManyBlocks { needed: u32, total: u32 },
    #[error("sequence {id} is in the schedule already: number every sequence once")]
    DuplicateId { id: SeqId },
}

/// What a client should hear. A sequence has one `Started` before its first token, and exactly one `Finished` or
/// `Failed` unless it is cancelled; nothing follows that.
#[derive(Debug, Clone, PartialEq)]
pub enum RequestOutput {
    /// The sequence's first step ended. `cached_tokens` of its prompt were found in the prefix cache.
    Started {
        id: SeqId,
        cached_tokens: u32,
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

/// How a sequence ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token was sampled.
    Stop,
    /// `max_tokens` were generated, or the context is full.
    Length,
}

/// Why a request that was taken could not be answered.
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

/// A step's result that contradicts the plans: whoever sent it has lost its way, and the epoch with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompleteError {
    #[error(
        "a result of epoch {got} arrived in epoch {current}: the sender is ahead of the head; form the group again"
    )]
    FutureEpoch { got: u64, current: u64 },
    #[error("step {got} ended and {expected} was the next to end: results must come in order; form the group again")]
    OutOfOrder { got: u64, expected: u64 },
    #[error("step {got} ended and none is in flight: form the group again")]
    NothingInFlight { got: u64 },
    #[error("step {step} sampled for sequences {got:?} and its plan for {expected:?}: form the group again")]
    OtherSequences { step: u64, got: Vec<SeqId>, expected: Vec<SeqId> },
}

/// The schedule in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SchedulerStats {
    /// Sequences that hold blocks.
    pub running: usize,
    /// Sequences that wait, those that were preempted or lost their group included.
    pub waiting: usize,
    /// Blocks that a running sequence refers to.
    pub blocks_used: u32,
    /// Blocks that nobody refers to and that the prefix cache keeps until their room is needed.
    pub blocks_cached: u32,
    /// 0 while there is no group.
    pub blocks_total: u32,
    pub steps_in_flight: usize,
    /// Tokens that admitted sequences brought, those found in the prefix cache included; since the start.
    pub prefix_query_tokens: u64,
    /// Tokens of admitted sequences that were found in the prefix cache; since the start.
    pub prefix_hit_tokens: u64,
    /// Tokens that the next step may compute.
    pub token_budget: usize,
    /// Sequences preempted for want of blocks; since the start.
    pub preemptions: u64,
}
