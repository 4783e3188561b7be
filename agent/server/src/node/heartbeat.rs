//! The node's heartbeat. It has a thread of its own, and the control stream has others, so that a busy node still sends it
//! and the head does not evict the node as dead. The thread reads counters and takes no lock of a rank.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use lockstep_proto::node::{FromNode, Heartbeat, from_node};
use tokio::sync::watch;

use super::health::Health;
use super::open_stream::Outbound;
use super::rank::RankCounters;

/// Time between two heartbeats.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(100);
/// Time without progress after which a busy rank counts as stuck for good. The head has ended the epoch long before. The
/// process then ends itself, so that a new process can take the node's place.
const STUCK_TIMEOUT: Duration = Duration::from_secs(20);
/// Exit code of a process that ends itself because one of its ranks is stuck.
const EXIT_STUCK: i32 = 70;

/// Starts the thread. It sends the heartbeats into the current stream, if there is one.
///
/// # Errors
/// Fails if the system cannot start another thread.
pub(super) fn start(
    ranks: Vec<Arc<RankCounters>>,
    outbound: watch::Receiver<Option<Outbound>>,
    health: Arc<Health>,
) -> std::io::Result<()> {
    let send_heartbeats = move || {
        let (mut last_progress, mut last_progress_at) = ((0, 0), Instant::now());
        loop {
            std::thread::sleep(HEARTBEAT_INTERVAL);
            let beat = read_heartbeat(&ranks);
            if !beat.busy || (beat.progress, beat.moved) != last_progress {
                (last_progress, last_progress_at) = ((beat.progress, beat.moved), Instant::now());
            } else if last_progress_at.elapsed() > STUCK_TIMEOUT {
                tracing::error!(
                    epoch = beat.epoch,
                    "a rank has been stuck in one operation for 20 s: ending this process"
                );
                std::process::exit(EXIT_STUCK);
            }
            let busy = beat.busy;
            if outbound.has_changed().is_err() {
                return;
            }
            if let Some(outbound) = outbound.borrow().as_ref() {
                // If the stream is full, the head receives no heartbeat and ends the stream.
                outbound.try_send(FromNode { message: Some(from_node::Message::Heartbeat(beat)) }).ok();
            }
            // After the heartbeat, because probes take the same lock.
            health.set_step_progress(busy.then_some(last_progress_at));
        }
    };
    std::thread::Builder::new().name("heartbeat".into()).spawn(send_heartbeats).map(drop)
}

/// Reads the counters of all local ranks. `progress`, `epoch` and `step` are each the smallest of any rank, and `moved`
/// is the sum.
fn read_heartbeat(ranks: &[Arc<RankCounters>]) -> Heartbeat {
    let least = |counter: &dyn Fn(&RankCounters) -> u64| ranks.iter().map(|rank| counter(rank)).min().unwrap_or(0);
    Heartbeat {
        progress: least(&|rank| rank.progress.load(Ordering::SeqCst)),
        moved: ranks.iter().map(|rank| rank.moved.load(Ordering::Relaxed)).sum(),
        busy: ranks.iter().any(|rank| rank.busy.load(Ordering::SeqCst)),
        epoch: least(&|rank| rank.epoch.load(Ordering::SeqCst)),
        step: least(&|rank| rank.last_step.load(Ordering::SeqCst)),
    }
}
