//! Ranks as processes, with a TCP link between every two ranks.
//!
//! A rank binds one [`Listener`] for its lifetime, and forms a [`Mesh`] with it in every epoch. A rank that knows only
//! its right neighbour finds the head with [`discover`]. Every link is checked (magic, wire version, cluster, epoch,
//! ranks, world size, key) before it carries a byte of an operation.

mod acceptor;
mod dial;
mod discover;
mod greeting;
mod handshake;
mod identity;
mod key;
mod listener;
mod neighbours;
mod tcp;

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use crate::abort::{AbortSwitch, sleep_on};
use crate::communicator::Communicator;
use crate::error::CollectiveError;
use crate::grid::{Communicators, Grid};
use crate::mesh::{Mesh, MeshSettings, Tuning};
use crate::rank_group::RankGroup;
use crate::solo::Solo;
use dial::{Deadline, DialOutcome};
use greeting::{MAX_TEXT_BYTES, Purpose};
use handshake::{FIRST_PAUSE, HANDSHAKE_TIMEOUT, LONGEST_PAUSE};
use identity::Identity;
use tcp::TcpLinks;

pub use discover::{DiscoverConfig, discover};
pub use key::LinkKey;
pub use listener::Listener;
pub use neighbours::{ControlAddress, Discovered};

/// Settings of one group in one epoch.
#[derive(Debug, Clone)]
pub struct RingConfig {
    pub group: RankGroup,
    /// Epoch of the group. This rank refuses a caller of an older epoch, and tells a caller of a newer epoch to call
    /// again.
    pub epoch: u64,
    /// Name of the cluster to which the group belongs, at most 300 bytes.
    pub cluster_id: String,
    /// Secret that both ends of each link must prove to know. Groups with and without a key never mix.
    pub key: Option<LinkKey>,
    /// `host:port` by rank. The rank ignores its own.
    pub addresses: Vec<String>,
    /// Time after which an operation fails if no byte has moved.
    pub op_timeout: Duration,
    /// Time after which forming fails if a rank is missing.
    pub form_timeout: Duration,
    /// True if the rank polls for bytes for a short while before it sleeps, as long as that pays. Set this for ranks
    /// that have a core each.
    pub spin: bool,
    pub tuning: Tuning,
}

/// Links this rank to every other rank: it dials the lower ranks, and the higher ranks dial it. Returns when all links
/// are up.
///
/// `progress` grows whenever an operation of the communicator moves bytes. `abort` ends this call and every operation
/// at once, except for the lookup of a host name.
///
/// # Errors
/// `Mismatch` if a peer belongs to another group, `Timeout` with the first rank that did not come, `Aborted`, `Usage`,
/// and `Unavailable` if a system call fails.
pub fn form(
    listener: &Listener,
    config: RingConfig,
    progress: Option<Arc<AtomicU64>>,
    abort: &AbortSwitch,
) -> Result<Mesh, CollectiveError> {
    let (group, tuning, settings) = (config.group, config.tuning, config.mesh_settings(progress));
    let links = link_peers(listener, config, |_| true, abort)?;
    Ok(Mesh::new(tcp_links(links)?, group, tuning, settings, abort))
}

/// Forms a group in `stages` pipeline stages, like [`form`]: links this rank only to its row and its column of the
/// [`Grid`]. Errors name ranks of the whole group.
///
/// # Errors
/// Those of [`form`], and `Usage` if `stages` does not divide the group.
pub fn form_grid(
    listener: &Listener,
    config: RingConfig,
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
    let (tuning, settings) = (config.tuning, config.mesh_settings(progress));
    let in_row_or_column = |peer: usize| grid.row().chain(grid.column()).any(|rank| rank == peer);
    let mut links = link_peers(listener, config, in_row_or_column, abort)?;
    let mut mesh = |group: RankGroup, members: Vec<usize>| {
        let links = members.iter().map(|rank| links[*rank].take()).collect();
        let mesh = Mesh::new(tcp_links(links)?, group, tuning, settings.clone(), abort);
        Ok(mesh.with_global_ranks(members.into_iter()))
    };
    let tensor: Box<dyn Communicator> = match grid.tensor().world_size() {
        1 => Box::new(Solo::with_switch(abort)),
        _ => Box::new(mesh(grid.tensor(), grid.row().collect())?),
    };
    Ok(Communicators { tensor, pipeline: Some(Box::new(mesh(grid.pipeline(), grid.column().collect())?)) })
}

/// Links this rank to every peer that `wanted` selects. Returns the links by rank.
fn link_peers(
    listener: &Listener,
    config: RingConfig,
    wanted: impl Fn(usize) -> bool,
    abort: &AbortSwitch,
) -> Result<Vec<Option<TcpStream>>, CollectiveError> {
    config.check()?;
    let RingConfig { group, epoch, cluster_id, key, addresses, form_timeout, .. } = config;
    let peers = (0..group.world_size()).filter(|&peer| peer != group.rank() && wanted(peer)).collect();
    let identity = Identity { group, epoch, cluster_id, key };
    listener.acceptor.open_formation(identity.clone())?;
    let links = Linking { listener, identity, peers, addresses, form_timeout, abort }.link_all();
    listener.acceptor.close_formation();
    links
}

fn tcp_links(streams: Vec<Option<TcpStream>>) -> Result<TcpLinks, CollectiveError> {
    TcpLinks::new(streams).map_err(|error| CollectiveError::Unavailable {
        backend: "ring",
        reason: format!("set a link's options: {error}"),
    })
}

impl RingConfig {
    fn mesh_settings(&self, progress: Option<Arc<AtomicU64>>) -> MeshSettings {
        MeshSettings { op_timeout: self.op_timeout, spin: self.spin, progress }
    }

    fn check(&self) -> Result<(), CollectiveError> {
        let (given, ranks) = (self.addresses.len(), self.group.world_size());
        if given != ranks {
            return Err(CollectiveError::Usage(format!("{given} addresses for {ranks} ranks")));
        }
        if self.cluster_id.len() > MAX_TEXT_BYTES {
            return Err(CollectiveError::Usage(format!("the cluster id is longer than {MAX_TEXT_BYTES} bytes")));
        }
        Ok(())
    }
}

/// One run of [`link_peers`].
struct Linking<'a> {
    listener: &'a Listener,
    identity: Identity,
    /// Ranks to link this rank to.
    peers: Vec<usize>,
    addresses: Vec<String>,
    form_timeout: Duration,
    abort: &'a AbortSwitch,
}

impl Linking<'_> {
    fn link_all(&self) -> Result<Vec<Option<TcpStream>>, CollectiveError> {
        let group = self.identity.group;
        let deadline = Instant::now() + self.form_timeout;
        let mut links: Vec<Option<TcpStream>> = (0..group.world_size()).map(|_| None).collect();
        let mut pause = FIRST_PAUSE;
        loop {
            self.abort.check()?;
            self.listener.acceptor.clear_wakeup();
            self.dial_lower_ranks(&mut links, deadline)?;
            self.listener.acceptor.take_arrived(&mut links);
            let missing = self.peers.iter().copied().find(|&rank| links[rank].is_none());
            let Some(missing) = missing else { return Ok(links) };
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                return Err(self.timeout_error(missing));
            }
            let mut fds = [self.abort.poll_fd(), self.listener.acceptor.poll_fd()];
            sleep_on(&mut fds, pause.min(remaining)).map_err(|error| CollectiveError::Unavailable {
                backend: "ring",
                reason: format!("wait for the other ranks: {error}"),
            })?;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Dials once each lower rank that is not linked yet.
    fn dial_lower_ranks(&self, links: &mut [Option<TcpStream>], deadline: Instant) -> Result<(), CollectiveError> {
        let lower = self.peers.iter().copied().filter(|peer| *peer < self.identity.group.rank());
        for peer in lower {
            if links[peer].is_some() {
                continue;
            }
            let ours = self.identity.greeting(Purpose::Data, peer);
            let at = deadline.min(Instant::now() + HANDSHAKE_TIMEOUT);
            let deadline = Deadline { at, abort: self.abort };
            match dial::dial(&self.addresses[peer], &ours, self.identity.key.as_ref(), deadline)? {
                DialOutcome::Linked(stream, _) => links[peer] = Some(stream),
                DialOutcome::RetryLater(reason) => tracing::debug!(peer, reason, "not linked yet"),
            }
        }
        Ok(())
    }

    /// Returns the error for a rank that did not come in time. If this rank refused that rank, the error gives the
    /// reason.
    fn timeout_error(&self, rank: usize) -> CollectiveError {
        match self.listener.acceptor.refusal_of(rank) {
            Some(reason) => CollectiveError::Mismatch { rank, reason },
            None => {
                let millis = u64::try_from(self.form_timeout.as_millis()).unwrap_or(u64::MAX);
                CollectiveError::Timeout { rank, millis }
            }
        }
    }
}
