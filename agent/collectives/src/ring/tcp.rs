//! The links of one rank as TCP sockets that never block.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};

use crate::abort::{AbortSwitch, sleep_on};
use crate::transport::{Interest, Transport};

/// Asked of the kernel for each direction of a link: several segments, so that neither side waits for the other's window.
const SOCKET_BUFFER: usize = 2 << 20;

/// A socket to every other rank, none at this rank's own place.
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
            if grants("wmem_max") {
                socket.set_send_buffer_size(SOCKET_BUFFER)?;
            }
            if grants("rmem_max") {
                socket.set_recv_buffer_size(SOCKET_BUFFER)?;
            }
        }
        Ok(Self { streams })
    }

    fn link(&self, peer: usize) -> io::Result<&TcpStream> {
        self.streams.get(peer).and_then(Option::as_ref).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

/// Whether the system grants such buffers. Asking for more than it grants would cut a buffer down and keep it from
/// growing by itself, so then it is left to the system.
fn grants(limit: &str) -> bool {
    let limit = std::fs::read_to_string(format!("/proc/sys/net/core/{limit}"));
    limit.ok().and_then(|limit| limit.trim().parse().ok()).is_some_and(|limit: usize| limit >= SOCKET_BUFFER)
}

/// 0 where a call would have blocked.
fn moved(result: io::Result<usize>) -> io::Result<usize> {
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
        moved(match (head.is_empty(), body.is_empty()) {
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
        moved(result)
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
            // A link that is down already is what we want.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
