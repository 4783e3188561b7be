//! The node's heartbeat, from a thread of its own, so that a busy runtime or rank does not look dead.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use lockstep_proto::node::{FromNode, Heartbeat, from_node};
use tokio::sync::watch;

use super::health::Health;
use super::rank::RankCounters;
use super::session::Outbound;

/// Time between two beats.
pub const INTERVAL: Duration = Duration::from_millis(100);
/// A rank that is busy and does not move for this long will not come back by itself: the head has formed the group
/// without it long ago, and a new process must take its place.
const STUCK: Duration = Duration::from_secs(20);
/// Exit code of a process that ended itself because a rank of it is stuck.
const EXIT_STUCK: i32 = 70;

/// Starts the thread. It beats into the stream of the day, if there is one.
///
/// # Errors
/// Where the system has no thread left.
pub fn start(
    ranks: Vec<Arc<RankCounters>>,
    outbound: watch::Receiver<Option<Outbound>>,
    health: Arc<Health>,
) -> std::io::Result<()> {
    let beat = move || {
        let mut moved = ((0, 0), Instant::now());
        loop {
            std::thread::sleep(INTERVAL);
            let beat = read(&ranks);
            if !beat.busy || (beat.progress, beat.moved) != moved.0 {
                moved = ((beat.progress, beat.moved), Instant::now());
            } else if moved.1.elapsed() > STUCK {
                tracing::error!(
                    epoch = beat.epoch,
                    "a rank has been stuck in one operation for 20 s: ending this process"
                );
                std::process::exit(EXIT_STUCK);
            }
            health.still_since(beat.busy.then_some(moved.1));
            if outbound.has_changed().is_err() {
                return;
            }
            if let Some(outbound) = outbound.borrow().as_ref() {
                // A full stream is the head's to judge: to it, this node is silent.
                outbound.try_send(FromNode { message: Some(from_node::Message::Heartbeat(beat)) }).ok();
            }
        }
    };
    std::thread::Builder::new().name("heartbeat".into()).spawn(beat).map(drop)
}

fn read(ranks: &[Arc<RankCounters>]) -> Heartbeat {
    let least = |read: &dyn Fn(&RankCounters) -> u64| ranks.iter().map(|rank| read(rank)).min().unwrap_or(0);
    Heartbeat {
        progress: least(&|rank| rank.ticks.load(Ordering::SeqCst)),
        moved: ranks.iter().map(|rank| rank.moved.load(Ordering::Relaxed)).sum(),
        busy: ranks.iter().any(|rank| rank.busy.load(Ordering::SeqCst)),
        epoch: least(&|rank| rank.epoch.load(Ordering::SeqCst)),
        step: least(&|rank| rank.last_step.load(Ordering::SeqCst)),
    }
}
