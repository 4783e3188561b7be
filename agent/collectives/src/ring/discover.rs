//! Discovery of the head's control address through the right neighbour, for ranks that know only `RING_*`.
//!
//! Every rank calls its right neighbour until the rank knows two addresses: the head's control address and its own. In
//! each call, the caller reports its own address, by which its left neighbour has dialled it. The callee answers with
//! the head's control address, if the callee knows that already. So rank N-1 learns the control address from rank 0,
//! rank N-2 from rank N-1, and so on. A right neighbour also records its left neighbour's address. So a restarted rank
//! learns everything from one call.
//!
//! A control address has a generation. A restarted head takes a generation above the one that it receives, and ranks
//! keep the address with the higher generation.

use std::time::{Duration, Instant};

use crate::abort::{AbortSwitch, sleep_on};
use crate::error::CollectiveError;
use crate::rank_group::RankGroup;
use crate::ring::dial::{self, Deadline, DialOutcome};
use crate::ring::greeting::{AddressNotice, MAX_TEXT_BYTES, Purpose};
use crate::ring::handshake::{FIRST_PAUSE, HANDSHAKE_TIMEOUT, LONGEST_PAUSE};
use crate::ring::identity::Identity;
use crate::ring::key::LinkKey;
use crate::ring::listener::Listener;
use crate::ring::neighbours::{ControlAddress, Discovered, NeighbourAddresses};

/// Facts that a rank knows from its environment.
#[derive(Debug, Clone)]
pub struct DiscoverConfig {
    /// Place in a group of at least two ranks.
    pub group: RankGroup,
    pub cluster_id: String,
    pub key: Option<LinkKey>,
    /// `host:port` of the right neighbour, which is rank + 1.
    pub right: String,
    /// Control address of the head. Rank 0 gives it, and no other rank does.
    pub control: Option<ControlAddress>,
    pub timeout: Duration,
}

/// Learns the head's control address and this rank's own address, and checks the order and the size of the group.
///
/// The listener goes on answering the left neighbour afterwards, also after that neighbour restarts. A rank may call
/// `discover` again after it has lost the head. It then gets the address that its right neighbour knows by now, which
/// for a moment may still be the old one.
///
/// # Errors
/// `Mismatch`, with both values, if ranks, sizes or addresses contradict each other; `Timeout`, `Aborted`, `Usage`.
pub fn discover(
    listener: &Listener,
    config: DiscoverConfig,
    abort: &AbortSwitch,
) -> Result<Discovered, CollectiveError> {
    config.check()?;
    let DiscoverConfig { group, cluster_id, key, right, control, timeout } = config;
    let identity = Identity { group, epoch: 0, cluster_id, key };
    {
        let mut state = listener.acceptor.lock_state();
        let mut neighbours = state.neighbours.take().unwrap_or_else(|| NeighbourAddresses::new(identity.clone()));
        (neighbours.identity, neighbours.configured_control, neighbours.refusal) = (identity, control, None);
        // On rank 0, this computes the control address from the configuration. On other ranks it changes nothing.
        neighbours.learn_control(&AddressNotice::default());
        state.neighbours = Some(neighbours);
    }
    let discovery = Discovery { listener, right, deadline: Instant::now() + timeout, timeout, abort };
    let discovered = discovery.run()?;
    check_loopback(&discovered, &discovery.right, (group.rank() + 1) % group.world_size())?;
    Ok(discovered)
}

impl DiscoverConfig {
    fn check(&self) -> Result<(), CollectiveError> {
        let usage = |message: String| Err(CollectiveError::Usage(message));
        if self.group.world_size() < 2 {
            return usage("a ring has at least two ranks".into());
        }
        if self.control.is_some() != (self.group.rank() == 0) {
            return usage("rank 0 must give the control address, and no other rank may".into());
        }
        if self.cluster_id.len().max(self.right.len()) > MAX_TEXT_BYTES {
            return usage(format!("the cluster id or the right neighbour is longer than {MAX_TEXT_BYTES} bytes"));
        }
        Ok(())
    }
}

/// One run of [`discover`].
struct Discovery<'a> {
    listener: &'a Listener,
    right: String,
    deadline: Instant,
    timeout: Duration,
    abort: &'a AbortSwitch,
}

impl Discovery<'_> {
    /// Calls the right neighbour until this rank knows the control address and its own address, and the neighbour knows
    /// this rank's address.
    fn run(&self) -> Result<Discovered, CollectiveError> {
        let acceptor = &self.listener.acceptor;
        let mut pause = FIRST_PAUSE;
        loop {
            self.abort.check()?;
            acceptor.clear_wakeup();
            let right_knows_us = self.call_right()?;
            if let Some(discovered) = acceptor.lock_state().neighbours.as_ref().and_then(NeighbourAddresses::discovered)
                && right_knows_us
            {
                return Ok(discovered);
            }
            let remaining = self.deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                return Err(self.timeout_error());
            }
            let mut fds = [self.abort.poll_fd(), acceptor.poll_fd()];
            sleep_on(&mut fds, pause.min(remaining)).map_err(|error| CollectiveError::Unavailable {
                backend: "ring",
                reason: format!("wait for the neighbours: {error}"),
            })?;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Calls the right neighbour once. Returns true if the neighbour now knows this rank's address.
    fn call_right(&self) -> Result<bool, CollectiveError> {
        let acceptor = &self.listener.acceptor;
        let (ours, key) = {
            let state = acceptor.lock_state();
            let Some(neighbours) = &state.neighbours else { return Ok(false) };
            let mut ours = neighbours.identity.greeting(Purpose::Bootstrap, neighbours.right_rank());
            ours.notice = neighbours.notice_to_right(&self.right);
            (ours, neighbours.identity.key.clone())
        };
        let at = self.deadline.min(Instant::now() + HANDSHAKE_TIMEOUT);
        match dial::dial(&self.right, &ours, key.as_ref(), Deadline { at, abort: self.abort })? {
            DialOutcome::RetryLater(reason) => {
                tracing::debug!(right = self.right, reason, "the right neighbour is not there yet");
                Ok(false)
            }
            DialOutcome::Linked(_, theirs) => {
                if let Some(neighbours) = &mut acceptor.lock_state().neighbours {
                    neighbours.learn_from_right(&theirs.notice);
                }
                let we_reported = !ours.notice.dialer.is_empty();
                let right_already_knew = !theirs.notice.dialer.is_empty();
                Ok(we_reported || right_already_knew)
            }
        }
    }

    /// Returns the error for a passed deadline. It names the caller that this rank refused, or else the neighbour from
    /// which nothing arrived.
    fn timeout_error(&self) -> CollectiveError {
        let state = self.listener.acceptor.lock_state();
        let Some(neighbours) = &state.neighbours else {
            return CollectiveError::Usage("the neighbours are not known: call discover first".into());
        };
        if let Some((rank, reason)) = neighbours.refusal.clone() {
            return CollectiveError::Mismatch { rank, reason };
        }
        let rank = if neighbours.own.is_empty() { neighbours.left_rank() } else { neighbours.right_rank() };
        CollectiveError::Timeout { rank, millis: u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX) }
    }
}

/// Checks that this rank's own address, the right neighbour's and the control address are all loopback addresses, or
/// that none is. A mix works for some ranks and not for others.
fn check_loopback(discovered: &Discovered, right: &str, right_rank: usize) -> Result<(), CollectiveError> {
    let is_loopback = |address: &str| {
        let addresses = dial::resolve(address).unwrap_or_default();
        addresses.first().map(|address| address.ip().is_loopback())
    };
    let Some(own) = is_loopback(&discovered.own) else { return Ok(()) };
    for (rank, name, address) in [(right_rank, "its address", right), (0, "the control address", &discovered.control)] {
        if is_loopback(address).is_some_and(|loopback| loopback != own) {
            let reason = format!(
                "this rank is dialled at {}, but {name} is {address}: use loopback for every rank or for none",
                discovered.own
            );
            return Err(CollectiveError::Mismatch { rank, reason });
        }
    }
    Ok(())
}
