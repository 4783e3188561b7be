//! Loading of the driver into a test's process.

use std::ffi::{CStr, CString, c_char, c_uint};
use std::sync::OnceLock;

use libloading::Library;

/// Loads a library that lies beside the test binary. A program then finds it by its own name.
///
/// # Panics
/// Panics if the library is not there.
pub fn load_beside(file: &str) -> Library {
    let path = std::env::current_exe().expect("the path of the test").with_file_name(file);
    // SAFETY: the emulated libraries have no code that runs when they are loaded.
    unsafe { Library::new(&path) }.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The library, as a program loads it. A test binary that depends on this crate has the crate's own code too, which is another
/// driver: cudarc does not see that one.
static LIBRARY: OnceLock<Library> = OnceLock::new();

/// Loads the library that lies beside the test binary. cudarc then finds it as `libcuda.so.1`. The first call in a process sets
/// the number of devices.
///
/// # Panics
/// Panics if the library is not there.
pub fn load(devices: u32) -> &'static Library {
    LIBRARY.get_or_init(|| {
        let library = load_beside("libemulated_cuda.so");
        // SAFETY: the function has this type.
        unsafe {
            library.get::<unsafe extern "C" fn(c_uint)>(b"emulatedGpuSetDevices").expect("the function")(devices);
        }
        library
    })
}

/// Returns the texts of the faults of this process so far, a line each.
///
/// # Panics
/// Panics if the library is not loaded.
pub fn faults() -> String {
    let library = LIBRARY.get().expect("the driver is loaded");
    // SAFETY: the function has this type, and returns a text with an end.
    unsafe {
        let function =
            library.get::<unsafe extern "C" fn() -> *const c_char>(b"emulatedGpuFaults").expect("the function");
        CStr::from_ptr(function()).to_string_lossy().into_owned()
    }
}

/// Returns a count of this process: of calls of a driver's function, of launches by `kernel NAME`, or of `instructions`.
///
/// # Panics
/// Panics if the library is not loaded, or if the name has a zero.
pub fn count(name: &str) -> u64 {
    let library = LIBRARY.get().expect("the driver is loaded");
    let name = CString::new(name).expect("a name without a zero");
    // SAFETY: the function has this type, and the name has an end.
    unsafe {
        let function =
            library.get::<unsafe extern "C" fn(*const c_char) -> u64>(b"emulatedGpuCount").expect("the function");
        function(name.as_ptr())
    }
}
