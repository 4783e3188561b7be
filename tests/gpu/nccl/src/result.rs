//! Results of NCCL's functions (`ncclResult_t`).

use std::ffi::{CStr, c_int};

pub(crate) const SUCCESS: c_int = 0;
pub(crate) const CUDA_ERROR: c_int = 1;
pub(crate) const SYSTEM_ERROR: c_int = 2;
pub(crate) const INVALID_ARGUMENT: c_int = 4;
pub(crate) const INVALID_USAGE: c_int = 5;
pub(crate) const REMOTE_ERROR: c_int = 6;
pub(crate) const IN_PROGRESS: c_int = 7;

/// Returns the text of a result.
pub(crate) fn text(result: c_int) -> &'static CStr {
    match result {
        SUCCESS => c"no error",
        CUDA_ERROR => c"the emulated driver failed",
        SYSTEM_ERROR => c"the hub of the emulated NCCL cannot be reached",
        INVALID_ARGUMENT => c"invalid argument",
        INVALID_USAGE => c"the ranks do not agree on an operation",
        REMOTE_ERROR => c"the communicator was aborted, or its hub is gone",
        IN_PROGRESS => c"in progress",
        _ => c"unknown result",
    }
}
