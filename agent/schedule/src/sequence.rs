//! One sequence: what is known of it, what was planned for it, what it holds.

use crate::config::Micros;
use crate::plan::{Admission, BlockId, PlanTokens, TokenHistory};
use crate::prefix::{PrefixHash, hash_block};
use crate::request::Request;

/// A request in the schedule.
///
/// `planned` tokens of it are in the cache once every plan so far has run. The last token of a sequence is never in
/// the cache before the next one is asked for, so `planned < len()` always holds.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub request: Request,
    pub submitted: Micros,
    /// Prompt and generated tokens that the head knows.
    pub tokens: Vec<u32>,
    /// Most tokens that it may come to have, prompt included.
    pub max_len: usize,
    /// Tokens that steps in flight will sample.
    pub pending: usize,
    /// The last step that samples for it: of use while `pending` is above 0.
    pub sampled_in: u64,
    /// Tokens whose keys and values plans have made the ranks compute, or that were shared.
    pub planned: usize,
    /// Block table, empty while it waits.
    pub table: Vec<BlockId>,
    /// How many blocks of the table have been offered to the prefix cache.
    pub named: usize,
    /// Names of the full blocks of `tokens`; true whatever becomes of the blocks, so each is computed once.
    names: Vec<PrefixHash>,
    /// Set when it is admitted for the first time: tokens found in the prefix cache.
    pub cached_tokens: Option<u32>,
    /// `RequestOutput::Started` was given.
    pub started: bool,
}

impl Sequence {
    /// A sequence that waits. `context_length` bounds what it may grow to.
    pub fn new(request: Request, context_length: u32, submitted: Micros) -> Self {
        let tokens = request.prompt.clone();
        let max_len = tokens.len().saturating_add(request.max_tokens as usize).min(context_length as usize);
        Self {
            request,
            submitted,
            tokens,
            max_len,
            pending: 0,
            sampled_in: 0,
            planned: 0,
            table: Vec::new(),
            named: 0,
            names: Vec::new(),
            cached_tokens: None,
            started: false,
        }
    }

    /// Tokens, those included that steps in flight will sample.
    pub fn len(&self) -> usize {
        self.tokens.len() + self.pending
    }

    /// Tokens that are not in the cache yet; at least one.
    pub fn remaining(&self) -> usize {
        self.len() - self.planned
    }

    /// Whether a step can be planned for it now.
    pub fn is_ready(&self) -> bool {
        self.len() < self.max_len && !(self.request.needs_head && self.pending > 0)
    }

    /// What ranks are told of it when it begins to run; no token of it is on its way then.
    pub fn admission(&self) -> Admission {
        let sampling = self.request.sampling.clone();
        let (prompt, answer) = self.tokens.split_at(self.request.prompt.len());
        let history = TokenHistory { prompt: prompt.to_vec(), answer: answer.to_vec() };
        let history = sampling.penalties.is_active().then_some(history);
        Admission { seq: self.request.id, sampling, history }
    }

    /// The next `count` tokens to compute, as a plan names them.
    pub fn next_tokens(&self, count: usize) -> PlanTokens {
        match self.tokens.get(self.planned..self.planned + count) {
            Some(ids) => PlanTokens::Given(ids.to_vec()),
            None => PlanTokens::LastSampled,
        }
    }

    /// Blocks that hold that many tokens.
    pub fn blocks_for(tokens: usize, block_size: u32) -> usize {
        tokens.div_ceil(block_size as usize)
    }

    /// Most blocks that it may come to hold: its last token never needs a place.
    pub fn max_blocks(&self, block_size: u32) -> u32 {
        u32::try_from(Self::blocks_for(self.max_len - 1, block_size)).unwrap_or(u32::MAX)
    }

    /// Names of all full blocks of the tokens that are known; computes those that are new.
    pub fn names(&mut self, key: &[u8; 16], block_size: u32) -> &[PrefixHash] {
        let size = block_size as usize;
        while let Some(tokens) = self.tokens.get(self.names.len() * size..(self.names.len() + 1) * size) {
            let name = hash_block(key, self.names.last(), tokens);
            self.names.push(name);
        }
        &self.names
    }

    /// Full blocks of the table whose tokens are known and whose filling has been planned.
    pub fn full_blocks(&self, block_size: u32) -> usize {
        self.planned.min(self.tokens.len()) / block_size as usize
    }

    /// Back to a state in which the ranks know nothing of it; gives the table to release. Tokens in flight stay
    /// expected.
    pub fn withdraw(&mut self) -> Vec<BlockId> {
        self.planned = 0;
        self.named = 0;
        std::mem::take(&mut self.table)
    }
}
