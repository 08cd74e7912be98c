//! Convolution with output channels spread over the lanes of vectors.
//!
//! The input is read where it lies, one float for all lanes, and padding is never multiplied with: each
//! kernel column adds to those outputs of a row that it reaches. The sums of a band of rows are then
//! turned around. This takes enough output channels to fill vectors. Every output element is one chain of
//! multiply-adds in the order (kernel column, kernel row, input channel), starting from the bias.

mod tile;

use std::ops::Range;

pub(crate) use tile::parts;
use tile::{BLOCK, Row};

use crate::{
    InstructionSet,
    tap::Tap,
    transpose::{Matrix, transpose},
};

/// Floats of the sums of a band, which should stay in the first-level cache.
const BAND_FLOATS: usize = 4 * 1024;
/// Input channels from which on this pays.
const MANY_CHANNELS: usize = 4;

/// Weights for [`Spread`], and where they are in the tensor: `lane * lane_stride + channel *
/// channel_stride + tap`.
#[derive(Clone, Copy)]
pub(crate) struct Weights<'a> {
    /// Those of one group.
    pub floats: &'a [f32],
    pub lane_stride: usize,
    pub channel_stride: usize,
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
}

/// One group's convolution with some taps.
#[derive(Clone, Debug)]
pub(crate) struct Spread {
    instruction_set: InstructionSet,
    channels: usize,
    outs: usize,
    rows: Vec<usize>,
    columns: Vec<usize>,
    /// For each block of output channels: `[kernel column][kernel row][input channel][lane]`.
    weights: Vec<f32>,
}

/// One output channel block of a [`Spread`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    /// The first output channel of the group.
    pub first: usize,
    /// Output channels.
    pub count: usize,
    instruction_set: InstructionSet,
    vectors: usize,
    /// Where its weights start.
    weights: usize,
}

impl Block {
    fn lanes(&self) -> usize {
        self.vectors * self.instruction_set.lanes()
    }
}

/// What a [`Spread`] is run on.
#[derive(Clone, Copy)]
pub(crate) struct Image<'a> {
    /// The planes of the group.
    pub planes: &'a [f32],
    /// Height and width of a plane.
    pub size: [usize; 2],
    /// How rows and columns of the output reach those of the input: the taps of both axes.
    pub taps: [&'a [Tap]; 2],
    /// Columns of the output.
    pub width: usize,
}

impl InstructionSet {
    /// Whether spreading output channels over lanes pays, for sizes of one group.
    pub(crate) fn spreads(self, channels: usize, outs: usize, column_stride: usize) -> bool {
        channels >= MANY_CHANNELS && column_stride <= 2 && outs * 4 >= outs.next_multiple_of(self.lanes()) * 3
    }
}

impl Spread {
    /// Packs the weights of `channels` input and `outs` output channels at some kernel rows and columns.
    pub fn new(
        instruction_set: InstructionSet,
        weights: Weights<'_>,
        [channels, outs]: [usize; 2],
        [rows, columns]: [Vec<usize>; 2],
    ) -> Self {
        let mut result = Self {
            instruction_set,
            channels,
            outs,
            rows,
            columns,
            weights: Vec::new(),
        };
        let [height, width] = weights.kernel;
        let taps = result.rows.len() * result.columns.len();
        let lanes = instruction_set.padded(outs);
        let mut packed = vec![0.0; taps * channels * lanes];
        let mut turned = Vec::new();
        for block in result.blocks() {
            let lanes = block.lanes();
            turned.resize(height * width * lanes, 0.0);
            turned.fill(0.0);
            let packed = &mut packed[block.weights..][..taps * channels * lanes];
            for channel in 0..channels {
                let source = Matrix {
                    floats: &weights.floats[block.first * weights.lane_stride + channel * weights.channel_stride..],
                    stride: weights.lane_stride,
                    rows: block.count,
                    columns: height * width,
                };
                transpose(source, &mut turned, lanes);
                let order = result
                    .columns
                    .iter()
                    .flat_map(|column| result.rows.iter().map(move |row| row * width + column));
                for (index, tap) in order.enumerate() {
                    packed[(index * channels + channel) * lanes..][..lanes]
                        .copy_from_slice(&turned[tap * lanes..][..lanes]);
                }
            }
        }
        result.weights = packed;
        result
    }

    /// The blocks of output channels.
    pub fn blocks(&self) -> Vec<Block> {
        let lanes = self.instruction_set.lanes();
        let taps = self.rows.len() * self.columns.len() * self.channels;
        let block = |instruction_set: InstructionSet, first: usize, vectors: usize| Block {
            first: first * lanes,
            count: (vectors * instruction_set.lanes()).min(self.outs - first * lanes),
            instruction_set,
            vectors,
            weights: first * lanes * taps,
        };
        let (vectors, rest) = self.instruction_set.vectors(self.outs);
        parts(vectors, BLOCK)
            .map(|(first, vectors)| block(self.instruction_set, first, vectors))
            .chain(rest.map(|narrower| block(narrower, vectors, 1)))
            .collect()
    }

    /// Output rows that are computed together.
    pub fn band(&self, [height, width]: [usize; 2]) -> usize {
        let lanes = self.instruction_set.lanes() * BLOCK.min(self.outs.div_ceil(self.instruction_set.lanes()));
        (BAND_FLOATS / (width * lanes).max(1)).clamp(1, height.max(1))
    }

    /// Computes the output rows `rows` of `block` into `target`, `[output channel][row][column]`.
    ///
    /// `bias` has one float for each output channel of the block.
    pub fn compute(
        &self,
        image: &Image<'_>,
        block: &Block,
        rows: Range<usize>,
        bias: &[f32],
        sums: &mut Vec<f32>,
        target: &mut [f32],
    ) {
        let lanes = block.lanes();
        let positions = rows.len() * image.width;
        sums.resize(positions * lanes, 0.0);
        sums[..block.count].copy_from_slice(&bias[..block.count]);
        sums[block.count..lanes].fill(0.0);
        let mut filled = lanes;
        while filled < positions * lanes {
            let more = filled.min(positions * lanes - filled);
            sums.copy_within(..more, filled);
            filled += more;
        }
        let mut taps = Vec::with_capacity(self.rows.len());
        let tap_floats = self.channels * lanes;
        for (column, tap) in image.taps[1].iter().enumerate() {
            let columns = tap.outputs(image.size[1], image.width);
            if columns.is_empty() {
                continue;
            }
            for row in rows.clone() {
                taps.clear();
                for (index, row_tap) in image.taps[0].iter().enumerate() {
                    let input = row_tap.input(row);
                    if input < image.size[0] {
                        taps.push([
                            input * image.size[1] + tap.input(columns.start),
                            block.weights + (column * self.rows.len() + index) * tap_floats,
                        ]);
                    }
                }
                let at = ((row - rows.start) * image.width + columns.start) * lanes;
                let row = Row {
                    input: image.planes,
                    plane: image.size[0] * image.size[1],
                    channels: self.channels,
                    taps: &taps,
                    weights: &self.weights,
                    positions: columns.len(),
                    stride: tap.stride,
                    vectors: block.vectors,
                };
                block.instruction_set.add_row(&row, &mut sums[at..]);
            }
        }
        let source = Matrix {
            floats: sums,
            stride: lanes,
            rows: positions,
            columns: block.count,
        };
        transpose(source, target, positions);
    }
}
