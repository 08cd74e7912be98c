//! A convolution with its weights packed for the register tile.

use std::cell::RefCell;

use rayon::prelude::*;

use crate::{
    Affine, Geometry, GeometryError, InstructionSet,
    finish::Row,
    layout::{Division, Layout, Piece},
    output::Output,
    spread::{Image, Spread, Weights},
    tap::Tap,
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
    method: Method,
    bias: Vec<f32>,
}

/// How a convolution is computed, with its weights; the geometry alone decides.
#[derive(Clone, Debug)]
enum Method {
    /// Positions are spread over the lanes of vectors.
    /// For each group, for each block of output channels: `[tap][channel]`.
    Positions(Vec<f32>),
    /// Output channels are spread over the lanes of vectors, in each group.
    Channels(Vec<Spread>),
}

/// Scratch memory of one thread.
#[derive(Default)]
struct Scratch {
    packed: Vec<f32>,
    sums: Vec<f32>,
}

/// Multiplications that are worth a task of their own.
const TASK: usize = 100_000;

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
        let channels = geometry.in_channels / geometry.groups;
        let outs = geometry.out_channels / geometry.groups;
        let method = if instruction_set.spreads(channels, outs, geometry.stride[1]) {
            let kernel = geometry.kernel.map(|size| (0..size).collect());
            let groups = weights.chunks(outs * geometry.taps()).map(|floats| {
                let weights = Weights {
                    floats,
                    lane_stride: geometry.taps(),
                    channel_stride: geometry.kernel[0] * geometry.kernel[1],
                    kernel: geometry.kernel,
                };
                Spread::new(instruction_set, weights, [channels, outs], kernel.clone())
            });
            Method::Channels(groups.collect())
        } else {
            Method::Positions(pack(&geometry, instruction_set, weights))
        };
        Ok(Self {
            geometry,
            instruction_set,
            method,
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
        let operands = Operands {
            convolution: self,
            input,
            batch,
            size,
            output,
            finish,
        };
        match &self.method {
            Method::Positions(weights) => operands.by_positions(weights),
            Method::Channels(groups) => Ok(operands.by_channels(groups)),
        }
    }
}

/// The taps of a kernel, column by column, as their indices in the kernel.
fn by_columns(geometry: &Geometry) -> impl Iterator<Item = usize> + use<> {
    let [height, width] = geometry.kernel;
    (0..width).flat_map(move |column| (0..height).map(move |row| row * width + column))
}

/// Packs weights for [`Method::Positions`].
fn pack(geometry: &Geometry, instruction_set: InstructionSet, weights: &[f32]) -> Vec<f32> {
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

/// A convolution with its operands.
#[derive(Clone, Copy)]
struct Operands<'a> {
    convolution: &'a Convolution,
    input: &'a [f32],
    batch: usize,
    size: [usize; 2],
    output: [usize; 2],
    finish: Finish<'a>,
}

impl Operands<'_> {
    fn length(&self) -> usize {
        self.batch * self.convolution.geometry.out_channels * self.output[0] * self.output[1]
    }

    fn by_positions(&self, weights: &[f32]) -> Result<Vec<f32>, GeometryError> {
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

    fn by_channels(&self, groups: &[Spread]) -> Vec<f32> {
        let geometry = &self.convolution.geometry;
        let channels = geometry.in_channels / geometry.groups;
        let outs = geometry.out_channels / geometry.groups;
        let plane = self.size[0] * self.size[1];
        let taps = [Tap::all(geometry, 0), Tap::all(geometry, 1)];
        let blocks = groups[0].blocks();
        let band = groups[0].band(self.output);
        let bands = self.output[0].div_ceil(band);
        let tasks = groups.len() * blocks.len() * self.batch * bands;
        let fill = |target: &Output| {
            let task = |task: usize| {
                let (rest, first_row) = (task / bands, task % bands * band);
                let (rest, image) = (rest / self.batch, rest % self.batch);
                let (group, block) = (rest / blocks.len(), &blocks[rest % blocks.len()]);
                let rows = first_row..(first_row + band).min(self.output[0]);
                let planes = Image {
                    planes: &self.input[(image * geometry.in_channels + group * channels) * plane..]
                        [..channels * plane],
                    size: self.size,
                    taps: [&taps[0], &taps[1]],
                    width: self.output[1],
                };
                let length = rows.len() * self.output[1];
                SCRATCH.with_borrow_mut(|Scratch { packed, sums }| {
                    packed.resize(block.count * length, 0.0);
                    let first = group * outs + block.first;
                    let bias = &self.convolution.bias[first..];
                    groups[group].compute(&planes, block, rows, bias, sums, packed);
                    for (channel, sums) in packed.chunks(length).enumerate() {
                        self.finish(image, first + channel, first_row, sums, target);
                    }
                });
            };
            if tasks == 1 {
                task(0);
            } else {
                let work = geometry.weights() * self.output[0] * self.output[1] * self.batch / tasks;
                (0..tasks)
                    .into_par_iter()
                    .with_min_len(TASK.div_ceil(work.max(1)))
                    .for_each(task);
            }
        };
        // SAFETY: the tasks cover every image, output channel and row, and each writes all of its columns.
        unsafe { Output::fill(self.length(), fill) }
    }

    /// Moves the sums of whole rows of one output channel to their place.
    fn finish(&self, image: usize, channel: usize, first_row: usize, sums: &[f32], target: &Output) {
        let plane = image * self.convolution.geometry.out_channels + channel;
        let at = (plane * self.output[0] + first_row) * self.output[1];
        // SAFETY: no two tasks share a row, and a task writes one piece of its rows at a time.
        let target = unsafe { target.part(at, sums.len()) };
        let row = Row {
            sums,
            affine: self
                .finish
                .affine
                .map(|affine| (affine.scale[channel], affine.shift[channel])),
            add: self.finish.add.map(|add| &add[at..][..sums.len()]),
            relu: self.finish.relu,
        };
        self.convolution.instruction_set.finish(&row, target);
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
