//! The way of outer products.

use std::ops::Range;

use super::{CHAINS, Operands, SCRATCH, Scratch, chains};
use crate::{
    gradient::{Gradient, outer::Outer},
    tap::Tap,
    transpose::{Matrix, transpose},
};

/// What the turned input and cotangent of a piece may take: they should stay in the second-level cache.
const TURNED_FLOATS: usize = 48 * 1024;

/// A gradient with its operands turned around.
pub struct Turned<'a> {
    operands: Operands<'a>,
    /// Input channels of one group.
    channels: usize,
    /// Output channels of one group, and as many rounded up to whole vectors.
    outs: usize,
    lanes: usize,
    /// Images of one piece.
    images: usize,
}

impl<'a> Turned<'a> {
    pub fn new(operands: Operands<'a>) -> Self {
        let geometry = &operands.gradient.geometry;
        let channels = geometry.in_channels / geometry.groups;
        let outs = geometry.out_channels / geometry.groups;
        let lanes = operands.gradient.instruction_set.padded(outs);
        let floats = operands.size[0] * operands.size[1] * channels + operands.output[0] * operands.output[1] * lanes;
        Self {
            operands,
            channels,
            outs,
            lanes,
            images: (TURNED_FLOATS / floats.max(1)).max(1),
        }
    }

    pub fn sum(&self, batch: usize) -> Vec<f32> {
        let geometry = &self.operands.gradient.geometry;
        let taps = geometry.kernel[0] * geometry.kernel[1];
        let group = taps * self.channels * self.lanes;
        let images = self.images.min(batch.div_ceil(CHAINS)).max(1);
        let sums = chains(batch.div_ceil(images), geometry.groups * group, |piece, sums| {
            let images = piece * images..((piece + 1) * images).min(batch);
            SCRATCH.with_borrow_mut(|scratch| {
                for (group, sums) in sums.chunks_mut(group).enumerate() {
                    self.accumulate(group, images.clone(), scratch, sums);
                }
            });
        });
        let mut result = Vec::with_capacity(geometry.weights());
        for group in sums.chunks(group) {
            for out in 0..self.outs {
                for channel in 0..self.channels {
                    let sums = group[channel * self.lanes + out..].iter();
                    result.extend(sums.step_by(self.channels * self.lanes));
                }
            }
        }
        result
    }

    /// Adds the outer products of some images to `sums`, `[tap][channel][out]`.
    fn accumulate(&self, group: usize, images: Range<usize>, scratch: &mut Scratch, sums: &mut [f32]) {
        let Operands {
            gradient: Gradient {
                geometry,
                instruction_set,
            },
            size,
            output,
            ..
        } = self.operands;
        let Scratch { input, cotangent } = scratch;
        let (in_plane, out_plane) = (size[0] * size[1], output[0] * output[1]);
        input.resize(images.len() * in_plane * self.channels, 0.0);
        cotangent.resize(images.len() * out_plane * self.lanes, 0.0);
        if self.lanes > self.outs {
            cotangent.fill(0.0);
        }
        for (index, image) in images.clone().enumerate() {
            let first = (image * geometry.in_channels + group * self.channels) * in_plane;
            let source = Matrix {
                floats: &self.operands.input[first..],
                stride: in_plane,
                rows: self.channels,
                columns: in_plane,
            };
            transpose(source, &mut input[index * in_plane * self.channels..], self.channels);
            let first = (image * geometry.out_channels + group * self.outs) * out_plane;
            let source = Matrix {
                floats: &self.operands.cotangent[first..],
                stride: out_plane,
                rows: self.outs,
                columns: out_plane,
            };
            transpose(source, &mut cotangent[index * out_plane * self.lanes..], self.lanes);
        }
        let taps = [Tap::all(geometry, 0), Tap::all(geometry, 1)];
        for (index, sums) in sums.chunks_mut(self.channels * self.lanes).enumerate() {
            let row = taps[0][index / geometry.kernel[1]];
            let column = taps[1][index % geometry.kernel[1]];
            let rows = row.outputs(size[0], output[0]);
            let columns = column.outputs(size[1], output[1]);
            if rows.is_empty() || columns.is_empty() {
                continue;
            }
            for image in 0..images.len() {
                let from = (image * size[0] + row.input(rows.start)) * size[1] + column.input(columns.start);
                let at = (image * output[0] + rows.start) * output[1] + columns.start;
                let (vectors, rest) = instruction_set.vectors(self.outs);
                let outer = Outer {
                    input: &input[from * self.channels..],
                    input_strides: [
                        geometry.stride[1] * self.channels,
                        geometry.stride[0] * size[1] * self.channels,
                    ],
                    cotangent: &cotangent[at * self.lanes..],
                    cotangent_strides: [self.lanes, output[1] * self.lanes],
                    positions: [columns.len(), rows.len()],
                    channels: self.channels,
                    vectors,
                    stride: self.lanes,
                };
                instruction_set.add_outer(&outer, sums);
                if let Some(narrower) = rest {
                    let first = vectors * instruction_set.lanes();
                    let outer = Outer {
                        cotangent: &outer.cotangent[first..],
                        vectors: 1,
                        ..outer
                    };
                    narrower.add_outer(&outer, &mut sums[first..]);
                }
            }
        }
    }
}
