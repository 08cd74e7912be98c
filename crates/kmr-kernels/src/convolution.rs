//! A convolution with its weights packed for the register tile.

use std::cell::RefCell;

use rayon::prelude::*;

use crate::{
    Affine, Geometry, GeometryError, InstructionSet,
    finish::Row,
    layout::Layout,
    tile::{Block, WIDEST},
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

/// The output, written by several threads in disjoint rows.
struct Output(*mut f32);
// SAFETY: tasks write disjoint rows, see `Convolution::run`.
unsafe impl Sync for Output {}

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
        let instruction_set = if InstructionSet::available().contains(&instruction_set) {
            instruction_set
        } else {
            InstructionSet::Portable
        };
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
        let layout = Layout::new(geometry, batch, size, output)
            .ok_or_else(|| GeometryError("the convolution is too large to address".into()))?;

        let mut result: Vec<f32> = Vec::with_capacity(length);
        let target = Output(result.as_mut_ptr());
        let bands = output[0].div_ceil(layout.band);
        let task = |task: usize| {
            let (first_image, band) = (task / bands * layout.images, task % bands);
            let images = layout.images.min(batch - first_image);
            let first_row = band * layout.band;
            let rows = layout.band.min(output[0] - first_row);
            let piece = Piece {
                first_image,
                images,
                first_row,
                rows,
                size,
                output,
                input,
                finish,
                instruction_set: self.instruction_set,
            };
            SCRATCH.with_borrow_mut(|scratch| self.piece(&layout, &piece, scratch, &target));
        };
        let tasks = batch.div_ceil(layout.images) * bands;
        if tasks == 1 {
            task(0);
        } else {
            (0..tasks).into_par_iter().for_each(task);
        }
        // SAFETY: the tasks cover every image and every row, and each wrote all channels of its rows.
        unsafe { result.set_len(length) };
        Ok(result)
    }

    /// Computes one piece of the output.
    fn piece(&self, layout: &Layout, piece: &Piece<'_>, scratch: &mut Scratch, target: &Output) {
        let geometry = &self.geometry;
        let channels = geometry.in_channels / geometry.groups;
        let per_group = geometry.out_channels / geometry.groups;
        let taps = geometry.taps();
        let plane = piece.size[0] * piece.size[1];
        let stride = layout.positions + WIDEST;
        let tile = self.instruction_set.tile_channels();
        let Scratch { packed, sums } = scratch;
        packed.clear();
        packed.resize(layout.floats(channels), 0.0);
        sums.resize(tile * stride, 0.0);
        let positions = layout.position(piece.images - 1, piece.rows);
        for group in 0..geometry.groups {
            // The next group's data covers the last one's exactly, so the zeros around it stay zeros.
            for image in 0..piece.images {
                let start = (piece.first_image + image) * geometry.in_channels + group * channels;
                for channel in 0..channels {
                    let source = &piece.input[(start + channel) * plane..][..plane];
                    layout.pack(packed, channel, image, source, piece.first_row, piece.rows);
                }
            }
            for (first, count) in self.instruction_set.blocks(per_group) {
                let first = group * per_group + first;
                let block = Block {
                    channels: count,
                    input: packed,
                    offsets: &layout.offsets,
                    weights: &self.weights[first * taps..][..count * taps],
                    bias: &self.bias[first..][..count],
                    positions,
                    output_stride: stride,
                };
                self.instruction_set.compute(&block, sums);
                for channel in 0..count {
                    let sums = &sums[channel * stride..][..stride];
                    piece.finish(layout, first + channel, geometry.out_channels, sums, target);
                }
            }
        }
    }
}

/// A few whole images, or a band of rows of one.
struct Piece<'a> {
    first_image: usize,
    images: usize,
    first_row: usize,
    rows: usize,
    size: [usize; 2],
    output: [usize; 2],
    input: &'a [f32],
    finish: Finish<'a>,
    instruction_set: InstructionSet,
}

impl Piece<'_> {
    /// Moves the sums of one output channel to their place.
    fn finish(&self, layout: &Layout, channel: usize, channels: usize, sums: &[f32], target: &Output) {
        let width = self.output[1];
        let (scale, shift) = match self.finish.affine {
            Some(affine) => (affine.scale[channel], affine.shift[channel]),
            None => (1.0, 0.0),
        };
        for image in 0..self.images {
            let start = ((self.first_image + image) * channels + channel) * self.output[0] + self.first_row;
            for row in 0..self.rows {
                let sums = &sums[layout.position(image, row)..][..width];
                let at = (start + row) * width;
                // SAFETY: the rows of a piece lie inside the allocation of `batch * channels * height *
                // width` floats, and no two pieces share one; floats need no initialization to be written.
                let target = unsafe { std::slice::from_raw_parts_mut(target.0.add(at), width) };
                let row = Row {
                    sums,
                    affine: self.finish.affine.map(|_| (scale, shift)),
                    add: self.finish.add.map(|add| &add[at..][..width]),
                    relu: self.finish.relu,
                };
                self.instruction_set.finish(&row, target);
            }
        }
    }
}
