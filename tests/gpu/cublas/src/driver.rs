//! The emulated driver's interface for work of other libraries (`tests/gpu/driver/src/api/foreign.rs`).

use std::ffi::{CStr, c_char, c_uint, c_void};
use std::sync::OnceLock;

use libloading::Library;

/// Device memory that a piece of work uses.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct ForeignUse {
    pub(crate) address: u64,
    pub(crate) bytes: usize,
    pub(crate) reads: bool,
    pub(crate) writes: bool,
}

type Submit = unsafe extern "C" fn(
    usize,
    *const c_char,
    *const ForeignUse,
    usize,
    Option<unsafe extern "C" fn(*mut c_void)>,
    *mut c_void,
) -> c_uint;

/// Queues work on a stream. Its data is never freed, because a graph may call the work again.
pub(crate) fn submit<T: Fn() + Send + Sync + 'static>(
    stream: usize,
    name: &CStr,
    uses: &[ForeignUse],
    work: T,
) -> c_uint {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    unsafe extern "C" fn call<T: Fn()>(data: *mut c_void) {
        // SAFETY: `submit` passes a leaked `T`.
        unsafe { (*data.cast::<T>())() }
    }
    let library = LIBRARY.get_or_init(|| {
        // SAFETY: the program has loaded the driver already.
        unsafe { Library::new("libcuda.so.1") }.expect("cuBLAS is called by programs that have the driver")
    });
    let data = Box::leak(Box::new(work));
    // SAFETY: the function has this type, and the driver copies the list and the name.
    unsafe {
        let submit = library.get::<Submit>(b"emulatedGpuSubmit").expect("the emulated driver");
        submit(stream, name.as_ptr(), uses.as_ptr(), uses.len(), Some(call::<T>), (&raw mut *data).cast())
    }
}
