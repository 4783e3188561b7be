//! NCCL's communicator behind safe methods. It never blocks, it is closed once, and any thread may abort it.

use std::fmt;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cudarc::driver::{CudaStream, DriverError};
use cudarc::nccl::result::{self, NcclError, NcclStatus};
use cudarc::nccl::sys;
use libloading::os::unix::Library;

use crate::abort::AbortSwitch;
use crate::device::DeviceMemory;
use crate::dtype::Dtype;
use crate::error::CollectiveError;
use crate::rank_group::RankGroup;

/// Mark of a configuration that the caller filled in (NCCL's `NCCL_CONFIG_INITIALIZER`).
const CONFIG_MAGIC: u32 = 0xcafe_beef;

/// Value of a field that is left to NCCL.
const UNDEFINED: i32 = i32::MIN;

/// Newest NCCL version whose configuration this crate knows: 2.30.
const NEWEST_CONFIG: i32 = 23_000;

/// Id that all ranks of a group share. One rank makes it, and the caller brings it to the others. The head does not do
/// that yet: it refuses groups over NCCL.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct UniqueId([u8; UniqueId::BYTES]);

impl UniqueId {
    pub const BYTES: usize = 128;

    /// Makes a new id, and opens the port through which the other ranks find this one.
    pub fn create() -> Result<Self, CollectiveError> {
        check_libraries()?;
        let id = result::get_uniqueid().map_err(|error| nccl_error("make a unique id", &error))?;
        Ok(Self(id.internal.map(|byte| byte.to_ne_bytes()[0])))
    }

    /// Makes an id from the bytes of another rank's id.
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }
}

impl fmt::Debug for UniqueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UniqueId(…)")
    }
}

/// Handle of NCCL's communicator.
struct Raw(sys::ncclComm_t);

// SAFETY: NCCL allows calls on a communicator from any thread, one at a time. The mutex around it ensures that.
unsafe impl Send for Raw {}

/// NCCL's communicator of one rank. `raw` is `None` once it is closed.
pub(crate) struct Comm {
    raw: Mutex<Option<Raw>>,
    abort: AbortSwitch,
    group: RankGroup,
}

impl Comm {
    /// Begins to join `id`'s group. [`Comm::is_settled`] returns true once the group is joined. The device must be
    /// bound to this thread.
    pub(crate) fn begin_joining(group: RankGroup, id: UniqueId, abort: &AbortSwitch) -> Result<Self, CollectiveError> {
        let mut raw = MaybeUninit::new(ptr::null_mut());
        let mut config = non_blocking_config();
        let id = sys::ncclUniqueId { internal: id.0.map(|byte| std::ffi::c_char::from_ne_bytes([byte])) };
        let number = |number: usize| {
            i32::try_from(number).map_err(|_| CollectiveError::Usage(format!("{number} is too large for NCCL")))
        };
        let (ranks, rank) = (number(group.world_size())?, number(group.rank())?);
        // SAFETY: both pointers are to live values; the configuration is filled in as NCCL's initializer does, and
        // NCCL copies it before it returns.
        unsafe { result::comm_init_rank_config(raw.as_mut_ptr(), ranks, id, rank, &raw mut config) }
            .map_err(|error| nccl_error("join the group", &error))?;
        // SAFETY: it was initialized above, and the call that succeeded or is in progress has set it.
        let raw = unsafe { raw.assume_init() };
        Ok(Self { raw: Mutex::new(Some(Raw(raw))), abort: abort.clone(), group })
    }

    pub(crate) fn abort_switch(&self) -> &AbortSwitch {
        &self.abort
    }

    fn lock_raw(&self) -> MutexGuard<'_, Option<Raw>> {
        self.raw.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all work in flight, from any thread.
    pub(crate) fn abort(&self, reason: &str) {
        self.abort.abort(reason);
        self.close();
    }

    /// Frees the communicator in any state. Kernels that wait for a peer end.
    pub(crate) fn close(&self) {
        if let Some(Raw(raw)) = self.lock_raw().take() {
            // SAFETY: `raw` came from NCCL. It has been taken out, so no call uses it afterwards.
            if let Err(error) = unsafe { result::comm_abort(raw) } {
                tracing::warn!(reason = error_name(&error), "NCCL did not close its communicator");
            }
        }
    }

    /// Makes a call on the open communicator. `action` names it in errors.
    fn call(
        &self,
        action: &str,
        call: impl FnOnce(sys::ncclComm_t) -> Result<NcclStatus, NcclError>,
    ) -> Result<(), CollectiveError> {
        let raw = self.lock_raw();
        let Some(Raw(raw)) = raw.as_ref() else {
            return Err(CollectiveError::Aborted(self.abort.reason().unwrap_or("closed").to_owned()));
        };
        call(*raw).map(|_| ()).map_err(|error| nccl_error(action, &error))
    }

    /// Returns true once the last call is settled: NCCL has joined the group, or has queued the operation.
    ///
    /// # Errors
    /// Returns an error that has come up since that call.
    pub(crate) fn is_settled(&self) -> Result<bool, CollectiveError> {
        let mut state = sys::ncclResult_t::ncclSuccess;
        self.call("ask for errors", |raw| {
            // SAFETY: the communicator is open and `state` outlives the call.
            unsafe { sys::ncclCommGetAsyncError(raw, &raw mut state) }.result()
        })?;
        match state.result() {
            Ok(NcclStatus::InProgress) => Ok(false),
            Ok(_) => Ok(true),
            Err(error) => Err(nccl_error("work with the other ranks", &error)),
        }
    }

    pub(crate) fn all_reduce_sum(&self, stream: &CudaStream, data: DeviceMemory) -> Result<(), CollectiveError> {
        let (dtype, sum) = (nccl_type(data.dtype), sys::ncclRedOp_t::ncclSum);
        self.call("all-reduce", |raw| {
            // SAFETY: `data` is device memory of `count` elements, in order on `stream` (the contract of
            // `DeviceMemory`).
            unsafe {
                result::all_reduce(data.as_ptr(), data.as_mut_ptr(), data.count, dtype, sum, raw, nccl_stream(stream))
            }
        })
    }

    pub(crate) fn broadcast(
        &self,
        stream: &CudaStream,
        root: usize,
        data: DeviceMemory,
    ) -> Result<(), CollectiveError> {
        let (dtype, root) = (nccl_type(data.dtype), nccl_rank(root));
        self.call("broadcast", |raw| {
            // SAFETY: as in `all_reduce_sum`.
            unsafe {
                result::broadcast(data.as_ptr(), data.as_mut_ptr(), data.count, dtype, root, raw, nccl_stream(stream))
            }
        })
    }

    pub(crate) fn send(&self, stream: &CudaStream, to: usize, data: DeviceMemory) -> Result<(), CollectiveError> {
        self.call("send", |raw| {
            // SAFETY: as in `all_reduce_sum`; the memory is only read.
            unsafe {
                result::send(data.as_ptr(), data.count, nccl_type(data.dtype), nccl_rank(to), raw, nccl_stream(stream))
            }
        })
    }

    pub(crate) fn recv(&self, stream: &CudaStream, from: usize, data: DeviceMemory) -> Result<(), CollectiveError> {
        self.call("receive", |raw| {
            // SAFETY: as in `all_reduce_sum`.
            unsafe {
                result::recv(
                    data.as_mut_ptr(),
                    data.count,
                    nccl_type(data.dtype),
                    nccl_rank(from),
                    raw,
                    nccl_stream(stream),
                )
            }
        })
    }

    /// Gathers `counts[r]` elements of every rank r into `out`, in rank order: one broadcast per rank, fused into one
    /// launch.
    pub(crate) fn all_gather(
        &self,
        stream: &CudaStream,
        mine: DeviceMemory,
        counts: &[usize],
        out: DeviceMemory,
    ) -> Result<(), CollectiveError> {
        let dtype = nccl_type(out.dtype);
        self.call("all-gather", |raw| {
            result::group_start()?;
            let mut skip = 0;
            let mut queued = Ok(NcclStatus::Success);
            for (root, &count) in counts.iter().enumerate() {
                let into = out.subrange(skip, count);
                let from = if root == self.group.rank() { mine } else { into };
                skip += count;
                // SAFETY: as in `all_reduce_sum`; the parts are disjoint and within `out`, whose length the counts add
                // up to (checked by the caller).
                queued = queued.and(unsafe {
                    result::broadcast(
                        from.as_ptr(),
                        into.as_mut_ptr(),
                        count,
                        dtype,
                        nccl_rank(root),
                        raw,
                        nccl_stream(stream),
                    )
                });
            }
            // The group is ended even after an error: a thread must not stay inside it.
            let ended = result::group_end();
            queued.and(ended)
        })
    }
}

/// Converts a rank to NCCL's type. It fits, because [`Comm::begin_joining`] has checked the group's size.
fn nccl_rank(rank: usize) -> i32 {
    i32::try_from(rank).unwrap_or(i32::MAX)
}

fn nccl_stream(stream: &CudaStream) -> sys::cudaStream_t {
    stream.cu_stream().cast()
}

/// Returns NCCL's default configuration, but non-blocking.
fn non_blocking_config() -> sys::ncclConfig_t {
    let version = result::get_nccl_version().unwrap_or(NEWEST_CONFIG).min(NEWEST_CONFIG);
    sys::ncclConfig_t {
        size: size_of::<sys::ncclConfig_t>(),
        magic: CONFIG_MAGIC,
        version: version.cast_unsigned(),
        blocking: 0,
        cgaClusterSize: UNDEFINED,
        minCTAs: UNDEFINED,
        maxCTAs: UNDEFINED,
        netName: ptr::null(),
        splitShare: UNDEFINED,
        trafficClass: UNDEFINED,
        commName: ptr::null(),
        collnetEnable: UNDEFINED,
        CTAPolicy: UNDEFINED,
        shrinkShare: UNDEFINED,
        nvlsCTAs: UNDEFINED,
        nChannelsPerNetPeer: UNDEFINED,
        nvlinkCentricSched: UNDEFINED,
        graphUsageMode: UNDEFINED,
        numRmaCtx: UNDEFINED,
        maxP2pPeers: UNDEFINED,
    }
}

/// Checks that the program can call both libraries, because the bindings would panic later. The error names the missing
/// library.
pub(crate) fn check_libraries() -> Result<(), CollectiveError> {
    let missing = |reason: &str| CollectiveError::Unavailable { backend: "nccl", reason: reason.to_owned() };
    if !is_callable("cuInit", &["libcuda.so", "libcuda.so.1"]) {
        return Err(missing("libcuda.so was not found: install the NVIDIA driver"));
    }
    if !is_callable("ncclGetVersion", &["libnccl.so"]) {
        return Err(missing(
            "libnccl.so was not found: install NCCL, and put a link of that name to libnccl.so.2 in LD_LIBRARY_PATH",
        ));
    }
    Ok(())
}

/// Returns true if the program is linked with the library of `function`, or can load it by a name that the bindings
/// try.
fn is_callable(function: &str, names: &[&str]) -> bool {
    // SAFETY: the function is looked up but not called. Loading runs the initializers that any CUDA program runs.
    unsafe {
        Library::this().get::<unsafe extern "C" fn()>(function).is_ok()
            || names.iter().any(|&name| Library::new(name).is_ok())
    }
}

fn error_name(error: &NcclError) -> String {
    format!("{:?}", error.0)
}

fn nccl_error(action: &str, error: &NcclError) -> CollectiveError {
    let reason = format!("{action}: {}; set NCCL_DEBUG=WARN to learn more", error_name(error));
    CollectiveError::Unavailable { backend: "nccl", reason }
}

pub(crate) fn cuda_error(action: &str, error: DriverError) -> CollectiveError {
    CollectiveError::Unavailable { backend: "nccl", reason: format!("{action}: {error}") }
}

/// Returns NCCL's name for an element type.
fn nccl_type(dtype: Dtype) -> cudarc::nccl::sys::ncclDataType_t {
    use cudarc::nccl::sys::ncclDataType_t as Type;
    match dtype {
        Dtype::F32 => Type::ncclFloat32,
        Dtype::Bf16 => Type::ncclBfloat16,
        Dtype::F16 => Type::ncclFloat16,
        Dtype::I32 => Type::ncclInt32,
        Dtype::U32 => Type::ncclUint32,
    }
}
