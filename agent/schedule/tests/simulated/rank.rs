//! A rank that is strict instead of fast: it stores tokens where a real one stores keys and values, reads the whole
//! context back through the block table, and refuses every plan that a real rank could not run.
//!
//! Executing a plan when it is made is the same as executing it later: plans run in order, and nothing else changes
//! what a rank holds.

use std::collections::{HashMap, HashSet};

use lockstep_schedule::plan::{BlockId, PlanEntry, PlanTokens, Sampled, SamplingParams, SeqId, StepOutput, StepPlan};

/// Tokens of the model: few, so that prompts share prefixes and stop tokens come up.
pub const VOCABULARY: u64 = 40;

/// Stands for the whole context up to one token: a real model's keys and values depend on all of it.
type Context = u64;

fn mix(context: Context, value: u64) -> Context {
    let mut x = context ^ value.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 32)
}

fn sample(context: Context, params: &SamplingParams) -> u32 {
    (mix(context, params.seed) % VOCABULARY) as u32
}

/// The next token after these: what a request gets that is alone in the world.
pub fn next_token(tokens: &[u32], params: &SamplingParams) -> u32 {
    sample(tokens.iter().fold(0, |context, &token| mix(context, token.into())), params)
}

struct Held {
    params: SamplingParams,
    table: Vec<BlockId>,
    /// Tokens in the cache.
    len: usize,
    last_sampled: Option<u32>,
}

pub struct Rank {
    epoch: u64,
    step: u64,
    block_size: usize,
    /// By slot: the token written there and the context that it stands for.
    slots: Vec<Option<(u32, Context)>>,
    sequences: HashMap<SeqId, Held>,
}

impl Rank {
    pub fn new(epoch: u64, num_blocks: u32, block_size: u32) -> Self {
        let slots = vec![None; num_blocks as usize * block_size as usize];
        Self { epoch, step: 0, block_size: block_size as usize, slots, sequences: HashMap::new() }
    }

    /// Sequences that the rank holds state of.
    pub fn num_held(&self) -> usize {
        self.sequences.len()
    }

    /// Different blocks in all tables.
    pub fn blocks_held(&self) -> usize {
        self.sequences.values().flat_map(|held| &held.table).collect::<HashSet<_>>().len()
    }

    /// Runs one step. All reads of what earlier steps wrote come before all writes, so a step that relies on what it
    /// writes itself is caught.
    pub fn execute(&mut self, plan: &StepPlan) -> StepOutput {
        assert_eq!((plan.epoch, plan.step), (self.epoch, self.step + 1), "steps come in order, without gaps");
        assert!(!plan.entries.is_empty(), "a step does something");
        self.step = plan.step;
        for id in &plan.forget {
            assert!(self.sequences.remove(id).is_some(), "{id} is forgotten and was not held");
        }
        let known: HashSet<SeqId> = self.sequences.keys().copied().collect();
        for admission in &plan.admit {
            let id = admission.seq;
            let held = Held { params: admission.sampling.clone(), table: Vec::new(), len: 0, last_sampled: None };
            assert!(self.sequences.insert(id, held).is_none(), "{id} is admitted and held already");
            assert!(plan.entries.iter().any(|entry| entry.seq == id), "{id} is admitted for nothing");
        }
        check_order(&plan.entries, &known);
        let contexts: Vec<Context> = plan.entries.iter().map(|entry| self.read_context(entry)).collect();
        let sampled =
            plan.entries.iter().zip(contexts).filter_map(|(entry, context)| self.write(entry, context)).collect();
        StepOutput { epoch: plan.epoch, step: plan.step, sampled }
    }

    /// Extends the table and gives the context before the entry's first token, read from the blocks.
    fn read_context(&mut self, entry: &PlanEntry) -> Context {
        let held = self.sequences.get_mut(&entry.seq).expect("a planned sequence is held");
        let position = entry.position as usize;
        if held.len == 0 {
            assert!(position.is_multiple_of(self.block_size), "whole blocks are shared");
            assert!(position <= entry.new_blocks.len() * self.block_size, "a prefix hit brings its blocks");
        } else {
            assert_eq!(position, held.len, "positions of {} are contiguous", entry.seq);
        }
        held.table.extend(&entry.new_blocks);
        let places = held.table.len() * self.block_size;
        assert!(position + entry.tokens.len() <= places, "the table of {} covers its positions", entry.seq);
        let table = self.sequences[&entry.seq].table.clone();
        assert_eq!(table.iter().collect::<HashSet<_>>().len(), table.len(), "no block is twice in a table");
        (0..position).fold(0, |before, position| {
            let (token, context) = self.slots[self.slot(&table, position)].expect("what is read was written");
            assert_eq!(context, mix(before, token.into()), "block holds another context than {}'s", entry.seq);
            context
        })
    }

    /// Writes the entry's tokens and samples.
    fn write(&mut self, entry: &PlanEntry, mut context: Context) -> Option<Sampled> {
        let held = &self.sequences[&entry.seq];
        let (table, params) = (held.table.clone(), held.params.clone());
        let tokens = match &entry.tokens {
            PlanTokens::Given(ids) => {
                if let (Some(last), [given]) = (held.last_sampled, ids.as_slice()) {
                    assert_eq!(last, *given, "the head gives back the token that was sampled");
                }
                ids.clone()
            }
            PlanTokens::LastSampled => vec![held.last_sampled.expect("a token was sampled")],
        };
        assert!(!tokens.is_empty(), "an entry has a token");
        for (offset, &token) in tokens.iter().enumerate() {
            context = mix(context, token.into());
            let position = entry.position as usize + offset;
            let block = table[position / self.block_size];
            let holders = self.sequences.values().filter(|held| held.table.contains(&block)).count();
            assert_eq!(holders, 1, "block {block} is written by {} alone", entry.seq);
            let slot = self.slot(&table, position);
            self.slots[slot] = Some((token, context));
        }
        let held = self.sequences.get_mut(&entry.seq).expect("a planned sequence is held");
        held.len = entry.position as usize + tokens.len();
        entry.sample.then(|| {
            let token = sample(context, &params);
            held.last_sampled = Some(token);
            Sampled { seq: entry.seq, token, logprobs: None }
        })
    }

    fn slot(&self, table: &[BlockId], position: usize) -> usize {
        table[position / self.block_size] as usize * self.block_size + position % self.block_size
    }
}

/// Decodes, then prefills, then sequences that are new; one entry for each.
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
