//! What methods that go through rows and columns part by part have in common.

use std::ops::Range;

use kmr_kernels::LANES;

/// A range in parts of a size, the last of which may be smaller.
pub(crate) fn parts(range: Range<usize>, size: usize) -> impl DoubleEndedIterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(size).map(move |start| start..end.min(start + size))
}

/// Gives one lane of `to` what it is in `from`.
pub(crate) fn copy_lane<T: Copy>(to: &mut [[T; LANES]], from: &[[T; LANES]], lane: usize) {
    for (to, from) in to.iter_mut().zip(from) {
        to[lane] = from[lane];
    }
}
