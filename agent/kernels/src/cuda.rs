//! Detection of the libraries that candle calls on CUDA devices, before candle calls them: its bindings panic if one is
//! missing. A program that was linked to these libraries has them all, or has not started.

use libloading::os::unix::Library;

use crate::error::{Result, argument};

/// A function of a library, and the names that the bindings try for the library. The last name is the one to install.
type LibraryFunction = (&'static str, &'static [&'static str]);

const DRIVER: LibraryFunction = ("cuInit", &["libcuda.so", "libcuda.so.1"]);
const MATH: [LibraryFunction; 2] = [
    ("cublasCreate_v2", &["libcublas.so", "libcublas.so.13"]),
    ("curandCreateGenerator", &["libcurand.so", "libcurand.so.10"]),
];

/// Returns true if NVIDIA's driver is installed. Without the driver there are no devices, and asking for their number
/// would panic.
#[must_use]
pub fn has_driver() -> bool {
    has_function(DRIVER)
}

/// Checks that the libraries that candle needs beside the driver are installed.
///
/// # Errors
/// [`crate::Error::Argument`] with the first library that is missing, and the remedy.
pub fn check_libraries() -> Result<()> {
    match MATH.into_iter().find(|&function| !has_function(function)) {
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

/// Returns true if the program is linked to a library, and so has its function, or can load the library.
fn has_function((function, names): LibraryFunction) -> bool {
    // SAFETY: the function is looked up and not called. The initializers are those that any CUDA program runs.
    unsafe {
        Library::this().get::<unsafe extern "C" fn()>(function).is_ok()
            || names.iter().any(|&name| Library::new(name).is_ok())
    }
}
