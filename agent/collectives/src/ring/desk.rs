//! What a listener's thread and the rank that forms or discovers share: who is awaited, who has come, what is known.
//!
//! The listener's thread asks the desk how to answer a greeting and hands it the links that proved themselves; the rank
//! takes them from here. Nothing is held while either sleeps.

use std::io::Write;
use std::net::TcpStream;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags};

use crate::abort::Wake;
use crate::communicator::{CollectiveError, Group};
use crate::ring::GroupKey;
use crate::ring::discover::Neighbourhood;
use crate::ring::greeting::{Fit, Greeting, Purpose, Verdict};

#[derive(Debug)]
pub(crate) struct Desk {
    state: Mutex<State>,
    bell: Wake,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    /// The last formation, open or done: whatever is older is stale.
    formation: Option<Formation>,
    pub(crate) neighbourhood: Option<Neighbourhood>,
}

/// One epoch's group as this rank sees it.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) group: Group,
    pub(crate) epoch: u64,
    pub(crate) cluster_id: String,
    pub(crate) key: Option<GroupKey>,
}

impl Identity {
    pub(crate) fn greeting(&self, purpose: Purpose, to: usize) -> Greeting {
        Greeting::new(purpose, self.group, to, self.epoch, &self.cluster_id, self.key.is_some())
    }
}

#[derive(Debug)]
struct Formation {
    identity: Identity,
    open: bool,
    arrived: Vec<Option<TcpStream>>,
    /// Why the last caller that claimed a rank was sent away.
    refusals: Vec<Option<String>>,
}

/// How to answer a greeting.
pub(crate) struct Answer {
    pub(crate) verdict: Verdict,
    pub(crate) words: Greeting,
    pub(crate) key: Option<GroupKey>,
}

impl Desk {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self { state: Mutex::default(), bell: Wake::new()? })
    }

    /// The state is whole between statements, so a poisoned lock is as good as any.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ready when someone came or something became known since [`Desk::silence`].
    pub(crate) fn poll_fd(&self) -> PollFd<'_> {
        PollFd::from_borrowed_fd(self.bell.fd(), PollFlags::IN)
    }

    pub(crate) fn silence(&self) {
        self.bell.clear();
    }

    pub(crate) fn ring(&self) {
        self.bell.signal();
    }

    /// Begins to admit ranks of an epoch; `Usage` while another formation is open.
    pub(crate) fn open(&self, identity: Identity) -> Result<(), CollectiveError> {
        let mut state = self.state();
        if state.formation.as_ref().is_some_and(|formation| formation.open) {
            return Err(CollectiveError::Usage("this listener is forming a group already".into()));
        }
        let ranks = identity.group.world_size();
        let arrived = (0..ranks).map(|_| None).collect();
        state.formation = Some(Formation { identity, open: true, arrived, refusals: vec![None; ranks] });
        Ok(())
    }

    /// Admits no more; links that nobody took are closed.
    pub(crate) fn close(&self) {
        if let Some(formation) = &mut self.state().formation {
            formation.open = false;
            formation.arrived.clear();
        }
    }

    /// Moves the links that have come to the places in `links` that are free.
    pub(crate) fn take_arrived(&self, links: &mut [Option<TcpStream>]) {
        if let Some(formation) = &mut self.state().formation {
            for (place, arrived) in links.iter_mut().zip(&mut formation.arrived) {
                if let Some(newer) = arrived.take() {
                    *place = Some(newer);
                }
            }
        }
    }

    /// Why the last caller in the name of `rank` was refused.
    pub(crate) fn refusal_of(&self, rank: usize) -> Option<String> {
        let state = self.state();
        state.formation.as_ref()?.refusals.get(rank)?.clone()
    }

    /// Notes why a caller was sent away.
    pub(crate) fn refuse(&self, theirs: &Greeting, reason: &str) {
        tracing::warn!(rank = theirs.from, purpose = ?theirs.purpose, reason, "refused a ring connection");
        let mut state = self.state();
        match theirs.purpose {
            Purpose::Data => {
                if let Some(place) = state.formation.as_mut().and_then(|f| f.refusals.get_mut(theirs.from)) {
                    *place = Some(reason.to_owned());
                }
            }
            Purpose::Bootstrap => {
                if let Some(neighbourhood) = &mut state.neighbourhood {
                    neighbourhood.refusal = Some((theirs.from, reason.to_owned()));
                }
            }
        }
    }

    /// How this rank answers `theirs`, and the reason where it is a refusal.
    pub(crate) fn answer(&self, theirs: &Greeting) -> (Answer, Option<String>) {
        let state = self.state();
        let (identity, ready) = match theirs.purpose {
            Purpose::Data => match &state.formation {
                Some(formation) => (&formation.identity, formation.open),
                None => return (Self::nobody(theirs), None),
            },
            Purpose::Bootstrap => match &state.neighbourhood {
                Some(neighbourhood) => (&neighbourhood.identity, true),
                None => return (Self::nobody(theirs), None),
            },
        };
        let mut words = identity.greeting(theirs.purpose, theirs.from);
        let key = identity.key.clone();
        if let (Purpose::Bootstrap, Some(neighbourhood)) = (theirs.purpose, &state.neighbourhood) {
            words.rumour = neighbourhood.to_left();
        }
        let fit = match (theirs.purpose, &state.neighbourhood) {
            (Purpose::Bootstrap, Some(neighbourhood)) => neighbourhood.fit_left(&words, theirs),
            _ if theirs.from <= identity.group.rank() => {
                Fit::Wrong(format!("rank {} awaits a call, it does not make one", theirs.from))
            }
            _ => words.fit(theirs),
        };
        let (verdict, reason) = match fit {
            Fit::Fits if ready => (Verdict::Welcome, None),
            Fit::Fits | Fit::NotYet(_) => (Verdict::NotYet, None),
            Fit::Wrong(reason) => (Verdict::Refused, Some(reason)),
        };
        (Answer { verdict, words, key }, reason)
    }

    /// The answer of a listener that nobody has told who it is.
    fn nobody(theirs: &Greeting) -> Answer {
        let mut words = theirs.clone();
        (words.from, words.to) = (theirs.to, theirs.from);
        Answer { verdict: Verdict::NotYet, words, key: None }
    }

    /// Takes in a caller that proved itself, after telling it so with `accepted`; false: too late, or it is gone.
    pub(crate) fn admit(&self, theirs: &Greeting, mut stream: TcpStream, accepted: &[u8]) -> bool {
        let mut state = self.state();
        let known = match theirs.purpose {
            Purpose::Data => {
                let open = |f: &&mut Formation| f.open && f.identity.epoch == theirs.epoch;
                match state.formation.as_mut().filter(open).and_then(|f| f.arrived.get_mut(theirs.from)) {
                    Some(place) if matches!(stream.write(accepted), Ok(n) if n == accepted.len()) => {
                        *place = Some(stream);
                        true
                    }
                    _ => false,
                }
            }
            Purpose::Bootstrap => match &mut state.neighbourhood {
                Some(neighbourhood) => {
                    neighbourhood.hear_left(&theirs.rumour);
                    matches!(stream.write(accepted), Ok(n) if n == accepted.len())
                }
                None => false,
            },
        };
        drop(state);
        if known {
            self.ring();
        }
        known
    }
}
