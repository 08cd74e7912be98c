//! Convolution with positions spread over the lanes of vectors.

use rayon::prelude::*;

use super::{Convolution, Operands, SCRATCH, Scratch};
use crate::{
    Geometry, GeometryError, InstructionSet,
    layout::{Division, Layout, Piece},
    output::Output,
    tile::{Block, WIDEST},
    window::Window,
};

/// The taps of a kernel, column by column, as their indices in the kernel.
fn by_columns(geometry: &Geometry) -> impl Iterator<Item = usize> + use<> {
    let [height, width] = geometry.kernel;
    (0..width).flat_map(move |column| (0..height).map(move |row| row * width + column))
}

/// Packs weights for [`Operands::by_positions`].
pub fn pack(geometry: &Geometry, instruction_set: InstructionSet, weights: &[f32]) -> Vec<f32> {
    let taps = geometry.taps();
    let channels = geometry.in_channels / geometry.groups;
    let per_group = geometry.out_channels / geometry.groups;
    let mut packed = Vec::with_capacity(weights.len());
    for group in weights.chunks(per_group * taps) {
        for (first, count) in instruction_set.blocks(per_group) {
            let block = &group[first * taps..][..count * taps];
            for tap in by_columns(geometry) {
                for channel in 0..channels {
                    packed.extend(block.iter().skip(channel * (taps / channels) + tap).step_by(taps));
                }
            }
        }
    }
    packed
}

impl Operands<'_> {
    pub fn by_positions(&self, weights: &[f32]) -> Result<Vec<f32>, GeometryError> {
        let geometry = &self.convolution.geometry;
        let window = Window::new(geometry, self.size, self.output);
        let work = geometry.weights() * self.output[0] * self.output[1];
        let layout = Layout::new(&window, Division::for_threads(&window, self.batch, work))
            .ok_or_else(|| GeometryError("the convolution is too large to address".into()))?;
        let run = Run {
            operands: *self,
            offsets: layout.offsets(by_columns(geometry), window.channels),
            layout,
            weights,
        };
        let pieces = run.layout.pieces(self.batch);
        let fill = |target: &Output| {
            let task = |piece: usize| {
                let piece = run.layout.piece(self.batch, piece);
                SCRATCH.with_borrow_mut(|scratch| run.compute(&piece, scratch, target));
            };
            if pieces == 1 {
                task(0);
            } else {
                (0..pieces).into_par_iter().for_each(task);
            }
        };
        // SAFETY: the pieces cover every image and every row, and each writes all channels of its rows.
        Ok(unsafe { Output::fill(self.length(), fill) })
    }
}

/// A convolution by positions.
struct Run<'a> {
    operands: Operands<'a>,
    layout: Layout,
    offsets: Vec<u32>,
    weights: &'a [f32],
}

impl Run<'_> {
    /// Computes one piece of the output.
    fn compute(&self, piece: &Piece, scratch: &mut Scratch, target: &Output) {
        let Self { operands, layout, .. } = self;
        let Convolution {
            geometry,
            instruction_set,
            bias,
            ..
        } = operands.convolution;
        let channels = geometry.in_channels / geometry.groups;
        let per_group = geometry.out_channels / geometry.groups;
        let taps = geometry.taps();
        let width = operands.output[1];
        let stride = layout.positions + WIDEST;
        let Scratch { packed, sums } = scratch;
        packed.clear();
        packed.resize(layout.floats(channels), 0.0);
        sums.resize(instruction_set.tile_channels() * stride, 0.0);
        let positions = layout.position(piece.images - 1, piece.rows);
        for group in 0..geometry.groups {
            // The next group's data covers the last one's exactly, so the zeros around it stay zeros.
            let first = group * channels;
            layout.pack(packed, piece, operands.input, geometry.in_channels, first, channels);
            for (first, count) in instruction_set.blocks(per_group) {
                let first = group * per_group + first;
                let block = Block {
                    channels: count,
                    input: packed,
                    offsets: &self.offsets,
                    weights: &self.weights[first * taps..][..count * taps],
                    bias: &bias[first..][..count],
                    positions,
                    output_stride: stride,
                };
                instruction_set.compute(&block, sums);
                for channel in 0..count {
                    let sums = &sums[channel * stride..][..stride];
                    for image in 0..piece.images {
                        for row in 0..piece.rows {
                            let sums = &sums[layout.position(image, row)..][..width];
                            let (image, row) = (piece.first_image + image, piece.first_row + row);
                            operands.finish(image, first + channel, row, sums, target);
                        }
                    }
                }
            }
        }
    }
}
