//! How the input of a convolution is rearranged.
//!
//! A stride splits the padded input into phases: the phase of a tap is its distance from the origin
//! modulo the stride, and inside a phase every tap moves by one per output. Rows are laid one after the
//! other, so that a tap is a constant offset for all positions of an image, and images after one
//! another. Zeros between two rows serve as the right padding of one and the left padding of the next;
//! the same holds between images.

use crate::{Geometry, tile::WIDEST};

/// One axis of the rearranged input.
#[derive(Clone, Copy, Debug)]
struct Axis {
    input: usize,
    output: usize,
    stride: usize,
    pad: usize,
    /// How far taps reach beyond the output position, inside a phase.
    reach: usize,
    /// Zeros that neighbours share.
    shared: usize,
}

impl Axis {
    fn new(geometry: &Geometry, axis: usize, input: usize, output: usize) -> Self {
        let stride = geometry.stride[axis];
        let reach = (geometry.kernel[axis] - 1) * geometry.dilation[axis] / stride;
        let mut result = Self {
            input,
            output,
            stride,
            pad: geometry.pads[axis],
            reach,
            shared: 0,
        };
        result.shared = (0..geometry.kernel[axis])
            .map(|tap| {
                let (first, end) = result.data(tap * geometry.dilation[axis] % stride);
                first.min((output + reach).saturating_sub(end))
            })
            .min()
            .unwrap_or(0)
            .min(reach);
        result
    }

    /// The indices inside `phase` that hold input, `first..end`.
    fn data(&self, phase: usize) -> (usize, usize) {
        let first = self.pad.saturating_sub(phase).div_ceil(self.stride);
        let end = (self.input + self.pad).saturating_sub(phase).div_ceil(self.stride);
        (first, end.max(first))
    }

    /// Distance between neighbours.
    fn pitch(&self) -> usize {
        self.output + self.reach - self.shared
    }
}

/// The rearranged input of one group's channels over a few images or a band of rows of one image.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    rows: Axis,
    columns: Axis,
    /// Phases in use, with their rows and columns.
    phases: Vec<[usize; 2]>,
    /// Images laid after one another.
    pub images: usize,
    /// Output rows of one image that are computed together.
    pub band: usize,
    /// Floats of one phase of one channel.
    plane: usize,
    /// Where each tap reads, relative to the position.
    pub offsets: Vec<u32>,
    /// Output positions, garbage between rows and images included.
    pub positions: usize,
}

/// What a rearranged input may take: it should stay in the second-level cache with its output.
const TARGET_FLOATS: usize = 32 * 1024;
/// Multiplications that are worth a task of their own.
const TASK: usize = 1_000_000;
/// Tasks per thread that keep all threads busy to the end.
const TASKS: usize = 4;

impl Layout {
    /// The layout for `batch` images of `input` height and width; `None` if it cannot be addressed.
    pub fn new(geometry: &Geometry, batch: usize, input: [usize; 2], output: [usize; 2]) -> Option<Self> {
        let rows = Axis::new(geometry, 0, input[0], output[0]);
        let columns = Axis::new(geometry, 1, input[1], output[1]);
        let mut phases: Vec<[usize; 2]> = Vec::new();
        let phase = |row: usize, column: usize| {
            [
                row * geometry.dilation[0] % geometry.stride[0],
                column * geometry.dilation[1] % geometry.stride[1],
            ]
        };
        for row in 0..geometry.kernel[0] {
            for column in 0..geometry.kernel[1] {
                let phase = phase(row, column);
                if !phases.contains(&phase) {
                    phases.push(phase);
                }
            }
        }
        let channels = geometry.in_channels / geometry.groups;
        let row_floats = channels * phases.len() * columns.pitch();
        let image_floats = row_floats * rows.pitch();
        let work = geometry.weights() * output[0] * output[1];
        // How the work is divided changes no result, so it may follow the number of threads.
        let most = match rayon::current_num_threads() {
            1 => 1,
            threads => threads * TASKS,
        };
        let tasks = (work.saturating_mul(batch) / TASK).clamp(1, most);
        let images = (TARGET_FLOATS / image_floats.max(1)).clamp(1, (batch / tasks).max(1));
        let band = if images > 1 {
            output[0]
        } else {
            let bands = tasks.div_ceil(batch.max(1));
            let fitting = (TARGET_FLOATS * 2 / row_floats.max(1)).saturating_sub(rows.reach);
            output[0].div_ceil(bands).min(fitting.max(4)).max(1)
        };
        let positions = ((images - 1) * rows.pitch() + band) * columns.pitch();
        let plane = positions + WIDEST + rows.reach * columns.pitch() + columns.reach;
        u32::try_from(channels.checked_mul(phases.len())?.checked_mul(plane)?).ok()?;
        let mut offsets = Vec::with_capacity(geometry.taps());
        for channel in 0..channels {
            for row in 0..geometry.kernel[0] {
                for column in 0..geometry.kernel[1] {
                    let used = phase(row, column);
                    let index = phases.iter().position(|&phase| phase == used)?;
                    let offset = (channel * phases.len() + index) * plane
                        + row * geometry.dilation[0] / geometry.stride[0] * columns.pitch()
                        + column * geometry.dilation[1] / geometry.stride[1];
                    offsets.push(offset as u32);
                }
            }
        }
        Some(Self {
            rows,
            columns,
            phases,
            images,
            band,
            plane,
            offsets,
            positions,
        })
    }

    /// Floats of the rearranged input.
    pub fn floats(&self, channels: usize) -> usize {
        channels * self.phases.len() * self.plane
    }

    /// Position of the output row `row` of image `image`, both counted from the start of this piece.
    pub fn position(&self, image: usize, row: usize) -> usize {
        (image * self.rows.pitch() + row) * self.columns.pitch()
    }

    /// Rearranges channel `channel` of image `image` into `packed`, which is zero where nothing was written.
    ///
    /// `plane` is the channel's input, `first` the first output row of the band and `count` its rows.
    pub fn pack(&self, packed: &mut [f32], channel: usize, image: usize, plane: &[f32], first: usize, count: usize) {
        for (index, &[row_phase, column_phase]) in self.phases.iter().enumerate() {
            let target = &mut packed[(channel * self.phases.len() + index) * self.plane..][..self.plane];
            let (row_first, row_end) = self.rows.data(row_phase);
            let (start, end) = self.columns.data(column_phase);
            let end = end.min(self.columns.output + self.columns.reach);
            if start >= end {
                continue;
            }
            let column = start * self.columns.stride + column_phase - self.columns.pad;
            let rows = row_first.max(first)..row_end.min(first + count + self.rows.reach);
            for row in rows {
                let source = row * self.rows.stride + row_phase - self.rows.pad;
                let source = &plane[source * self.columns.input..][..self.columns.input][column..];
                let target = &mut target[self.position(image, row - first) + start..][..end - start];
                match self.columns.stride {
                    1 => target.copy_from_slice(&source[..end - start]),
                    2 => stepped::<2>(target, source),
                    stride => {
                        for (to, from) in target.iter_mut().zip(source.iter().step_by(stride)) {
                            *to = *from;
                        }
                    }
                }
            }
        }
    }
}

/// Takes every `STRIDE`th value, in a form that compilers turn into shuffles.
fn stepped<const STRIDE: usize>(target: &mut [f32], source: &[f32]) {
    let (groups, rest) = source.as_chunks::<STRIDE>();
    let whole = target.len().min(groups.len());
    let (body, tail) = target.split_at_mut(whole);
    for (to, group) in body.iter_mut().zip(groups) {
        *to = group[0];
    }
    if let (Some(to), Some(from)) = (tail.first_mut(), rest.first()) {
        *to = *from;
    }
}
