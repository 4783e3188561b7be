//! What carries the bytes between ranks: one ordered, reliable byte stream to and from every peer, none of it blocking.
//!
//! The algorithms above know nothing else, so they run alike over TCP and over memory.

use std::io;
use std::time::Duration;

use crate::abort::AbortSwitch;

/// What an operation waits for on one link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Interest {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
}

/// Byte streams between this rank and every other, indexed by the peer's rank.
pub(crate) trait Transport: Send {
    /// Name of the backend, as status shows it.
    fn name(&self) -> &'static str;

    /// Takes as much of `head` and then `body` as fits now; 0 when nothing does.
    fn try_send(&mut self, peer: usize, head: &[u8], body: &[u8]) -> io::Result<usize>;

    /// Fills `head` and then `body` with what has come; 0 when nothing has. The end of the stream is an error.
    fn try_recv(&mut self, peer: usize, head: &mut [u8], body: &mut [u8]) -> io::Result<usize>;

    /// Sleeps until a link of interest (one entry a rank) can move, the switch is thrown or the time is over.
    fn wait(&mut self, interest: &[Interest], abort: &AbortSwitch, timeout: Duration) -> io::Result<()>;

    /// Closes every link, so that the peers learn at once that this rank is out.
    fn close(&mut self);
}
