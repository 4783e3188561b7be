//! The blocks of the prefix cache, for routers: a list of what is cached, and each change after it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use lockstep_schedule::{BlockEvent, StoredBlock};
use tokio::sync::broadcast;

/// Most batches that may wait for a subscriber. One that falls further behind must subscribe again.
const BACKLOG: usize = 1024;
/// Number of the last batch before the first one. A list has the numbers before that of its last change, so these must not
/// run out.
const FIRST_NUMBER: u64 = 1 << 32;

/// Changes of the prefix cache from one step of the head.
#[derive(Debug, Clone)]
pub(crate) struct BlockBatch {
    /// Number of the batch; each batch has the next one.
    pub number: u64,
    pub events: Arc<[BlockEvent]>,
}

/// Blocks that are cached, and the changes after them.
pub(crate) struct Subscription {
    /// Number of the last batch whose changes `blocks` has.
    pub number: u64,
    /// The cached blocks, each after the block before it.
    pub blocks: Vec<Arc<StoredBlock>>,
    pub changes: broadcast::Receiver<BlockBatch>,
}

/// The head's publisher of changes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BlockFeed(Arc<Mutex<Feed>>);

#[derive(Debug)]
struct Feed {
    number: u64,
    /// Cached blocks by hash, each with its place in the order of arrival.
    blocks: HashMap<u64, (u64, Arc<StoredBlock>)>,
    num_arrivals: u64,
    changes: broadcast::Sender<BlockBatch>,
}

impl Default for BlockFeed {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Feed {
            number: FIRST_NUMBER,
            blocks: HashMap::new(),
            num_arrivals: 0,
            changes: broadcast::Sender::new(BACKLOG),
        })))
    }
}

impl BlockFeed {
    /// Publishes what the prefix cache has gained and lost.
    pub fn publish(&self, events: Vec<BlockEvent>) {
        if !events.is_empty() {
            self.lock().publish(events);
        }
    }

    /// Returns what is cached, and the changes from now on.
    pub(crate) fn subscribe(&self) -> Subscription {
        let feed = self.lock();
        Subscription { number: feed.number, blocks: feed.list(), changes: feed.changes.subscribe() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Feed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Feed {
    fn publish(&mut self, events: Vec<BlockEvent>) {
        for event in &events {
            match event {
                BlockEvent::Cleared => self.blocks.clear(),
                BlockEvent::Stored(block) => {
                    self.num_arrivals += 1;
                    self.blocks.insert(block.hash, (self.num_arrivals, Arc::new(block.clone())));
                }
                BlockEvent::Removed { hash } => drop(self.blocks.remove(hash)),
            }
        }
        self.number += 1;
        // An error says that nobody has subscribed.
        self.changes.send(BlockBatch { number: self.number, events: events.into() }).ok();
    }

    /// Returns the cached blocks, each after the block before it.
    fn list(&self) -> Vec<Arc<StoredBlock>> {
        let (mut listed, mut seen) = (Vec::with_capacity(self.blocks.len()), HashSet::new());
        let mut arrivals: Vec<(u64, u64)> = self.blocks.iter().map(|(hash, (place, _))| (*place, *hash)).collect();
        arrivals.sort_unstable();
        for (_, hash) in arrivals {
            // A block that was evicted and stored again arrives after the blocks behind it.
            let mut chain = Vec::new();
            let mut next = Some(hash);
            while let Some((_, block)) = next.and_then(|hash| self.blocks.get(&hash))
                && seen.insert(block.hash)
            {
                chain.push(block.clone());
                next = block.parent;
            }
            listed.extend(chain.into_iter().rev());
        }
        listed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(hash: u64, parent: Option<u64>) -> BlockEvent {
        BlockEvent::Stored(StoredBlock { hash, parent, tokens: vec![hash as u32; 2] })
    }

    fn listed(feed: &BlockFeed) -> Vec<u64> {
        feed.subscribe().blocks.iter().map(|block| block.hash).collect()
    }

    #[test]
    fn a_list_has_what_is_cached_in_order() {
        let feed = BlockFeed::default();
        feed.publish(vec![stored(1, None), stored(2, Some(1)), stored(3, Some(2))]);
        feed.publish(vec![BlockEvent::Removed { hash: 1 }, stored(4, None)]);
        assert_eq!(listed(&feed), [2, 3, 4]);
        feed.publish(vec![stored(1, None)]);
        assert_eq!(listed(&feed), [1, 2, 3, 4]);
        feed.publish(vec![BlockEvent::Cleared, stored(9, Some(8))]);
        assert_eq!(listed(&feed), [9]);
    }

    #[tokio::test]
    async fn changes_follow_the_list_without_a_gap() {
        let feed = BlockFeed::default();
        feed.publish(vec![stored(1, None)]);
        let Subscription { number, blocks, mut changes } = feed.subscribe();
        assert_eq!(blocks.len(), 1);
        feed.publish(Vec::new());
        feed.publish(vec![stored(2, Some(1))]);
        let batch = changes.recv().await.unwrap();
        assert_eq!((batch.number, &*batch.events), (number + 1, &[stored(2, Some(1))][..]));
        for _ in 0..=BACKLOG {
            feed.publish(vec![BlockEvent::Cleared]);
        }
        assert!(matches!(changes.recv().await, Err(broadcast::error::RecvError::Lagged(1))));
    }
}
