//! Devices, their primary contexts, and the handles of everything that a program makes.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::ffi::c_uint;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, RwLock};

use lockstep_emulated_gpu::memory::{Memory, Owner, Range};

use crate::graph::Graph;
use crate::module::{LoadedFunction, LoadedModule};
use crate::order::Order;
use crate::report::note_fault;
use crate::status::Status;
use crate::stream::{Event, Stream};

/// Handles of the streams that are always there (`CU_STREAM_LEGACY`, `CU_STREAM_PER_THREAD`). 0 means the first.
const LEGACY: usize = 1;
const PER_THREAD: usize = 2;
/// First handle that is given out.
const FIRST_HANDLE: usize = 0x1000;

thread_local! {
    /// Context of the thread: the ordinal of its device, plus one.
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// Objects of one kind, by their handles.
pub(crate) struct Handles<T>(RwLock<HashMap<usize, Arc<T>>>);

impl<T> Default for Handles<T> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<T> Handles<T> {
    pub(crate) fn add(&self, object: Arc<T>) -> usize {
        static NEXT: AtomicUsize = AtomicUsize::new(FIRST_HANDLE);
        let handle = NEXT.fetch_add(1, Ordering::Relaxed);
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(handle, object);
        handle
    }

    pub(crate) fn get(&self, handle: usize) -> Result<Arc<T>, Status> {
        let found = self.0.read().unwrap_or_else(PoisonError::into_inner).get(&handle).cloned();
        found.ok_or(Status::INVALID_HANDLE)
    }

    pub(crate) fn remove(&self, handle: usize) -> Result<Arc<T>, Status> {
        let found = self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&handle);
        found.ok_or(Status::INVALID_HANDLE)
    }

    fn all(&self) -> Vec<Arc<T>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// A device and its primary context.
pub(crate) struct Device {
    pub(crate) ordinal: usize,
    error: Mutex<Option<Status>>,
    /// Ordinals of the devices whose memory this one may use.
    peers: Mutex<HashSet<usize>>,
}

impl Device {
    /// Returns the error that the context keeps after a fault.
    pub(crate) fn error(&self) -> Option<Status> {
        *self.error.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_error(&self, status: Status) {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(status);
    }

    /// Allows the use of another device's memory. Returns false if that is allowed already.
    pub(crate) fn add_peer(&self, ordinal: usize) -> bool {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).insert(ordinal)
    }

    fn reaches(&self, owner: Owner) -> bool {
        match owner {
            Owner::Host => true,
            Owner::Device(ordinal) => {
                ordinal == self.ordinal || self.peers.lock().unwrap_or_else(PoisonError::into_inner).contains(&ordinal)
            }
        }
    }
}

/// Key of a stream that is always there: its device, and its thread, which is `None` for the legacy stream.
type AlwaysKey = (usize, Option<std::thread::ThreadId>);

/// Everything of the process.
pub(crate) struct Driver {
    pub(crate) devices: Vec<Arc<Device>>,
    pub(crate) device_bytes: usize,
    pub(crate) seed: u64,
    pub(crate) memory: Memory,
    pub(crate) order: Order,
    pub(crate) streams: Handles<Stream>,
    pub(crate) events: Handles<Event>,
    pub(crate) modules: Handles<LoadedModule>,
    pub(crate) functions: Handles<LoadedFunction>,
    pub(crate) graphs: Handles<Graph>,
    always: Mutex<HashMap<AlwaysKey, Arc<Stream>>>,
}

/// The driver.
pub(crate) static DRIVER: LazyLock<Driver> = LazyLock::new(|| {
    let setting =
        |name: &str, default: usize| std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default);
    let devices = match DEVICES.load(Ordering::Relaxed) {
        0 => setting("EMULATED_GPU_DEVICES", 1),
        count => count,
    };
    let devices =
        (0..devices).map(|ordinal| Arc::new(Device { ordinal, error: Mutex::default(), peers: Mutex::default() }));
    Driver {
        devices: devices.collect(),
        device_bytes: setting("EMULATED_GPU_MEMORY", 4 << 30),
        seed: setting("EMULATED_GPU_SEED", 0) as u64,
        memory: Memory::default(),
        order: Order::default(),
        streams: Handles::default(),
        events: Handles::default(),
        modules: Handles::default(),
        functions: Handles::default(),
        graphs: Handles::default(),
        always: Mutex::default(),
    }
});

/// Number of devices, if a test has set it.
static DEVICES: AtomicUsize = AtomicUsize::new(0);

/// Sets the number of devices, before the first call of another function.
#[unsafe(no_mangle)]
pub extern "C" fn emulatedGpuSetDevices(count: c_uint) {
    DEVICES.store(count as usize, Ordering::Relaxed);
}

impl Driver {
    pub(crate) fn device(&self, ordinal: i32) -> Result<&Arc<Device>, Status> {
        usize::try_from(ordinal).ok().and_then(|ordinal| self.devices.get(ordinal)).ok_or(Status::INVALID_DEVICE)
    }

    /// Returns the device of the thread's context.
    ///
    /// # Errors
    /// Returns the error that the context keeps.
    pub(crate) fn current(&self) -> Result<&Arc<Device>, Status> {
        let device = current().checked_sub(1).and_then(|ordinal| self.devices.get(ordinal));
        let device = device.ok_or(Status::INVALID_CONTEXT)?;
        device.error().map_or(Ok(device), Err)
    }

    /// Returns a stream by its handle.
    pub(crate) fn stream(&self, handle: usize) -> Result<Arc<Stream>, Status> {
        match handle {
            0 | LEGACY => self.always(None),
            PER_THREAD => self.always(Some(std::thread::current().id())),
            handle => self.streams.get(handle),
        }
    }

    fn always(&self, thread: Option<std::thread::ThreadId>) -> Result<Arc<Stream>, Status> {
        let device = self.current()?;
        let mut always = self.always.lock().unwrap_or_else(PoisonError::into_inner);
        let stream = always.entry((device.ordinal, thread)).or_insert_with(|| Stream::new(device.clone()));
        Ok(stream.clone())
    }

    /// Waits for all streams of a device.
    pub(crate) fn synchronize(&self, device: &Device) -> Result<(), Status> {
        let always: Vec<_> = self.always.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        for stream in self.streams.all().into_iter().chain(always) {
            if stream.device.ordinal == device.ordinal && !stream.is_capturing() {
                stream.synchronize()?;
            }
        }
        device.error().map_or(Ok(()), Err)
    }

    /// Returns the allocation that holds `count` bytes at `address`, for a device that reads or writes them.
    ///
    /// # Errors
    /// Prints the fault.
    pub(crate) fn check(&self, device: &Device, address: u64, count: usize, what: &str) -> Result<Range, Status> {
        let range = self.memory.find(address, count).map_err(|fault| {
            note_fault(&format!("{what} of {count} bytes: {fault}"));
            Status::INVALID_VALUE
        })?;
        self.check_owner(device, range, what)?;
        Ok(range)
    }

    /// Makes sure that a device may use memory of the owner of `range`.
    pub(crate) fn check_owner(&self, device: &Device, range: Range, what: &str) -> Result<(), Status> {
        if device.reaches(range.owner) {
            return Ok(());
        }
        note_fault(&format!(
            "{what} on device {} uses memory of {:?} without peer access",
            device.ordinal, range.owner
        ));
        Err(Status::LAUNCH_FAILED)
    }
}

/// Returns the handle of the thread's context, or 0.
pub(crate) fn current() -> usize {
    CURRENT.get()
}

pub(crate) fn set_current(context: usize) {
    CURRENT.set(context);
}
