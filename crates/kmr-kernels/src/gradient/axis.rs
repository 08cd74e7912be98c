//! Which outputs a tap reaches.

use std::ops::Range;

/// One tap along one axis: it reads input `output * stride + shift`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tap {
    pub stride: usize,
    pub shift: isize,
}

impl Tap {
    /// The outputs, of `outputs` in all, that read one of `inputs` inputs.
    pub fn outputs(self, inputs: usize, outputs: usize) -> Range<usize> {
        // The first output whose input is at or behind `input`.
        let first = |input: usize| {
            usize::try_from(input as isize - self.shift)
                .unwrap_or(0)
                .div_ceil(self.stride)
        };
        let end = first(inputs).min(outputs);
        first(0).min(end)..end
    }

    /// The input that an output reads, where it reads one.
    pub fn input(self, output: usize) -> usize {
        (output * self.stride).wrapping_add_signed(self.shift)
    }
}
