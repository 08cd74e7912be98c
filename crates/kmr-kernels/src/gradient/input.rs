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
    spread::{Image, Spread, Weights},
    tap::Tap,
    tile::{Block, WIDEST},
    window::Window,
};

/// One phase of one axis: the input indices `first`, `first + stride`, and so on.
#[derive(Clone, Debug)]
struct Phase {
    /// The kernel indices that reach them.
    kernel: Vec<usize>,
    /// What those read of the cotangent.
    taps: Vec<Tap>,
    /// Input indices in the phase.
    count: usize,
}

impl Phase {
    /// The phases of an axis with `input` indices.
    fn all(geometry: &Geometry, axis: usize, input: usize) -> Vec<Self> {
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

/// The zeros before the cotangent that the taps of all phases need.
fn pad(phases: &[Phase]) -> isize {
    let first = phases.iter().flat_map(|phase| &phase.taps).map(|tap| tap.shift).min();
    -first.unwrap_or(0)
}

/// The taps and packed weights of one phase of rows and columns.
struct Taps {
    /// Where each tap reads in the rearranged cotangent.
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

/// Multiplications that are worth a task of their own.
const TASK: usize = 100_000;

/// The bias of a block.
const ZEROS: [f32; WIDEST] = [0.0; WIDEST];

thread_local!(static SCRATCH: RefCell<Scratch> = RefCell::default());

impl Gradient {
    /// The gradient by the input, `[batch, in_channels, height, width]`.
    ///
    /// `weights` has shape `[out_channels, in_channels / groups, height, width]`, and `size` is the
    /// height and width of the convolution's input. Every element is one chain of multiply-adds in the
    /// order (kernel column, kernel row, output channel).
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
        let operands = Operands {
            gradient: self,
            weights,
            cotangent,
            batch,
            size,
            output,
            phases: [0, 1].map(|axis| Phase::all(geometry, axis, size[axis])),
        };
        let (channels, outs) = (
            geometry.in_channels / geometry.groups,
            geometry.out_channels / geometry.groups,
        );
        if self.instruction_set.spreads(outs, channels, 1) {
            Ok(operands.by_channels())
        } else {
            operands.by_positions()
        }
    }
}

/// What a gradient is computed from.
struct Operands<'a> {
    gradient: &'a Gradient,
    weights: &'a [f32],
    cotangent: &'a [f32],
    batch: usize,
    size: [usize; 2],
    output: [usize; 2],
    /// Those of rows and of columns.
    phases: [Vec<Phase>; 2],
}

impl Operands<'_> {
    fn length(&self) -> usize {
        self.batch * self.gradient.geometry.in_channels * self.size[0] * self.size[1]
    }

    /// All pairs of a row phase and a column phase.
    fn pairs(&self) -> impl Iterator<Item = [&Phase; 2]> {
        let [rows, columns] = &self.phases;
        rows.iter()
            .flat_map(move |row| columns.iter().map(move |column| [row, column]))
    }

    fn by_positions(&self) -> Result<Vec<f32>, GeometryError> {
        let Gradient {
            geometry,
            instruction_set,
        } = self.gradient;
        let pads = [pad(&self.phases[0]), pad(&self.phases[1])];
        let mut window = Window {
            channels: geometry.out_channels / geometry.groups,
            stride: [1, 1],
            pads,
            taps: Vec::new(),
            input: self.output,
            output: [0, 1].map(|axis| self.phases[axis][0].count),
        };
        let mut ranges = Vec::new();
        for [rows, columns] in self.pairs() {
            let start = window.taps.len();
            for column in &columns.taps {
                let tap = |row: &Tap| [(row.shift + pads[0]) as usize, (column.shift + pads[1]) as usize];
                window.taps.extend(rows.taps.iter().map(tap));
            }
            ranges.push(start..window.taps.len());
        }
        let work = geometry.weights() * self.output[0] * self.output[1];
        let layout = Layout::new(&window, Division::for_threads(&window, self.batch, work)).ok_or_else(too_large)?;
        let taps = self
            .pairs()
            .zip(ranges)
            .map(|([rows, columns], range)| Taps {
                offsets: layout.offsets(range, window.channels),
                weights: pack(geometry, *instruction_set, self.weights, &rows.kernel, &columns.kernel),
            })
            .collect();
        let run = Run {
            operands: self,
            layout,
            taps,
        };
        let fill = |target: &Output| {
            (0..run.layout.pieces(self.batch)).into_par_iter().for_each(|piece| {
                let piece = run.layout.piece(self.batch, piece);
                SCRATCH.with_borrow_mut(|scratch| run.compute(&piece, scratch, target));
            });
        };
        // SAFETY: the pieces cover every image and every row of every phase, and each writes all
        // channels and columns of its rows.
        Ok(unsafe { Output::fill(self.length(), fill) })
    }

    fn by_channels(&self) -> Vec<f32> {
        let Gradient {
            geometry,
            instruction_set,
        } = self.gradient;
        let channels = geometry.in_channels / geometry.groups;
        let outs = geometry.out_channels / geometry.groups;
        let plane = self.output[0] * self.output[1];
        let taps = geometry.kernel[0] * geometry.kernel[1];
        let spreads: Vec<Spread> = self
            .weights
            .chunks(outs * channels * taps)
            .flat_map(|floats| self.pairs().map(move |pair| (floats, pair)))
            .map(|(floats, [rows, columns])| {
                let weights = Weights {
                    floats,
                    lane_stride: taps,
                    channel_stride: channels * taps,
                    kernel: geometry.kernel,
                };
                let kernel = [rows.kernel.clone(), columns.kernel.clone()];
                Spread::new(*instruction_set, weights, [outs, channels], kernel)
            })
            .collect();
        let run = ChannelRun {
            operands: self,
            blocks: spreads[0].blocks().len(),
            band: spreads[0].band([self.phases[0][0].count, self.phases[1][0].count]),
            spreads,
        };
        let tasks = run.tasks();
        let fill = |target: &Output| {
            let work = self.gradient.geometry.weights() * plane * self.batch / tasks;
            (0..tasks)
                .into_par_iter()
                .with_min_len(TASK.div_ceil(work.max(1)))
                .for_each(|task| SCRATCH.with_borrow_mut(|scratch| run.compute(task, scratch, target)));
        };
        // SAFETY: the tasks cover every image, input channel and row of every phase, and each writes all
        // columns of its rows.
        unsafe { Output::fill(self.length(), fill) }
    }
}

/// A gradient with input channels spread over the lanes of vectors.
struct ChannelRun<'a> {
    operands: &'a Operands<'a>,
    /// For each group, for each row phase, for each column phase.
    spreads: Vec<Spread>,
    /// Blocks of input channels in a group.
    blocks: usize,
    /// Rows of a phase that are computed together.
    band: usize,
}

impl ChannelRun<'_> {
    fn bands(&self) -> usize {
        self.operands.phases[0][0].count.div_ceil(self.band)
    }

    fn tasks(&self) -> usize {
        self.operands.gradient.geometry.groups * self.blocks * self.operands.batch * self.bands()
    }

    /// Computes a block of channels of a band of rows of one image, in all phases.
    fn compute(&self, task: usize, scratch: &mut Scratch, target: &Output) {
        let Operands {
            gradient: Gradient { geometry, .. },
            batch,
            output,
            phases: [row_phases, column_phases],
            ..
        } = self.operands;
        let (rest, first_row) = (task / self.bands(), task % self.bands() * self.band);
        let (rest, image) = (rest / batch, rest % batch);
        let (group, block) = (rest / self.blocks, rest % self.blocks);
        let channels = geometry.in_channels / geometry.groups;
        let outs = geometry.out_channels / geometry.groups;
        let plane = output[0] * output[1];
        let planes = &self.operands.cotangent[(image * geometry.out_channels + group * outs) * plane..][..outs * plane];
        let pairs = row_phases.len() * column_phases.len();
        let spreads = self.spreads[group * pairs..][..pairs].chunks(column_phases.len());
        let Scratch { packed, sums } = scratch;
        for (row_phase, (rows, spreads)) in row_phases.iter().zip(spreads).enumerate() {
            let range = first_row..(first_row + self.band).min(rows.count);
            if range.is_empty() {
                continue;
            }
            let blocks: Vec<_> = spreads.iter().map(|spread| spread.blocks()[block]).collect();
            let (first, count) = (blocks[0].first, blocks[0].count);
            let distance = count * range.len() * column_phases[0].count;
            packed.resize(column_phases.len() * distance, 0.0);
            for (index, columns) in column_phases.iter().enumerate() {
                let image = Image {
                    planes,
                    size: *output,
                    taps: [&rows.taps, &columns.taps],
                    width: columns.count,
                };
                let packed = &mut packed[index * distance..];
                spreads[index].compute(&image, &blocks[index], range.clone(), &ZEROS, sums, packed);
            }
            for channel in 0..count {
                let plane = image * geometry.in_channels + group * channels + first + channel;
                let first_line = channel * range.len();
                self.operands
                    .finish(plane, [row_phase, range.start, range.len()], target, |phase, row| {
                        &packed[phase * distance + (first_line + row) * column_phases[phase].count..]
                    });
            }
        }
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
            for (row, column) in columns
                .iter()
                .flat_map(|column| rows.iter().map(move |row| (row, column)))
            {
                for out in group.chunks(channels * height * width) {
                    let block = &out[first * height * width..][..count * height * width];
                    packed.extend(block.iter().skip(row * width + column).step_by(height * width));
                }
            }
        }
    }
    packed
}

/// A gradient by positions.
struct Run<'a> {
    operands: &'a Operands<'a>,
    layout: Layout,
    /// One for each row phase and each column phase.
    taps: Vec<Taps>,
}

impl Run<'_> {
    /// Computes one piece of the gradient.
    fn compute(&self, piece: &Piece, scratch: &mut Scratch, target: &Output) {
        let Self { operands, layout, .. } = self;
        let Gradient {
            geometry,
            instruction_set,
        } = operands.gradient;
        let channels = geometry.in_channels / geometry.groups;
        let per_group = geometry.out_channels / geometry.groups;
        let column_phases = operands.phases[1].len();
        let stride = layout.positions + WIDEST;
        let block_floats = instruction_set.tile_channels() * stride;
        let Scratch { packed, sums } = scratch;
        packed.clear();
        packed.resize(layout.floats(per_group), 0.0);
        sums.resize(column_phases * block_floats, 0.0);
        let positions = layout.position(piece.images - 1, piece.rows);
        for group in 0..geometry.groups {
            // The next group's data covers the last one's exactly, so the zeros around it stay zeros.
            let first = group * per_group;
            layout.pack(
                packed,
                piece,
                operands.cotangent,
                geometry.out_channels,
                first,
                per_group,
            );
            for (first, count) in instruction_set.blocks(channels) {
                let first = group * channels + first;
                for (row_phase, taps) in self.taps.chunks(column_phases).enumerate() {
                    for (taps, sums) in taps.iter().zip(sums.chunks_mut(block_floats)) {
                        let length = taps.offsets.len();
                        let block = Block {
                            channels: count,
                            input: packed,
                            offsets: &taps.offsets,
                            weights: &taps.weights[first * length..][..count * length],
                            bias: &ZEROS,
                            positions,
                            output_stride: stride,
                        };
                        instruction_set.compute(&block, sums);
                    }
                    for channel in 0..count {
                        for image in 0..piece.images {
                            let plane = (piece.first_image + image) * geometry.in_channels + first + channel;
                            let rows = [row_phase, piece.first_row, piece.rows];
                            operands.finish(plane, rows, target, |phase, row| {
                                &sums[phase * block_floats + channel * stride + layout.position(image, row)..]
                            });
                        }
                    }
                }
            }
        }
    }
}

impl Operands<'_> {
    /// Moves the sums of some rows of one phase of a plane to their place.
    ///
    /// `rows` holds the phase, its first row and how many; `sums` gives the sums of a column phase in one
    /// of them.
    fn finish<'s>(&self, plane: usize, rows: [usize; 3], target: &Output, sums: impl Fn(usize, usize) -> &'s [f32]) {
        let [height, width] = self.size;
        let [row_stride, stride] = self.gradient.geometry.stride;
        let [phase, first, count] = rows;
        for row in 0..count {
            let at = (first + row) * row_stride + phase;
            if at >= height {
                break;
            }
            // SAFETY: no two tasks share a row, and a task writes one row at a time.
            let target = unsafe { target.part((plane * height + at) * width, width) };
            match stride {
                1 => target.copy_from_slice(&sums(0, row)[..width]),
                2 if width > 1 => interleave(target, sums(0, row), sums(1, row)),
                stride => {
                    for phase in 0..stride.min(width) {
                        for (to, from) in target.iter_mut().skip(phase).step_by(stride).zip(sums(phase, row)) {
                            *to = *from;
                        }
                    }
                }
            }
        }
    }
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
