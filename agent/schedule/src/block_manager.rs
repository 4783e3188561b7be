//! The KV blocks of one epoch. A block is free, in use, or cached.
//!
//! One or more sequences refer to a block in use. No sequence refers to a cached block, which is full and hashed: the
//! manager keeps it for a later sequence with the same prefix. When no block is free, the manager evicts the cached
//! block that was released first.
//!
//! The manager frees a block at once, even while a step that writes the block is in flight. This is sound because ranks
//! execute plans in order. The next sequence writes the block only after that step. A sequence reads only positions
//! that it has written, and positions of blocks that were full when it shared them.

use std::collections::{BTreeMap, HashMap};

use crate::block_event::{BlockEvent, StoredBlock, short_hash};
use crate::block_hash::BlockHash;
use crate::plan::BlockId;

#[derive(Debug, Default)]
struct Block {
    /// Number of sequences that refer to the block.
    ref_count: u32,
    /// Set once the block is full and the head knows its tokens. No sequence writes the block again until it is
    /// evicted.
    hash: Option<BlockHash>,
    /// Set while [`BlockManager::report_stored`] has reported the block.
    is_reported: bool,
    /// Key of the block in `BlockManager::cached` while no sequence refers to it.
    released_at: u64,
}

/// State of every block of one epoch: free, in use, or cached.
#[derive(Debug, Default)]
pub(crate) struct BlockManager {
    blocks: Vec<Block>,
    free: Vec<BlockId>,
    /// Hashed blocks that no sequence refers to, in the order of their release.
    cached: BTreeMap<u64, BlockId>,
    by_hash: HashMap<BlockHash, BlockId>,
    /// Number of cached blocks released so far: the clock of `Block::released_at`.
    num_releases: u64,
    /// Reports that nobody has taken yet.
    events: Vec<BlockEvent>,
}

impl BlockManager {
    /// Makes a manager whose blocks are all free. It gives out the lowest block first.
    pub fn new(num_blocks: u32) -> Self {
        let blocks = (0..num_blocks).map(|_| Block::default()).collect();
        Self { blocks, free: (0..num_blocks).rev().collect(), ..Self::default() }
    }

    /// Returns the number of all blocks.
    pub fn num_blocks(&self) -> u32 {
        self.blocks.len() as u32
    }

    /// Returns the number of blocks that only the prefix cache keeps.
    pub fn num_cached(&self) -> u32 {
        self.cached.len() as u32
    }

    /// Returns how many blocks can be allocated now: the free and the cached ones.
    pub fn num_available(&self) -> usize {
        self.free.len() + self.cached.len()
    }

    /// Returns the number of blocks that sequences refer to.
    pub fn num_used(&self) -> u32 {
        self.num_blocks() - self.num_available() as u32
    }

    /// Returns the hashed blocks, cached or in use, of the longest prefix of `hashes` for which there are any.
    pub fn find_cached_prefix(&self, hashes: &[BlockHash]) -> Vec<BlockId> {
        hashes.iter().map_while(|hash| self.by_hash.get(hash).copied()).collect()
    }

    /// Returns how many of `blocks` no sequence refers to. If a sequence shares them, that many fewer blocks are
    /// available.
    pub fn count_unreferenced(&self, blocks: &[BlockId]) -> usize {
        blocks.iter().filter(|&&block| self.blocks[block as usize].ref_count == 0).count()
    }

    /// Adds a reference to a block that [`Self::find_cached_prefix`] returned.
    pub fn share_block(&mut self, id: BlockId) {
        let block = &mut self.blocks[id as usize];
        debug_assert!(block.hash.is_some(), "only full, hashed blocks are shared");
        if block.ref_count == 0 {
            self.cached.remove(&block.released_at);
        }
        block.ref_count += 1;
    }

    /// Takes a block for one sequence alone. If no block is free, this evicts the cached block that was released first.
    /// Returns `None` if all blocks are in use.
    pub fn allocate_block(&mut self) -> Option<BlockId> {
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                let (_, id) = self.cached.pop_first()?;
                let block = &mut self.blocks[id as usize];
                if let Some(hash) = block.hash.take() {
                    self.by_hash.remove(&hash);
                    if std::mem::take(&mut block.is_reported) {
                        self.events.push(BlockEvent::Removed { hash: short_hash(&hash) });
                    }
                }
                id
            }
        };
        self.blocks[id as usize].ref_count = 1;
        Some(id)
    }

    /// Offers a full block to the prefix cache under its hash. If another block has this hash already, the block stays
    /// private to its sequence, and this returns false.
    pub fn cache_block(&mut self, id: BlockId, hash: BlockHash) -> bool {
        let block = &mut self.blocks[id as usize];
        debug_assert!(block.ref_count > 0, "a sequence caches its own blocks");
        let is_new = block.hash.is_none() && !self.by_hash.contains_key(&hash);
        if is_new {
            block.hash = Some(hash);
            self.by_hash.insert(hash, id);
        }
        is_new
    }

    /// Reports a block that [`Self::cache_block`] has just cached. Its removal will be reported too.
    pub fn report_stored(&mut self, id: BlockId, stored: StoredBlock) {
        self.blocks[id as usize].is_reported = true;
        self.events.push(BlockEvent::Stored(stored));
    }

    /// Takes the reports since the last call.
    pub fn take_events(&mut self) -> Vec<BlockEvent> {
        std::mem::take(&mut self.events)
    }

    /// Drops a sequence's references to all blocks of its table. This releases the last block of the table first, so
    /// that it is also evicted first: a cached block is of no use without the blocks before it.
    pub fn release_blocks(&mut self, block_table: &[BlockId]) {
        for &id in block_table.iter().rev() {
            let block = &mut self.blocks[id as usize];
            debug_assert!(block.ref_count > 0, "a block is released once per reference");
            block.ref_count -= 1;
            if block.ref_count > 0 {
                continue;
            }
            if block.hash.is_some() {
                self.num_releases += 1;
                block.released_at = self.num_releases;
                self.cached.insert(block.released_at, id);
            } else {
                self.free.push(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocate_blocks(manager: &mut BlockManager, count: usize) -> Vec<BlockId> {
        (0..count).map(|_| manager.allocate_block().expect("a block is available")).collect()
    }

    #[test]
    fn cached_blocks_are_evicted_tail_first_and_only_when_needed() {
        let mut manager = BlockManager::new(4);
        let block_table = allocate_blocks(&mut manager, 3);
        for (index, &block) in block_table.iter().enumerate() {
            manager.cache_block(block, [index as u8; 16]);
        }
        manager.release_blocks(&block_table);
        assert_eq!((manager.num_available(), manager.num_cached(), manager.num_used()), (4, 3, 0));
        allocate_blocks(&mut manager, 2);
        assert_eq!(manager.find_cached_prefix(&[[0; 16], [1; 16], [2; 16]]), block_table[..2]);
        allocate_blocks(&mut manager, 2);
        assert_eq!(manager.allocate_block(), None);
        assert_eq!(manager.find_cached_prefix(&[[0; 16]]), []);
    }

    #[test]
    fn a_shared_block_stays_in_use_until_every_sequence_releases_it() {
        let mut manager = BlockManager::new(2);
        let block_table = allocate_blocks(&mut manager, 1);
        manager.cache_block(block_table[0], [7; 16]);
        let found = manager.find_cached_prefix(&[[7; 16], [8; 16]]);
        assert_eq!((&found, manager.count_unreferenced(&found)), (&block_table, 0));
        manager.share_block(found[0]);
        manager.release_blocks(&block_table);
        assert_eq!(manager.num_used(), 1);
        manager.release_blocks(&found);
        assert_eq!((manager.num_used(), manager.count_unreferenced(&found)), (0, 1));
        manager.share_block(found[0]);
        assert_eq!((manager.num_used(), manager.num_cached()), (1, 0));
    }

    #[test]
    fn the_second_block_with_a_hash_stays_private() {
        let mut manager = BlockManager::new(2);
        let block_table = allocate_blocks(&mut manager, 2);
        manager.cache_block(block_table[0], [7; 16]);
        manager.cache_block(block_table[1], [7; 16]);
        manager.release_blocks(&block_table);
        assert_eq!((manager.num_cached(), manager.num_available()), (1, 2));
    }
}
