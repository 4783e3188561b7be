//! The state that the listener's thread shares with the rank that forms a group or discovers its neighbours.
//!
//! The listener's thread asks the acceptor how to reply to a greeting. It gives the acceptor the links whose callers
//! have proved that they know the key. The rank takes the links from the acceptor. Neither thread holds the lock while
//! it sleeps.

use std::io::Write;
use std::net::TcpStream;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags};

use crate::abort::Wakeup;
use crate::error::CollectiveError;
use crate::ring::greeting::{Greeting, GreetingMatch, Purpose, Verdict};
use crate::ring::identity::Identity;
use crate::ring::key::LinkKey;
use crate::ring::neighbours::NeighbourAddresses;

#[derive(Debug)]
pub(crate) struct Acceptor {
    state: Mutex<AcceptorState>,
    /// Wakes the rank when a link or an address has arrived.
    wakeup: Wakeup,
}

#[derive(Debug, Default)]
pub(crate) struct AcceptorState {
    /// Last formation, open or closed. The acceptor refuses callers of older epochs.
    formation: Option<Formation>,
    pub(crate) neighbours: Option<NeighbourAddresses>,
}

/// Forming of one epoch's group.
#[derive(Debug)]
struct Formation {
    identity: Identity,
    open: bool,
    /// Links that have arrived, by rank.
    arrived: Vec<Option<TcpStream>>,
    /// Reason of the last refusal of a caller that claimed a rank, by that rank.
    refusals: Vec<Option<String>>,
}

/// Reply to a greeting.
pub(crate) struct GreetingReply {
    pub(crate) verdict: Verdict,
    pub(crate) greeting: Greeting,
    pub(crate) key: Option<LinkKey>,
}

impl Acceptor {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self { state: Mutex::default(), wakeup: Wakeup::new()? })
    }

    /// Locks the state. The state is consistent between statements, so a poisoned lock is ignored.
    pub(crate) fn lock_state(&self) -> MutexGuard<'_, AcceptorState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a descriptor that is ready if a link or an address has arrived since [`Acceptor::clear_wakeup`].
    pub(crate) fn poll_fd(&self) -> PollFd<'_> {
        PollFd::from_borrowed_fd(self.wakeup.fd(), PollFlags::IN)
    }

    pub(crate) fn clear_wakeup(&self) {
        self.wakeup.clear();
    }

    /// Begins to admit the ranks of an epoch; `Usage` while another formation is open.
    pub(crate) fn open_formation(&self, identity: Identity) -> Result<(), CollectiveError> {
        let mut state = self.lock_state();
        if state.formation.as_ref().is_some_and(|formation| formation.open) {
            return Err(CollectiveError::Usage("this listener is forming a group already".into()));
        }
        let ranks = identity.group.world_size();
        let arrived = (0..ranks).map(|_| None).collect();
        state.formation = Some(Formation { identity, open: true, arrived, refusals: vec![None; ranks] });
        Ok(())
    }

    /// Stops admitting ranks, and closes the links that the rank has not taken.
    pub(crate) fn close_formation(&self) {
        if let Some(formation) = &mut self.lock_state().formation {
            formation.open = false;
            formation.arrived.clear();
        }
    }

    /// Moves the links that have arrived into `links`. A newer link replaces an older one.
    pub(crate) fn take_arrived(&self, links: &mut [Option<TcpStream>]) {
        if let Some(formation) = &mut self.lock_state().formation {
            for (link, arrived) in links.iter_mut().zip(&mut formation.arrived) {
                if let Some(newer) = arrived.take() {
                    *link = Some(newer);
                }
            }
        }
    }

    /// Returns the reason of the last refusal of a caller that claimed `rank`.
    pub(crate) fn refusal_of(&self, rank: usize) -> Option<String> {
        let state = self.lock_state();
        state.formation.as_ref()?.refusals.get(rank)?.clone()
    }

    /// Logs the refusal of a caller, and records its reason for the rank's error.
    pub(crate) fn record_refusal(&self, theirs: &Greeting, reason: &str) {
        tracing::warn!(rank = theirs.from, purpose = ?theirs.purpose, reason, "refused a ring connection");
        let mut state = self.lock_state();
        match theirs.purpose {
            Purpose::Data => {
                if let Some(refusal) = state.formation.as_mut().and_then(|f| f.refusals.get_mut(theirs.from)) {
                    *refusal = Some(reason.to_owned());
                }
            }
            Purpose::Bootstrap => {
                if let Some(neighbours) = &mut state.neighbours {
                    neighbours.refusal = Some((theirs.from, reason.to_owned()));
                }
            }
        }
    }

    /// Returns this rank's reply to `theirs`, and the reason if the reply is a refusal.
    pub(crate) fn reply_to(&self, theirs: &Greeting) -> (GreetingReply, Option<String>) {
        let state = self.lock_state();
        let (identity, ready) = match theirs.purpose {
            Purpose::Data => match &state.formation {
                Some(formation) => (&formation.identity, formation.open),
                None => return (Self::reply_without_identity(theirs), None),
            },
            Purpose::Bootstrap => match &state.neighbours {
                Some(neighbours) => (&neighbours.identity, true),
                None => return (Self::reply_without_identity(theirs), None),
            },
        };
        let mut greeting = identity.greeting(theirs.purpose, theirs.from);
        let key = identity.key.clone();
        if let (Purpose::Bootstrap, Some(neighbours)) = (theirs.purpose, &state.neighbours) {
            greeting.notice = neighbours.notice_to_left();
        }
        let matched = match (theirs.purpose, &state.neighbours) {
            (Purpose::Bootstrap, Some(neighbours)) => neighbours.match_left(&greeting, theirs),
            _ if theirs.from <= identity.group.rank() => {
                GreetingMatch::Mismatch(format!("rank {} must wait for the call of a higher rank", theirs.from))
            }
            _ => greeting.match_peer(theirs),
        };
        let (verdict, reason) = match matched {
            GreetingMatch::Matches if ready => (Verdict::Welcome, None),
            GreetingMatch::Matches | GreetingMatch::NotYet(_) => (Verdict::NotYet, None),
            GreetingMatch::Mismatch(reason) => (Verdict::Refused, Some(reason)),
        };
        (GreetingReply { verdict, greeting, key }, reason)
    }

    /// Returns the reply of a listener that does not know its group yet.
    fn reply_without_identity(theirs: &Greeting) -> GreetingReply {
        let mut greeting = theirs.clone();
        (greeting.from, greeting.to) = (theirs.to, theirs.from);
        GreetingReply { verdict: Verdict::NotYet, greeting, key: None }
    }

    /// Sends `accepted` to a caller that has proved that it knows the key, and admits the caller. Returns false if the
    /// caller is too late or has hung up.
    pub(crate) fn admit(&self, theirs: &Greeting, mut stream: TcpStream, accepted: &[u8]) -> bool {
        let mut state = self.lock_state();
        let admitted = match theirs.purpose {
            Purpose::Data => {
                let open = |f: &&mut Formation| f.open && f.identity.epoch == theirs.epoch;
                match state.formation.as_mut().filter(open).and_then(|f| f.arrived.get_mut(theirs.from)) {
                    Some(link) if matches!(stream.write(accepted), Ok(n) if n == accepted.len()) => {
                        *link = Some(stream);
                        true
                    }
                    _ => false,
                }
            }
            Purpose::Bootstrap => match &mut state.neighbours {
                Some(neighbours) => {
                    neighbours.learn_from_left(&theirs.notice);
                    matches!(stream.write(accepted), Ok(n) if n == accepted.len())
                }
                None => false,
            },
        };
        drop(state);
        if admitted {
            self.wakeup.signal();
        }
        admitted
    }
}
