//! The libraries that candle calls on CUDA devices, looked for before it calls them: its bindings panic where one is
//! missing. A program that was linked to them has them all, or has not started.

use libloading::os::unix::Library;

use crate::error::{Result, argument};

/// One of its functions, and the names that the bindings try for it: the one to install is the last.
type Wanted = (&'static str, &'static [&'static str]);

const DRIVER: Wanted = ("cuInit", &["libcuda.so", "libcuda.so.1"]);
const MATH: [Wanted; 2] = [
    ("cublasCreate_v2", &["libcublas.so", "libcublas.so.13"]),
    ("curandCreateGenerator", &["libcurand.so", "libcurand.so.10"]),
];

/// Whether NVIDIA's driver is here; where it is not, there are no devices, and asking for their number would panic.
#[must_use]
pub fn has_driver() -> bool {
    callable(DRIVER)
}

/// Whether what candle needs beside the driver is here.
///
/// # Errors
/// The first library that is missing, and the remedy.
pub fn check_libraries() -> Result<()> {
    match MATH.into_iter().find(|&wanted| !callable(wanted)) {
        None => Ok(()),
        Some((_, names)) => argument(
            "CUDA",
            format!(
                "{} was not found: install the libraries of CUDA 13, or name their folder in LD_LIBRARY_PATH",
                names[names.len() - 1]
            ),
        ),
    }
}

/// Whether the program is linked to a library, and so has its function, or can load it.
fn callable((function, names): Wanted) -> bool {
    // SAFETY: the function is looked up and not called; the initializers are those that any CUDA program runs.
    unsafe {
        Library::this().get::<unsafe extern "C" fn()>(function).is_ok()
            || names.iter().any(|&name| Library::new(name).is_ok())
    }
}
