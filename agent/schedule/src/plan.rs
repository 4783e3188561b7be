//! What one iteration is: the contract between the head's schedule and every rank.
//!
//! Ranks keep, per sequence, its sampling parameters, its block table and the token it sampled last; a plan carries
//! only what changes. Plans of an epoch are numbered from 1 without gaps and executed in order. A new epoch forgets
//! every sequence.

pub use crate::mask::TokenMask;

/// A sequence's number, unique in the life of a head; a preempted sequence comes back under the same number.
pub type SeqId = u64;

/// Index of a block of the KV cache; every rank holds its own shard of that block under the same index.
pub type BlockId = u32;

/// How the next token is chosen. Validated by the head: ranks take it as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// 0: greedy.
    pub temperature: f32,
    /// 0: all.
    pub top_k: u32,
    /// In (0, 1]; 1: all.
    pub top_p: f32,
    /// In [0, 1]; keeps tokens that are at least so likely as this part of the likeliest one; 0: all.
    pub min_p: f32,
    pub penalties: Penalties,
    /// Added to the logits of these tokens, each named once.
    pub logit_bias: Vec<(u32, f32)>,
    /// Tokens that are not chosen before position [`Self::suppressed_until`]: what ends the sequence.
    pub suppressed: Vec<u32>,
    /// Index in the sequence, prompt included, of the first token that may be one of [`Self::suppressed`].
    pub suppressed_until: u32,
    /// Random numbers are a function of (seed, choice, position, token id) alone.
    pub seed: u64,
    /// Which of a request's several answers this is.
    pub choice: u32,
    /// Report the chosen token's log-probability and that many of the most likely ones.
    pub logprobs: Option<u32>,
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

/// What tokens lose by having been there already.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Penalties {
    /// Logits of tokens of prompt and answer are divided by it where they are above 0, else multiplied; 1: nothing.
    /// Keskar et al. 2019, <https://arxiv.org/abs/1909.05858>.
    pub repetition: f32,
    /// Taken from the logits of the answer's tokens; 0: nothing.
    pub presence: f32,
    /// Taken from the logits of the answer's tokens, once for each time that the token is there; 0: nothing.
    pub frequency: f32,
}

impl Default for Penalties {
    fn default() -> Self {
        Self { repetition: 1.0, presence: 0.0, frequency: 0.0 }
    }
}

impl Penalties {
    /// Whether any of them does anything.
    pub fn is_active(&self) -> bool {
        *self != Self::default()
    }
}

/// A sequence that the ranks do not hold yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Admission {
    pub seq: SeqId,
    pub sampling: SamplingParams,
    /// Where penalties apply. Ranks count further tokens themselves, so that such a sequence never waits for the head.
    pub history: Option<TokenHistory>,
}

impl Admission {
    /// Without a history.
    pub fn new(seq: SeqId, sampling: SamplingParams) -> Self {
        Self { seq, sampling, history: None }
    }
}

/// All tokens of a sequence when it is admitted; after a preemption or a loss some of the answer's are among them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TokenHistory {
    pub prompt: Vec<u32>,
    pub answer: Vec<u32>,
}

/// One iteration of all ranks.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StepPlan {
    pub epoch: u64,
    /// From 1, without gaps in an epoch.
    pub step: u64,
    /// Sequences that ended or were preempted since the last plan: ranks drop what they hold, before anything else.
    pub forget: Vec<SeqId>,
    /// Sequences that the ranks do not hold yet, with an empty block table.
    pub admit: Vec<Admission>,
    /// The batch, in the order of its rows.
    pub entries: Vec<PlanEntry>,
}

/// What one sequence does in one iteration.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanEntry {
    pub seq: SeqId,
    /// Index in the sequence of the first token of this step; everything before it is in the cache.
    pub position: u32,
    pub tokens: PlanTokens,
    /// Appended to the sequence's block table before the step. The first entry of a sequence also carries the blocks
    /// that it shares with earlier ones (a prefix hit: `position` then is above 0).
    pub new_blocks: Vec<BlockId>,
    /// Sample a token after the last one of this step; false in all but the last chunk of a prefill.
    pub sample: bool,
    /// Where a grammar at the head says what may be sampled: that, at least one token. The scheduler leaves it open.
    pub allowed: Option<TokenMask>,
}

/// Input of one sequence in one iteration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlanTokens {
    /// These ids, at least one.
    Given(Vec<u32>),
    /// One token: the one that the ranks sampled last for this sequence, which the head may not know yet.
    LastSampled,
}

impl PlanTokens {
    /// Number of tokens.
    pub fn len(&self) -> usize {
        match self {
            Self::Given(ids) => ids.len(),
            Self::LastSampled => 1,
        }
    }

    /// Never, in a valid plan.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl StepPlan {
    /// Tokens that the step computes.
    pub fn num_tokens(&self) -> usize {
        self.entries.iter().map(|entry| entry.tokens.len()).sum()
    }
}

/// What was sampled for one entry of a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    pub seq: SeqId,
    pub token: u32,
    /// Present where the sequence's parameters ask for it.
    pub logprobs: Option<TokenLogprobs>,
}

/// Log-probabilities under the logits as the model gives them (before temperature and cuts), natural logarithm.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// Of the chosen token.
    pub chosen: f32,
    /// Of the most likely tokens, most likely first, ties to the lowest id.
    pub top: Vec<(u32, f32)>,
}

/// A finished step, as the first rank that samples reports it: one `Sampled` per sampling entry, in the plan's order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StepOutput {
    pub epoch: u64,
    pub step: u64,
    pub sampled: Vec<Sampled>,
}
