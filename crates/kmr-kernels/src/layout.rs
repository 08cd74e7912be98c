//! How the input of a convolution is rearranged.
//!
//! A stride splits the padded input into phases: the phase of a tap is its distance from the origin
//! modulo the stride, and inside a phase every tap moves by one per output. Rows are laid one after the
//! other, so that a tap is a constant offset for all positions of an image, and images after one
//! another. Zeros between two rows serve as the right padding of one and the left padding of the next;
//! the same holds between images.

use crate::{tile::WIDEST, window::Window};

/// One axis of the rearranged input.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Axis {
    input: usize,
    output: usize,
    stride: usize,
    pad: isize,
    /// How far taps reach beyond the output position, inside a phase.
    reach: usize,
    /// Zeros that neighbours share.
    shared: usize,
}

impl Axis {
    fn new(window: &Window, axis: usize) -> Self {
        let stride = window.stride[axis];
        let taps = || window.taps.iter().map(|tap| tap[axis]);
        let reach = taps().max().unwrap_or(0) / stride;
        let mut result = Self {
            input: window.input[axis],
            output: window.output[axis],
            stride,
            pad: window.pads[axis],
            reach,
            shared: 0,
        };
        result.shared = taps()
            .map(|tap| {
                let (first, end) = result.data(tap % stride);
                first.min((result.output + reach).saturating_sub(end))
            })
            .min()
            .unwrap_or(0)
            .min(reach);
        result
    }

    /// The indices inside `phase` that hold input, `first..end`.
    fn data(&self, phase: usize) -> (usize, usize) {
        let index = |input: usize| {
            usize::try_from(input as isize + self.pad - phase as isize)
                .unwrap_or(0)
                .div_ceil(self.stride)
        };
        let first = index(0);
        (first, index(self.input).max(first))
    }

    /// The input at an index inside `phase` that holds input.
    fn source(&self, index: usize, phase: usize) -> usize {
        (index * self.stride + phase).wrapping_add_signed(-self.pad)
    }

    /// Distance between neighbours.
    fn pitch(&self) -> usize {
        self.output + self.reach - self.shared
    }
}

/// How many images, or rows of one image, are rearranged and computed together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Division {
    /// Images laid after one another.
    pub images: usize,
    /// Output rows of each; all where there is more than one image.
    pub band: usize,
}

/// The rearranged input of one group's channels over a few images or a band of rows of one image.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Layout {
    rows: Axis,
    columns: Axis,
    /// Phases in use, with their rows and columns.
    phases: Vec<[usize; 2]>,
    /// What is rearranged together.
    pub division: Division,
    /// Floats of one phase of one channel.
    plane: usize,
    /// Where each tap of the first channel reads, relative to the position.
    taps: Vec<usize>,
    /// Output positions, garbage between rows and images included.
    pub positions: usize,
}

/// What a rearranged input may take: it should stay in the second-level cache with its output.
const TARGET_FLOATS: usize = 32 * 1024;
/// Multiplications that are worth a task of their own.
const TASK: usize = 1_000_000;
/// Tasks per thread that keep all threads busy to the end.
const TASKS: usize = 4;

/// The phases of a window's taps, and the phase that each tap is in.
fn phases(window: &Window) -> (Vec<[usize; 2]>, Vec<usize>) {
    let mut phases = Vec::new();
    let indices = window
        .taps
        .iter()
        .map(|&[row, column]| {
            let phase = [row % window.stride[0], column % window.stride[1]];
            phases.iter().position(|&known| known == phase).unwrap_or_else(|| {
                phases.push(phase);
                phases.len() - 1
            })
        })
        .collect();
    (phases, indices)
}

impl Division {
    /// A division of `batch` images into pieces for all threads, where an image takes `work` multiplications.
    ///
    /// It follows the number of threads, so it is for computations whose results it does not change.
    pub fn for_threads(window: &Window, batch: usize, work: usize) -> Self {
        let most = match rayon::current_num_threads() {
            1 => 1,
            threads => threads * TASKS,
        };
        let tasks = (work.saturating_mul(batch) / TASK).clamp(1, most);
        let (rows, columns) = (Axis::new(window, 0), Axis::new(window, 1));
        let row_floats = window.channels * phases(window).0.len() * columns.pitch();
        Self::fitting(&rows, row_floats, TARGET_FLOATS, batch, tasks)
    }

    /// The same for computations whose results it changes: `extra` floats are held for each position,
    /// and there are `tasks` pieces or more.
    pub fn fixed(window: &Window, extra: usize, floats: usize, batch: usize, tasks: usize) -> Self {
        let (rows, columns) = (Axis::new(window, 0), Axis::new(window, 1));
        let row_floats = (window.channels * phases(window).0.len() + extra) * columns.pitch();
        Self::fitting(&rows, row_floats, floats, batch, tasks)
    }

    fn fitting(rows: &Axis, row_floats: usize, floats: usize, batch: usize, tasks: usize) -> Self {
        let image_floats = row_floats * rows.pitch();
        let images = (floats / image_floats.max(1)).clamp(1, (batch / tasks).max(1));
        let band = if images > 1 {
            rows.output
        } else {
            let bands = tasks.div_ceil(batch.max(1));
            let fitting = (floats * 2 / row_floats.max(1)).saturating_sub(rows.reach);
            rows.output.div_ceil(bands).min(fitting.max(4)).max(1)
        };
        Self { images, band }
    }
}

impl Layout {
    /// The layout of a window's input; `None` if it cannot be addressed.
    pub fn new(window: &Window, division: Division) -> Option<Self> {
        let (rows, columns) = (Axis::new(window, 0), Axis::new(window, 1));
        let (phases, indices) = phases(window);
        let Division { images, band } = division;
        let positions = ((images - 1) * rows.pitch() + band) * columns.pitch();
        let plane = positions + WIDEST + rows.reach * columns.pitch() + columns.reach;
        u32::try_from(window.channels.checked_mul(phases.len())?.checked_mul(plane)?).ok()?;
        let taps = window
            .taps
            .iter()
            .zip(indices)
            .map(|(tap, phase)| phase * plane + tap[0] / window.stride[0] * columns.pitch() + tap[1] / window.stride[1])
            .collect();
        Some(Self {
            rows,
            columns,
            phases,
            division,
            plane,
            taps,
            positions,
        })
    }

    /// Where some taps read, each in one channel after the other, relative to the position.
    pub fn offsets(&self, taps: impl IntoIterator<Item = usize>, channels: usize) -> Vec<u32> {
        taps.into_iter()
            .flat_map(|tap| (0..channels).map(move |channel| self.offset(channel, tap)))
            .collect()
    }

    /// Where a tap reads in a channel, relative to the position.
    pub fn offset(&self, channel: usize, tap: usize) -> u32 {
        (channel * self.phases.len() * self.plane + self.taps[tap]) as u32
    }

    /// Floats of the rearranged input.
    pub fn floats(&self, channels: usize) -> usize {
        channels * self.phases.len() * self.plane
    }

    /// Pieces that `batch` images are divided into.
    pub fn pieces(&self, batch: usize) -> usize {
        batch.div_ceil(self.division.images) * self.bands()
    }

    fn bands(&self) -> usize {
        self.rows.output.div_ceil(self.division.band)
    }

    /// One of the pieces of `batch` images.
    pub fn piece(&self, batch: usize, piece: usize) -> Piece {
        let Division { images, band } = self.division;
        let first_image = piece / self.bands() * images;
        let first_row = piece % self.bands() * band;
        Piece {
            first_image,
            images: images.min(batch - first_image),
            first_row,
            rows: band.min(self.rows.output - first_row),
        }
    }

    /// Position of the output row `row` of image `image`, both counted from the start of this piece.
    pub fn position(&self, image: usize, row: usize) -> usize {
        (image * self.rows.pitch() + row) * self.columns.pitch()
    }

    /// Rearranges `channels` channels from `first` of each image of `piece` into `packed`, which is zero
    /// where nothing was written by an equal piece.
    ///
    /// `input` has shape `[batch, all, height, width]`.
    pub fn pack(&self, packed: &mut [f32], piece: &Piece, input: &[f32], all: usize, first: usize, channels: usize) {
        let plane = self.rows.input * self.columns.input;
        for image in 0..piece.images {
            let start = (piece.first_image + image) * all + first;
            for channel in 0..channels {
                let source = &input[(start + channel) * plane..][..plane];
                self.pack_plane(packed, channel, image, source, piece.first_row, piece.rows);
            }
        }
    }

    fn pack_plane(&self, packed: &mut [f32], channel: usize, image: usize, plane: &[f32], first: usize, count: usize) {
        for (index, &[row_phase, column_phase]) in self.phases.iter().enumerate() {
            let target = &mut packed[(channel * self.phases.len() + index) * self.plane..][..self.plane];
            let (row_first, row_end) = self.rows.data(row_phase);
            let (start, end) = self.columns.data(column_phase);
            let end = end.min(self.columns.output + self.columns.reach);
            if start >= end {
                continue;
            }
            let column = self.columns.source(start, column_phase);
            let rows = row_first.max(first)..row_end.min(first + count + self.rows.reach);
            for row in rows {
                let source = self.rows.source(row, row_phase);
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

/// A few whole images, or a band of rows of one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub first_image: usize,
    pub images: usize,
    pub first_row: usize,
    pub rows: usize,
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
