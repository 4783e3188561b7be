//! Ranks as processes, linked each to each by TCP.
//!
//! A rank binds one [`Listener`] for its life, forms a [`Ring`] with it in every epoch, and may [`discover`] the group
//! through its right neighbour where nobody else tells it. Every link is checked (magic, wire version, cluster, epoch,
//! ranks, world size, key) before it carries a byte.

mod desk;
mod dial;
mod discover;
mod greeting;
mod key;
mod listener;
mod tcp;

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use crate::abort::{AbortSwitch, sleep_on};
use crate::communicator::{CollectiveError, Group};
use crate::mesh::{Limits, Mesh, Tuning};
use desk::Identity;
use dial::{Call, Patience};
use greeting::{LONGEST_TEXT, Purpose};
use listener::HANDSHAKE_TIMEOUT;
use tcp::TcpLinks;

pub use discover::{ControlAddress, DiscoverConfig, Discovered, discover};
pub use key::GroupKey;
pub use listener::Listener;

/// The communicator of a group over TCP.
pub type Ring = Mesh;

/// First and longest pause between two calls to a rank that is not there yet.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// A group to form.
#[derive(Debug, Clone)]
pub struct Config {
    pub group: Group,
    /// Links of another epoch are refused: older for good, newer until this rank is there.
    pub epoch: u64,
    /// Which group of the world this is; at most 300 bytes.
    pub cluster_id: String,
    /// The secret that each link must prove to know. Groups with and without one never mix.
    pub key: Option<GroupKey>,
    /// `host:port` by rank; this rank's own is not used.
    pub addresses: Vec<String>,
    /// An operation fails when no byte moved for this long.
    pub op_timeout: Duration,
    /// Forming fails when a rank is missing after this long.
    pub form_timeout: Duration,
    /// Look for bytes for a short while before sleeping, as long as that pays: for ranks that have a core each.
    pub spin: bool,
    pub tuning: Tuning,
}

/// Links this rank to every other: it calls the lower ranks and is called by the higher. Returns when all links stand.
///
/// `progress` moves whenever an operation of the ring does. `abort` wakes this call and every operation at once; only
/// looking up a host name cannot be interrupted.
///
/// # Errors
/// `Mismatch` where a peer is of another group, `Timeout` naming the first rank that never came, `Aborted`, `Usage`.
pub fn form(
    listener: &Listener,
    config: Config,
    progress: Option<Arc<AtomicU64>>,
    abort: &AbortSwitch,
) -> Result<Ring, CollectiveError> {
    config.check()?;
    let Config { group, epoch, cluster_id, key, addresses, op_timeout, form_timeout, spin, tuning } = config;
    let identity = Identity { group, epoch, cluster_id, key };
    listener.desk.open(identity.clone())?;
    let forming = Forming { listener, identity, addresses, form_timeout, abort };
    let links = forming.link_all();
    listener.desk.close();
    let links = TcpLinks::new(links?).map_err(|error| CollectiveError::Unavailable {
        backend: "ring",
        reason: format!("set a link's options: {error}"),
    })?;
    Ok(Mesh::new(links, group, tuning, Limits { op_timeout, spin, progress }, abort))
}

impl Config {
    fn check(&self) -> Result<(), CollectiveError> {
        let (given, ranks) = (self.addresses.len(), self.group.world_size());
        if given != ranks {
            return Err(CollectiveError::Usage(format!("{given} addresses for {ranks} ranks")));
        }
        if self.cluster_id.len() > LONGEST_TEXT {
            return Err(CollectiveError::Usage(format!("the cluster id is longer than {LONGEST_TEXT} bytes")));
        }
        Ok(())
    }
}

struct Forming<'a> {
    listener: &'a Listener,
    identity: Identity,
    addresses: Vec<String>,
    form_timeout: Duration,
    abort: &'a AbortSwitch,
}

impl Forming<'_> {
    fn link_all(&self) -> Result<Vec<Option<TcpStream>>, CollectiveError> {
        let group = self.identity.group;
        let deadline = Instant::now() + self.form_timeout;
        let mut links: Vec<Option<TcpStream>> = (0..group.world_size()).map(|_| None).collect();
        let mut pause = SHORTEST_PAUSE;
        loop {
            self.abort.check()?;
            self.listener.desk.silence();
            self.call_lower(&mut links, deadline)?;
            self.listener.desk.take_arrived(&mut links);
            let missing = (0..group.world_size()).find(|&rank| rank != group.rank() && links[rank].is_none());
            let Some(missing) = missing else { return Ok(links) };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.overdue(missing));
            }
            let mut fds = [self.abort.poll_fd(), self.listener.desk.poll_fd()];
            sleep_on(&mut fds, pause.min(left)).map_err(|error| CollectiveError::Unavailable {
                backend: "ring",
                reason: format!("wait for the other ranks: {error}"),
            })?;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Calls each lower rank that is not linked yet, once.
    fn call_lower(&self, links: &mut [Option<TcpStream>], deadline: Instant) -> Result<(), CollectiveError> {
        let lower = &mut links[..self.identity.group.rank()];
        for (peer, place) in lower.iter_mut().enumerate().filter(|(_, place)| place.is_none()) {
            let ours = self.identity.greeting(Purpose::Data, peer);
            let until = deadline.min(Instant::now() + HANDSHAKE_TIMEOUT);
            let patience = Patience { until, abort: self.abort };
            match dial::call(&self.addresses[peer], &ours, self.identity.key.as_ref(), patience)? {
                Call::Linked(stream, _) => *place = Some(stream),
                Call::Later(reason) => tracing::debug!(peer, reason, "not linked yet"),
            }
        }
        Ok(())
    }

    /// A rank never came: because it was refused, or for no reason that it gave.
    fn overdue(&self, rank: usize) -> CollectiveError {
        match self.listener.desk.refusal_of(rank) {
            Some(reason) => CollectiveError::Mismatch { rank, reason },
            None => {
                let millis = u64::try_from(self.form_timeout.as_millis()).unwrap_or(u64::MAX);
                CollectiveError::Timeout { rank, millis }
            }
        }
    }
}
