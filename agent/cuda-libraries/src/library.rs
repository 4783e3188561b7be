//! The libraries, and where their functions are.

use std::ffi::c_void;
use std::sync::Mutex;
use std::sync::atomic::{AtomicPtr, Ordering};

use super::{SYMBOLS, stubs};

/// A library of CUDA 13.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Library {
    Driver,
    Cublas,
    CublasLt,
    Curand,
    Nvrtc,
    Nccl,
}

impl Library {
    /// Returns the name by which the loader finds the library, and the package that has it.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Driver => ("libcuda.so.1", "NVIDIA's driver"),
            Self::Cublas => ("libcublas.so.13", "nvidia-cublas"),
            Self::CublasLt => ("libcublasLt.so.13", "nvidia-cublas"),
            Self::Curand => ("libcurand.so.10", "nvidia-curand"),
            Self::Nvrtc => ("libnvrtc.so.13", "nvidia-cuda-nvrtc"),
            Self::Nccl => ("libnccl.so.2", "nvidia-nccl-cu13"),
        }
    }

    /// Returns the address of a function. The library stays loaded.
    fn address_of(self, function: &str) -> Result<*mut c_void, String> {
        static LOADED: Mutex<Vec<(Library, libloading::Library)>> = Mutex::new(Vec::new());
        let (file, package) = self.names();
        let mut loaded = LOADED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !loaded.iter().any(|(library, _)| *library == self) {
            // SAFETY: the libraries of CUDA may be loaded at any time.
            let library = unsafe { libloading::Library::new(file) };
            let library = library.map_err(|error| {
                format!("{file} cannot be loaded, which has {function}: install {package} ({error})")
            })?;
            loaded.push((self, library));
        }
        let library = loaded.iter().find(|(library, _)| *library == self);
        // SAFETY: the address is only taken here. cudarc calls it by the function's own type.
        let symbol = library.map(|(_, library)| unsafe { library.get::<*mut c_void>(function.as_bytes()) });
        match symbol {
            Some(Ok(symbol)) => Ok(*symbol),
            _ => Err(format!("{file} is too old or too new: it has no {function}; {package} of CUDA 13 has it")),
        }
    }
}

/// Returns the address of the function at `index`, for its stub. Ends the process if there is none, because the stub's caller
/// expects whatever the function would return.
pub(crate) extern "C" fn find(index: u32) -> *mut c_void {
    let (function, library) = SYMBOLS[index as usize];
    match library.address_of(function) {
        Ok(address) => {
            targets()[index as usize].store(address, Ordering::Release);
            address
        }
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "the process ends, and its log may not be set up")]
            {
                eprintln!("error: {error}");
            }
            std::process::abort();
        }
    }
}

fn targets() -> &'static [AtomicPtr<c_void>] {
    &stubs::TARGETS
}
