//! Work of the stand-ins for CUDA's other libraries, in the order of a stream of the emulated driver (`tests/gpu/driver`). This
//! interface is the emulated GPU's own.

use std::ffi::{CStr, c_char, c_uint, c_void};
use std::sync::OnceLock;

use libloading::Library;

/// Device memory that a piece of work uses.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct ForeignUse {
    pub address: u64,
    pub bytes: usize,
    pub reads: bool,
    pub writes: bool,
}

type Submit = unsafe extern "C" fn(
    usize,
    *const c_char,
    *const ForeignUse,
    usize,
    Option<unsafe extern "C" fn(*mut c_void)>,
    *mut c_void,
) -> c_uint;

/// Queues work on a stream of the driver that the program has loaded. Returns the driver's result. The data of the work is never
/// freed, because a graph may call the work again.
///
/// # Panics
/// Panics if the program has loaded no emulated driver.
pub fn submit<T: Fn() + Send + Sync + 'static>(stream: usize, name: &CStr, uses: &[ForeignUse], work: T) -> c_uint {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    unsafe extern "C" fn call<T: Fn()>(data: *mut c_void) {
        // SAFETY: `submit` passes a leaked `T`.
        unsafe { (*data.cast::<T>())() }
    }
    let library = LIBRARY.get_or_init(|| {
        // SAFETY: the program has loaded the driver already.
        unsafe { Library::new("libcuda.so.1") }.expect("programs that call CUDA's libraries have the driver")
    });
    let data = Box::leak(Box::new(work));
    // SAFETY: the function has this type, and the driver copies the list and the name.
    unsafe {
        let submit = library.get::<Submit>(b"emulatedGpuSubmit").expect("the emulated driver");
        submit(stream, name.as_ptr(), uses.as_ptr(), uses.len(), Some(call::<T>), (&raw mut *data).cast())
    }
}
