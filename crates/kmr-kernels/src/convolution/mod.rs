//! A convolution with its weights packed for this processor.

mod channels;
mod positions;

use std::cell::RefCell;

use positions::pack;

use crate::{
    Affine, Geometry, GeometryError, InstructionSet,
    finish::Row,
    output::Output,
    spread::{Spread, Weights},
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
    ///
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
