//! A simulated rank that is strict rather than fast. It stores tokens in place of keys and values, reads the whole
//! context back through the block table, and refuses every plan that a real rank could not run.
//!
//! The simulated rank executes each plan at once. A later execution would do the same, because plans run in order and
//! nothing else changes the state of a rank.

use std::collections::{HashMap, HashSet};

use lockstep_schedule::plan::{
    BlockId, PlanEntry, PlanTokens, PromptLogprobs, PromptToken, Sampled, SamplingParams, SeqId, StepOutput, StepPlan,
    TokenLogprobs,
};

/// Size of the model's vocabulary. It is small, so that prompts share prefixes and stop tokens are sampled.
pub const VOCABULARY: u64 = 40;

/// Digest of all tokens up to one position. The keys and values of a real model depend on all of them, too.
type Context = u64;

fn mix(context: Context, value: u64) -> Context {
    let mut x = context ^ value.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 32)
}

fn sample(context: Context, params: &SamplingParams) -> u32 {
    (mix(context, params.seed) % VOCABULARY) as u32
}

/// Returns the token that follows `tokens` if the request runs alone.
pub fn next_token(tokens: &[u32], params: &SamplingParams) -> u32 {
    sample(tokens.iter().fold(0, |context, &token| mix(context, token.into())), params)
}

/// Returns a number in place of the log-probability of `target` after `context`.
fn score(context: Context, target: u32) -> PromptToken {
    let rank = mix(context, u64::from(target) << 8) as u32;
    PromptToken { rank, logprobs: TokenLogprobs { chosen: rank as f32, top: Vec::new() } }
}

/// Returns the numbers of a prompt's tokens, from the second one on, if the prompt runs alone.
pub fn score_prompt(prompt: &[u32]) -> Vec<PromptToken> {
    let mut context = 0;
    let score_after = |pair: &[u32]| {
        context = mix(context, pair[0].into());
        score(context, pair[1])
    };
    prompt.windows(2).map(score_after).collect()
}

/// State of a sequence on the rank.
struct RankSequence {
    params: SamplingParams,
    block_table: Vec<BlockId>,
    /// Tokens in the KV cache.
    num_cached: usize,
    last_sampled: Option<u32>,
}

pub struct Rank {
    epoch: u64,
    step: u64,
    block_size: usize,
    /// Token and context written to each slot.
    slots: Vec<Option<(u32, Context)>>,
    sequences: HashMap<SeqId, RankSequence>,
}

impl Rank {
    pub fn new(epoch: u64, num_blocks: u32, block_size: u32) -> Self {
        let slots = vec![None; num_blocks as usize * block_size as usize];
        Self { epoch, step: 0, block_size: block_size as usize, slots, sequences: HashMap::new() }
    }

    /// Returns the number of sequences that the rank holds.
    pub fn num_sequences(&self) -> usize {
        self.sequences.len()
    }

    /// Returns the number of different blocks in all block tables.
    pub fn num_used_blocks(&self) -> usize {
        self.sequences.values().flat_map(|sequence| &sequence.block_table).collect::<HashSet<_>>().len()
    }

    /// Runs one step. It reads everything that earlier steps wrote before it writes anything. So it catches a plan that
    /// relies on its own writes.
    pub fn execute(&mut self, plan: &StepPlan) -> StepOutput {
        assert_eq!((plan.epoch, plan.step), (self.epoch, self.step + 1), "steps come in order, without gaps");
        assert!(!plan.entries.is_empty(), "a step has entries");
        self.step = plan.step;
        for id in &plan.forget {
            assert!(self.sequences.remove(id).is_some(), "{id} is forgotten but the rank does not hold it");
        }
        let known: HashSet<SeqId> = self.sequences.keys().copied().collect();
        for admission in &plan.admit {
            let id = admission.seq;
            let sequence = RankSequence {
                params: admission.sampling.clone(),
                block_table: Vec::new(),
                num_cached: 0,
                last_sampled: None,
            };
            assert!(self.sequences.insert(id, sequence).is_none(), "{id} is admitted but the rank holds it already");
            assert!(plan.entries.iter().any(|entry| entry.seq == id), "{id} is admitted but has no entry");
        }
        check_order(&plan.entries, &known);
        let contexts: Vec<Context> = plan.entries.iter().map(|entry| self.read_context(entry)).collect();
        let (mut sampled, mut prompts) = (Vec::new(), Vec::new());
        for (entry, context) in plan.entries.iter().zip(contexts) {
            let contexts = self.write_tokens(entry, context);
            prompts.extend(score_targets(entry, &contexts));
            sampled.extend(self.sample_token(entry, &contexts));
        }
        StepOutput { epoch: plan.epoch, step: plan.step, sampled, prompts }
    }

    /// Extends the block table, and reads the context before the entry's first token from the blocks.
    fn read_context(&mut self, entry: &PlanEntry) -> Context {
        let sequence = self.sequences.get_mut(&entry.seq).expect("the rank holds every planned sequence");
        let position = entry.position as usize;
        if sequence.num_cached == 0 {
            assert!(position.is_multiple_of(self.block_size), "whole blocks are shared");
            assert!(position <= entry.new_blocks.len() * self.block_size, "a prefix hit carries its blocks");
        } else {
            assert_eq!(position, sequence.num_cached, "positions of {} are contiguous", entry.seq);
        }
        sequence.block_table.extend(&entry.new_blocks);
        let num_slots = sequence.block_table.len() * self.block_size;
        assert!(position + entry.tokens.len() <= num_slots, "the block table of {} covers its positions", entry.seq);
        let block_table = self.sequences[&entry.seq].block_table.clone();
        assert_eq!(
            block_table.iter().collect::<HashSet<_>>().len(),
            block_table.len(),
            "no block is twice in a block table"
        );
        (0..position).fold(0, |before, position| {
            let (token, context) =
                self.slots[self.slot_mapping(&block_table, position)].expect("every slot that is read was written");
            assert_eq!(
                context,
                mix(before, token.into()),
                "the block holds another context than that of {}",
                entry.seq
            );
            context
        })
    }

    /// Writes the entry's tokens to their slots. Returns the context of each row.
    fn write_tokens(&mut self, entry: &PlanEntry, mut context: Context) -> Vec<Context> {
        let sequence = &self.sequences[&entry.seq];
        let block_table = sequence.block_table.clone();
        let tokens = match &entry.tokens {
            PlanTokens::Given(ids) => {
                if let (Some(last), [given]) = (sequence.last_sampled, ids.as_slice()) {
                    assert_eq!(last, *given, "the head returns the sampled token");
                }
                ids.clone()
            }
            PlanTokens::LastSampled => vec![sequence.last_sampled.expect("a token was sampled")],
        };
        assert!(!tokens.is_empty(), "an entry has a token");
        let mut contexts = Vec::with_capacity(tokens.len());
        for (offset, &token) in tokens.iter().enumerate() {
            context = mix(context, token.into());
            contexts.push(context);
            let position = entry.position as usize + offset;
            let block = block_table[position / self.block_size];
            let holders = self.sequences.values().filter(|sequence| sequence.block_table.contains(&block)).count();
            assert_eq!(holders, 1, "only {} refers to block {block} while it writes", entry.seq);
            let slot = self.slot_mapping(&block_table, position);
            self.slots[slot] = Some((token, context));
        }
        let sequence = self.sequences.get_mut(&entry.seq).expect("the rank holds every planned sequence");
        sequence.num_cached = entry.position as usize + tokens.len();
        contexts
    }

    /// Samples after the entry's last row, if the entry asks for it.
    fn sample_token(&mut self, entry: &PlanEntry, contexts: &[Context]) -> Option<Sampled> {
        let sequence = self.sequences.get_mut(&entry.seq).expect("the rank holds every planned sequence");
        let context = contexts.last().filter(|_| entry.sample)?;
        let token = sample(*context, &sequence.params);
        sequence.last_sampled = Some(token);
        Some(Sampled { seq: entry.seq, token, logprobs: None })
    }

    /// Returns the slot of a position: an index into `slots`.
    fn slot_mapping(&self, block_table: &[BlockId], position: usize) -> usize {
        block_table[position / self.block_size] as usize * self.block_size + position % self.block_size
    }
}

/// Returns the numbers of the entry's targets.
fn score_targets(entry: &PlanEntry, contexts: &[Context]) -> Option<PromptLogprobs> {
    let targets = entry.prompt_targets.as_ref()?;
    let rows = &contexts[targets.first_row as usize..][..targets.tokens.len()];
    assert!(!rows.is_empty(), "an entry without targets says so");
    if let PlanTokens::Given(ids) = &entry.tokens {
        let follows = |(target, id)| target == id;
        assert!(targets.tokens.iter().zip(&ids[targets.first_row as usize + 1..]).all(follows));
    }
    let tokens = rows.iter().zip(&targets.tokens).map(|(context, target)| score(*context, *target));
    Some(PromptLogprobs { seq: entry.seq, tokens: tokens.collect() })
}

/// Checks that decodes come first, then prefills, then new sequences, and that each sequence has one entry.
fn check_order(entries: &[PlanEntry], known: &HashSet<SeqId>) {
    let kinds: Vec<u8> = entries
        .iter()
        .map(|entry| match (known.contains(&entry.seq), entry.tokens.len()) {
            (true, 1) if entry.sample => 0,
            (true, _) => 1,
            (false, _) => 2,
        })
        .collect();
    assert!(kinds.is_sorted(), "decodes come first and new sequences last: {kinds:?}");
    let ids: HashSet<SeqId> = entries.iter().map(|entry| entry.seq).collect();
    assert_eq!(ids.len(), entries.len(), "a sequence has one entry in a step");
}
