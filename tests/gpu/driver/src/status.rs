//! Results of the driver's functions (`CUresult`).

use std::ffi::{CStr, c_uint};

/// A `CUresult`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Status(pub c_uint);

macro_rules! statuses {
    ($($name:ident = $value:literal, $text:literal;)*) => {
        impl Status {
            $(pub(crate) const $name: Self = Self($value);)*

            /// Returns the driver's name of the result.
            pub(crate) fn name(self) -> &'static CStr {
                match self.0 {
                    $($value => $text,)*
                    _ => c"CUDA_ERROR_UNKNOWN",
                }
            }
        }
    };
}

statuses! {
    SUCCESS = 0, c"CUDA_SUCCESS";
    INVALID_VALUE = 1, c"CUDA_ERROR_INVALID_VALUE";
    OUT_OF_MEMORY = 2, c"CUDA_ERROR_OUT_OF_MEMORY";
    INVALID_DEVICE = 101, c"CUDA_ERROR_INVALID_DEVICE";
    INVALID_CONTEXT = 201, c"CUDA_ERROR_INVALID_CONTEXT";
    INVALID_PTX = 218, c"CUDA_ERROR_INVALID_PTX";
    INVALID_HANDLE = 400, c"CUDA_ERROR_INVALID_HANDLE";
    NOT_FOUND = 500, c"CUDA_ERROR_NOT_FOUND";
    NOT_READY = 600, c"CUDA_ERROR_NOT_READY";
    PEER_ACCESS_ENABLED = 704, c"CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED";
    LAUNCH_FAILED = 719, c"CUDA_ERROR_LAUNCH_FAILED";
    NOT_SUPPORTED = 801, c"CUDA_ERROR_NOT_SUPPORTED";
    CAPTURE_UNSUPPORTED = 900, c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED";
    CAPTURE_UNMATCHED = 903, c"CUDA_ERROR_STREAM_CAPTURE_UNMATCHED";
}

impl From<Result<(), Status>> for Status {
    fn from(result: Result<(), Status>) -> Self {
        result.err().unwrap_or(Self::SUCCESS)
    }
}
