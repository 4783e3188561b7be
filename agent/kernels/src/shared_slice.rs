//! A mutable slice that several threads write. Their parts are disjoint.

use std::marker::PhantomData;
use std::ops::Range;

/// Mutable slice that is lent to a job of the pool. The borrow checker sees one exclusive borrow.
#[derive(Clone, Copy)]
pub(crate) struct SharedSlice<'a, T> {
    start: *mut T,
    length: usize,
    lent: PhantomData<&'a mut [T]>,
}

// SAFETY: a `SharedSlice` stands for `&mut [T]`. `slice_mut` hands its parts out to threads. That needs `T: Send`, and
// the callers of `slice_mut` promise that parts do not overlap.
unsafe impl<T: Send> Sync for SharedSlice<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for SharedSlice<'_, T> {}

impl<'a, T> SharedSlice<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> SharedSlice<'a, T> {
        SharedSlice { start: slice.as_mut_ptr(), length: slice.len(), lent: PhantomData }
    }

    /// Returns the elements of `range` for writing. Panics if the range is not inside the slice.
    ///
    /// # Safety
    /// No two parts that are alive at once may overlap.
    #[expect(clippy::mut_from_ref, reason = "handing out disjoint parts is its purpose")]
    #[inline(always)]
    pub(crate) unsafe fn slice_mut(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.length, "part outside the slice");
        // SAFETY: the range is inside the slice that is borrowed for 'a, and the caller promises that no other part
        // that is alive overlaps it.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}
