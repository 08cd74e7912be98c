//! The gradient by the input.
//!
//! An input row that lies at `v` in the padded input receives from every kernel row whose distance has
//! the same remainder modulo the stride as `v`. Rows of one remainder form a phase: a convolution with
//! stride 1 of the cotangent with those kernel rows, turned around. The same holds for columns.

use std::cell::RefCell;

use rayon::prelude::*;

use super::{Gradient, expect, too_large};
use crate::{
    Geometry, GeometryError, InstructionSet,
    layout::{Division, Layout, Piece},
    output::Output,
    tile::{Block, WIDEST},
    window::Window,
};

/// One phase of one axis: the input indices `first`, `first + stride`, and so on.
#[derive(Clone, Debug)]
struct Phase {
    /// The kernel indices that reach them.
    kernel: Vec<usize>,
    /// Which output each of those meets at the first input index; negative before the first output.
    meets: Vec<isize>,
}

impl Phase {
    fn new(geometry: &Geometry, axis: usize, first: usize) -> Self {
        let (stride, dilation) = (geometry.stride[axis], geometry.dilation[axis]);
        let padded = first + geometry.pads[axis];
        let kernel: Vec<usize> = (0..geometry.kernel[axis])
            .filter(|tap| tap * dilation % stride == padded % stride)
            .collect();
        let meets = kernel
            .iter()
            .map(|tap| (padded as isize - (tap * dilation) as isize) / stride as isize)
            .collect();
        Self { kernel, meets }
    }

    /// The phases of an axis with `input` indices.
    fn all(geometry: &Geometry, axis: usize, input: usize) -> Vec<Self> {
        (0..geometry.stride[axis].min(input))
            .map(|first| Self::new(geometry, axis, first))
            .collect()
    }
}

/// The zeros before the cotangent that the taps of all phases need.
fn pad(phases: &[Phase]) -> isize {
    let first = phases.iter().flat_map(|phase| &phase.meets).min();
    -first.copied().unwrap_or(0)
}

/// The taps and packed weights of one phase of rows and columns.
struct Taps {
    /// Where each tap reads in the rearranged cotangent, for one output channel after the other.
    offsets: Vec<u32>,
    /// For each group, for each block of input channels: `[tap][channel]`.
    weights: Vec<f32>,
}

/// Scratch memory of one thread.
#[derive(Default)]
struct Scratch {
    packed: Vec<f32>,
    sums: Vec<f32>,
}

thread_local!(static SCRATCH: RefCell<Scratch> = RefCell::default());

impl Gradient {
    /// The gradient by the input, `[batch, in_channels, height, width]`.
    ///
    /// `weights` has shape `[out_channels, in_channels / groups, height, width]`, and `size` is the
    /// height and width of the convolution's input. Every element is one chain of multiply-adds in the
    /// order (output channel, kernel row, kernel column).
    ///
    /// # Errors
    /// If `weights` or `cotangent` has another length than the sizes say, or the kernel does not fit.
    pub fn input(
        &self,
        weights: &[f32],
        cotangent: &[f32],
        batch: usize,
        size: [usize; 2],
    ) -> Result<Vec<f32>, GeometryError> {
        let geometry = &self.geometry;
        expect("weights", weights, geometry.weights())?;
        let output = self.output(cotangent, batch, size)?;
        let length = batch * geometry.in_channels * size[0] * size[1];
        if length == 0 {
            return Ok(Vec::new());
        }
        let phases = [0, 1].map(|axis| Phase::all(geometry, axis, size[axis]));
        let pads = [pad(&phases[0]), pad(&phases[1])];
        let mut window = Window {
            channels: geometry.out_channels / geometry.groups,
            stride: [1, 1],
            pads,
            taps: Vec::new(),
            input: output,
            output: [0, 1].map(|axis| size[axis].div_ceil(geometry.stride[axis])),
        };
        let mut ranges = Vec::new();
        for row in &phases[0] {
            for column in &phases[1] {
                let start = window.taps.len();
                for &row in &row.meets {
                    let tap = |&column: &isize| [(row + pads[0]) as usize, (column + pads[1]) as usize];
                    window.taps.extend(column.meets.iter().map(tap));
                }
                ranges.push(start..window.taps.len());
            }
        }
        let work = geometry.weights() * output[0] * output[1];
        let layout = Layout::new(&window, Division::for_threads(&window, batch, work)).ok_or_else(too_large)?;
        let kernels = phases[0]
            .iter()
            .flat_map(|row| phases[1].iter().map(move |column| (row, column)));
        let taps = kernels
            .zip(ranges)
            .map(|((row, column), range)| Taps {
                offsets: (0..window.channels)
                    .flat_map(|channel| range.clone().map(move |tap| (channel, tap)))
                    .map(|(channel, tap)| layout.offset(channel, tap))
                    .collect(),
                weights: pack(geometry, self.instruction_set, weights, &row.kernel, &column.kernel),
            })
            .collect();
        let run = Run {
            geometry,
            instruction_set: self.instruction_set,
            layout,
            taps,
            column_phases: phases[1].len(),
            cotangent,
            size,
        };
        let fill = |target: &Output| {
            (0..run.layout.pieces(batch)).into_par_iter().for_each(|piece| {
                let piece = run.layout.piece(batch, piece);
                SCRATCH.with_borrow_mut(|scratch| run.compute(&piece, scratch, target));
            });
        };
        // SAFETY: the pieces cover every image and every row of every phase, and each writes all
        // channels and columns of its rows.
        Ok(unsafe { Output::fill(length, fill) })
    }
}

/// Packs the weights at some kernel rows and columns.
fn pack(
    geometry: &Geometry,
    instruction_set: InstructionSet,
    weights: &[f32],
    rows: &[usize],
    columns: &[usize],
) -> Vec<f32> {
    let channels = geometry.in_channels / geometry.groups;
    let per_group = geometry.out_channels / geometry.groups;
    let [height, width] = geometry.kernel;
    let mut packed = Vec::with_capacity(geometry.out_channels * channels * rows.len() * columns.len());
    for group in weights.chunks(per_group * channels * height * width) {
        for (first, count) in instruction_set.blocks(channels) {
            for out in group.chunks(channels * height * width) {
                let block = &out[first * height * width..][..count * height * width];
                for row in rows {
                    for column in columns {
                        packed.extend(block.iter().skip(row * width + column).step_by(height * width));
                    }
                }
            }
        }
    }
    packed
}

/// A gradient with its operands.
struct Run<'a> {
    geometry: &'a Geometry,
    instruction_set: InstructionSet,
    layout: Layout,
    /// One for each row phase and each column phase.
    taps: Vec<Taps>,
    column_phases: usize,
    cotangent: &'a [f32],
    size: [usize; 2],
}

impl Run<'_> {
    /// Computes one piece of the gradient.
    fn compute(&self, piece: &Piece, scratch: &mut Scratch, target: &Output) {
        let Self { geometry, layout, .. } = self;
        let channels = geometry.in_channels / geometry.groups;
        let per_group = geometry.out_channels / geometry.groups;
        let stride = layout.positions + WIDEST;
        let block_floats = self.instruction_set.tile_channels() * stride;
        let zeros = [0.0; WIDEST];
        let Scratch { packed, sums } = scratch;
        packed.clear();
        packed.resize(layout.floats(per_group), 0.0);
        sums.resize(self.column_phases * block_floats, 0.0);
        let positions = layout.position(piece.images - 1, piece.rows);
        for group in 0..geometry.groups {
            // The next group's data covers the last one's exactly, so the zeros around it stay zeros.
            layout.pack(
                packed,
                piece,
                self.cotangent,
                geometry.out_channels,
                group * per_group,
                per_group,
            );
            for (first, count) in self.instruction_set.blocks(channels) {
                for (row_phase, taps) in self.taps.chunks(self.column_phases).enumerate() {
                    for (taps, sums) in taps.iter().zip(sums.chunks_mut(block_floats)) {
                        let length = taps.offsets.len();
                        let block = Block {
                            channels: count,
                            input: packed,
                            offsets: &taps.offsets,
                            weights: &taps.weights[(group * channels + first) * length..][..count * length],
                            bias: &zeros,
                            positions,
                            output_stride: stride,
                        };
                        self.instruction_set.compute(&block, sums);
                    }
                    for channel in 0..count {
                        let sums = Sums {
                            floats: &sums[channel * stride..],
                            distance: block_floats,
                            row_phase,
                        };
                        self.finish(piece, group * channels + first + channel, &sums, target);
                    }
                }
            }
        }
    }

    /// Moves the sums of one input channel to their place.
    fn finish(&self, piece: &Piece, channel: usize, sums: &Sums<'_>, target: &Output) {
        let [height, width] = self.size;
        let stride = self.geometry.stride;
        for image in 0..piece.images {
            let plane = (piece.first_image + image) * self.geometry.in_channels + channel;
            for row in 0..piece.rows {
                let at = (piece.first_row + row) * stride[0] + sums.row_phase;
                if at >= height {
                    break;
                }
                // SAFETY: no two pieces share a row, and a piece writes one row at a time.
                let target = unsafe { target.part((plane * height + at) * width, width) };
                let floats = &sums.floats[self.layout.position(image, row)..];
                match stride[1] {
                    1 => target.copy_from_slice(&floats[..width]),
                    2 if width > 1 => interleave(target, floats, &floats[sums.distance..]),
                    stride => {
                        for (phase, floats) in floats.chunks(sums.distance).take(stride.min(width)).enumerate() {
                            for (to, from) in target.iter_mut().skip(phase).step_by(stride).zip(floats) {
                                *to = *from;
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The sums of one input channel in one row phase.
struct Sums<'a> {
    /// Those of all column phases.
    floats: &'a [f32],
    /// Floats from one column phase to the next.
    distance: usize,
    row_phase: usize,
}

/// Fills `target` from `even` and `odd` in turn.
fn interleave(target: &mut [f32], even: &[f32], odd: &[f32]) {
    let (pairs, last) = target.as_chunks_mut::<2>();
    for ((pair, &even), &odd) in pairs.iter_mut().zip(even).zip(odd) {
        *pair = [even, odd];
    }
    if let Some(last) = last.first_mut() {
        *last = even[pairs.len()];
    }
}
