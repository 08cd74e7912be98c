//! The gradient by the weights.
//!
//! The input is rearranged as for the convolution, and the cotangent with the same distances between rows
//! and images, zeros between them: every weight's gradient is then a sum of products over positions at a
//! constant offset. Images are divided into pieces by the sizes alone, pieces into a fixed number of
//! chains, and the sums of the chains are added in their order.

use std::cell::RefCell;

use rayon::prelude::*;

use super::{
    Gradient, expect,
    products::{Products, WIDEST_VECTOR},
    too_large,
};
use crate::{
    GeometryError,
    layout::{Division, Layout, Piece},
    window::Window,
};

/// What the rearranged input and cotangent of a piece may take: they should stay in the second-level cache.
const TARGET_FLOATS: usize = 128 * 1024;
/// Sums that are computed independently.
const CHAINS: usize = 16;

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
        let window = Window::new(geometry, size, output);
        let per_group = geometry.out_channels / geometry.groups;
        let division = Division::fixed(&window, per_group, TARGET_FLOATS, batch, CHAINS);
        let layout = Layout::new(&window, division).ok_or_else(too_large)?;
        let run = Run {
            gradient: self,
            offsets: layout.offsets(window.channels),
            layout,
            input,
            cotangent,
            output,
        };
        let pieces = run.layout.pieces(batch);
        let chains: Vec<Vec<f32>> = (0..CHAINS.min(pieces))
            .into_par_iter()
            .map(|chain| {
                let mut sums = vec![0.0; geometry.weights()];
                for piece in pieces * chain / CHAINS.min(pieces)..pieces * (chain + 1) / CHAINS.min(pieces) {
                    let piece = run.layout.piece(batch, piece);
                    SCRATCH.with_borrow_mut(|scratch| run.accumulate(&piece, scratch, &mut sums));
                }
                sums
            })
            .collect();
        let mut chains = chains.into_iter();
        let mut result = chains.next().unwrap_or_else(|| vec![0.0; geometry.weights()]);
        for chain in chains {
            result.iter_mut().zip(chain).for_each(|(sum, chain)| *sum += chain);
        }
        Ok(result)
    }
}

/// A gradient with its operands.
struct Run<'a> {
    gradient: &'a Gradient,
    layout: Layout,
    offsets: Vec<u32>,
    input: &'a [f32],
    cotangent: &'a [f32],
    output: [usize; 2],
}

impl Run<'_> {
    /// Adds the products of one piece to `sums`.
    fn accumulate(&self, piece: &Piece, scratch: &mut Scratch, sums: &mut [f32]) {
        let layout = &self.layout;
        let geometry = &self.gradient.geometry;
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
            layout.pack(
                input,
                piece,
                self.input,
                geometry.in_channels,
                group * channels,
                channels,
            );
            for channel in 0..per_group {
                self.pack(
                    piece,
                    group * per_group + channel,
                    &mut cotangent[channel * stride..][..stride],
                );
            }
            let products = Products {
                cotangent,
                channels: per_group,
                stride,
                input,
                offsets: &self.offsets,
                positions: layout.position(piece.images - 1, piece.rows),
            };
            self.gradient.instruction_set.sum_products(&products, sums);
        }
    }

    /// Rearranges the cotangent of one output channel.
    fn pack(&self, piece: &Piece, channel: usize, packed: &mut [f32]) {
        let [height, width] = self.output;
        for image in 0..piece.images {
            let plane = (piece.first_image + image) * self.gradient.geometry.out_channels + channel;
            let plane = &self.cotangent[plane * height * width..][..height * width];
            for (row, values) in plane[piece.first_row * width..]
                .chunks_exact(width)
                .take(piece.rows)
                .enumerate()
            {
                packed[self.layout.position(image, row)..][..width].copy_from_slice(values);
            }
        }
    }
}
