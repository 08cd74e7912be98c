//! Phases of a stride.

use crate::{Geometry, tap::Tap};

/// One phase of one axis: the input indices `first`, `first + stride`, and so on.
#[derive(Clone, Debug)]
pub struct Phase {
    /// The kernel indices that reach them.
    pub kernel: Vec<usize>,
    /// What those read of the cotangent.
    pub taps: Vec<Tap>,
    /// Input indices in the phase.
    pub count: usize,
}

impl Phase {
    /// The phases of an axis with `input` indices.
    pub fn all(geometry: &Geometry, axis: usize, input: usize) -> Vec<Self> {
        let (stride, dilation) = (geometry.stride[axis], geometry.dilation[axis]);
        let phase = |first: usize| {
            let padded = first + geometry.pads[axis];
            let kernel: Vec<usize> = (0..geometry.kernel[axis])
                .filter(|index| index * dilation % stride == padded % stride)
                .collect();
            let tap = |index: &usize| Tap {
                stride: 1,
                shift: (padded as isize - (index * dilation) as isize) / stride as isize,
            };
            Self {
                taps: kernel.iter().map(tap).collect(),
                kernel,
                count: (input - first).div_ceil(stride),
            }
        };
        (0..stride.min(input)).map(phase).collect()
    }
}
