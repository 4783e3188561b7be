//! The plan of one step and its result: the contract between the head's scheduler and every rank.
//!
//! For each sequence, a rank keeps the sampling parameters, the block table and the last sampled token. A plan carries
//! only the changes. The plans of an epoch are numbered from 1 without gaps, and ranks execute them in order. At the
//! start of an epoch, ranks forget all sequences.

pub use crate::token_mask::TokenMask;

/// Number of a sequence, unique in the life of a head. A preempted sequence comes back under the same number.
pub type SeqId = u64;

/// Index of a block of the KV cache. Every rank holds its own shard of the block under the same index.
pub type BlockId = u32;

/// Parameters by which a rank samples the next token. The head validates them. The node that receives a plan checks the
/// numbers' ranges again, and ranks do not.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Temperature; 0 means greedy.
    pub temperature: f32,
    /// Number of likeliest tokens to sample from; 0 means all.
    pub top_k: u32,
    /// Probability mass of the likeliest tokens to sample from, in (0, 1]; 1 means all.
    pub top_p: f32,
    /// Least probability of a token, relative to the likeliest token, in [0, 1]; 0 means all.
    pub min_p: f32,
    pub penalties: Penalties,
    /// Values to add to the logits of single tokens. Each token appears once.
    pub logit_bias: Vec<(u32, f32)>,
    /// Tokens that ranks do not sample before position [`Self::suppressed_until`]: those that end the sequence.
    pub suppressed: Vec<u32>,
    /// Index in the sequence, prompt included, of the first token that may be one of [`Self::suppressed`].
    pub suppressed_until: u32,
    /// Seed of the random numbers. They are a function of (seed, choice, position, token id) alone.
    pub seed: u64,
    /// Index of this answer among the answers to the client's request.
    pub choice: u32,
    /// Number of likeliest tokens to report with their log-probabilities, beside the sampled token. `None` reports
    /// none.
    pub logprobs: Option<u32>,
}

/// Values of [`SamplingParams`] that a model's makers suggest for options that a client leaves out.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SamplingDefaults {
    /// Temperature; 0 means greedy.
    pub temperature: Option<f32>,
    pub top_k: Option<u32>,
    pub top_p: Option<f32>,
    pub min_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            penalties: Penalties::default(),
            logit_bias: Vec::new(),
            suppressed: Vec::new(),
            suppressed_until: 0,
            seed: 0,
            choice: 0,
            logprobs: None,
        }
    }
}

/// Penalties on the logits of tokens that the sequence already contains.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Penalties {
    /// Divisor of positive logits and factor of all others, for the tokens of prompt and answer; 1 changes nothing.
    /// Keskar et al. 2019, <https://arxiv.org/abs/1909.05858>.
    pub repetition: f32,
    /// Value to subtract from the logits of the answer's tokens; 0 changes nothing.
    pub presence: f32,
    /// Value to subtract from the logits of the answer's tokens, once per occurrence; 0 changes nothing.
    pub frequency: f32,
}

impl Default for Penalties {
    fn default() -> Self {
        Self { repetition: 1.0, presence: 0.0, frequency: 0.0 }
    }
}

impl Penalties {
    /// Returns true if any of the penalties changes a logit.
    pub fn is_active(&self) -> bool {
        *self != Self::default()
    }
}

/// Sequence that the ranks do not hold yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Admission {
    pub seq: SeqId,
    pub sampling: SamplingParams,
    /// Tokens so far, present if penalties apply to the sequence. Ranks count later tokens themselves, so the sequence
    /// never waits for the head.
    pub history: Option<TokenHistory>,
}

impl Admission {
    /// Makes an admission without a history.
    pub fn new(seq: SeqId, sampling: SamplingParams) -> Self {
        Self { seq, sampling, history: None }
    }
}

/// All tokens of a sequence at its admission. After a preemption or the end of an epoch they include generated tokens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TokenHistory {
    pub prompt: Vec<u32>,
    pub answer: Vec<u32>,
}

/// One step of all ranks.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StepPlan {
    pub epoch: u64,
    /// Number of the step in its epoch, from 1 without gaps.
    pub step: u64,
    /// Sequences that ended or were preempted since the last plan. Ranks drop the state of these sequences before
    /// anything else.
    pub forget: Vec<SeqId>,
    /// Sequences that the ranks do not hold yet. Their block tables begin empty.
    pub admit: Vec<Admission>,
    /// The batch, one entry per sequence, in the order of its rows.
    pub entries: Vec<PlanEntry>,
}

/// Work of one sequence in one step.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanEntry {
    pub seq: SeqId,
    /// Index in the sequence of the entry's first token. All tokens before that one are in the KV cache.
    pub position: u32,
    pub tokens: PlanTokens,
    /// Blocks that ranks append to the sequence's block table before the step. The first entry after an admission also
    /// carries the blocks of the sequence's cached prefix. `position` is above 0 there if there is such a prefix.
    pub new_blocks: Vec<BlockId>,
    /// Set if ranks sample a token after the last token of this entry: for every decode, and for the last chunk of a
    /// prefill.
    pub sample: bool,
    /// Tokens that a grammar allows, at least one. `None` allows all. The scheduler leaves `None`, and the head fills
    /// in the mask.
    pub allowed: Option<TokenMask>,
    /// Tokens of the prompt whose log-probabilities ranks report. `None` reports none.
    pub prompt_targets: Option<PromptTargets>,
}

/// Tokens of a prompt that follow consecutive rows of an entry: the last target may be the first token of the next
/// chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptTargets {
    /// Row of the entry that the first target follows.
    pub first_row: u32,
    /// Targets in the order of their rows, at least one.
    pub tokens: Vec<u32>,
    /// Number of likeliest tokens to report with their log-probabilities, beside each target.
    pub top: u32,
}

/// Input tokens of one sequence in one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlanTokens {
    /// Token ids, at least one.
    Given(Vec<u32>),
    /// The token that the ranks sampled last for this sequence. The head may not know it yet.
    LastSampled,
}

impl PlanTokens {
    /// Returns the number of tokens.
    pub fn len(&self) -> usize {
        match self {
            Self::Given(ids) => ids.len(),
            Self::LastSampled => 1,
        }
    }

    /// Returns true if there are no tokens, which no valid plan has.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl StepPlan {
    /// Returns how many tokens the step computes.
    pub fn num_tokens(&self) -> usize {
        self.entries.iter().map(|entry| entry.tokens.len()).sum()
    }
}

/// Token that the ranks sampled for one entry of a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    pub seq: SeqId,
    pub token: u32,
    /// Log-probabilities, present if the sequence's parameters ask for them.
    pub logprobs: Option<TokenLogprobs>,
}

/// Natural log-probabilities of a token and of the likeliest tokens in its place. Those of a sampled token are after
/// biases, penalties and bans of tokens, before temperature, top-k, top-p and min-p. Those of a prompt's token are the
/// model's own.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// Log-probability of the sampled token, or of the prompt's token.
    pub chosen: f32,
    /// Likeliest tokens with their log-probabilities, likeliest first. Equally likely tokens are in the order of their
    /// ids.
    pub top: Vec<(u32, f32)>,
}

/// Log-probabilities of the targets of one entry of a plan, in the targets' order.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptLogprobs {
    pub seq: SeqId,
    pub tokens: Vec<PromptToken>,
}

/// A token of a prompt: how likely it is after the tokens before it.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptToken {
    pub logprobs: TokenLogprobs,
    /// Place of the token among all tokens, the likeliest first, from 1. Equally likely tokens are in the order of
    /// their ids.
    pub rank: u32,
}

/// Result of a step on one rank. On ranks of the last pipeline stage, it has one `Sampled` per sampling entry and one
/// `PromptLogprobs` per entry with targets, in plan order. On ranks of earlier stages it has none. The head gets the
/// result of the first rank of the last stage.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StepOutput {
    pub epoch: u64,
    pub step: u64,
    pub sampled: Vec<Sampled>,
    pub prompts: Vec<PromptLogprobs>,
}
