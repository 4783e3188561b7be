//! The addresses that a rank learns from its two neighbours, and passes on to them.

use crate::ring::greeting::{AddressNotice, Greeting, GreetingMatch};
use crate::ring::identity::Identity;

/// The head's control address as rank 0 knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlAddress {
    /// `host:port`.
    Full(String),
    /// Port only. The host is the one by which rank 0's left neighbour dials rank 0.
    Port(u16),
}

/// Addresses that [`discover`](crate::ring::discover) found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovered {
    /// Control address of the head, `host:port`.
    pub control: String,
    /// Address by which the left neighbour dialled this rank, `host:port`.
    pub own: String,
}

/// Addresses known so far. The listener answers the left neighbour with these addresses, also after `discover` has
/// returned. An empty address is unknown.
#[derive(Debug)]
pub(crate) struct NeighbourAddresses {
    pub(crate) identity: Identity,
    /// Rank of the last refused caller, and the reason.
    pub(crate) refusal: Option<(usize, String)>,
    /// Control address from the configuration of rank 0. `None` on every other rank.
    pub(crate) configured_control: Option<ControlAddress>,
    pub(crate) own: String,
    /// The left neighbour's own address, as the left neighbour reported it.
    left: String,
    control: String,
    generation: u64,
}

impl NeighbourAddresses {
    pub(crate) fn new(identity: Identity) -> Self {
        let (own, left, control) = Default::default();
        Self { identity, refusal: None, configured_control: None, own, left, control, generation: 0 }
    }

    /// Returns the right neighbour's rank.
    pub(crate) fn right_rank(&self) -> usize {
        (self.identity.group.rank() + 1) % self.identity.group.world_size()
    }

    /// Returns the left neighbour's rank.
    pub(crate) fn left_rank(&self) -> usize {
        let group = self.identity.group;
        (group.rank() + group.world_size() - 1) % group.world_size()
    }

    /// Returns the notice with which this rank answers its left neighbour.
    pub(crate) fn notice_to_left(&self) -> AddressNotice {
        AddressNotice {
            dialled: self.own.clone(),
            dialer: self.left.clone(),
            control: self.control.clone(),
            generation: self.generation,
        }
    }

    /// Returns the notice for the right neighbour, which this rank dials at `dialled`.
    pub(crate) fn notice_to_right(&self, dialled: &str) -> AddressNotice {
        let (control, generation) = (self.control.clone(), self.generation);
        AddressNotice { dialled: dialled.to_owned(), dialer: self.own.clone(), control, generation }
    }

    /// Checks that a caller is this rank's left neighbour. The error for a wrong order names both ranks.
    pub(crate) fn match_left(&self, ours: &Greeting, theirs: &Greeting) -> GreetingMatch {
        let group = self.identity.group;
        let left = self.left_rank();
        if theirs.world_size == group.world_size() && theirs.from != left {
            let (rank, from) = (group.rank(), theirs.from);
            return GreetingMatch::Mismatch(format!(
                "rank {from} calls rank {rank} as its right neighbour, but only rank {left} may"
            ));
        }
        ours.match_peer(theirs)
    }

    /// Takes over the addresses that the left neighbour sent.
    pub(crate) fn learn_from_left(&mut self, notice: &AddressNotice) {
        self.own.clone_from(&notice.dialled);
        if !notice.dialer.is_empty() {
            self.left.clone_from(&notice.dialer);
        }
        self.learn_control(notice);
    }

    /// Takes over the addresses in the right neighbour's answer. The right neighbour's record of this rank's own
    /// address counts only until the left neighbour has dialled this rank.
    pub(crate) fn learn_from_right(&mut self, notice: &AddressNotice) {
        if self.own.is_empty() {
            self.own.clone_from(&notice.dialer);
        }
        self.learn_control(notice);
    }

    /// Takes over a newer control address. Rank 0 keeps its own control address, and gives it a generation above that
    /// of every other address.
    pub(crate) fn learn_control(&mut self, notice: &AddressNotice) {
        match &self.configured_control {
            None if notice.generation > self.generation => {
                self.control.clone_from(&notice.control);
                self.generation = notice.generation;
            }
            None => {}
            Some(configured) => {
                let control = match configured {
                    ControlAddress::Full(address) => address.clone(),
                    ControlAddress::Port(port) => match self.own.rsplit_once(':') {
                        Some((host, _)) => format!("{host}:{port}"),
                        None => String::new(),
                    },
                };
                let received_is_newer = notice.generation >= self.generation && notice.control != control;
                if received_is_newer {
                    self.generation = notice.generation;
                }
                if !control.is_empty() && (received_is_newer || self.control != control) {
                    self.generation = self.generation.saturating_add(1);
                    self.control = control;
                }
            }
        }
    }

    /// Returns both addresses once they are known.
    pub(crate) fn discovered(&self) -> Option<Discovered> {
        let known = !self.control.is_empty() && !self.own.is_empty();
        known.then(|| Discovered { control: self.control.clone(), own: self.own.clone() })
    }
}
