//! Waking a thread that is blocked in a collective, or in forming one.
//!
//! Everything in this crate that sleeps does so in `poll(2)`, and every such sleep watches an [`AbortSwitch`].

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::CollectiveError;

/// A bell that one thread rings and another can sleep on in `poll`.
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

    /// Makes the bell readable. A full pipe is readable already, so a failed write loses nothing.
    pub(crate) fn signal(&self) {
        let _ = (&self.sender).write(&[1]);
    }

    /// Makes the bell silent again.
    pub(crate) fn clear(&self) {
        let mut seen = [0; 64];
        while matches!((&self.receiver).read(&mut seen), Ok(n) if n == seen.len()) {}
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.receiver.as_fd()
    }
}

/// Ends forming and every operation of the communicators made with it, from any thread, once and for good.
///
/// Made before forming, so that whoever may abort holds it before anything can block.
#[derive(Debug, Clone)]
pub struct AbortSwitch(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    reason: OnceLock<String>,
    wakeup: Wakeup,
}

impl AbortSwitch {
    /// Fails when the process has no file descriptors left.
    pub fn new() -> Result<Self, CollectiveError> {
        let wakeup = Wakeup::new().map_err(|error| CollectiveError::Unavailable {
            backend: "ring",
            reason: format!("make the abort switch: {error}; raise the limit on open files"),
        })?;
        Ok(Self(Arc::new(Inner { reason: OnceLock::new(), wakeup })))
    }

    /// Every blocked and every further call fails with [`CollectiveError::Aborted`]; the first reason counts.
    pub fn abort(&self, reason: &str) {
        if self.0.reason.set(reason.to_owned()).is_ok() {
            self.0.wakeup.signal();
        }
    }

    /// Whether, and why, the switch was thrown.
    pub fn reason(&self) -> Option<&str> {
        self.0.reason.get().map(String::as_str)
    }

    /// The switch as the trait's handle.
    pub fn aborter(&self) -> Aborter {
        let switch = self.clone();
        Aborter::new(move |reason| switch.abort(reason))
    }

    /// `Aborted` once the switch was thrown.
    pub fn check(&self) -> Result<(), CollectiveError> {
        self.reason().map_or(Ok(()), |reason| Err(CollectiveError::Aborted(reason.to_owned())))
    }

    /// The switch in a set of polled descriptors.
    pub(crate) fn poll_fd(&self) -> PollFd<'_> {
        PollFd::from_borrowed_fd(self.0.wakeup.fd(), PollFlags::IN)
    }
}

/// Ends the operation in which a rank is blocked. It is cheap to clone, works from any thread, and may be used twice.
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

/// Sleeps until one of `fds` is ready or `timeout` is over; an interrupted sleep counts as ready.
pub(crate) fn sleep_on(fds: &mut [PollFd<'_>], timeout: Duration) -> io::Result<()> {
    let timeout = Timespec::try_from(timeout).unwrap_or(Timespec { tv_sec: i32::MAX.into(), tv_nsec: 0 });
    match poll(fds, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
