//! Order of work between streams (happens-before by vector clocks), and the last uses of each allocation. Memory that two
//! streams use, one of them to write, needs an event or the host between them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use lockstep_emulated_gpu::run::Use;

/// Number of a stream. The host itself has no number: it waits for streams.
pub(crate) type StreamId = u64;

/// For each stream, the number of its last piece of work that is known to have ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Clock(BTreeMap<StreamId, u64>);

impl Clock {
    pub(crate) const EMPTY: Self = Self(BTreeMap::new());

    /// Returns true if this clock knows all that `other` knows.
    pub(crate) fn includes(&self, other: &Self) -> bool {
        other.0.iter().all(|(stream, number)| self.knows(*stream, *number))
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (stream, number) in &other.0 {
            let own = self.0.entry(*stream).or_default();
            *own = (*own).max(*number);
        }
    }

    pub(crate) fn set(&mut self, stream: StreamId, number: u64) {
        self.0.insert(stream, number);
    }

    fn knows(&self, stream: StreamId, number: u64) -> bool {
        self.0.get(&stream).is_some_and(|known| *known >= number)
    }
}

/// A piece of work: its stream, its number there, and what has ended before it.
#[derive(Debug, Clone)]
pub(crate) struct Ticket {
    pub(crate) stream: StreamId,
    pub(crate) number: u64,
    pub(crate) before: Arc<Clock>,
}

impl Ticket {
    fn follows(&self, stream: StreamId, number: u64) -> bool {
        stream == self.stream || self.before.knows(stream, number)
    }
}

/// Last uses of an allocation.
#[derive(Debug, Default)]
struct Uses {
    write: Option<(StreamId, u64, String)>,
    reads: HashMap<StreamId, (u64, String)>,
}

/// The last uses of all allocations, by their addresses.
#[derive(Debug, Default)]
pub(crate) struct Order(Mutex<HashMap<u64, Uses>>);

impl Order {
    /// Notes that the work `what` uses the allocation at `start`.
    ///
    /// # Errors
    /// Names the work of another stream that may not have ended.
    pub(crate) fn note(&self, start: u64, used: Use, ticket: &Ticket, what: &str) -> Result<(), String> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let uses = all.entry(start).or_default();
        let fail = |does: &str, other: &str, did: &str, stream: StreamId| {
            format!(
                "{what} on stream {} {does} an allocation that {other} on stream {stream} {did}, and nothing orders them",
                ticket.stream
            )
        };
        let does = if used.writes { "writes" } else { "reads" };
        if let Some((stream, number, other)) = &uses.write
            && !ticket.follows(*stream, *number)
        {
            return Err(fail(does, other, "writes", *stream));
        }
        if used.writes {
            let missed = uses.reads.iter().find(|(stream, (number, _))| !ticket.follows(**stream, *number));
            if let Some((stream, (_, other))) = missed {
                return Err(fail(does, other, "reads", *stream));
            }
            uses.reads.clear();
            uses.write = Some((ticket.stream, ticket.number, what.to_owned()));
        }
        if used.reads {
            uses.reads.insert(ticket.stream, (ticket.number, what.to_owned()));
        }
        Ok(())
    }

    /// Forgets an allocation.
    pub(crate) fn forget(&self, start: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(stream: StreamId, number: u64, before: &[(StreamId, u64)]) -> Ticket {
        Ticket { stream, number, before: Arc::new(Clock(before.iter().copied().collect())) }
    }

    #[test]
    fn streams_need_an_order_only_if_one_writes() {
        let order = Order::default();
        order.note(1, Use::WRITES, &ticket(1, 1, &[]), "a").unwrap();
        order.note(1, Use::READS, &ticket(1, 2, &[]), "b").unwrap();
        let fault = order.note(1, Use::READS, &ticket(2, 1, &[]), "c").unwrap_err();
        assert_eq!(fault, "c on stream 2 reads an allocation that a on stream 1 writes, and nothing orders them");
        order.note(1, Use::READS, &ticket(2, 1, &[(1, 1)]), "c").unwrap();
        assert!(order.note(1, Use::WRITES, &ticket(1, 3, &[]), "d").is_err(), "stream 2 may still read");
        order.note(1, Use::WRITES, &ticket(1, 3, &[(2, 1)]), "d").unwrap();
        order.forget(1);
        order.note(1, Use::WRITES, &ticket(3, 1, &[]), "e").unwrap();
    }
}
