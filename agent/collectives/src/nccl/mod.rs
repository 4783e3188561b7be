//! Ranks on CUDA devices, over NCCL.
//!
//! The program loads the libraries at run time, so this module builds anywhere. If one is missing, every call names it.
//! (A program with candle's plain feature `cuda` links them instead; tests/cuda says more.) All calls to NCCL are
//! non-blocking (`blocking = 0`) and polled, so a missing peer, an abort and a timeout end them.
//!
//! Invariants:
//! - An operation on device memory is done in stream order. The call returns once NCCL has queued it, and work that is
//!   launched later on the stream sees its result. [`Nccl::wait_for_stream`] and `barrier` wait for it, within the
//!   timeout.
//! - An operation on host memory is staged through the device, and is over when the call returns.
//! - Sums are bit-identical on all ranks, but NCCL chooses the order of their operands.

#![expect(unsafe_code, reason = "NCCL's own interface: every block says why it is sound")]

mod comm;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DevicePtrMut};

use crate::abort::AbortSwitch;
use crate::abort::Aborter;
use crate::checks;
use crate::communicator::Communicator;
use crate::device::DeviceMemory;
use crate::error::CollectiveError;
use crate::rank_group::RankGroup;
use crate::slice::{Slice, SliceMut};
use comm::Comm;

pub use crate::device::{DeviceSlice, DeviceSliceMut};
pub use comm::UniqueId;

/// Pause between two polls of NCCL or of the device.
const POLL_PAUSE: Duration = Duration::from_micros(200);

/// Number of polls without a pause, before the first pause.
const POLLS_WITHOUT_PAUSE: u32 = 1000;

/// Settings of one group.
#[derive(Debug, Clone)]
pub struct NcclConfig {
    pub group: RankGroup,
    /// Id of the group. One rank makes it, and all ranks get it.
    pub id: UniqueId,
    /// Stream on which operations are queued. Its device is this rank's.
    pub stream: Arc<CudaStream>,
    /// Time after which an operation that the rank waits for fails.
    pub op_timeout: Duration,
    /// Time after which forming fails if a rank is missing.
    pub form_timeout: Duration,
}

/// Communicator of a group over NCCL.
pub struct Nccl {
    comm: Arc<Comm>,
    group: RankGroup,
    stream: Arc<CudaStream>,
    op_timeout: Duration,
    progress: Option<Arc<AtomicU64>>,
    staging: Option<CudaSlice<u8>>,
    failed: Option<CollectiveError>,
}

/// Joins the group. Every rank calls this at about the same time.
///
/// # Errors
/// `Unavailable` if CUDA or NCCL is missing or fails; `Timeout` if a rank did not come; `Aborted`. NCCL does not tell
/// which rank is missing, so `Timeout` names the next rank.
pub fn form(
    config: NcclConfig,
    progress: Option<Arc<AtomicU64>>,
    abort: &AbortSwitch,
) -> Result<Nccl, CollectiveError> {
    let NcclConfig { group, id, stream, op_timeout, form_timeout } = config;
    comm::check_libraries()?;
    stream.context().bind_to_thread().map_err(|error| comm::cuda_error("bind the device", error))?;
    let comm = Arc::new(Comm::begin_joining(group, id, abort)?);
    let nccl = Nccl { comm, group, stream, op_timeout, progress, staging: None, failed: None };
    nccl.wait_until_settled(nccl.next_rank(), form_timeout)?;
    Ok(nccl)
}

impl Nccl {
    /// Returns the rank that a timeout names if NCCL does not tell which rank is late.
    fn next_rank(&self) -> usize {
        (self.group.rank() + 1) % self.group.world_size()
    }

    /// Waits until all work queued on the stream is done.
    pub fn wait_for_stream(&mut self) -> Result<(), CollectiveError> {
        self.run_operation(|nccl| nccl.wait_until_done(nccl.next_rank()))
    }

    /// Runs `operation` unless an earlier one has failed. A failure closes the communicator.
    fn run_operation(
        &mut self,
        operation: impl FnOnce(&mut Self) -> Result<(), CollectiveError>,
    ) -> Result<(), CollectiveError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let result = self.comm.abort_switch().check().and_then(|()| operation(self));
        match &result {
            Ok(()) => {
                if let Some(progress) = &self.progress {
                    progress.fetch_add(1, Ordering::Relaxed);
                }
            }
            Err(error) => {
                let error = self.comm.abort_switch().check().err().unwrap_or_else(|| error.clone());
                self.comm.close();
                self.failed = Some(error.clone());
                return Err(error);
            }
        }
        result
    }

    /// Calls `is_done` until it returns true: first without pauses, then with [`POLL_PAUSE`] between two calls.
    fn poll_until(
        &self,
        rank: usize,
        limit: Duration,
        mut is_done: impl FnMut() -> Result<bool, CollectiveError>,
    ) -> Result<(), CollectiveError> {
        let start = Instant::now();
        let mut polls = 0;
        while !is_done()? {
            self.comm.abort_switch().check()?;
            if start.elapsed() >= limit {
                let millis = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
                return Err(CollectiveError::Timeout { rank, millis });
            }
            polls += 1;
            if polls > POLLS_WITHOUT_PAUSE {
                std::thread::sleep(POLL_PAUSE);
            }
        }
        Ok(())
    }

    /// Waits until NCCL has joined the group or queued the last operation.
    fn wait_until_settled(&self, rank: usize, limit: Duration) -> Result<(), CollectiveError> {
        self.poll_until(rank, limit, || self.comm.is_settled())
    }

    /// Waits until the stream has done all work queued so far.
    fn wait_until_done(&self, rank: usize) -> Result<(), CollectiveError> {
        let cuda = |error| comm::cuda_error("wait for the stream", error);
        let event = self.stream.record_event(None).map_err(cuda)?;
        self.poll_until(rank, self.op_timeout, || {
            self.comm.is_settled()?;
            event.try_is_complete().map_err(cuda)
        })
    }

    /// Queues `call` on the device memory of `data`. Host memory is copied to the device and back. `blame` is the rank
    /// that a timeout names.
    fn in_place(
        &mut self,
        blame: usize,
        data: SliceMut<'_>,
        call: impl FnOnce(&Comm, &CudaStream, DeviceMemory) -> Result<(), CollectiveError>,
    ) -> Result<(), CollectiveError> {
        let (dtype, count) = (data.dtype(), data.len());
        let stream = self.stream.clone();
        let host = match data {
            SliceMut::Device(mut device) => {
                let (memory, _queued) = device.memory(&stream);
                call(&self.comm, &stream, memory)?;
                return self.wait_until_settled(blame, self.op_timeout);
            }
            host => host.host_bytes()?,
        };
        let cuda = |error| comm::cuda_error("stage host memory", error);
        let mut staging = self.take_staging(host.len())?;
        stream.memcpy_htod(host, &mut staging.slice_mut(..host.len())).map_err(cuda)?;
        let (address, queued) = staging.device_ptr_mut(&stream);
        let result = call(&self.comm, &stream, DeviceMemory { address, count, dtype });
        drop(queued);
        result?;
        self.wait_until_settled(blame, self.op_timeout)?;
        self.wait_until_done(blame)?;
        stream.memcpy_dtoh(&staging.slice(..host.len()), host).map_err(cuda)?;
        self.wait_until_done(blame)?;
        self.staging = Some(staging);
        Ok(())
    }

    /// Takes the staging buffer, grown to `bytes`. The caller puts it back after use.
    fn take_staging(&mut self, bytes: usize) -> Result<CudaSlice<u8>, CollectiveError> {
        match self.staging.take().filter(|staging| staging.len() >= bytes) {
            Some(staging) => Ok(staging),
            None => {
                self.stream.alloc_zeros(bytes.max(1)).map_err(|error| comm::cuda_error("allocate for staging", error))
            }
        }
    }

    /// Gathers device memory.
    fn gather_on_device(
        &mut self,
        mine: DeviceSlice<'_>,
        counts: &[usize],
        mut out: DeviceSliceMut<'_>,
    ) -> Result<(), CollectiveError> {
        let stream = self.stream.clone();
        let (from, _read) = mine.memory(&stream);
        let (into, _written) = out.memory(&stream);
        self.comm.all_gather(&stream, from, counts, into)?;
        self.wait_until_settled(self.next_rank(), self.op_timeout)
    }

    /// Gathers host memory, through the staging buffer.
    fn gather_staged(&mut self, mine: Slice<'_>, counts: &[usize], out: SliceMut<'_>) -> Result<(), CollectiveError> {
        let cuda = |error| comm::cuda_error("stage host memory", error);
        let (dtype, blame) = (mine.dtype(), self.next_rank());
        let (own, total) = (mine.len(), out.len());
        let (mine, out) = (mine.host_bytes()?, out.host_bytes()?);
        let stream = self.stream.clone();
        let mut staging = self.take_staging(mine.len() + out.len())?;
        {
            let (mut into, mut from) = staging.split_at_mut(out.len());
            stream.memcpy_htod(mine, &mut from.slice_mut(..mine.len())).map_err(cuda)?;
            let (from, _read) = from.device_ptr(&stream);
            let (into, _written) = into.device_ptr_mut(&stream);
            let memory = |address, count| DeviceMemory { address, count, dtype };
            self.comm.all_gather(&stream, memory(from, own), counts, memory(into, total))?;
        }
        self.wait_until_settled(blame, self.op_timeout)?;
        self.wait_until_done(blame)?;
        stream.memcpy_dtoh(&staging.slice(..out.len()), out).map_err(cuda)?;
        self.wait_until_done(blame)?;
        self.staging = Some(staging);
        Ok(())
    }
}

impl Communicator for Nccl {
    fn group(&self) -> RankGroup {
        self.group
    }

    fn all_reduce_sum(&mut self, data: SliceMut<'_>) -> Result<(), CollectiveError> {
        let blame = self.next_rank();
        self.run_operation(|nccl| nccl.in_place(blame, data, Comm::all_reduce_sum))
    }

    fn all_gather(&mut self, mine: Slice<'_>, counts: &[usize], out: SliceMut<'_>) -> Result<(), CollectiveError> {
        self.run_operation(|nccl| {
            checks::check_all_gather(nccl.group, &mine, counts, &out)?;
            match (mine, out) {
                (Slice::Device(mine), SliceMut::Device(out)) => nccl.gather_on_device(mine, counts, out),
                (mine, out) => nccl.gather_staged(mine, counts, out),
            }
        })
    }

    fn broadcast(&mut self, root: usize, data: SliceMut<'_>) -> Result<(), CollectiveError> {
        self.run_operation(|nccl| {
            checks::check_root(nccl.group, root)?;
            nccl.in_place(root, data, |comm, stream, memory| comm.broadcast(stream, root, memory))
        })
    }

    fn send(&mut self, to: usize, data: Slice<'_>) -> Result<(), CollectiveError> {
        self.run_operation(|nccl| {
            checks::check_peer(nccl.group, to)?;
            let stream = nccl.stream.clone();
            let (dtype, count) = (data.dtype(), data.len());
            let host = match data {
                Slice::Device(device) => {
                    let (memory, _queued) = device.memory(&stream);
                    nccl.comm.send(&stream, to, memory)?;
                    return nccl.wait_until_settled(to, nccl.op_timeout);
                }
                host => host.host_bytes()?,
            };
            let mut staging = nccl.take_staging(host.len())?;
            let copied = stream.memcpy_htod(host, &mut staging.slice_mut(..host.len()));
            copied.map_err(|error| comm::cuda_error("stage host memory", error))?;
            let (address, queued) = staging.device_ptr(&stream);
            let result = nccl.comm.send(&stream, to, DeviceMemory { address, count, dtype });
            drop(queued);
            result?;
            nccl.wait_until_settled(to, nccl.op_timeout)?;
            nccl.wait_until_done(to)?;
            nccl.staging = Some(staging);
            Ok(())
        })
    }

    fn recv(&mut self, from: usize, data: SliceMut<'_>) -> Result<(), CollectiveError> {
        self.run_operation(|nccl| {
            checks::check_peer(nccl.group, from)?;
            nccl.in_place(from, data, |comm, stream, memory| comm.recv(stream, from, memory))
        })
    }

    fn barrier(&mut self) -> Result<(), CollectiveError> {
        let mut token = [0u32];
        self.all_reduce_sum(SliceMut::U32(&mut token))
    }

    fn aborter(&self) -> Aborter {
        let comm = self.comm.clone();
        Aborter::new(move |reason| comm.abort(reason))
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        self.comm.close();
    }
}
