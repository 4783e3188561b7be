//! The processes of a group. The head ends first, so that it can end its sessions with the workers in order.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::console::Console;
use super::member::{END_DEADLINE, GaveUp, Member, Stop, keep};

/// Time in which workers may end by themselves after the head has ended. Workers that still run get SIGTERM then.
const LEAVE_DEADLINE: Duration = Duration::from_millis(500);
/// Time that processes may take to end after SIGKILL. Only the kernel can delay them then.
const KILL_DEADLINE: Duration = Duration::from_secs(3);

type Members = JoinSet<Result<(), GaveUp>>;

/// The running processes of one group.
pub(super) struct LocalGroup {
    stop: watch::Sender<Stop>,
    head: Members,
    workers: Members,
}

impl LocalGroup {
    /// Starts every member.
    pub(super) fn start(members: Vec<Member>, console: &Arc<Console>) -> Self {
        let (stop, stop_receiver) = watch::channel(Stop::Run);
        let mut group = Self { stop, head: JoinSet::new(), workers: JoinSet::new() };
        for member in members {
            let set = if member.is_head { &mut group.head } else { &mut group.workers };
            set.spawn(keep(member, stop_receiver.clone(), Arc::clone(console)));
        }
        group
    }

    /// Waits until a member cannot be kept running.
    pub(super) async fn wait_for_failure(&mut self) -> GaveUp {
        loop {
            let ended = tokio::select! {
                Some(ended) = self.head.join_next() => ended,
                Some(ended) = self.workers.join_next() => ended,
                else => std::future::pending().await,
            };
            if let Ok(Err(gave_up)) = ended {
                return gave_up;
            }
        }
    }

    /// Ends all members in order, within a bound. The caller may drop the future at any time and call `kill`.
    pub(super) async fn shut_down(&mut self) {
        self.stop.send_replace(Stop::Head);
        join_all(&mut self.head, END_DEADLINE + KILL_DEADLINE).await;
        join_all(&mut self.workers, LEAVE_DEADLINE).await;
        self.stop.send_replace(Stop::All);
        join_all(&mut self.workers, END_DEADLINE + KILL_DEADLINE).await;
    }

    /// Kills all members.
    pub(super) async fn kill(&mut self) {
        self.stop.send_replace(Stop::Kill);
        join_all(&mut self.head, KILL_DEADLINE).await;
        join_all(&mut self.workers, KILL_DEADLINE).await;
    }
}

/// Waits until all members have ended, for at most `deadline`.
async fn join_all(members: &mut Members, deadline: Duration) {
    let all = async { while members.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(deadline, all).await;
}
