//! A rank's communicator.

use std::ffi::c_int;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lockstep_emulated_gpu::foreign::{ForeignUse, submit};

use crate::hub::{Request, ask, split};
use crate::numbers::{Combine, combine, number_size};
use crate::result;

/// A communicator.
pub struct Comm {
    pub(crate) rank: usize,
    pub(crate) ranks: usize,
    /// True if calls wait until they have queued their work.
    pub(crate) blocking: bool,
    /// Result of the last call, as `ncclCommGetAsyncError` tells it.
    state: AtomicI32,
    aborted: AtomicBool,
    socket: Mutex<Option<TcpStream>>,
    /// Orders the questions of this rank to the hub.
    turn: Mutex<()>,
}

/// Kind of an operation.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    AllReduce(Combine),
    ReduceScatter(Combine),
    AllGather,
    Broadcast { root: usize },
    Send { to: usize },
    Receive { from: usize },
}

/// An operation on `count` numbers of type `number`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operation {
    pub(crate) kind: Kind,
    pub(crate) number: c_int,
    pub(crate) count: usize,
    pub(crate) send: u64,
    pub(crate) receive: u64,
    pub(crate) stream: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Comm {
    /// Begins to join the group of the hub at `hub`. A blocking call returns when all ranks are there.
    pub(crate) fn join(hub: SocketAddr, rank: usize, ranks: usize, blocking: bool) -> (Arc<Self>, c_int) {
        let comm = Arc::new(Self {
            rank,
            ranks,
            blocking,
            state: AtomicI32::new(result::IN_PROGRESS),
            aborted: AtomicBool::new(false),
            socket: Mutex::default(),
            turn: Mutex::default(),
        });
        let joining = comm.clone();
        let returned = comm.settle(move || joining.connect(hub).map_err(|_| result::SYSTEM_ERROR));
        (comm, returned)
    }

    fn connect(&self, hub: SocketAddr) -> std::io::Result<()> {
        let mut socket = TcpStream::connect(hub)?;
        socket.set_nodelay(true)?;
        *lock(&self.socket) = Some(socket.try_clone()?);
        let hello = [self.rank as u32, self.ranks as u32].map(u32::to_le_bytes).concat();
        socket.write_all(&hello)?;
        // The hub answers when all ranks have come.
        socket.read_exact(&mut [0])
    }

    /// Does the work of a call: now, or in a thread if calls do not wait.
    pub(crate) fn settle(self: &Arc<Self>, work: impl FnOnce() -> Result<(), c_int> + Send + 'static) -> c_int {
        let comm = self.clone();
        let end = move || {
            let state = match work() {
                Ok(()) => result::SUCCESS,
                Err(_) if comm.aborted.load(Ordering::SeqCst) => result::REMOTE_ERROR,
                Err(state) => state,
            };
            comm.state.store(state, Ordering::SeqCst);
            state
        };
        if self.blocking {
            return end();
        }
        self.state.store(result::IN_PROGRESS, Ordering::SeqCst);
        std::thread::spawn(end);
        result::IN_PROGRESS
    }

    pub(crate) fn state(&self) -> c_int {
        self.state.load(Ordering::SeqCst)
    }

    /// Ends whatever waits for other ranks.
    pub(crate) fn abort(&self) {
        self.aborted.store(true, Ordering::SeqCst);
        if let Some(socket) = lock(&self.socket).take() {
            socket.shutdown(Shutdown::Both).ok();
        }
    }

    pub(crate) fn is_aborted(&self) -> bool {
        self.aborted.load(Ordering::SeqCst)
    }

    /// Gives the bytes of this rank to all others. Returns the parts of all.
    pub(crate) fn exchange(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, c_int> {
        let answer = self.ask(Request::Exchange, bytes)?;
        Ok(split(&answer).into_iter().map(<[u8]>::to_vec).collect())
    }

    fn ask(&self, request: Request, bytes: &[u8]) -> Result<Vec<u8>, c_int> {
        let _turn = lock(&self.turn);
        let socket = lock(&self.socket).as_ref().and_then(|socket| socket.try_clone().ok());
        ask(&socket.ok_or(result::REMOTE_ERROR)?, request, bytes).map_err(|_| result::REMOTE_ERROR)
    }

    /// Queues operations on the stream of the first, as one piece of work.
    pub(crate) fn queue(self: &Arc<Self>, mut operations: Vec<Operation>) -> Result<(), c_int> {
        let Some(stream) = operations.first().map(|operation| operation.stream) else { return Ok(()) };
        // Sends come first, so that two ranks that send to each other do not wait for each other.
        operations.sort_by_key(|operation| !matches!(operation.kind, Kind::Send { .. }));
        let mut uses = Vec::new();
        for operation in &operations {
            uses.extend(self.uses(operation)?);
        }
        let comm = self.clone();
        let work = move || {
            for operation in &operations {
                if let Err(state) = comm.run(operation) {
                    comm.state.store(state, Ordering::SeqCst);
                    return;
                }
            }
        };
        match submit(stream, c"nccl", &uses, work) {
            0 => Ok(()),
            _ => Err(result::CUDA_ERROR),
        }
    }

    fn uses(&self, operation: &Operation) -> Result<Vec<ForeignUse>, c_int> {
        let bytes = operation.count * number_size(operation.number).ok_or(result::INVALID_ARGUMENT)?;
        let all = bytes * self.ranks;
        let reads = |bytes| ForeignUse { address: operation.send, bytes, reads: true, writes: false };
        let writes = |bytes| ForeignUse { address: operation.receive, bytes, reads: false, writes: true };
        let uses = match operation.kind {
            Kind::AllReduce(_) => vec![reads(bytes), writes(bytes)],
            Kind::ReduceScatter(_) => vec![reads(all), writes(bytes)],
            Kind::AllGather => vec![reads(bytes), writes(all)],
            Kind::Broadcast { root } if root == self.rank => vec![reads(bytes), writes(bytes)],
            Kind::Broadcast { .. } | Kind::Receive { .. } => vec![writes(bytes)],
            Kind::Send { .. } => vec![reads(bytes)],
        };
        Ok(uses.into_iter().filter(|used| used.bytes > 0).collect())
    }

    /// Carries out an operation in its stream's order.
    fn run(&self, operation: &Operation) -> Result<(), c_int> {
        let bytes = operation.count * number_size(operation.number).unwrap_or(0);
        let sent = |bytes| read(operation.send, bytes);
        let sum = |how, parts: &[&[u8]]| combine(operation.number, how, parts).ok_or(result::INVALID_USAGE);
        let received = match operation.kind {
            Kind::AllReduce(how) => {
                let parts = self.exchange(&sent(bytes))?;
                sum(how, &parts.iter().map(Vec::as_slice).collect::<Vec<_>>())?
            }
            Kind::ReduceScatter(how) => {
                let parts = self.exchange(&sent(bytes * self.ranks))?;
                let own = self.rank * bytes..(self.rank + 1) * bytes;
                let parts = parts.iter().map(|part| part.get(own.clone()).ok_or(result::INVALID_USAGE));
                sum(how, &parts.collect::<Result<Vec<_>, _>>()?)?
            }
            Kind::AllGather => self.exchange(&sent(bytes))?.concat(),
            Kind::Broadcast { root } => {
                let own = if root == self.rank { sent(bytes) } else { Vec::new() };
                self.exchange(&own)?.get(root).cloned().unwrap_or_default()
            }
            Kind::Send { to } => {
                self.ask(Request::Send { to: to as u32 }, &sent(bytes))?;
                return Ok(());
            }
            Kind::Receive { from } => self.ask(Request::Receive { from: from as u32 }, &[])?,
        };
        let expected = if matches!(operation.kind, Kind::AllGather) { bytes * self.ranks } else { bytes };
        if received.len() != expected {
            return Err(result::INVALID_USAGE);
        }
        write(operation.receive, &received);
        Ok(())
    }
}

fn read(address: u64, bytes: usize) -> Vec<u8> {
    if bytes == 0 {
        return Vec::new();
    }
    // SAFETY: the driver has checked the memory and orders its uses.
    unsafe { std::slice::from_raw_parts(address as *const u8, bytes) }.to_vec()
}

fn write(address: u64, bytes: &[u8]) {
    // SAFETY: as above.
    unsafe { (address as *mut u8).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
}
