//! Who holds which block of the KV cache. A block is free, referred to by sequences, or cached: full, named, and kept
//! for a later prefix until its room is needed (least recently released first).
//!
//! The head frees a block at once, also while a step that writes it is in flight. That is sound because ranks execute
//! plans in order: whatever a later plan does with the block happens after that write, and a sequence reads only
//! positions that plans before made it write or share.

use std::collections::{BTreeMap, HashMap};

use crate::plan::BlockId;
use crate::prefix::PrefixHash;

#[derive(Debug, Default)]
struct Block {
    /// Sequences that refer to it.
    refs: u32,
    /// Set once the block is full and its tokens are known; then it is never written again until it is evicted.
    name: Option<PrefixHash>,
    /// Its key in `BlockManager::cached` while nobody refers to it.
    released: u64,
}

/// The block table's other side: every block of one epoch.
#[derive(Debug, Default)]
pub(crate) struct BlockManager {
    blocks: Vec<Block>,
    free: Vec<BlockId>,
    /// Named blocks that nobody refers to, by the moment of their release.
    cached: BTreeMap<u64, BlockId>,
    by_name: HashMap<PrefixHash, BlockId>,
    releases: u64,
}

impl BlockManager {
    /// All blocks free, the lowest first.
    pub fn new(num_blocks: u32) -> Self {
        let blocks = (0..num_blocks).map(|_| Block::default()).collect();
        Self { blocks, free: (0..num_blocks).rev().collect(), ..Self::default() }
    }

    pub fn total(&self) -> u32 {
        self.blocks.len() as u32
    }

    pub fn cached(&self) -> u32 {
        self.cached.len() as u32
    }

    /// Blocks that can be allocated now.
    pub fn available(&self) -> usize {
        self.free.len() + self.cached.len()
    }

    /// Blocks that sequences refer to.
    pub fn used(&self) -> u32 {
        self.total() - self.available() as u32
    }

    /// The blocks of the longest run of names from the first on that the cache holds.
    pub fn find(&self, names: &[PrefixHash]) -> Vec<BlockId> {
        names.iter().map_while(|name| self.by_name.get(name).copied()).collect()
    }

    /// How many of these blocks nobody refers to: sharing them makes that many fewer available.
    pub fn count_unreferenced(&self, blocks: &[BlockId]) -> usize {
        blocks.iter().filter(|&&block| self.blocks[block as usize].refs == 0).count()
    }

    /// One more sequence refers to a block that `find` gave.
    pub fn share(&mut self, id: BlockId) {
        let block = &mut self.blocks[id as usize];
        debug_assert!(block.name.is_some(), "only full, named blocks are shared");
        if block.refs == 0 {
            self.cached.remove(&block.released);
        }
        block.refs += 1;
    }

    /// A block for one sequence alone; evicts the cached block that was released first if none is free.
    pub fn allocate(&mut self) -> Option<BlockId> {
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                let (_, id) = self.cached.pop_first()?;
                if let Some(name) = self.blocks[id as usize].name.take() {
                    self.by_name.remove(&name);
                }
                id
            }
        };
        self.blocks[id as usize].refs = 1;
        Some(id)
    }

    /// Names a block that is full. If another block has that name already, this one stays private to its sequence.
    pub fn name(&mut self, id: BlockId, name: PrefixHash) {
        let block = &mut self.blocks[id as usize];
        debug_assert!(block.refs > 0, "a sequence names its own blocks");
        if block.name.is_none() && !self.by_name.contains_key(&name) {
            block.name = Some(name);
            self.by_name.insert(name, id);
        }
    }

    /// A sequence ends its use of its whole table. The last block goes first: a block is of no use without those
    /// before it.
    pub fn release(&mut self, table: &[BlockId]) {
        for &id in table.iter().rev() {
            let block = &mut self.blocks[id as usize];
            debug_assert!(block.refs > 0, "a block is released once per reference");
            block.refs -= 1;
            if block.refs > 0 {
                continue;
            }
            if block.name.is_some() {
                self.releases += 1;
                block.released = self.releases;
                self.cached.insert(block.released, id);
            } else {
                self.free.push(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(manager: &mut BlockManager, count: usize) -> Vec<BlockId> {
        (0..count).map(|_| manager.allocate().expect("a block is available")).collect()
    }

    #[test]
    fn cached_blocks_are_evicted_tail_first_and_only_when_needed() {
        let mut manager = BlockManager::new(4);
        let table = take(&mut manager, 3);
        for (index, &block) in table.iter().enumerate() {
            manager.name(block, [index as u8; 16]);
        }
        manager.release(&table);
        assert_eq!((manager.available(), manager.cached(), manager.used()), (4, 3, 0));
        take(&mut manager, 2);
        assert_eq!(manager.find(&[[0; 16], [1; 16], [2; 16]]), table[..2]);
        take(&mut manager, 2);
        assert_eq!(manager.allocate(), None);
        assert_eq!(manager.find(&[[0; 16]]), []);
    }

    #[test]
    fn a_shared_block_stays_until_its_last_user_releases_it() {
        let mut manager = BlockManager::new(2);
        let table = take(&mut manager, 1);
        manager.name(table[0], [7; 16]);
        let found = manager.find(&[[7; 16], [8; 16]]);
        assert_eq!((&found, manager.count_unreferenced(&found)), (&table, 0));
        manager.share(found[0]);
        manager.release(&table);
        assert_eq!(manager.used(), 1);
        manager.release(&found);
        assert_eq!((manager.used(), manager.count_unreferenced(&found)), (0, 1));
        manager.share(found[0]);
        assert_eq!((manager.used(), manager.cached()), (1, 0));
    }

    #[test]
    fn the_second_block_of_one_name_stays_private() {
        let mut manager = BlockManager::new(2);
        let table = take(&mut manager, 2);
        manager.name(table[0], [7; 16]);
        manager.name(table[1], [7; 16]);
        manager.release(&table);
        assert_eq!((manager.cached(), manager.available()), (1, 2));
    }
}
