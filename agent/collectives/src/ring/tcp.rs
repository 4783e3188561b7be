//! The links of one rank: TCP sockets that never block.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};

use crate::abort::{AbortSwitch, sleep_on};
use crate::transport::{Interest, Transport};

/// Bytes of socket buffer to request for each direction of a link. They hold several segments, so that neither side
/// waits for the TCP window of its peer.
const SOCKET_BUFFER: usize = 2 << 20;

/// Sockets to all peers, by rank. This rank's own entry is `None`.
#[derive(Debug)]
pub(crate) struct TcpLinks {
    streams: Vec<Option<TcpStream>>,
}

impl TcpLinks {
    pub(crate) fn new(streams: Vec<Option<TcpStream>>) -> io::Result<Self> {
        for stream in streams.iter().flatten() {
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let socket = socket2::SockRef::from(stream);
            if grants_buffer("wmem_max") {
                socket.set_send_buffer_size(SOCKET_BUFFER)?;
            }
            if grants_buffer("rmem_max") {
                socket.set_recv_buffer_size(SOCKET_BUFFER)?;
            }
        }
        Ok(Self { streams })
    }

    fn link(&self, peer: usize) -> io::Result<&TcpStream> {
        self.streams.get(peer).and_then(Option::as_ref).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

/// Returns true if the system grants [`SOCKET_BUFFER`]. A request above the limit would shrink the buffer and stop the
/// system from growing it. In that case the buffer is left to the system.
fn grants_buffer(limit: &str) -> bool {
    let limit = std::fs::read_to_string(format!("/proc/sys/net/core/{limit}"));
    limit.ok().and_then(|limit| limit.trim().parse().ok()).is_some_and(|limit: usize| limit >= SOCKET_BUFFER)
}

/// Returns 0 for a call that would have blocked.
fn zero_if_blocked(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(0),
        other => other,
    }
}

impl Transport for TcpLinks {
    fn name(&self) -> &'static str {
        "ring"
    }

    fn try_send(&mut self, peer: usize, head: &[u8], body: &[u8]) -> io::Result<usize> {
        let mut link = self.link(peer)?;
        zero_if_blocked(match (head.is_empty(), body.is_empty()) {
            (true, _) => link.write(body),
            (false, true) => link.write(head),
            (false, false) => link.write_vectored(&[IoSlice::new(head), IoSlice::new(body)]),
        })
    }

    fn try_recv(&mut self, peer: usize, head: &mut [u8], body: &mut [u8]) -> io::Result<usize> {
        let mut link = self.link(peer)?;
        let result = match (head.is_empty(), body.is_empty()) {
            (true, _) => link.read(body),
            (false, true) => link.read(head),
            (false, false) => link.read_vectored(&mut [IoSliceMut::new(head), IoSliceMut::new(body)]),
        };
        if let Ok(0) = result {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        zero_if_blocked(result)
    }

    fn wait(&mut self, interest: &[Interest], abort: &AbortSwitch, timeout: Duration) -> io::Result<()> {
        let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(interest.len());
        fds.push(abort.poll_fd());
        for (stream, interest) in self.streams.iter().zip(interest) {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, interest.readable);
            flags.set(PollFlags::OUT, interest.writable);
            if let Some(stream) = stream.as_ref().filter(|_| !flags.is_empty()) {
                fds.push(PollFd::new(stream, flags));
            }
        }
        sleep_on(&mut fds, timeout)
    }

    fn close(&mut self) {
        for stream in self.streams.iter().flatten() {
            // `shutdown` fails only if the link is closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
