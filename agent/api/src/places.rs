//! Places of a listener's connections: how many there may be, and which one goes when another comes.
//!
//! A connection is idle while it has no request. Whoever opens many idle connections, slow or silent ones, only pushes out
//! their own: a full listener ends the connection that has been idle for the longest time, of the address that has the most
//! connections. If no connection is idle, a few places in reserve are left for probes.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Most connections of a listener.
const MAX_CONNECTIONS: usize = 4096;
/// Fewest places that a listener has, however few files the process may open.
const MIN_CONNECTIONS: usize = 64;
/// Files that the process needs beside its connections.
const OTHER_FILES: u64 = 256;
/// Listeners among which the files are divided: HTTP, gRPC, control and the ring.
const LISTENERS: u64 = 4;
/// Pause after a failed accept. If the process has no free file descriptor, the next accept would fail at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Numbers of places.
#[derive(Debug, Clone, Copy)]
pub struct PlaceLimits {
    /// Most connections in sum, without the reserve.
    pub sum: usize,
    /// Most connections of one address.
    pub of_address: usize,
    /// Places for probes beside the others.
    pub reserve: usize,
}

impl PlaceLimits {
    /// Returns the limits for the clients of a port: as many as there are files for, and half of them for one address.
    /// Behind a load balancer, all clients may have the same address.
    pub fn of_clients() -> Self {
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let share = files.map_or(u64::MAX, |files| files.saturating_sub(OTHER_FILES) / LISTENERS);
        let sum = usize::try_from(share).unwrap_or(usize::MAX).clamp(MIN_CONNECTIONS, MAX_CONNECTIONS);
        Self { sum, of_address: sum / 2, reserve: MIN_CONNECTIONS }
    }
}

/// Lets the process open as many files as the system allows it. Each connection is one.
pub fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::debug!(%error, "raise the limit of open files");
    }
}

/// Places of one listener. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Places {
    limits: PlaceLimits,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    places: BTreeMap<u64, Occupant>,
    of_address: HashMap<IpAddr, usize>,
    in_reserve: usize,
}

#[derive(Debug)]
struct Occupant {
    address: IpAddr,
    is_reserve: bool,
    /// Requests that the connection has now.
    busy: usize,
    /// Set once the connection has had a request.
    has_begun: bool,
    idle_since: Instant,
    end: CancellationToken,
}

/// Place of one connection, until this is dropped.
#[derive(Debug)]
pub struct Place {
    places: Places,
    id: u64,
    is_reserve: bool,
    end: CancellationToken,
}

/// A request of a connection, until this is dropped.
#[derive(Debug)]
pub struct Busy {
    places: Places,
    id: u64,
}

impl Places {
    pub fn new(limits: PlaceLimits) -> Self {
        Self { limits, taken: Arc::default() }
    }

    /// Finds a place for a connection from an address, if need be by the end of an idle one. Returns `None` if there is no
    /// place.
    fn enter(&self, address: IpAddr) -> Option<Place> {
        let mut taken = self.lock();
        let own = taken.of_address.get(&address).copied().unwrap_or_default();
        let is_full = taken.places.len() - taken.in_reserve >= self.limits.sum;
        let has_room = if own >= self.limits.of_address {
            taken.end_idle(|occupant| !occupant.is_reserve && occupant.address == address)
        } else {
            !is_full || {
                let most = taken.of_address.iter().max_by_key(|(_, count)| **count).map(|(address, _)| *address);
                taken.end_idle(|occupant| !occupant.is_reserve && Some(occupant.address) == most)
                    || taken.end_idle(|occupant| !occupant.is_reserve)
            }
        };
        let is_reserve = !has_room;
        if is_reserve && taken.in_reserve >= self.limits.reserve && !taken.end_idle(|occupant| occupant.is_reserve) {
            return None;
        }
        let (id, end) = (taken.next, CancellationToken::new());
        taken.next += 1;
        let idle_since = Instant::now();
        let occupant = Occupant { address, is_reserve, busy: 0, has_begun: false, idle_since, end: end.clone() };
        taken.places.insert(id, occupant);
        *taken.of_address.entry(address).or_default() += 1;
        taken.in_reserve += usize::from(is_reserve);
        Some(Place { places: self.clone(), id, is_reserve, end })
    }

    /// Accepts the next connection and finds a place for it. Returns `None` if there is no connection or no place.
    /// Cancel safe.
    pub async fn accept(&self, listener: &TcpListener) -> Option<(TcpStream, SocketAddr, Place)> {
        match listener.accept().await {
            Ok((stream, remote)) => self.enter(remote.ip()).map(|place| (stream, remote, place)),
            Err(error) => {
                tracing::warn!(%error, "accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                None
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// Ends the connection that has been idle for the longest time, of those that `may_end` selects. Returns false if there
    /// is none.
    fn end_idle(&mut self, may_end: impl Fn(&Occupant) -> bool) -> bool {
        let idle = self.places.iter().filter(|(_, occupant)| occupant.busy == 0 && may_end(occupant));
        let longest = idle.min_by_key(|(_, occupant)| occupant.idle_since).map(|(id, _)| *id);
        let Some(occupant) = longest.and_then(|id| self.remove(id)) else { return false };
        tracing::debug!(address = %occupant.address, "ended an idle connection to make room");
        occupant.end.cancel();
        true
    }

    fn remove(&mut self, id: u64) -> Option<Occupant> {
        let occupant = self.places.remove(&id)?;
        self.in_reserve -= usize::from(occupant.is_reserve);
        if let Some(count) = self.of_address.get_mut(&occupant.address) {
            *count -= 1;
            if *count == 0 {
                self.of_address.remove(&occupant.address);
            }
        }
        Some(occupant)
    }
}

impl Place {
    /// Notes that a request begins.
    pub fn begin(&self) -> Busy {
        if let Some(occupant) = self.places.lock().places.get_mut(&self.id) {
            occupant.busy += 1;
            occupant.has_begun = true;
        }
        Busy { places: self.places.clone(), id: self.id }
    }

    /// Returns true if the connection has had a request.
    pub fn has_begun(&self) -> bool {
        self.places.lock().places.get(&self.id).is_some_and(|occupant| occupant.has_begun)
    }

    /// Returns true if the place is one for probes.
    pub(crate) fn is_reserve(&self) -> bool {
        self.is_reserve
    }

    /// Returns a token that is cancelled when the connection must end.
    pub fn end(&self) -> &CancellationToken {
        &self.end
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().remove(self.id);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(occupant) = self.places.lock().places.get_mut(&self.id) {
            occupant.busy -= 1;
            occupant.idle_since = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    fn ended(places: &[Place]) -> Vec<usize> {
        (0..places.len()).filter(|at| places[*at].end().is_cancelled()).collect()
    }

    #[test]
    fn the_longest_idle_connection_of_a_crowd_goes_first() {
        let places = Places::new(PlaceLimits { sum: 6, of_address: 4, reserve: 2 });
        let crowd: Vec<Place> = (0..4).map(|_| places.enter(address(1)).unwrap()).collect();
        let others: Vec<Place> = (2..4).map(|last| places.enter(address(last)).unwrap()).collect();
        let busy = crowd[0].begin();
        // A crowd that grows pushes out its own.
        let fifth = places.enter(address(1)).unwrap();
        assert_eq!((ended(&crowd), ended(&others)), (vec![1], vec![]));
        // And it makes room for others.
        let newcomer = places.enter(address(9)).unwrap();
        assert_eq!((ended(&crowd), ended(&others)), (vec![1, 2], vec![]));
        drop(busy);
        let next = places.enter(address(8)).unwrap();
        assert_eq!(ended(&crowd), [1, 2, 3], "a connection that was busy has been idle for less time");
        assert!(![&fifth, &newcomer, &next].iter().any(|place| place.is_reserve()));
    }

    #[test]
    fn probes_have_a_reserve_when_all_connections_are_busy() {
        let places = Places::new(PlaceLimits { sum: 2, of_address: 2, reserve: 2 });
        let clients = [places.enter(address(1)).unwrap(), places.enter(address(1)).unwrap()];
        let _busy = clients.each_ref().map(Place::begin);
        let probes: Vec<Place> = (1..6).map(|last| places.enter(address(last)).unwrap()).collect();
        assert!(probes.iter().all(Place::is_reserve));
        assert_eq!(ended(&probes), [0, 1, 2], "the reserve has two places");
        let _busy_probes = [probes[3].begin(), probes[4].begin()];
        assert!(places.enter(address(7)).is_none());
        drop(clients);
        assert!(!places.enter(address(7)).unwrap().is_reserve());
    }

    #[test]
    fn places_are_given_back() {
        let places = Places::new(PlaceLimits { sum: 1, of_address: 1, reserve: 0 });
        for _ in 0..3 {
            let place = places.enter(address(1)).unwrap();
            assert!(!place.has_begun());
            drop(place.begin());
            assert!(place.has_begun());
            drop(place);
        }
        let taken = places.lock();
        assert!(taken.places.is_empty() && taken.of_address.is_empty() && taken.in_reserve == 0);
    }
}
