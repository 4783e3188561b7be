//! Memory and copies.

use std::ffi::{c_int, c_uint};
use std::sync::Arc;

use lockstep_emulated_gpu::memory::Owner;
use lockstep_emulated_gpu::run::Use;

use crate::context::DRIVER;
use crate::module::note_use;
use crate::pointer::{HostMemory, Out, copy, fill};
use crate::report::{count, note_fault};
use crate::status::Status;
use crate::stream::Stream;

/// Makes an allocation on the thread's device.
fn allocate(bytes: usize) -> Result<u64, Status> {
    let owner = Owner::Device(DRIVER.current()?.ordinal);
    if bytes == 0 {
        return Err(Status::INVALID_VALUE);
    }
    if DRIVER.memory.used(owner).saturating_add(bytes) > DRIVER.device_bytes {
        return Err(Status::OUT_OF_MEMORY);
    }
    Ok(DRIVER.memory.allocate(owner, bytes))
}

fn free(address: u64) -> Result<(), Status> {
    DRIVER.order.forget(address);
    if DRIVER.memory.free(address).is_none() {
        note_fault(&format!("{address:#x} is freed, and is no allocation"));
        return Err(Status::INVALID_VALUE);
    }
    Ok(())
}

#[unsafe(no_mangle)]
extern "C" fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) -> Status {
    let used = DRIVER.current().map(|device| DRIVER.memory.used(Owner::Device(device.ordinal)));
    used.and_then(|used| {
        free.put(DRIVER.device_bytes.saturating_sub(used))?;
        total.put(DRIVER.device_bytes)
    })
    .into()
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAlloc_v2(address: Out<u64>, bytes: usize) -> Status {
    count("cuMemAlloc", 1);
    allocate(bytes).and_then(|at| address.put(at)).into()
}

/// The allocation belongs to the stream until an event or the host says otherwise.
#[unsafe(no_mangle)]
extern "C" fn cuMemAllocAsync(address: Out<u64>, bytes: usize, stream: usize) -> Status {
    count("cuMemAllocAsync", 1);
    let allocated = DRIVER.stream(stream).and_then(|stream| {
        if stream.is_capturing() {
            note_fault("an allocation inside of a capture");
            return Err(Status::CAPTURE_UNSUPPORTED);
        }
        let at = allocate(bytes)?;
        stream.submit(Arc::new(move |ticket| note_use(at, Use::WRITES, ticket, "cuMemAllocAsync")))?;
        Ok(at)
    });
    allocated.and_then(|at| address.put(at)).into()
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFree_v2(address: u64) -> Status {
    count("cuMemFree", 1);
    if address == 0 {
        return Status::SUCCESS;
    }
    DRIVER.current().and_then(|device| DRIVER.synchronize(device)).and_then(|()| free(address)).into()
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFreeAsync(address: u64, stream: usize) -> Status {
    count("cuMemFreeAsync", 1);
    let freed = DRIVER.stream(stream).and_then(|stream| {
        stream.submit(Arc::new(move |ticket| {
            note_use(address, Use::WRITES, ticket, "cuMemFreeAsync")?;
            free(address)
        }))
    });
    freed.into()
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostAlloc(address: Out<HostMemory>, bytes: usize, _flags: c_uint) -> Status {
    count("cuMemHostAlloc", 1);
    let at = DRIVER.current().map(|_| DRIVER.memory.allocate(Owner::Host, bytes));
    at.and_then(|at| address.put(HostMemory::at(at))).into()
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFreeHost(address: HostMemory) -> Status {
    DRIVER.current().and_then(|device| DRIVER.synchronize(device)).and_then(|()| free(address.address())).into()
}

/// Returns the start of the pinned allocation that holds memory of the host. Other memory is pageable.
fn pinned(address: u64, bytes: usize) -> Option<u64> {
    DRIVER.memory.find(address, bytes).ok().filter(|range| range.owner == Owner::Host).map(|range| range.start)
}

/// Queues a copy to a device. Pageable memory is read now, pinned memory when the stream gets there.
fn copy_to_device(to: u64, from: HostMemory, bytes: usize, stream: &Stream) -> Result<(), Status> {
    let start = DRIVER.check(&stream.device, to, bytes, "a copy to the device")?.start;
    let address = from.address();
    if let Some(source) = pinned(address, bytes) {
        return stream.submit(Arc::new(move |ticket| {
            note_use(source, Use::READS, ticket, "a copy to the device")?;
            note_use(start, Use::WRITES, ticket, "a copy to the device")?;
            copy(to, address, bytes);
            Ok(())
        }));
    }
    let staged = from.read(bytes);
    stream.submit(Arc::new(move |ticket| {
        note_use(start, Use::WRITES, ticket, "a copy to the device")?;
        copy(to, staged.as_ptr() as u64, bytes);
        Ok(())
    }))
}

/// Queues a copy to the host. A copy to pageable memory is waited for.
fn copy_to_host(to: HostMemory, from: u64, bytes: usize, stream: &Stream) -> Result<(), Status> {
    let start = DRIVER.check(&stream.device, from, bytes, "a copy to the host")?.start;
    let address = to.address();
    let destination = pinned(address, bytes);
    if destination.is_none() && stream.is_capturing() {
        return Err(Status::CAPTURE_UNSUPPORTED);
    }
    stream.submit(Arc::new(move |ticket| {
        note_use(start, Use::READS, ticket, "a copy to the host")?;
        if let Some(destination) = destination {
            note_use(destination, Use::WRITES, ticket, "a copy to the host")?;
        }
        copy(address, from, bytes);
        Ok(())
    }))?;
    if destination.is_none() { stream.synchronize() } else { Ok(()) }
}

fn copy_on_device(to: u64, from: u64, bytes: usize, stream: &Stream) -> Result<(), Status> {
    const WHAT: &str = "a copy on the device";
    let target = DRIVER.check(&stream.device, to, bytes, WHAT)?.start;
    let source = DRIVER.check(&stream.device, from, bytes, WHAT)?.start;
    queue_copy([to, from], bytes, [target, source], stream, WHAT)
}

/// Queues a copy between device memory, whose allocations are `target` and `source`.
fn queue_copy(
    [to, from]: [u64; 2],
    bytes: usize,
    [target, source]: [u64; 2],
    stream: &Stream,
    what: &'static str,
) -> Result<(), Status> {
    stream.submit(Arc::new(move |ticket| {
        note_use(source, Use::READS, ticket, what)?;
        note_use(target, Use::WRITES, ticket, what)?;
        copy(to, from, bytes);
        Ok(())
    }))
}

fn set_bytes(to: u64, byte: u8, bytes: usize, stream: &Stream) -> Result<(), Status> {
    let start = DRIVER.check(&stream.device, to, bytes, "a memset")?.start;
    stream.submit(Arc::new(move |ticket| {
        note_use(start, Use::WRITES, ticket, "a memset")?;
        fill(to, byte, bytes);
        Ok(())
    }))
}

/// Does work on the legacy stream, before and after everything else on the device.
fn at_once(work: impl FnOnce(&Stream) -> Result<(), Status>) -> Status {
    let done = DRIVER.current().and_then(|device| {
        DRIVER.synchronize(device)?;
        let stream = DRIVER.stream(0)?;
        work(&stream)?;
        stream.synchronize()
    });
    done.into()
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyHtoDAsync_v2(to: u64, from: HostMemory, bytes: usize, stream: usize) -> Status {
    count("cuMemcpyHtoDAsync", 1);
    DRIVER.stream(stream).and_then(|stream| copy_to_device(to, from, bytes, &stream)).into()
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyHtoD_v2(to: u64, from: HostMemory, bytes: usize) -> Status {
    count("cuMemcpyHtoD", 1);
    at_once(|stream| copy_to_device(to, from, bytes, stream))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoHAsync_v2(to: HostMemory, from: u64, bytes: usize, stream: usize) -> Status {
    count("cuMemcpyDtoHAsync", 1);
    DRIVER.stream(stream).and_then(|stream| copy_to_host(to, from, bytes, &stream)).into()
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoH_v2(to: HostMemory, from: u64, bytes: usize) -> Status {
    count("cuMemcpyDtoH", 1);
    at_once(|stream| copy_to_host(to, from, bytes, stream))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: usize) -> Status {
    count("cuMemcpyDtoDAsync", 1);
    DRIVER.stream(stream).and_then(|stream| copy_on_device(to, from, bytes, &stream)).into()
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) -> Status {
    count("cuMemcpyDtoD", 1);
    at_once(|stream| copy_on_device(to, from, bytes, stream))
}

/// A copy between devices. It needs no peer access.
#[unsafe(no_mangle)]
extern "C" fn cuMemcpyPeerAsync(
    to: u64,
    _to_context: usize,
    from: u64,
    _from_context: usize,
    bytes: usize,
    stream: usize,
) -> Status {
    const WHAT: &str = "a copy between devices";
    count("cuMemcpyPeerAsync", 1);
    let find = |at: u64| {
        DRIVER.memory.find(at, bytes).map(|range| range.start).map_err(|fault| {
            note_fault(&format!("{WHAT}: {fault}"));
            Status::INVALID_VALUE
        })
    };
    let queued =
        DRIVER.stream(stream).and_then(|stream| queue_copy([to, from], bytes, [find(to)?, find(from)?], &stream, WHAT));
    queued.into()
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD8Async(to: u64, byte: u8, bytes: usize, stream: usize) -> Status {
    count("cuMemsetD8Async", 1);
    DRIVER.stream(stream).and_then(|stream| set_bytes(to, byte, bytes, &stream)).into()
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD8_v2(to: u64, byte: u8, bytes: usize) -> Status {
    count("cuMemsetD8", 1);
    at_once(|stream| set_bytes(to, byte, bytes, stream))
}

/// Memory pools are there in name only: every allocation is its own.
#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetDefaultMemPool(pool: Out<usize>, device: c_int) -> Status {
    DRIVER.device(device).and_then(|device| pool.put(device.ordinal + 1)).into()
}

#[unsafe(no_mangle)]
extern "C" fn cuMemPoolSetAttribute(_pool: usize, _attribute: c_int, _value: HostMemory) -> Status {
    Status::SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cuMemPoolTrimTo(_pool: usize, _bytes: usize) -> Status {
    Status::SUCCESS
}
