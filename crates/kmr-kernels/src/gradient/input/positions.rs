//! The gradient by the input with positions spread over the lanes of vectors.

use rayon::prelude::*;

use super::{Operands, SCRATCH, Scratch, ZEROS, phase::Phase};
use crate::{
    Geometry, GeometryError, InstructionSet,
    gradient::{Gradient, too_large},
    layout::{Division, Layout, Piece},
    output::Output,
    tap::Tap,
    tile::{Block, WIDEST},
    window::Window,
};

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

impl Operands<'_> {
    pub fn by_positions(&self) -> Result<Vec<f32>, GeometryError> {
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
