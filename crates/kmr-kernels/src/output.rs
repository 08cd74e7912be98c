//! A result that several threads write in disjoint parts.

/// A vector under construction.
pub(crate) struct Output {
    start: *mut f32,
    length: usize,
}

// SAFETY: threads only reach the floats through `part`, whose callers keep parts disjoint.
unsafe impl Sync for Output {}

impl Output {
    /// Makes a vector of `length` floats, all of which `fill` writes.
    ///
    /// # Safety
    /// `fill` writes every float.
    pub unsafe fn fill(length: usize, fill: impl FnOnce(&Self)) -> Vec<f32> {
        let mut result: Vec<f32> = Vec::with_capacity(length);
        fill(&Self {
            start: result.as_mut_ptr(),
            length,
        });
        // SAFETY: the capacity is `length`, and the caller wrote every float.
        unsafe { result.set_len(length) };
        result
    }

    /// The floats from `first` on, to be written before they are read.
    ///
    /// # Safety
    /// No float is in two parts that are in use at the same time.
    #[allow(clippy::mut_from_ref, reason = "the parts are disjoint")]
    #[inline(always)]
    pub unsafe fn part(&self, first: usize, length: usize) -> &mut [f32] {
        assert!(first <= self.length && length <= self.length - first);
        // SAFETY: inside the allocation; floats need no initialization to be written.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(first), length) }
    }
}
