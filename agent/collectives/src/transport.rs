//! The transport between ranks: an ordered, reliable byte stream in each direction to every peer. No call but `wait`
//! blocks.
//!
//! The algorithms use nothing else, so they are the same over TCP and in memory.

use std::io;
use std::time::Duration;

use crate::abort::AbortSwitch;

/// Events for which an operation waits on one link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Interest {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
}

/// Byte streams between this rank and every other rank, indexed by the peer's rank.
pub(crate) trait Transport: Send {
    /// Returns the name of the backend, for errors.
    fn name(&self) -> &'static str;

    /// Sends as many bytes of `head` and then `body` as fit now. Returns 0 if none do.
    fn try_send(&mut self, peer: usize, head: &[u8], body: &[u8]) -> io::Result<usize>;

    /// Fills `head` and then `body` with the bytes that have arrived. Returns 0 if none have. The end of the stream is
    /// an error.
    fn try_recv(&mut self, peer: usize, head: &mut [u8], body: &mut [u8]) -> io::Result<usize>;

    /// Sleeps until a link of interest is ready, the switch is thrown, or the timeout passes. `interest` has one entry
    /// per rank.
    fn wait(&mut self, interest: &[Interest], abort: &AbortSwitch, timeout: Duration) -> io::Result<()>;

    /// Closes every link, so that the peers learn at once that this rank has failed.
    fn close(&mut self);
}
