//! `lockstep.v1.Cluster`: the group's status, once or as it changes.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use lockstep_proto::v1::cluster_server::Cluster;
use lockstep_proto::v1::{ClusterStatus, GetStatusRequest, WatchRequest};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

/// Shortest time between two messages of a watch. Each message is the newest status, so a watch may skip some.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);
/// Longest message with a status, in bytes: that of the largest group.
pub const MAX_STATUS_BYTES: usize = 64 << 20;

pub struct ClusterService {
    status: watch::Receiver<ClusterStatus>,
    shutdown: CancellationToken,
}

impl ClusterService {
    pub fn new(status: watch::Receiver<ClusterStatus>, shutdown: CancellationToken) -> Self {
        Self { status, shutdown }
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<ClusterStatus>, Status> {
        Ok(Response::new(self.status.borrow().clone()))
    }

    type WatchStream = BoxStream<'static, Result<ClusterStatus, Status>>;

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let mut receiver = self.status.clone();
        receiver.mark_changed();
        let states = stream::unfold((receiver, Instant::now()), |(mut receiver, due)| async move {
            tokio::time::sleep_until(due).await;
            receiver.changed().await.ok()?;
            let now = receiver.borrow_and_update().clone();
            Some((Ok(now), (receiver, Instant::now() + WATCH_INTERVAL)))
        });
        Ok(Response::new(states.take_until(self.shutdown.clone().cancelled_owned()).boxed()))
    }
}
