//! Zeroed memory on cache-line boundaries, on huge pages if it is large: panels and KV caches.
//!
//! The system maps pages when they are first touched, so a large cache costs nothing until it is used.

use std::ffi::c_void;
use std::ptr::NonNull;

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::error::{Error, Result};

/// Size and alignment of a huge page on x86-64 and most aarch64 kernels.
const HUGE_PAGE: usize = 2 << 20;

/// Element type. Any bits are a valid value of the type. A value may lie at any cache-line boundary.
///
/// # Safety
/// Implementors have no padding, no invalid bit pattern, and an alignment of at most 64.
pub(crate) unsafe trait Pod: Copy + Send + Sync + 'static {}
// SAFETY: numbers and arrays of them.
unsafe impl Pod for f32 {}
// SAFETY: as above.
unsafe impl Pod for u8 {}
// SAFETY: as above.
unsafe impl Pod for u16 {}
// SAFETY: as above.
unsafe impl Pod for u32 {}
// SAFETY: an array of plain elements has no padding and their alignment.
unsafe impl<T: Pod, const N: usize> Pod for [T; N] {}

/// An owned anonymous mapping.
#[derive(Debug)]
pub(crate) struct Buffer {
    mapping: NonNull<c_void>,
    mapped: usize,
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping is owned memory without thread affinity.
unsafe impl Send for Buffer {}
// SAFETY: shared access only reads; writing needs `&mut`.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Maps `bytes` zero bytes, aligned to a page, or to a huge page if `bytes` are at least one.
    pub(crate) fn zeroed(bytes: usize) -> Result<Buffer> {
        let slack = if bytes >= HUGE_PAGE { HUGE_PAGE } else { 0 };
        let mapped = bytes.max(1) + slack;
        // SAFETY: an anonymous private mapping at an address of the kernel's choice touches nothing.
        let mapping = unsafe {
            let access = ProtFlags::READ | ProtFlags::WRITE;
            mmap_anonymous(std::ptr::null_mut(), mapped, access, MapFlags::PRIVATE)
        };
        let refused = |cause: rustix::io::Errno| Error::Memory { bytes: mapped, cause: cause.into() };
        let mapping = mapping.map_err(refused)?;
        let null = || refused(rustix::io::Errno::NOMEM);
        let mapping = NonNull::new(mapping).ok_or_else(null)?;
        let base = mapping.cast::<u8>();
        let skip = if slack > 0 { base.as_ptr().align_offset(HUGE_PAGE).min(slack) } else { 0 };
        // SAFETY: `skip <= slack`, so the start lies inside the mapping.
        let start = unsafe { base.add(skip) };
        if slack > 0 {
            advise_huge_pages(start, bytes);
        }
        Ok(Buffer { mapping, mapped, start, bytes })
    }

    /// Returns the bytes as elements, without a rest at the end that fills no element.
    pub(crate) fn as_slice<T: Pod>(&self) -> &[T] {
        let length = self.bytes / size_of::<T>();
        // SAFETY: the memory is mapped, initialised (zero or written), aligned to a page, and borrowed
        // with `self`; any bits are a valid `T`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast::<T>(), length) }
    }

    /// Returns the bytes as elements for writing, like [`Buffer::as_slice`].
    pub(crate) fn as_mut_slice<T: Pod>(&mut self) -> &mut [T] {
        let length = self.bytes / size_of::<T>();
        // SAFETY: as in `as_slice`, and `&mut self` makes the borrow exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast::<T>(), length) }
    }

    /// Returns the size of the buffer.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: this buffer owns the mapping, which has this size, and no borrow outlives `self`.
        let unmapped = unsafe { munmap(self.mapping.as_ptr(), self.mapped) };
        if let Err(error) = unmapped {
            tracing::warn!(%error, bytes = self.mapped, "unmap memory");
        }
    }
}

/// Asks the system for huge pages. A system without them gives small pages.
fn advise_huge_pages(start: NonNull<u8>, bytes: usize) {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: the range is inside a mapping that no other code uses yet, and this advice does not change its
        // contents.
        let advised = unsafe { rustix::mm::madvise(start.as_ptr().cast(), bytes, rustix::mm::Advice::LinuxHugepage) };
        if let Err(error) = advised {
            tracing::debug!(%error, "no huge pages");
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (start, bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_zero_aligned_and_writable() {
        for bytes in [0, 1, 64, 4097, HUGE_PAGE, HUGE_PAGE * 2 + 12] {
            let mut buffer = Buffer::zeroed(bytes).unwrap();
            assert_eq!(buffer.as_slice::<[u16; 2]>().len(), bytes / 4);
            assert_eq!(buffer.as_slice::<u32>().as_ptr().align_offset(64), 0);
            assert!(buffer.as_slice::<u16>().iter().all(|x| *x == 0));
            buffer.as_mut_slice::<f32>().fill(1.5);
            assert!(buffer.as_slice::<f32>().iter().all(|x| *x == 1.5));
            assert_eq!(buffer.bytes(), bytes);
        }
    }
}
