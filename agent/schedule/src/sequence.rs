//! One sequence: its tokens, its progress, and its blocks.

use crate::block_hash::{BlockHash, hash_block, hash_salt};
use crate::config::Micros;
use crate::plan::{Admission, BlockId, PlanTokens, PromptTargets, TokenHistory};
use crate::request::Request;

/// A request that the scheduler holds.
///
/// Steps schedule the tokens of a sequence from the first to the last. The step that computes the last known token also
/// samples a new one, which `len()` counts at once. So `num_scheduled_tokens < len()` always holds.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub request: Request,
    pub submitted_at: Micros,
    /// Prompt and generated tokens that the head knows.
    pub tokens: Vec<u32>,
    /// Most tokens that the sequence may have, prompt included.
    pub max_len: usize,
    /// Tokens that steps in flight will sample for the sequence. The head does not know them yet.
    pub num_in_flight: usize,
    /// Last step that samples for the sequence. It is valid while `num_in_flight` is above 0.
    pub last_sampling_step: u64,
    /// Tokens whose keys and values are in the KV cache once all plans so far have run. Steps compute them, or the
    /// sequence shares them.
    pub num_scheduled_tokens: usize,
    /// Blocks of the sequence, in the order of its tokens. Empty while the sequence waits.
    pub block_table: Vec<BlockId>,
    /// Number of leading blocks of the table that are shared, or that the scheduler has offered to the prefix cache.
    pub num_hashed_blocks: usize,
    /// Hashes of the full blocks of `tokens`. They depend on the tokens alone, so each is computed once, even if the
    /// sequence loses its blocks.
    block_hashes: Vec<BlockHash>,
    /// Tokens that the prefix cache held when the sequence was first admitted. `None` before that.
    pub num_cached_tokens: Option<u32>,
    /// Set once the client has been sent `RequestOutput::Started`.
    pub started: bool,
    /// Number of tokens of the prompt whose log-probabilities the client has been sent.
    pub num_reported: usize,
}

impl Sequence {
    /// Makes a sequence that waits. `context_length` bounds its length.
    pub fn new(request: Request, context_length: u32, submitted_at: Micros) -> Self {
        let tokens = request.prompt.clone();
        // The ranks sample a token even if none is asked for. The scheduler drops it.
        let max_new_tokens = request.max_tokens.max(1) as usize;
        let max_len = tokens.len().saturating_add(max_new_tokens).min(context_length as usize);
        Self {
            request,
            submitted_at,
            tokens,
            max_len,
            num_in_flight: 0,
            last_sampling_step: 0,
            num_scheduled_tokens: 0,
            block_table: Vec::new(),
            num_hashed_blocks: 0,
            block_hashes: Vec::new(),
            num_cached_tokens: None,
            started: false,
            num_reported: 0,
        }
    }

    /// Returns the number of tokens, in-flight ones included.
    pub fn len(&self) -> usize {
        self.tokens.len() + self.num_in_flight
    }

    /// Returns how many tokens are still to schedule; at least one.
    pub fn num_unscheduled_tokens(&self) -> usize {
        self.len() - self.num_scheduled_tokens
    }

    /// Returns true if a step may compute tokens of the sequence now: the sequence is shorter than `max_len`, and the
    /// head does not have to see a token in flight first.
    pub fn is_schedulable(&self) -> bool {
        self.len() < self.max_len && !(self.request.needs_head && self.num_in_flight > 0)
    }

    /// Returns the message that makes the ranks hold this sequence. No token is in flight at that moment.
    pub fn admission(&self) -> Admission {
        let sampling = self.request.sampling.clone();
        let (prompt, answer) = self.tokens.split_at(self.request.prompt.len());
        let history = TokenHistory { prompt: prompt.to_vec(), answer: answer.to_vec() };
        let history = sampling.penalties.is_active().then_some(history);
        Admission { seq: self.request.id, sampling, history }
    }

    /// Returns the next `num_tokens` tokens to schedule, in the form that a plan carries.
    pub fn next_tokens(&self, num_tokens: usize) -> PlanTokens {
        match self.tokens.get(self.num_scheduled_tokens..self.num_scheduled_tokens + num_tokens) {
            Some(ids) => PlanTokens::Given(ids.to_vec()),
            None => PlanTokens::LastSampled,
        }
    }

    /// Returns how many tokens of the prompt have log-probabilities to report, sent or not. The first token has none.
    fn num_to_report(&self) -> usize {
        self.request.prompt_logprobs.map_or(0, |_| self.request.prompt.len() - 1)
    }

    /// Returns true if log-probabilities of the prompt are still to report.
    pub fn has_to_report(&self) -> bool {
        self.num_reported < self.num_to_report()
    }

    /// Returns the tokens of the prompt whose log-probabilities the next `num_tokens` tokens to schedule give, without
    /// those that the client has been sent. Token `i + 1` is the target of row `i` of the sequence.
    pub fn next_targets(&self, num_tokens: usize) -> Option<PromptTargets> {
        let top = self.request.prompt_logprobs?;
        let end = (self.num_scheduled_tokens + num_tokens).min(self.num_to_report());
        let first = self.num_scheduled_tokens.max(self.num_reported);
        let tokens = self.request.prompt.get(first + 1..end + 1).filter(|tokens| !tokens.is_empty())?;
        Some(PromptTargets { first_row: (first - self.num_scheduled_tokens) as u32, tokens: tokens.to_vec(), top })
    }

    /// Returns the most tokens that the sequence may take from the prefix cache. The last token is always computed,
    /// because the next token is sampled after it. So are the tokens that give log-probabilities to report.
    pub fn max_cached_tokens(&self) -> usize {
        if self.has_to_report() { self.num_reported } else { self.len() - 1 }
    }

    /// Returns how many blocks hold `num_tokens` tokens.
    pub fn num_blocks_for(num_tokens: usize, block_size: u32) -> usize {
        num_tokens.div_ceil(block_size as usize)
    }

    /// Returns the most blocks that the sequence may need. Its last token is never computed and needs no slot.
    pub fn max_num_blocks(&self, block_size: u32) -> u32 {
        u32::try_from(Self::num_blocks_for(self.max_len - 1, block_size)).unwrap_or(u32::MAX)
    }

    /// Returns the hashes of all full blocks of the known tokens, and computes those that are new.
    pub fn block_hashes(&mut self, key: &[u8; 16], block_size: u32) -> &[BlockHash] {
        let size = block_size as usize;
        while let Some(tokens) = self.tokens.get(self.block_hashes.len() * size..(self.block_hashes.len() + 1) * size) {
            let salt = || hash_salt(key, &self.request.cache_salt);
            let parent = self.block_hashes.last().copied().or_else(salt);
            let hash = hash_block(key, parent.as_ref(), tokens);
            self.block_hashes.push(hash);
        }
        &self.block_hashes
    }

    /// Returns how many blocks of the table are full: the head knows all their tokens and has planned their
    /// computation.
    pub fn num_full_blocks(&self, block_size: u32) -> usize {
        self.num_scheduled_tokens.min(self.tokens.len()) / block_size as usize
    }

    /// Sets the sequence back to a prefill from its first token, and returns its block table for release.
    /// `num_in_flight` stays, because the results of those steps still come.
    pub fn reset(&mut self) -> Vec<BlockId> {
        self.num_scheduled_tokens = 0;
        self.num_hashed_blocks = 0;
        std::mem::take(&mut self.block_table)
    }
}
