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
use crate::communicator::{CollectiveError, Communicator, Group};
use crate::grid::{Communicators, Grid};
use crate::mesh::{Limits, Mesh, Tuning};
use crate::solo::Solo;
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
    let (group, tuning, limits) = (config.group, config.tuning, config.limits(progress));
    let links = link(listener, config, |_| true, abort)?;
    Ok(Mesh::new(tcp_links(links)?, group, tuning, limits, abort))
}

/// As [`form`], for a group in `stages` pipeline stages: links this rank to those of its row and of its column of the
/// [`Grid`] alone. Errors name ranks of the whole group.
///
/// # Errors
/// As [`form`], and `Usage` where `stages` does not divide the group.
pub fn form_grid(
    listener: &Listener,
    config: Config,
    stages: usize,
    progress: Option<Arc<AtomicU64>>,
    abort: &AbortSwitch,
) -> Result<Communicators, CollectiveError> {
    if stages == 1 {
        return Ok(form(listener, config, progress, abort)?.into());
    }
    let ranks = config.group.world_size();
    let Some(grid) = Grid::new(config.group.rank(), ranks, stages) else {
        return Err(CollectiveError::Usage(format!("{ranks} ranks do not make {stages} equal stages")));
    };
    let (tuning, limits) = (config.tuning, config.limits(progress));
    let related = |peer: usize| grid.row().chain(grid.column()).any(|rank| rank == peer);
    let mut links = link(listener, config, related, abort)?;
    let mut mesh = |group: Group, ranks: Vec<usize>| {
        let links = ranks.iter().map(|rank| links[*rank].take()).collect();
        let mesh = Mesh::new(tcp_links(links)?, group, tuning, limits.clone(), abort);
        Ok(mesh.with_names(ranks.into_iter()))
    };
    let tensor: Box<dyn Communicator> = match grid.tensor().world_size() {
        1 => Box::new(Solo::with_switch(abort)),
        _ => Box::new(mesh(grid.tensor(), grid.row().collect())?),
    };
    Ok(Communicators { tensor, pipeline: Some(Box::new(mesh(grid.pipeline(), grid.column().collect())?)) })
}

/// The links to every rank that is `related`.
fn link(
    listener: &Listener,
    config: Config,
    related: impl Fn(usize) -> bool,
    abort: &AbortSwitch,
) -> Result<Vec<Option<TcpStream>>, CollectiveError> {
    config.check()?;
    let Config { group, epoch, cluster_id, key, addresses, form_timeout, .. } = config;
    let peers = (0..group.world_size()).filter(|&peer| peer != group.rank() && related(peer)).collect();
    let identity = Identity { group, epoch, cluster_id, key };
    listener.desk.open(identity.clone())?;
    let links = Forming { listener, identity, peers, addresses, form_timeout, abort }.link_all();
    listener.desk.close();
    links
}

fn tcp_links(streams: Vec<Option<TcpStream>>) -> Result<TcpLinks, CollectiveError> {
    TcpLinks::new(streams).map_err(|error| CollectiveError::Unavailable {
        backend: "ring",
        reason: format!("set a link's options: {error}"),
    })
}

impl Config {
    fn limits(&self, progress: Option<Arc<AtomicU64>>) -> Limits {
        Limits { op_timeout: self.op_timeout, spin: self.spin, progress }
    }

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
    /// The other ranks to be linked to.
    peers: Vec<usize>,
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
            let missing = self.peers.iter().copied().find(|&rank| links[rank].is_none());
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
        let lower = self.peers.iter().copied().filter(|peer| *peer < self.identity.group.rank());
        for peer in lower {
            if links[peer].is_some() {
                continue;
            }
            let ours = self.identity.greeting(Purpose::Data, peer);
            let until = deadline.min(Instant::now() + HANDSHAKE_TIMEOUT);
            let patience = Patience { until, abort: self.abort };
            match dial::call(&self.addresses[peer], &ours, self.identity.key.as_ref(), patience)? {
                Call::Linked(stream, _) => links[peer] = Some(stream),
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
