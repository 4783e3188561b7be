//! `SubscribeKvEvents`: the blocks of the prefix cache, and each change of it.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use futures::stream::{self, BoxStream, StreamExt};
use lockstep_proto::smg::grpc::common::kv_cache_event::Data;
use lockstep_proto::smg::grpc::common::{
    KvBlock, KvBlocksRemoved, KvBlocksStored, KvCacheCleared, KvCacheEvent, KvEventBatch, KvSnapshotChunk,
};
use lockstep_proto::v1::ClusterStatus;
use lockstep_schedule::{BlockEvent, StoredBlock};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tonic::Status;

use crate::block_feed::{BlockBatch, Subscription};

/// Most blocks of one batch of a list: at most 100 KB.
const LISTED_BLOCKS: usize = 1024;

/// Returns the batches of a subscription that has seen all batches before `start`; 0 has seen none. A subscriber that has
/// missed some gets the list of all blocks first. The stream ends with the head, whose `status` ends then.
pub(super) fn batches(
    subscription: Subscription,
    start: u64,
    status: watch::Receiver<ClusterStatus>,
) -> BoxStream<'static, Result<KvEventBatch, Status>> {
    let Subscription { number, blocks, changes } = subscription;
    let has_all = start == number || start == number + 1;
    let list = if has_all { Vec::new() } else { list(number, &blocks) };
    let changes = stream::unfold(Some((changes, status)), |state| async move {
        let (mut changes, mut status) = state?;
        let batch = tokio::select! {
            batch = changes.recv() => batch,
            // The head never shows such a status.
            _ = status.wait_for(|_| false) => return None,
        };
        match batch {
            Ok(batch) => Some((Ok(change(&batch)), Some((changes, status)))),
            Err(RecvError::Lagged(missed)) => {
                let reason = format!("{missed} batches came faster than the subscriber read them: subscribe again");
                Some((Err(Status::data_loss(reason)), None))
            }
            Err(RecvError::Closed) => None,
        }
    });
    stream::iter(list.into_iter().map(Ok)).chain(changes).boxed()
}

/// Returns the batches of a list of all blocks, the last of which has the number `number`.
fn list(number: u64, blocks: &[Arc<StoredBlock>]) -> Vec<KvEventBatch> {
    let cleared = KvCacheEvent { event_id: 0, data: Some(Data::Cleared(KvCacheCleared {})) };
    let mut parts: Vec<Vec<KvCacheEvent>> = blocks
        .chunks(LISTED_BLOCKS)
        .map(|part| part.iter().map(|block| KvCacheEvent { event_id: 0, data: Some(stored(block)) }).collect())
        .collect();
    if parts.is_empty() {
        parts.push(Vec::new());
    }
    parts[0].insert(0, cleared);
    let count = parts.len() as u32;
    let batch = |(index, events): (u32, Vec<KvCacheEvent>)| {
        let snapshot = KvSnapshotChunk { index, count, blocks: blocks.len() as u64, unknown_before: 0 };
        let number = number - u64::from(count - 1 - index);
        KvEventBatch { snapshot: Some(snapshot), ..new_batch(number, events) }
    };
    (0..).zip(parts).map(batch).collect()
}

fn change(batch: &BlockBatch) -> KvEventBatch {
    let data = |event: &BlockEvent| match event {
        BlockEvent::Cleared => Data::Cleared(KvCacheCleared {}),
        BlockEvent::Stored(block) => stored(block),
        BlockEvent::Removed { hash } => Data::Removed(KvBlocksRemoved { block_hashes: vec![hash.cast_signed()] }),
    };
    let first_id = batch.number << 20;
    let events = (first_id..).zip(batch.events.iter());
    let events = events.map(|(event_id, event)| KvCacheEvent { event_id, data: Some(data(event)) });
    new_batch(batch.number, events.collect())
}

fn new_batch(sequence_number: u64, events: Vec<KvCacheEvent>) -> KvEventBatch {
    let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    KvEventBatch { sequence_number, timestamp, events, dp_rank: Some(0), snapshot: None }
}

fn stored(block: &StoredBlock) -> Data {
    let parent_block_hash = block.parent.map(u64::cast_signed);
    let block = KvBlock {
        block_hash: block.hash.cast_signed(),
        token_ids: block.tokens.clone(),
        block_size: block.tokens.len() as i32,
    };
    Data::Stored(KvBlocksStored { blocks: vec![block], parent_block_hash })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_ends_with_the_number_of_the_last_change() {
        let block = |hash| Arc::new(StoredBlock { hash, parent: hash.checked_sub(1), tokens: vec![7; 16] });
        let blocks: Vec<_> = (0..2 * LISTED_BLOCKS as u64 + 1).map(block).collect();
        let batches = list(1 << 32, &blocks);
        let numbers: Vec<u64> = batches.iter().map(|batch| batch.sequence_number).collect();
        assert_eq!(numbers, [(1 << 32) - 2, (1 << 32) - 1, 1 << 32]);
        let places = batches.iter().map(|batch| batch.snapshot.unwrap());
        assert!(places.clone().all(|place| (place.count, place.blocks) == (3, blocks.len() as u64)));
        assert!(places.map(|place| place.index).eq(0..3));
        assert!(matches!(batches[0].events[0].data, Some(Data::Cleared(_))));
        assert_eq!(batches.iter().map(|batch| batch.events.len()).sum::<usize>(), blocks.len() + 1);
        let empty = list(5, &[]);
        assert_eq!((empty.len(), empty[0].sequence_number, empty[0].events.len()), (1, 5, 1));
    }
}
