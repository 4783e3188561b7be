//! Ranks on CUDA devices, over NCCL.
//!
//! The libraries are looked for at run time, so this builds anywhere; where one is missing every call says which. (A
//! program that has candle's feature `cuda` as it comes links them instead; tests/cuda says more.) All calls to NCCL are
//! non-blocking (`blocking = 0`) and polled, so that a missing peer, an abort and a deadline end them.
//!
//! Invariants: an operation on device memory is done *in stream order*: the call returns once NCCL has taken it, and
//! whatever is launched later on the stream sees its result; [`Nccl::finish`] and `barrier` wait for it under the
//! deadline. An operation on host memory is staged through the device and is over when the call returns. Sums are
//! bit-identical on all ranks, but the order of their operands is NCCL's.

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

/// Longest pause between two looks at what NCCL or the device has done.
const LONGEST_PAUSE: Duration = Duration::from_micros(200);

/// Looks without a pause before the first one.
const QUICK_LOOKS: u32 = 1000;

/// A group to form.
#[derive(Debug, Clone)]
pub struct NcclConfig {
    pub group: RankGroup,
    /// Made by one rank, given to all.
    pub id: UniqueId,
    /// Where operations are queued; its device is this rank's.
    pub stream: Arc<CudaStream>,
    /// An operation that is waited for fails after this long.
    pub op_timeout: Duration,
    /// Forming fails when a rank is missing after this long.
    pub form_timeout: Duration,
}

/// The communicator of a group over NCCL.
pub struct Nccl {
    comm: Arc<Comm>,
    group: RankGroup,
    stream: Arc<CudaStream>,
    op_timeout: Duration,
    progress: Option<Arc<AtomicU64>>,
    staging: Option<CudaSlice<u8>>,
    failed: Option<CollectiveError>,
}

/// Joins the group; every rank calls this at about the same time.
///
/// # Errors
/// `Unavailable` where CUDA or NCCL is missing or fails, `Timeout` where a rank never came (NCCL does not say which: the
/// next one is named), `Aborted`.
pub fn form(
    config: NcclConfig,
    progress: Option<Arc<AtomicU64>>,
    abort: &AbortSwitch,
) -> Result<Nccl, CollectiveError> {
    let NcclConfig { group, id, stream, op_timeout, form_timeout } = config;
    comm::available()?;
    stream.context().bind_to_thread().map_err(|error| comm::cuda("bind the device", error))?;
    let comm = Arc::new(Comm::begin(group, id, abort)?);
    let nccl = Nccl { comm, group, stream, op_timeout, progress, staging: None, failed: None };
    nccl.settle(nccl.next_rank(), form_timeout)?;
    Ok(nccl)
}

impl Nccl {
    fn next_rank(&self) -> usize {
        (self.group.rank() + 1) % self.group.world_size()
    }

    /// Waits until everything queued on the stream is over.
    pub fn finish(&mut self) -> Result<(), CollectiveError> {
        self.attempt(|nccl| nccl.drain(nccl.next_rank()))
    }

    /// Runs `operation` unless one failed before; a failure takes the communicator down.
    fn attempt(
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

    /// Looks again and again, with growing pauses, until `look` says that it is over.
    fn poll(
        &self,
        rank: usize,
        limit: Duration,
        mut look: impl FnMut() -> Result<bool, CollectiveError>,
    ) -> Result<(), CollectiveError> {
        let start = Instant::now();
        let mut looks = 0;
        while !look()? {
            self.comm.abort_switch().check()?;
            if start.elapsed() >= limit {
                let millis = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
                return Err(CollectiveError::Timeout { rank, millis });
            }
            looks += 1;
            if looks > QUICK_LOOKS {
                std::thread::sleep(LONGEST_PAUSE);
            }
        }
        Ok(())
    }

    /// Waits until NCCL has taken what it was given.
    fn settle(&self, rank: usize, limit: Duration) -> Result<(), CollectiveError> {
        self.poll(rank, limit, || self.comm.settled())
    }

    /// Waits until the stream has done what it was given.
    fn drain(&self, rank: usize) -> Result<(), CollectiveError> {
        let cuda = |error| comm::cuda("wait for the stream", error);
        let event = self.stream.record_event(None).map_err(cuda)?;
        self.poll(rank, self.op_timeout, || {
            self.comm.settled()?;
            event.try_is_complete().map_err(cuda)
        })
    }

    /// Queues `call` on memory that holds `data` on the device; host memory goes there and back. `blame` is the rank
    /// that a deadline names.
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
                return self.settle(blame, self.op_timeout);
            }
            host => host.host_bytes()?,
        };
        let cuda = |error| comm::cuda("stage host memory", error);
        let mut staging = self.staging(host.len())?;
        stream.memcpy_htod(host, &mut staging.slice_mut(..host.len())).map_err(cuda)?;
        let (address, queued) = staging.device_ptr_mut(&stream);
        let result = call(&self.comm, &stream, DeviceMemory { address, count, dtype });
        drop(queued);
        result?;
        self.settle(blame, self.op_timeout)?;
        self.drain(blame)?;
        stream.memcpy_dtoh(&staging.slice(..host.len()), host).map_err(cuda)?;
        self.drain(blame)?;
        self.staging = Some(staging);
        Ok(())
    }

    /// The staging buffer, grown to `bytes`; put back after use.
    fn staging(&mut self, bytes: usize) -> Result<CudaSlice<u8>, CollectiveError> {
        match self.staging.take().filter(|staging| staging.len() >= bytes) {
            Some(staging) => Ok(staging),
            None => self.stream.alloc_zeros(bytes.max(1)).map_err(|error| comm::cuda("allocate for staging", error)),
        }
    }

    fn gather(
        &mut self,
        mine: DeviceSlice<'_>,
        counts: &[usize],
        mut out: DeviceSliceMut<'_>,
    ) -> Result<(), CollectiveError> {
        let stream = self.stream.clone();
        let (from, _read) = mine.memory(&stream);
        let (into, _written) = out.memory(&stream);
        self.comm.all_gather(&stream, from, counts, into)?;
        self.settle(self.next_rank(), self.op_timeout)
    }

    /// [`Nccl::gather`] for host memory.
    fn gather_staged(&mut self, mine: Slice<'_>, counts: &[usize], out: SliceMut<'_>) -> Result<(), CollectiveError> {
        let cuda = |error| comm::cuda("stage host memory", error);
        let (dtype, blame) = (mine.dtype(), self.next_rank());
        let (own, total) = (mine.len(), out.len());
        let (mine, out) = (mine.host_bytes()?, out.host_bytes()?);
        let stream = self.stream.clone();
        let mut staging = self.staging(mine.len() + out.len())?;
        {
            let (mut into, mut from) = staging.split_at_mut(out.len());
            stream.memcpy_htod(mine, &mut from.slice_mut(..mine.len())).map_err(cuda)?;
            let (from, _read) = from.device_ptr(&stream);
            let (into, _written) = into.device_ptr_mut(&stream);
            let memory = |address, count| DeviceMemory { address, count, dtype };
            self.comm.all_gather(&stream, memory(from, own), counts, memory(into, total))?;
        }
        self.settle(blame, self.op_timeout)?;
        self.drain(blame)?;
        stream.memcpy_dtoh(&staging.slice(..out.len()), out).map_err(cuda)?;
        self.drain(blame)?;
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
        self.attempt(|nccl| nccl.in_place(blame, data, Comm::all_reduce_sum))
    }

    fn all_gather(&mut self, mine: Slice<'_>, counts: &[usize], out: SliceMut<'_>) -> Result<(), CollectiveError> {
        self.attempt(|nccl| {
            checks::check_all_gather(nccl.group, &mine, counts, &out)?;
            match (mine, out) {
                (Slice::Device(mine), SliceMut::Device(out)) => nccl.gather(mine, counts, out),
                (mine, out) => nccl.gather_staged(mine, counts, out),
            }
        })
    }

    fn broadcast(&mut self, root: usize, data: SliceMut<'_>) -> Result<(), CollectiveError> {
        self.attempt(|nccl| {
            checks::check_root(nccl.group, root)?;
            nccl.in_place(root, data, |comm, stream, memory| comm.broadcast(stream, root, memory))
        })
    }

    fn send(&mut self, to: usize, data: Slice<'_>) -> Result<(), CollectiveError> {
        self.attempt(|nccl| {
            checks::check_peer(nccl.group, to)?;
            let stream = nccl.stream.clone();
            let (dtype, count) = (data.dtype(), data.len());
            let host = match data {
                Slice::Device(device) => {
                    let (memory, _queued) = device.memory(&stream);
                    nccl.comm.send(&stream, to, memory)?;
                    return nccl.settle(to, nccl.op_timeout);
                }
                host => host.host_bytes()?,
            };
            let mut staging = nccl.staging(host.len())?;
            let copied = stream.memcpy_htod(host, &mut staging.slice_mut(..host.len()));
            copied.map_err(|error| comm::cuda("stage host memory", error))?;
            let (address, queued) = staging.device_ptr(&stream);
            let result = nccl.comm.send(&stream, to, DeviceMemory { address, count, dtype });
            drop(queued);
            result?;
            nccl.settle(to, nccl.op_timeout)?;
            nccl.drain(to)?;
            nccl.staging = Some(staging);
            Ok(())
        })
    }

    fn recv(&mut self, from: usize, data: SliceMut<'_>) -> Result<(), CollectiveError> {
        self.attempt(|nccl| {
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
