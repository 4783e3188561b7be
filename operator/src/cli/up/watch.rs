//! Follows the status that the head reports, for as long as somebody receives it. The status is `None` while the head
//! cannot be reached.

use std::time::Duration;

use lockstep_proto::v1::{ClusterStatus, WatchRequest};
use tokio::sync::watch::{Receiver, Sender, channel};

use crate::cli::endpoint::Endpoint;

/// Pause between two attempts to reach the head.
const PAUSE: Duration = Duration::from_millis(100);

/// Follows the group at `endpoint`.
pub(super) fn follow_group(endpoint: Endpoint) -> Receiver<Option<ClusterStatus>> {
    let (sender, receiver) = channel(None);
    tokio::spawn(async move {
        while !sender.is_closed() {
            follow_connection(&endpoint, &sender).await;
            sender.send_if_modified(|status| status.take().is_some());
            tokio::time::sleep(PAUSE).await;
        }
    });
    receiver
}

/// Follows one connection until it ends for any reason. `member` supervises the head's process.
async fn follow_connection(endpoint: &Endpoint, sender: &Sender<Option<ClusterStatus>>) {
    let Ok(mut client) = endpoint.cluster().await else { return };
    let Ok(changes) = client.watch(WatchRequest {}).await else { return };
    let mut changes = changes.into_inner();
    loop {
        let change = tokio::select! {
            change = changes.message() => change,
            () = sender.closed() => return,
        };
        let Ok(Some(status)) = change else { return };
        sender.send_replace(Some(status));
    }
}
