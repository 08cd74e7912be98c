//! Windows that slide over a padded plane of any rank, on the host.

use super::convolution::Window;
use crate::{ComputeError, interpreter::Call};

/// Where the windows of a pool lie.
pub struct Windows {
    kernel: Vec<usize>,
    strides: Vec<usize>,
    dilations: Vec<usize>,
    /// Padding before each axis, then after each, without what rounding the output up adds.
    pads: Vec<usize>,
    size: Vec<usize>,
    pub output: Vec<usize>,
}

/// One position of a window.
pub struct Taps<'a> {
    /// Where the window lies among all windows.
    pub position: usize,
    /// Elements of the plane that lie in it, in row-major order.
    pub inside: &'a [usize],
    /// How many of its elements lie in the plane or its padding.
    pub padded: usize,
}

impl Windows {
    /// The windows of a pool over an input of shape `full`.
    pub fn new(call: &Call<'_>, full: &[usize]) -> Result<Self, ComputeError> {
        let Some(spatial) = full.len().checked_sub(2).filter(|&rank| rank > 0) else {
            return Err(call.wrong(format!("pools {full:?}")));
        };
        let window = Window::new(call, &[])?;
        if window.kernel.len() != spatial {
            return Err(call.wrong(format!("kernel {:?} over {full:?}", window.kernel)));
        }
        let size = full[2..].to_vec();
        let pads = window.pads(call, &size)?;
        let mut output = Vec::with_capacity(spatial);
        for axis in 0..spatial {
            let padded = size[axis] + pads[axis] + pads[axis + spatial];
            let Some(room) = padded.checked_sub(window.extent(axis)) else {
                return Err(call.wrong(format!("kernel {:?} does not fit {full:?}", window.kernel)));
            };
            let stride = window.strides[axis];
            let mut steps = room / stride + 1;
            // A window that would start in the padding after the input does not count.
            let more = call.int("ceil_mode", 0) == 1 && !room.is_multiple_of(stride);
            if more && steps * stride < size[axis] + pads[axis] {
                steps += 1;
            }
            output.push(steps);
        }
        Ok(Self {
            kernel: window.kernel,
            strides: window.strides,
            dilations: window.dilations,
            pads,
            size,
            output,
        })
    }

    /// Shows every window.
    pub fn for_each(&self, mut visit: impl FnMut(&Taps<'_>)) {
        let rank = self.size.len();
        let count: usize = self.output.iter().product();
        let mut index = vec![0_usize; rank];
        let (mut inside, mut next) = (Vec::new(), Vec::new());
        for position in 0..count {
            inside.clear();
            inside.push(0);
            let mut padded = 1;
            for (axis, &step) in index.iter().enumerate() {
                next.clear();
                let mut taps = 0;
                let (before, size) = (self.pads[axis], self.size[axis]);
                for prefix in 0..inside.len().max(1) {
                    for tap in 0..self.kernel[axis] {
                        let at = step * self.strides[axis] + tap * self.dilations[axis];
                        if prefix == 0 && at < before + size + self.pads[axis + rank] {
                            taps += 1;
                        }
                        if let Some(prefix) = inside.get(prefix)
                            && (before..before + size).contains(&at)
                        {
                            next.push(prefix * size + at - before);
                        }
                    }
                }
                padded *= taps;
                std::mem::swap(&mut inside, &mut next);
            }
            visit(&Taps {
                position,
                inside: &inside,
                padded,
            });
            for axis in (0..rank).rev() {
                index[axis] += 1;
                if index[axis] < self.output[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
    }
}
