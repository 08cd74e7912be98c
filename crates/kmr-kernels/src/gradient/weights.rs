//! The gradient by the weights.
//!
//! There are two ways. With many input channels, input and cotangent are turned around so that all channels
//! of a position lie together, and each tap sums outer products over the positions that it reaches. With
//! few, the input is rearranged as for the convolution, and the cotangent with the same distances between
//! rows and images, zeros between them: every weight's gradient is then a sum of products over positions
//! at a constant offset.
//!
//! Either way, images are divided into pieces by the sizes alone, pieces into a fixed number of chains, and
//! the sums of the chains are added in their order.

use std::cell::RefCell;

use rayon::prelude::*;

use super::{
    Gradient, expect,
    outer::Outer,
    products::{Products, WIDEST_VECTOR},
    too_large,
};
use crate::{
    GeometryError,
    layout::{Division, Layout, Piece},
    tap::Tap,
    transpose::{Matrix, transpose},
    window::Window,
};

/// What the rearranged input and cotangent of a piece may take: they should stay in the second-level cache.
const TARGET_FLOATS: usize = 128 * 1024;
/// What they may take turned around.
const TURNED_FLOATS: usize = 48 * 1024;
/// Sums that are computed independently.
const CHAINS: usize = 16;
/// Input channels from which on outer products pay.
const MANY_CHANNELS: usize = 4;

/// Scratch memory of one thread.
#[derive(Default)]
struct Scratch {
    input: Vec<f32>,
    cotangent: Vec<f32>,
}

thread_local!(static SCRATCH: RefCell<Scratch> = RefCell::default());

impl Gradient {
    /// The gradient by the weights, `[out_channels, in_channels / groups, height, width]`.
    ///
    /// `input` has shape `[batch, in_channels, height, width]`, and `size` is its height and width.
    ///
    /// # Errors
    /// If `input` or `cotangent` has another length than the sizes say, or the kernel does not fit.
    pub fn weights(
        &self,
        input: &[f32],
        cotangent: &[f32],
        batch: usize,
        size: [usize; 2],
    ) -> Result<Vec<f32>, GeometryError> {
        let geometry = &self.geometry;
        expect("input", input, batch * geometry.in_channels * size[0] * size[1])?;
        let output = self.output(cotangent, batch, size)?;
        let operands = Operands {
            gradient: self,
            input,
            cotangent,
            size,
            output,
        };
        if geometry.in_channels / geometry.groups >= MANY_CHANNELS {
            return Ok(Turned::new(operands).sum(batch));
        }
        let window = Window::new(geometry, size, output);
        let per_group = geometry.out_channels / geometry.groups;
        let division = Division::fixed(&window, per_group, TARGET_FLOATS, batch, CHAINS);
        let layout = Layout::new(&window, division).ok_or_else(too_large)?;
        let run = Run {
            operands,
            offsets: (0..window.channels)
                .flat_map(|channel| (0..window.taps.len()).map(move |tap| (channel, tap)))
                .map(|(channel, tap)| layout.offset(channel, tap))
                .collect(),
            layout,
        };
        Ok(chains(run.layout.pieces(batch), geometry.weights(), |piece, sums| {
            let piece = run.layout.piece(batch, piece);
            SCRATCH.with_borrow_mut(|scratch| run.accumulate(&piece, scratch, sums));
        }))
    }
}

/// Sums of `length` floats that `accumulate` adds to for each piece, in an order that depends on nothing else.
fn chains(pieces: usize, length: usize, accumulate: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let count = CHAINS.min(pieces);
    let chains: Vec<Vec<f32>> = (0..count)
        .into_par_iter()
        .map(|chain| {
            let mut sums = vec![0.0; length];
            for piece in pieces * chain / count..pieces * (chain + 1) / count {
                accumulate(piece, &mut sums);
            }
            sums
        })
        .collect();
    let mut chains = chains.into_iter();
    let mut result = chains.next().unwrap_or_else(|| vec![0.0; length]);
    for chain in chains {
        result.iter_mut().zip(chain).for_each(|(sum, chain)| *sum += chain);
    }
    result
}

/// What a gradient is computed from.
#[derive(Clone, Copy)]
struct Operands<'a> {
    gradient: &'a Gradient,
    input: &'a [f32],
    cotangent: &'a [f32],
    size: [usize; 2],
    output: [usize; 2],
}

/// The way of outer products.
struct Turned<'a> {
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
    fn new(operands: Operands<'a>) -> Self {
        let geometry = &operands.gradient.geometry;
        let channels = geometry.in_channels / geometry.groups;
        let outs = geometry.out_channels / geometry.groups;
        let lanes = outs.next_multiple_of(operands.gradient.instruction_set.lanes());
        let floats = operands.size[0] * operands.size[1] * channels + operands.output[0] * operands.output[1] * lanes;
        Self {
            operands,
            channels,
            outs,
            lanes,
            images: (TURNED_FLOATS / floats.max(1)).max(1),
        }
    }

    fn sum(&self, batch: usize) -> Vec<f32> {
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
    fn accumulate(&self, group: usize, images: std::ops::Range<usize>, scratch: &mut Scratch, sums: &mut [f32]) {
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
                    vectors: self.lanes / instruction_set.lanes(),
                    stride: self.lanes,
                };
                instruction_set.add_outer(&outer, sums);
            }
        }
    }
}

/// The way of products at constant offsets.
struct Run<'a> {
    operands: Operands<'a>,
    layout: Layout,
    offsets: Vec<u32>,
}

impl Run<'_> {
    /// Adds the products of one piece to `sums`.
    fn accumulate(&self, piece: &Piece, scratch: &mut Scratch, sums: &mut [f32]) {
        let layout = &self.layout;
        let Gradient {
            geometry,
            instruction_set,
        } = self.operands.gradient;
        let channels = geometry.in_channels / geometry.groups;
        let per_group = geometry.out_channels / geometry.groups;
        let stride = layout.positions.next_multiple_of(WIDEST_VECTOR);
        let Scratch { input, cotangent } = scratch;
        for (packed, length) in [
            (&mut *input, layout.floats(channels)),
            (&mut *cotangent, per_group * stride),
        ] {
            packed.clear();
            packed.resize(length, 0.0);
        }
        for (group, sums) in sums.chunks_mut(per_group * geometry.taps()).enumerate() {
            // The next group's data covers the last one's exactly, so the zeros around it stay zeros.
            let first = group * channels;
            layout.pack(input, piece, self.operands.input, geometry.in_channels, first, channels);
            for channel in 0..per_group {
                let packed = &mut cotangent[channel * stride..][..stride];
                self.pack(piece, group * per_group + channel, packed);
            }
            let products = Products {
                cotangent,
                channels: per_group,
                stride,
                input,
                offsets: &self.offsets,
                positions: layout.position(piece.images - 1, piece.rows),
            };
            instruction_set.sum_products(&products, sums);
        }
    }

    /// Rearranges the cotangent of one output channel.
    fn pack(&self, piece: &Piece, channel: usize, packed: &mut [f32]) {
        let [height, width] = self.operands.output;
        for image in 0..piece.images {
            let plane = (piece.first_image + image) * self.operands.gradient.geometry.out_channels + channel;
            let plane = &self.operands.cotangent[plane * height * width..][..height * width];
            let rows = plane[piece.first_row * width..].chunks_exact(width);
            for (row, values) in rows.take(piece.rows).enumerate() {
                packed[self.layout.position(image, row)..][..width].copy_from_slice(values);
            }
        }
    }
}
