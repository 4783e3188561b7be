//! A `libnccl.so.2` between processes of one machine, over loopback, for emulated GPUs. It has NCCL's interface (2.30): forming,
//! splitting, aborting, groups of calls, and all operations that our ranks use. Work is done in the order of the stream.
//!
//! As in NCCL: calls on a communicator that does not block return at once, and a thread of its own queues the work; a rank that
//! dies is not reported to the others, which wait until they are aborted. A handle of the caller's per-thread stream means another
//! stream in that thread, and fails.

mod comm;
mod hub;
mod numbers;
mod result;

use std::cell::RefCell;
use std::ffi::{c_char, c_int, c_void};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use comm::{Comm, Kind, Operation};
use numbers::Combine;

const VERSION: c_int = 23_007;
/// First bytes of an id.
const ID_MAGIC: [u8; 4] = *b"emu1";

/// Id of a group: a mark and the port of its hub.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct UniqueId([u8; 128]);

impl UniqueId {
    fn hub(&self) -> Option<SocketAddr> {
        let port = u16::from_le_bytes([self.0[4], self.0[5]]);
        (self.0[..4] == ID_MAGIC).then(|| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }

    fn create() -> std::io::Result<Self> {
        let address = hub::open()?;
        let mut bytes = [0; 128];
        bytes[..4].copy_from_slice(&ID_MAGIC);
        bytes[4..6].copy_from_slice(&address.port().to_le_bytes());
        Ok(Self(bytes))
    }
}

/// First fields of `ncclConfig_t`.
#[repr(C)]
pub struct Config {
    size: usize,
    magic: u32,
    version: u32,
    blocking: c_int,
}

/// An operation of a group, with its communicator.
type Grouped = (Arc<Comm>, Operation);

thread_local! {
    /// Operations of the thread's open group, with their communicators. `None` outside of a group.
    static GROUP: RefCell<Option<Vec<Grouped>>> = const { RefCell::new(None) };
}

/// Returns the communicator behind a pointer that NCCL gave out.
///
/// # Safety
/// The pointer came from a function that makes communicators, and none has freed it.
unsafe fn comm_of(comm: *const Comm) -> Arc<Comm> {
    // SAFETY: the pointer is that of an `Arc`, whose count is raised for the copy.
    unsafe {
        Arc::increment_strong_count(comm);
        Arc::from_raw(comm)
    }
}

/// # Safety
/// `config` is null or a configuration.
unsafe fn blocks(config: *const Config) -> bool {
    // SAFETY: the caller passes a configuration.
    config.is_null() || unsafe { (*config).blocking } != 0
}

/// # Safety
/// `version` is a place for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGetVersion(version: *mut c_int) -> c_int {
    // SAFETY: the caller passes a place.
    unsafe { version.write(VERSION) };
    result::SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclGetErrorString(state: c_int) -> *const c_char {
    result::text(state).as_ptr()
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclGetLastError(_comm: *const Comm) -> *const c_char {
    c"the emulated NCCL keeps no texts".as_ptr()
}

/// # Safety
/// `id` is a place for an id.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGetUniqueId(id: *mut UniqueId) -> c_int {
    match UniqueId::create() {
        Ok(made) => {
            // SAFETY: the caller passes a place.
            unsafe { id.write(made) };
            result::SUCCESS
        }
        Err(_) => result::SYSTEM_ERROR,
    }
}

/// # Safety
/// `comm` is a place for a communicator, and `config` is null or a configuration.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommInitRankConfig(
    comm: *mut *const Comm,
    ranks: c_int,
    id: UniqueId,
    rank: c_int,
    config: *const Config,
) -> c_int {
    let Some(hub) = id.hub().filter(|_| ranks > 0 && (0..ranks).contains(&rank)) else {
        return result::INVALID_ARGUMENT;
    };
    // SAFETY: the caller promises it.
    let (joined, returned) = Comm::join(hub, rank as usize, ranks as usize, unsafe { blocks(config) });
    // SAFETY: the caller passes a place.
    unsafe { comm.write(Arc::into_raw(joined)) };
    returned
}

/// # Safety
/// `comm` is a place for a communicator.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommInitRank(comm: *mut *const Comm, ranks: c_int, id: UniqueId, rank: c_int) -> c_int {
    // SAFETY: the caller promises it.
    unsafe { ncclCommInitRankConfig(comm, ranks, id, rank, std::ptr::null()) }
}

/// Splits a group by colour. The ranks of a new group are in the order of their keys. A negative colour joins none.
///
/// # Safety
/// `comm` is a communicator, `child` a place for one, and `config` null or a configuration.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommSplit(
    comm: *const Comm,
    color: c_int,
    key: c_int,
    child: *mut *const Comm,
    config: *const Config,
) -> c_int {
    // SAFETY: the caller promises it.
    let (parent, blocking) = unsafe { (comm_of(comm), blocks(config)) };
    // Each rank tells its wish, and an id that it would lead a group with.
    let Ok(id) = UniqueId::create() else { return result::SYSTEM_ERROR };
    let wish = [&color.to_le_bytes()[..], &key.to_le_bytes()[..], &id.0[..]].concat();
    let parts = match parent.exchange(&wish) {
        Ok(parts) => parts,
        Err(state) => return state,
    };
    let number = |part: &[u8], at: usize| i32::from_le_bytes([part[at], part[at + 1], part[at + 2], part[at + 3]]);
    let mut members: Vec<usize> = (0..parts.len()).filter(|rank| number(&parts[*rank], 0) == color).collect();
    members.sort_by_key(|rank| (number(&parts[*rank], 4), *rank));
    let place = members.iter().position(|rank| *rank == parent.rank);
    let (Some(place), true) = (place, color >= 0) else {
        // SAFETY: the caller passes a place.
        unsafe { child.write(std::ptr::null()) };
        return result::SUCCESS;
    };
    let mut leader = [0; 128];
    leader.copy_from_slice(&parts[members[0]][8..136]);
    let Some(hub) = UniqueId(leader).hub() else { return result::INVALID_USAGE };
    let (joined, returned) = Comm::join(hub, place, members.len(), blocking);
    // SAFETY: the caller passes a place.
    unsafe { child.write(Arc::into_raw(joined)) };
    returned
}

/// # Safety
/// `comm` is a communicator, and `state` a place for a result.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommGetAsyncError(comm: *const Comm, state: *mut c_int) -> c_int {
    // SAFETY: the caller promises it.
    unsafe { state.write(comm_of(comm).state()) };
    result::SUCCESS
}

/// # Safety
/// `comm` is a communicator, and `count` a place for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommCount(comm: *const Comm, count: *mut c_int) -> c_int {
    // SAFETY: the caller promises it.
    unsafe { count.write(comm_of(comm).ranks as c_int) };
    result::SUCCESS
}

/// # Safety
/// `comm` is a communicator, and `rank` a place for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommUserRank(comm: *const Comm, rank: *mut c_int) -> c_int {
    // SAFETY: the caller promises it.
    unsafe { rank.write(comm_of(comm).rank as c_int) };
    result::SUCCESS
}

/// Frees a communicator in any state. Work that waits for other ranks ends.
///
/// # Safety
/// `comm` is a communicator, which nobody uses afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommAbort(comm: *const Comm) -> c_int {
    // SAFETY: the caller gives the pointer up.
    unsafe { Arc::from_raw(comm) }.abort();
    result::SUCCESS
}

/// # Safety
/// `comm` is a communicator, which nobody uses afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommDestroy(comm: *const Comm) -> c_int {
    // SAFETY: the caller promises it.
    unsafe { ncclCommAbort(comm) }
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclCommFinalize(_comm: *const Comm) -> c_int {
    result::SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclGroupStart() -> c_int {
    GROUP.with_borrow_mut(|group| {
        group.get_or_insert_default();
    });
    result::SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclGroupEnd() -> c_int {
    let Some(mut operations) = GROUP.take() else { return result::INVALID_USAGE };
    let mut returned = result::SUCCESS;
    // The operations of one communicator are one piece of work.
    while let Some((comm, _)) = operations.first() {
        let comm = comm.clone();
        let (own, others): (Vec<Grouped>, _) = operations.into_iter().partition(|(other, _)| Arc::ptr_eq(other, &comm));
        operations = others;
        let state = start(&comm, own.into_iter().map(|(_, operation)| operation).collect());
        returned = if returned == result::SUCCESS { state } else { returned };
    }
    returned
}

/// Queues operations, or notes them for the thread's group.
fn start(comm: &Arc<Comm>, operations: Vec<Operation>) -> c_int {
    let is_grouped = GROUP.with_borrow_mut(|group| {
        group.as_mut().map(|group| group.extend(operations.iter().map(|operation| (comm.clone(), *operation))))
    });
    if is_grouped.is_some() {
        return result::SUCCESS;
    }
    match comm.state() {
        result::SUCCESS => {}
        result::IN_PROGRESS => return result::INVALID_USAGE,
        state => return state,
    }
    if comm.is_aborted() {
        return result::REMOTE_ERROR;
    }
    let queueing = comm.clone();
    comm.settle(move || queueing.queue(operations))
}

/// # Safety
/// `comm` is a communicator.
unsafe fn run(
    comm: *const Comm,
    kind: Option<Kind>,
    number: c_int,
    count: usize,
    [send, receive]: [*const c_void; 2],
    stream: usize,
) -> c_int {
    // SAFETY: the caller promises it.
    let comm = unsafe { comm_of(comm) };
    let Some(kind) = kind.filter(|_| numbers::number_size(number).is_some()) else { return result::INVALID_ARGUMENT };
    start(&comm, vec![Operation { kind, number, count, send: send as u64, receive: receive as u64, stream }])
}

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident($($extra:ident),*) => $kind:expr;)*) => {
        $(
            $(#[$doc])*
            ///
            /// # Safety
            /// `comm` is a communicator. The driver checks the memory.
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name(
                send: *const c_void,
                receive: *mut c_void,
                count: usize,
                number: c_int,
                $($extra: c_int,)*
                comm: *const Comm,
                stream: usize,
            ) -> c_int {
                // SAFETY: the caller promises it.
                unsafe { run(comm, $kind, number, count, [send, receive.cast_const()], stream) }
            }
        )*
    };
}

operations! {
    /// Combines `count` numbers of all ranks, for all ranks.
    ncclAllReduce(operation) => Combine::parse(operation).map(Kind::AllReduce);
    /// Combines `count` numbers for each rank.
    ncclReduceScatter(operation) => Combine::parse(operation).map(Kind::ReduceScatter);
    /// Gathers `count` numbers of each rank, for all ranks.
    ncclAllGather() => Some(Kind::AllGather);
    /// Copies `count` numbers of the root to all ranks.
    ncclBroadcast(root) => usize::try_from(root).ok().map(|root| Kind::Broadcast { root });
}

/// Sends `count` numbers to a rank.
///
/// # Safety
/// `comm` is a communicator. The driver checks the memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclSend(
    send: *const c_void,
    count: usize,
    number: c_int,
    to: c_int,
    comm: *const Comm,
    stream: usize,
) -> c_int {
    let kind = usize::try_from(to).ok().map(|to| Kind::Send { to });
    // SAFETY: the caller promises it.
    unsafe { run(comm, kind, number, count, [send, std::ptr::null()], stream) }
}

/// Receives `count` numbers of a rank.
///
/// # Safety
/// `comm` is a communicator. The driver checks the memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclRecv(
    receive: *mut c_void,
    count: usize,
    number: c_int,
    from: c_int,
    comm: *const Comm,
    stream: usize,
) -> c_int {
    let kind = usize::try_from(from).ok().map(|from| Kind::Receive { from });
    // SAFETY: the caller promises it.
    unsafe { run(comm, kind, number, count, [std::ptr::null(), receive.cast_const()], stream) }
}
