//! The processes of a group, together: the head ends first, so that it can take its leave of the workers.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::console::Console;
use super::member::{END_DEADLINE, GaveUp, Member, Stop, keep};

/// How long the workers may take to go by themselves once the head has ended.
const LEAVE_DEADLINE: Duration = Duration::from_millis(500);
/// How long everything may take after SIGKILL; only the kernel can be late then.
const KILL_DEADLINE: Duration = Duration::from_secs(3);

type Members = JoinSet<Result<(), GaveUp>>;

pub(super) struct Group {
    stop: watch::Sender<Stop>,
    head: Members,
    workers: Members,
}

impl Group {
    /// Starts every member.
    pub(super) fn start(members: Vec<Member>, console: &Arc<Console>) -> Self {
        let (stop, told) = watch::channel(Stop::Run);
        let mut group = Self { stop, head: JoinSet::new(), workers: JoinSet::new() };
        for member in members {
            let set = if member.is_head { &mut group.head } else { &mut group.workers };
            set.spawn(keep(member, told.clone(), Arc::clone(console)));
        }
        group
    }

    /// Waits until a member cannot be kept running.
    pub(super) async fn gave_up(&mut self) -> GaveUp {
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

    /// Ends all, in order, within a bound. May be dropped midway and gone on with by `kill`.
    pub(super) async fn end(&mut self) {
        self.stop.send_replace(Stop::Head);
        drain(&mut self.head, END_DEADLINE + KILL_DEADLINE).await;
        drain(&mut self.workers, LEAVE_DEADLINE).await;
        self.stop.send_replace(Stop::All);
        drain(&mut self.workers, END_DEADLINE + KILL_DEADLINE).await;
    }

    /// Kills all.
    pub(super) async fn kill(&mut self) {
        self.stop.send_replace(Stop::Kill);
        drain(&mut self.head, KILL_DEADLINE).await;
        drain(&mut self.workers, KILL_DEADLINE).await;
    }
}

async fn drain(members: &mut Members, deadline: Duration) {
    let all = async { while members.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(deadline, all).await;
}

#[cfg(test)]
#[path = "group_tests.rs"]
mod tests;
