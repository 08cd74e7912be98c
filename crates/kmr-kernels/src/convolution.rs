//! A convolution with its weights packed for the register tile.

use std::cell::RefCell;

use rayon::prelude::*;

use crate::{
    Affine, Geometry, GeometryError, InstructionSet,
    finish::Row,
    layout::{Division, Layout, Piece},
    output::Output,
    tile::{Block, WIDEST},
    window::Window,
};

/// What is done to each output element on its way out, in this order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Finish<'a> {
    /// A factor and an addend per output channel.
    pub affine: Option<&'a Affine>,
    /// A tensor of the output's shape that is added.
    pub add: Option<&'a [f32]>,
    /// Negative values become zero; NaN stays NaN.
    pub relu: bool,
}

/// A convolution, ready to run.
#[derive(Clone, Debug)]
pub struct Convolution {
    geometry: Geometry,
    instruction_set: InstructionSet,
    /// For each group, for each block of output channels: `[tap][channel]`.
    weights: Vec<f32>,
    bias: Vec<f32>,
}

/// Scratch memory of one thread.
#[derive(Default)]
struct Scratch {
    packed: Vec<f32>,
    sums: Vec<f32>,
}

thread_local!(static SCRATCH: RefCell<Scratch> = RefCell::default());

impl Convolution {
    /// Packs `weights` of shape `[out_channels, in_channels / groups, height, width]` for this processor.
    ///
    /// # Errors
    /// If the sizes do not fit each other.
    pub fn new(geometry: Geometry, weights: &[f32], bias: Option<&[f32]>) -> Result<Self, GeometryError> {
        Self::for_instruction_set(geometry, weights, bias, InstructionSet::detect())
    }

    /// The same for a class of instructions, or portable code where this processor lacks it.
    ///
    /// # Errors
    /// If the sizes do not fit each other.
    pub fn for_instruction_set(
        geometry: Geometry,
        weights: &[f32],
        bias: Option<&[f32]>,
        instruction_set: InstructionSet,
    ) -> Result<Self, GeometryError> {
        geometry.check()?;
        if weights.len() != geometry.weights() {
            return Err(GeometryError(format!(
                "expected {} weights; got {}",
                geometry.weights(),
                weights.len()
            )));
        }
        if let Some(bias) = bias
            && bias.len() != geometry.out_channels
        {
            return Err(GeometryError(format!(
                "expected a bias of {}; got {}",
                geometry.out_channels,
                bias.len()
            )));
        }
        let instruction_set = instruction_set.or_portable();
        let taps = geometry.taps();
        let per_group = geometry.out_channels / geometry.groups;
        let mut packed = Vec::with_capacity(weights.len());
        for group in weights.chunks(per_group * taps) {
            for (first, count) in instruction_set.blocks(per_group) {
                let block = &group[first * taps..][..count * taps];
                for tap in 0..taps {
                    packed.extend(block.iter().skip(tap).step_by(taps));
                }
            }
        }
        Ok(Self {
            geometry,
            instruction_set,
            weights: packed,
            bias: bias.map_or_else(|| vec![0.0; geometry.out_channels], <[f32]>::to_vec),
        })
    }

    /// The sizes.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Convolves `batch` images of `size` height and width, `[batch, in_channels, height, width]`.
    ///
    /// Runs on the calling thread's rayon pool.
    ///
    /// # Errors
    /// If `input` or an addend has another length than the sizes say, or the kernel does not fit.
    pub fn run(
        &self,
        input: &[f32],
        batch: usize,
        size: [usize; 2],
        finish: Finish<'_>,
    ) -> Result<Vec<f32>, GeometryError> {
        let geometry = &self.geometry;
        let output = geometry.output(size)?;
        let image = geometry.in_channels * size[0] * size[1];
        if input.len() != batch * image {
            return Err(GeometryError(format!(
                "expected an input of {} values; got {}",
                batch * image,
                input.len()
            )));
        }
        let length = batch * geometry.out_channels * output[0] * output[1];
        if let Some(add) = finish.add
            && add.len() != length
        {
            return Err(GeometryError(format!(
                "expected an addend of {length} values; got {}",
                add.len()
            )));
        }
        if let Some(affine) = finish.affine
            && (affine.scale.len(), affine.shift.len()) != (geometry.out_channels, geometry.out_channels)
        {
            return Err(GeometryError(
                "the affine's channels are not those of the output".into(),
            ));
        }
        if length == 0 {
            return Ok(Vec::new());
        }
        let window = Window::new(geometry, size, output);
        let work = geometry.weights() * output[0] * output[1];
        let layout = Layout::new(&window, Division::for_threads(&window, batch, work))
            .ok_or_else(|| GeometryError("the convolution is too large to address".into()))?;
        let run = Run {
            convolution: self,
            offsets: layout.offsets(window.channels),
            layout,
            input,
            output,
            finish,
        };
        let pieces = run.layout.pieces(batch);
        let fill = |target: &Output| {
            let task = |piece: usize| {
                let piece = run.layout.piece(batch, piece);
                SCRATCH.with_borrow_mut(|scratch| run.compute(&piece, scratch, target));
            };
            if pieces == 1 {
                task(0);
            } else {
                (0..pieces).into_par_iter().for_each(task);
            }
        };
        // SAFETY: the pieces cover every image and every row, and each writes all channels of its rows.
        Ok(unsafe { Output::fill(length, fill) })
    }
}

/// A convolution with its operands.
struct Run<'a> {
    convolution: &'a Convolution,
    layout: Layout,
    offsets: Vec<u32>,
    input: &'a [f32],
    output: [usize; 2],
    finish: Finish<'a>,
}

impl Run<'_> {
    /// Computes one piece of the output.
    fn compute(&self, piece: &Piece, scratch: &mut Scratch, target: &Output) {
        let Self {
            convolution, layout, ..
        } = self;
        let Convolution {
            geometry,
            instruction_set,
            ..
        } = convolution;
        let channels = geometry.in_channels / geometry.groups;
        let per_group = geometry.out_channels / geometry.groups;
        let taps = geometry.taps();
        let stride = layout.positions + WIDEST;
        let Scratch { packed, sums } = scratch;
        packed.clear();
        packed.resize(layout.floats(channels), 0.0);
        sums.resize(instruction_set.tile_channels() * stride, 0.0);
        let positions = layout.position(piece.images - 1, piece.rows);
        for group in 0..geometry.groups {
            // The next group's data covers the last one's exactly, so the zeros around it stay zeros.
            layout.pack(
                packed,
                piece,
                self.input,
                geometry.in_channels,
                group * channels,
                channels,
            );
            for (first, count) in instruction_set.blocks(per_group) {
                let first = group * per_group + first;
                let block = Block {
                    channels: count,
                    input: packed,
                    offsets: &self.offsets,
                    weights: &convolution.weights[first * taps..][..count * taps],
                    bias: &convolution.bias[first..][..count],
                    positions,
                    output_stride: stride,
                };
                instruction_set.compute(&block, sums);
                for channel in 0..count {
                    self.finish(piece, first + channel, &sums[channel * stride..][..stride], target);
                }
            }
        }
    }

    /// Moves the sums of one output channel to their place.
    fn finish(&self, piece: &Piece, channel: usize, sums: &[f32], target: &Output) {
        let [height, width] = self.output;
        let affine = self
            .finish
            .affine
            .map(|affine| (affine.scale[channel], affine.shift[channel]));
        for image in 0..piece.images {
            let plane = (piece.first_image + image) * self.convolution.geometry.out_channels + channel;
            for row in 0..piece.rows {
                let at = (plane * height + piece.first_row + row) * width;
                // SAFETY: no two pieces share a row, and a piece writes one row at a time.
                let target = unsafe { target.part(at, width) };
                let row = Row {
                    sums: &sums[self.layout.position(image, row)..][..width],
                    affine,
                    add: self.finish.add.map(|add| &add[at..][..width]),
                    relu: self.finish.relu,
                };
                self.convolution.instruction_set.finish(&row, target);
            }
        }
    }
}
