//! How taps lie over an input.

use crate::Geometry;

/// Where the taps of a convolution read, relative to its output position.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    /// Input channels of one group.
    pub channels: usize,
    /// Input rows and columns from one output to the next.
    pub stride: [usize; 2],
    /// Zeros above and left of the input; negative where rows or columns are left out.
    pub pads: [isize; 2],
    /// Rows and columns of each tap of one channel, counted from the first.
    pub taps: Vec<[usize; 2]>,
    /// Height and width of the input.
    pub input: [usize; 2],
    /// Height and width of the output.
    pub output: [usize; 2],
}

impl Window {
    /// The window of a convolution from `input` to `output`.
    pub fn new(geometry: &Geometry, input: [usize; 2], output: [usize; 2]) -> Self {
        let [height, width] = geometry.kernel;
        let taps = (0..height * width)
            .map(|tap| [tap / width * geometry.dilation[0], tap % width * geometry.dilation[1]])
            .collect();
        Self {
            channels: geometry.in_channels / geometry.groups,
            stride: geometry.stride,
            pads: [geometry.pads[0] as isize, geometry.pads[1] as isize],
            taps,
            input,
            output,
        }
    }
}
