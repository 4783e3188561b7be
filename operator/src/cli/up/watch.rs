//! The head's own account of the group, followed for as long as somebody listens: `None` while the head is not there.

use std::time::Duration;

use lockstep_proto::v1::{ClusterStatus, WatchRequest};
use tokio::sync::watch::{Receiver, Sender, channel};

use crate::cli::endpoint::Endpoint;

/// Pause between two tries to reach the head.
const PAUSE: Duration = Duration::from_millis(100);

/// Follows the group at `endpoint`.
pub(super) fn start(endpoint: Endpoint) -> Receiver<Option<ClusterStatus>> {
    let (tell, told) = channel(None);
    tokio::spawn(async move {
        while !tell.is_closed() {
            follow(&endpoint, &tell).await;
            tell.send_if_modified(|status| status.take().is_some());
            tokio::time::sleep(PAUSE).await;
        }
    });
    told
}

/// Follows one connection until it ends, for whatever reason: the head's process is watched elsewhere.
async fn follow(endpoint: &Endpoint, tell: &Sender<Option<ClusterStatus>>) {
    let Ok(mut client) = endpoint.cluster().await else { return };
    let Ok(changes) = client.watch(WatchRequest {}).await else { return };
    let mut changes = changes.into_inner();
    loop {
        let change = tokio::select! {
            change = changes.message() => change,
            () = tell.closed() => return,
        };
        let Ok(Some(status)) = change else { return };
        tell.send_replace(Some(status));
    }
}
