//! Which outputs a tap reaches.

use std::ops::Range;

use crate::Geometry;

/// One tap along one axis: it reads input `output * stride + shift`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tap {
    pub stride: usize,
    pub shift: isize,
}

impl Tap {
    /// The taps of a convolution along one axis.
    pub fn all(geometry: &Geometry, axis: usize) -> Vec<Self> {
        (0..geometry.kernel[axis])
            .map(|index| Self {
                stride: geometry.stride[axis],
                shift: (index * geometry.dilation[axis]) as isize - geometry.pads[axis] as isize,
            })
            .collect()
    }

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

    /// The input that an output reads; none where this is not below the number of inputs.
    pub fn input(self, output: usize) -> usize {
        (output * self.stride).wrapping_add_signed(self.shift)
    }
}
