//! Learning the group from the right neighbour, where `RING_*` is all that a rank was told.
//!
//! Every rank calls its right neighbour until it knows what it needs; each call tells the callee its own address (the
//! one that was dialled) and the caller the head's control address, as far as known. So rank N-1 learns it from rank 0,
//! N-2 from N-1, and so on round the ring. A right neighbour also keeps its left one's address on record, so a rank
//! that starts anew learns everything from one call. A control address carries a generation, and a restarted head takes
//! one above what it hears: the newer always wins.

use std::time::{Duration, Instant};

use crate::abort::{AbortSwitch, sleep_on};
use crate::communicator::{CollectiveError, Group};
use crate::ring::desk::Identity;
use crate::ring::dial::{self, Call, Patience};
use crate::ring::greeting::{Fit, Greeting, LONGEST_TEXT, Purpose, Rumour};
use crate::ring::listener::HANDSHAKE_TIMEOUT;
use crate::ring::{GroupKey, LONGEST_PAUSE, Listener, SHORTEST_PAUSE};

/// What a rank knows from its environment.
#[derive(Debug, Clone)]
pub struct DiscoverConfig {
    /// Two ranks at least.
    pub group: Group,
    pub cluster_id: String,
    pub key: Option<GroupKey>,
    /// `host:port` of the right neighbour, rank + 1.
    pub right: String,
    /// Where the head takes control streams: known to rank 0 and to no other.
    pub control: Option<ControlAddress>,
    pub timeout: Duration,
}

/// The head's control address as rank 0 knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlAddress {
    /// `host:port`.
    Full(String),
    /// The host is the one by which rank 0's left neighbour dials it.
    Port(u16),
}

/// What the ring told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovered {
    /// Control address of the head, `host:port`.
    pub control: String,
    /// Address by which the left neighbour dialled this rank, `host:port`.
    pub own: String,
}

/// What a listener answers its left neighbour with, and keeps answering after [`discover`] returned.
#[derive(Debug)]
pub(crate) struct Neighbourhood {
    pub(crate) identity: Identity,
    /// What the last caller that was sent away did wrong.
    pub(crate) refusal: Option<(usize, String)>,
    head: Option<ControlAddress>,
    own: String,
    /// The left neighbour's own address, as it told.
    left: String,
    control: String,
    generation: u64,
}

impl Neighbourhood {
    fn right(&self) -> usize {
        (self.identity.group.rank() + 1) % self.identity.group.world_size()
    }

    /// What the left neighbour is answered.
    pub(crate) fn to_left(&self) -> Rumour {
        Rumour {
            dialled: self.own.clone(),
            dialer: self.left.clone(),
            control: self.control.clone(),
            generation: self.generation,
        }
    }

    fn to_right(&self, dialled: &str) -> Rumour {
        let (control, generation) = (self.control.clone(), self.generation);
        Rumour { dialled: dialled.to_owned(), dialer: self.own.clone(), control, generation }
    }

    /// Whether a caller is this rank's left neighbour. What is wrong with the order names both ranks.
    pub(crate) fn fit_left(&self, ours: &Greeting, theirs: &Greeting) -> Fit {
        let group = self.identity.group;
        let left = (group.rank() + group.world_size() - 1) % group.world_size();
        if theirs.world_size == group.world_size() && theirs.from != left {
            let (rank, from) = (group.rank(), theirs.from);
            return Fit::Wrong(format!(
                "rank {from} calls rank {rank} its right neighbour, which is that of rank {left}"
            ));
        }
        ours.fit(theirs)
    }

    /// Takes in what the left neighbour said.
    pub(crate) fn hear_left(&mut self, rumour: &Rumour) {
        self.own.clone_from(&rumour.dialled);
        if !rumour.dialer.is_empty() {
            self.left.clone_from(&rumour.dialer);
        }
        self.hear_control(rumour);
    }

    /// Takes in what the right neighbour answered: this rank's own address is news only where nobody dialled it.
    fn hear_right(&mut self, rumour: &Rumour) {
        if self.own.is_empty() {
            self.own.clone_from(&rumour.dialer);
        }
        self.hear_control(rumour);
    }

    fn hear_control(&mut self, rumour: &Rumour) {
        match &self.head {
            None if rumour.generation > self.generation => {
                self.control.clone_from(&rumour.control);
                self.generation = rumour.generation;
            }
            None => {}
            Some(head) => {
                let control = match head {
                    ControlAddress::Full(address) => address.clone(),
                    ControlAddress::Port(port) => match self.own.rsplit_once(':') {
                        Some((host, _)) => format!("{host}:{port}"),
                        None => String::new(),
                    },
                };
                let heard_of_another = rumour.generation >= self.generation && rumour.control != control;
                if heard_of_another {
                    self.generation = rumour.generation;
                }
                if !control.is_empty() && (heard_of_another || self.control != control) {
                    self.generation = self.generation.saturating_add(1);
                    self.control = control;
                }
            }
        }
    }

    fn found(&self) -> Option<Discovered> {
        let known = !self.control.is_empty() && !self.own.is_empty();
        known.then(|| Discovered { control: self.control.clone(), own: self.own.clone() })
    }
}

/// Learns the head's control address and this rank's own, and checks the order and the size of the ring.
///
/// The listener goes on answering the left neighbour afterwards, restarted ones included. May be called again, after
/// the head was lost: it then returns what the right neighbour knows by now, which may still be the old address for a
/// moment.
///
/// # Errors
/// `Mismatch` naming both ranks, sizes or addresses that contradict; `Timeout`, `Aborted`, `Usage`.
pub fn discover(
    listener: &Listener,
    config: DiscoverConfig,
    abort: &AbortSwitch,
) -> Result<Discovered, CollectiveError> {
    config.check()?;
    let DiscoverConfig { group, cluster_id, key, right, control, timeout } = config;
    let identity = Identity { group, epoch: 0, cluster_id, key };
    {
        let mut state = listener.desk.state();
        let mut known = state.neighbourhood.take().unwrap_or_else(|| Neighbourhood::new(identity.clone()));
        (known.identity, known.head, known.refusal) = (identity, control, None);
        known.hear_control(&Rumour::default());
        state.neighbourhood = Some(known);
    }
    let asking = Asking { listener, right, until: Instant::now() + timeout, timeout, abort };
    let found = asking.ask()?;
    one_side_of_loopback(&found, &asking.right, (group.rank() + 1) % group.world_size())?;
    Ok(found)
}

impl Neighbourhood {
    fn new(identity: Identity) -> Self {
        let (own, left, control) = Default::default();
        Self { identity, refusal: None, head: None, own, left, control, generation: 0 }
    }
}

impl DiscoverConfig {
    fn check(&self) -> Result<(), CollectiveError> {
        let usage = |message: String| Err(CollectiveError::Usage(message));
        if self.group.world_size() < 2 {
            return usage("a ring has at least two ranks".into());
        }
        if self.control.is_some() != (self.group.rank() == 0) {
            return usage("rank 0, and no other, is told the control address".into());
        }
        if self.cluster_id.len().max(self.right.len()) > LONGEST_TEXT {
            return usage(format!("the cluster id or the right neighbour is longer than {LONGEST_TEXT} bytes"));
        }
        Ok(())
    }
}

struct Asking<'a> {
    listener: &'a Listener,
    right: String,
    until: Instant,
    timeout: Duration,
    abort: &'a AbortSwitch,
}

impl Asking<'_> {
    /// Calls the right neighbour until everything is known, and it knows this rank's address.
    fn ask(&self) -> Result<Discovered, CollectiveError> {
        let desk = &self.listener.desk;
        let mut pause = SHORTEST_PAUSE;
        loop {
            self.abort.check()?;
            desk.silence();
            let told = self.call_right()?;
            if let Some(found) = desk.state().neighbourhood.as_ref().and_then(Neighbourhood::found)
                && told
            {
                return Ok(found);
            }
            let left = self.until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.overdue());
            }
            let mut fds = [self.abort.poll_fd(), desk.poll_fd()];
            sleep_on(&mut fds, pause.min(left)).map_err(|error| CollectiveError::Unavailable {
                backend: "ring",
                reason: format!("wait for the neighbours: {error}"),
            })?;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// One call; true when the neighbour now knows this rank's address.
    fn call_right(&self) -> Result<bool, CollectiveError> {
        let desk = &self.listener.desk;
        let (ours, key) = {
            let state = desk.state();
            let Some(known) = &state.neighbourhood else { return Ok(false) };
            let mut ours = known.identity.greeting(Purpose::Bootstrap, known.right());
            ours.rumour = known.to_right(&self.right);
            (ours, known.identity.key.clone())
        };
        let until = self.until.min(Instant::now() + HANDSHAKE_TIMEOUT);
        match dial::call(&self.right, &ours, key.as_ref(), Patience { until, abort: self.abort })? {
            Call::Later(reason) => {
                tracing::debug!(right = self.right, reason, "the right neighbour is not there yet");
                Ok(false)
            }
            Call::Linked(_, theirs) => {
                if let Some(known) = &mut desk.state().neighbourhood {
                    known.hear_right(&theirs.rumour);
                }
                Ok(!ours.rumour.dialer.is_empty() || !theirs.rumour.dialer.is_empty())
            }
        }
    }

    /// Blames the neighbour that was refused, else the one that was never heard.
    fn overdue(&self) -> CollectiveError {
        let state = self.listener.desk.state();
        let Some(known) = &state.neighbourhood else { return CollectiveError::Usage("no neighbourhood".into()) };
        if let Some((rank, reason)) = known.refusal.clone() {
            return CollectiveError::Mismatch { rank, reason };
        }
        let group = known.identity.group;
        let left = (group.rank() + group.world_size() - 1) % group.world_size();
        let rank = if known.own.is_empty() { left } else { known.right() };
        CollectiveError::Timeout { rank, millis: u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX) }
    }
}

/// Either all addresses are this host's own or none: a mix works for some ranks and not for others.
fn one_side_of_loopback(found: &Discovered, right: &str, right_rank: usize) -> Result<(), CollectiveError> {
    let loopback = |address: &str| {
        let addresses = dial::resolve(address).unwrap_or_default();
        addresses.first().map(|address| address.ip().is_loopback())
    };
    let Some(own) = loopback(&found.own) else { return Ok(()) };
    for (rank, what, address) in [(right_rank, "its address", right), (0, "the control address", &found.control)] {
        if loopback(address).is_some_and(|other| other != own) {
            let reason = format!(
                "this rank is dialled at {}, but {what} is {address}: use loopback for every rank or for none",
                found.own
            );
            return Err(CollectiveError::Mismatch { rank, reason });
        }
    }
    Ok(())
}
