//! The switch that wakes a thread that is blocked in a collective, or in forming a communicator.
//!
//! A thread that waits for a peer sleeps in `poll(2)`, and `poll` also watches an [`AbortSwitch`]. Only NCCL has no
//! descriptor to poll: its threads check the switch between short sleeps.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::CollectiveError;

/// Descriptor that one thread makes readable, to wake another thread from `poll`.
#[derive(Debug)]
pub(crate) struct Wakeup {
    sender: UnixStream,
    receiver: UnixStream,
}

impl Wakeup {
    pub(crate) fn new() -> io::Result<Self> {
        let (sender, receiver) = UnixStream::pair()?;
        sender.set_nonblocking(true)?;
        receiver.set_nonblocking(true)?;
        Ok(Self { sender, receiver })
    }

    /// Makes the descriptor readable. If the write fails, the pipe is full and so readable already.
    pub(crate) fn signal(&self) {
        let _ = (&self.sender).write(&[1]);
    }

    /// Makes the descriptor unreadable again.
    pub(crate) fn clear(&self) {
        let mut discarded = [0; 64];
        while matches!((&self.receiver).read(&mut discarded), Ok(n) if n == discarded.len()) {}
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.receiver.as_fd()
    }
}

/// Switch that ends the forming and every operation of the communicators made with it. It works from any thread, once.
///
/// The caller makes the switch before it forms a group, so that another thread can abort the forming too.
#[derive(Debug, Clone)]
pub struct AbortSwitch(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    reason: OnceLock<String>,
    wakeup: Wakeup,
}

impl AbortSwitch {
    /// Makes a switch. It fails if the process has no file descriptors left.
    pub fn new() -> Result<Self, CollectiveError> {
        let wakeup = Wakeup::new().map_err(|error| CollectiveError::Unavailable {
            backend: "ring",
            reason: format!("make the abort switch: {error}; raise the limit on open files"),
        })?;
        Ok(Self(Arc::new(Inner { reason: OnceLock::new(), wakeup })))
    }

    /// Makes every blocked and every later call fail with [`CollectiveError::Aborted`]. The first reason counts.
    pub fn abort(&self, reason: &str) {
        if self.0.reason.set(reason.to_owned()).is_ok() {
            self.0.wakeup.signal();
        }
    }

    /// Returns the reason for which the switch was thrown, or `None` if it was not.
    pub fn reason(&self) -> Option<&str> {
        self.0.reason.get().map(String::as_str)
    }

    /// Returns the switch as the handle that [`Communicator`](crate::Communicator) gives out.
    pub fn aborter(&self) -> Aborter {
        let switch = self.clone();
        Aborter::new(move |reason| switch.abort(reason))
    }

    /// Returns `Aborted` once the switch has been thrown.
    pub fn check(&self) -> Result<(), CollectiveError> {
        self.reason().map_or(Ok(()), |reason| Err(CollectiveError::Aborted(reason.to_owned())))
    }

    /// Returns the descriptor that becomes readable when the switch is thrown.
    pub(crate) fn poll_fd(&self) -> PollFd<'_> {
        PollFd::from_borrowed_fd(self.0.wakeup.fd(), PollFlags::IN)
    }
}

/// Handle that ends the operation in which a rank is blocked. It works from any thread. A second call changes nothing.
#[derive(Clone)]
pub struct Aborter(Arc<dyn Fn(&str) + Send + Sync>);

impl Aborter {
    pub fn new(abort: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(abort))
    }

    /// Makes every blocked and every later call fail with [`CollectiveError::Aborted`]. The first reason counts.
    pub fn abort(&self, reason: &str) {
        (self.0)(reason);
    }
}

/// Sleeps until one of `fds` is ready or `timeout` has passed. An interrupted sleep counts as ready.
pub(crate) fn sleep_on(fds: &mut [PollFd<'_>], timeout: Duration) -> io::Result<()> {
    let timeout = Timespec::try_from(timeout).unwrap_or(Timespec { tv_sec: i32::MAX.into(), tv_nsec: 0 });
    match poll(fds, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
