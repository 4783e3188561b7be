//! Pointers that a caller of the C interface passes. The manual of the driver asks callers for valid ones, and this module
//! trusts them like the driver does.

use std::ffi::{CStr, c_char, c_void};

use crate::status::Status;

/// Pointer to a place for a result.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Out<T>(*mut T);

impl<T> Out<T> {
    /// Writes the result.
    pub(crate) fn put(self, value: T) -> Result<(), Status> {
        if self.0.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: the caller passes a valid place (see above).
        unsafe { self.0.write(value) };
        Ok(())
    }

    /// Writes the result, if the caller wants it.
    pub(crate) fn put_if_wanted(self, value: T) {
        if !self.0.is_null() {
            // SAFETY: the caller passes a valid place.
            unsafe { self.0.write(value) };
        }
    }
}

impl Out<c_char> {
    /// Writes a text of at most `size` bytes, its end included.
    pub(crate) fn put_text(self, text: &CStr, size: usize) -> Result<(), Status> {
        if self.0.is_null() || size == 0 {
            return Err(Status::INVALID_VALUE);
        }
        let bytes = text.to_bytes();
        let count = bytes.len().min(size - 1);
        // SAFETY: the caller passes `size` bytes.
        unsafe {
            self.0.copy_from_nonoverlapping(bytes.as_ptr().cast(), count);
            self.0.add(count).write(0);
        }
        Ok(())
    }
}

/// Text that ends with a zero.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Text(*const c_char);

impl Text {
    pub(crate) fn read(self) -> Result<String, Status> {
        if self.0.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: the caller passes a text with an end.
        Ok(unsafe { CStr::from_ptr(self.0) }.to_string_lossy().into_owned())
    }
}

/// Items in a row.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct List<T>(*const T);

impl<T: Copy> List<T> {
    pub(crate) fn read(self, count: usize) -> Vec<T> {
        if count == 0 {
            return Vec::new();
        }
        // SAFETY: the caller passes `count` items.
        unsafe { std::slice::from_raw_parts(self.0, count) }.to_vec()
    }
}

/// Memory of the host.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct HostMemory(*mut c_void);

impl HostMemory {
    pub(crate) fn at(address: u64) -> Self {
        Self(address as *mut c_void)
    }

    pub(crate) fn address(self) -> u64 {
        self.0 as u64
    }

    pub(crate) fn read(self, count: usize) -> Vec<u8> {
        // SAFETY: the caller passes `count` bytes.
        unsafe { std::slice::from_raw_parts(self.0.cast::<u8>(), count) }.to_vec()
    }
}

/// Copies bytes between memory of the host and of devices, which may overlap.
pub(crate) fn copy(to: u64, from: u64, count: usize) {
    // SAFETY: the callers check device memory against live allocations, and trust the host's as the driver does.
    unsafe { (to as *mut u8).copy_from((from as *const u8).cast_mut(), count) };
}

/// Sets bytes of device memory.
pub(crate) fn fill(to: u64, byte: u8, count: usize) {
    // SAFETY: the callers check device memory against live allocations.
    unsafe { (to as *mut u8).write_bytes(byte, count) };
}

/// The list of pointers to a kernel's arguments.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Arguments(*mut *mut c_void);

impl Arguments {
    /// Reads the argument at `index`, of `size` bytes.
    pub(crate) fn read(self, index: usize, size: usize) -> Result<Vec<u8>, Status> {
        if self.0.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: the caller passes a pointer for each parameter of the kernel.
        let argument = unsafe { *self.0.add(index) };
        Ok(HostMemory(argument).read(size))
    }
}

/// A function of the caller, with its data.
#[derive(Clone, Copy)]
pub(crate) struct HostFunction {
    pub(crate) function: unsafe extern "C" fn(*mut c_void),
    pub(crate) data: HostMemory,
}

impl HostFunction {
    pub(crate) fn call(self) {
        // SAFETY: the caller of `cuLaunchHostFunc` promises that the function may be called with the data.
        unsafe { (self.function)(self.data.0) };
    }
}

// SAFETY: the caller of `cuLaunchHostFunc` promises that a thread of the driver may call the function.
unsafe impl Send for HostFunction {}
// SAFETY: as above.
unsafe impl Sync for HostFunction {}
