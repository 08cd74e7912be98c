//! The sizes of a convolution.

use crate::GeometryError;

/// The sizes of a two-dimensional convolution, all but those of its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Input channels, all groups together.
    pub in_channels: usize,
    /// Output channels, all groups together.
    pub out_channels: usize,
    /// Groups; as many as channels is a depthwise convolution.
    pub groups: usize,
    /// Kernel height and width.
    pub kernel: [usize; 2],
    /// Vertical and horizontal stride.
    pub stride: [usize; 2],
    /// Vertical and horizontal distance between taps.
    pub dilation: [usize; 2],
    /// Zeros around the input: top, left, bottom, right.
    pub pads: [usize; 4],
}

impl Geometry {
    /// Checks that the sizes make sense together.
    ///
    /// # Errors
    /// The first that does not.
    pub fn check(&self) -> Result<(), GeometryError> {
        let positive = [self.groups, self.in_channels, self.out_channels]
            .iter()
            .chain(&self.kernel)
            .chain(&self.stride)
            .chain(&self.dilation)
            .all(|&size| size > 0);
        if !positive {
            return Err(GeometryError(
                "channels, groups, kernel, strides and dilations must be positive".into(),
            ));
        }
        if !self.in_channels.is_multiple_of(self.groups) || !self.out_channels.is_multiple_of(self.groups) {
            return Err(GeometryError(format!(
                "{} input and {} output channels do not divide into {} groups",
                self.in_channels, self.out_channels, self.groups
            )));
        }
        Ok(())
    }

    /// Number of weights: `[out_channels, in_channels / groups, height, width]`.
    pub fn weights(&self) -> usize {
        self.out_channels * self.taps()
    }

    /// Multiplications per output element.
    pub(crate) fn taps(&self) -> usize {
        self.in_channels / self.groups * self.kernel[0] * self.kernel[1]
    }

    /// Height and width of the output for an input of this height and width.
    ///
    /// # Errors
    /// If the kernel does not fit into the padded input.
    pub fn output(&self, input: [usize; 2]) -> Result<[usize; 2], GeometryError> {
        let mut output = [0; 2];
        for axis in 0..2 {
            let padded = input[axis] + self.pads[axis] + self.pads[axis + 2];
            let extent = (self.kernel[axis] - 1) * self.dilation[axis] + 1;
            if padded < extent {
                return Err(GeometryError(format!(
                    "a kernel that spans {extent} does not fit into a padded input of {padded}"
                )));
            }
            output[axis] = (padded - extent) / self.stride[axis] + 1;
        }
        Ok(output)
    }
}
