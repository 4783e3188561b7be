//! A mutable slice of which several threads write disjoint parts.

use std::marker::PhantomData;
use std::ops::Range;

/// A mutable slice lent to a job of the pool; the borrow checker sees one exclusive borrow.
#[derive(Clone, Copy)]
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    length: usize,
    lent: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for `&mut [T]`, whose parts are handed out to threads by `part`, which needs
// `T: Send` and whose callers promise that parts do not overlap.
unsafe impl<T: Send> Sync for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Shared<'a, T> {
        Shared { start: slice.as_mut_ptr(), length: slice.len(), lent: PhantomData }
    }

    /// The elements of `range`, for writing. Panics if the range is not inside the slice.
    ///
    /// # Safety
    /// No two parts that are alive at once may overlap.
    #[expect(clippy::mut_from_ref, reason = "handing out disjoint parts is its purpose")]
    #[inline(always)]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.length, "part outside the slice");
        // SAFETY: the range is inside the slice that is borrowed for 'a, and the caller promises that
        // nobody else holds any of it.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}
