//! The way of products at constant offsets.

use super::{CHAINS, Operands, SCRATCH, Scratch, chains};
use crate::{
    GeometryError,
    gradient::{
        Gradient,
        products::{Products, WIDEST_VECTOR},
        too_large,
    },
    layout::{Division, Layout, Piece},
    window::Window,
};

/// What the rearranged input and cotangent of a piece may take: they should stay in the second-level cache.
const TARGET_FLOATS: usize = 128 * 1024;

/// A gradient with its input rearranged.
pub struct Rearranged<'a> {
    operands: Operands<'a>,
    layout: Layout,
    offsets: Vec<u32>,
}

impl Rearranged<'_> {
    /// The gradient.
    ///
    /// # Errors
    /// If the rearranged input cannot be addressed.
    pub fn sum(operands: Operands<'_>, batch: usize) -> Result<Vec<f32>, GeometryError> {
        let Operands {
            gradient: Gradient { geometry, .. },
            size,
            output,
            ..
        } = operands;
        let window = Window::new(geometry, size, output);
        let per_group = geometry.out_channels / geometry.groups;
        let division = Division::fixed(&window, per_group, TARGET_FLOATS, batch, CHAINS);
        let layout = Layout::new(&window, division).ok_or_else(too_large)?;
        let run = Rearranged {
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
