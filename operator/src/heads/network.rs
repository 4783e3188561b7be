//! The ways from the operator to heads, nodes and machines: TCP, or whatever a simulation puts in its place.

use std::net::IpAddr;
use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{BoxStream, StreamExt as _};
use lockstep_proto::errors::with_causes;
use lockstep_proto::names::port;
use lockstep_proto::node::DrainRequest;
use lockstep_proto::node::operations_client::OperationsClient;
use lockstep_proto::v1::cluster_client::ClusterClient;
use lockstep_proto::v1::{ClusterStatus, WatchRequest};
use tonic::transport::Channel;

use super::{Credentials, contacts};
use crate::rollout::NodeWord;

/// Reports of a head, each with the whole status. An error ends them, and tells why.
pub type Reports = BoxStream<'static, Result<ClusterStatus, String>>;

/// What the operator reaches besides the API server.
pub trait Network: Send + Sync + 'static {
    /// Connects to the control port of the head at `address`. Fails with the reason.
    fn dial<'a>(&'a self, address: IpAddr, credentials: &'a Credentials) -> BoxFuture<'a, Result<Link, String>>;

    /// Asks the node at `address` for how long it has not heard its head. `None` if it does not answer in time.
    fn ask_node(&self, address: IpAddr) -> BoxFuture<'_, Option<NodeWord>>;

    /// Returns true if something lives at `address`: a connection to `port` is made or refused in time.
    fn does_answer(&self, address: IpAddr, port: u16) -> BoxFuture<'_, bool>;
}

/// Connection to a head's control port.
pub type Link = Arc<dyn Control>;

/// Calls that a head's control port takes. Each fails with the reason.
pub trait Control: Send + Sync {
    /// Returns the head's reports, beginning with the present state.
    fn watch(&self) -> BoxFuture<'_, Result<Reports, String>>;

    /// Tells the head to take no more requests.
    fn drain(&self, reason: String) -> BoxFuture<'_, Result<(), String>>;
}

/// The network as it is.
pub struct Tcp;

impl Network for Tcp {
    fn dial<'a>(&'a self, address: IpAddr, credentials: &'a Credentials) -> BoxFuture<'a, Result<Link, String>> {
        let link = |channel: Channel| -> Link { Arc::new(channel) };
        async move { credentials.dial(address).await.map(link).map_err(|error| with_causes(&error)) }.boxed()
    }

    fn ask_node(&self, address: IpAddr) -> BoxFuture<'_, Option<NodeWord>> {
        contacts::ask_node(address, port::PROBE).boxed()
    }

    fn does_answer(&self, address: IpAddr, port: u16) -> BoxFuture<'_, bool> {
        contacts::does_answer(address, port).boxed()
    }
}

impl Control for Channel {
    fn watch(&self) -> BoxFuture<'_, Result<Reports, String>> {
        let message = |status: tonic::Status| status.message().to_owned();
        async move {
            let watched = ClusterClient::new(self.clone()).watch(WatchRequest {}).await.map_err(message)?;
            Ok(watched.into_inner().map(move |report| report.map_err(message)).boxed())
        }
        .boxed()
    }

    fn drain(&self, reason: String) -> BoxFuture<'_, Result<(), String>> {
        let drained = async move { OperationsClient::new(self.clone()).drain(DrainRequest { reason }).await };
        drained.map(|answer| answer.map(drop).map_err(|status| status.to_string())).boxed()
    }
}
