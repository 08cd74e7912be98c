//! The gradient by the input with input channels spread over the lanes of vectors.

use rayon::prelude::*;

use super::{Operands, SCRATCH, Scratch, ZEROS};
use crate::{
    gradient::Gradient,
    output::Output,
    spread::{Image, Spread, Weights},
};

/// Multiplications that are worth a task of their own.
const TASK: usize = 100_000;

impl Operands<'_> {
    pub fn by_channels(&self) -> Vec<f32> {
        let Gradient {
            geometry,
            instruction_set,
        } = self.gradient;
        let channels = geometry.in_channels / geometry.groups;
        let outs = geometry.out_channels / geometry.groups;
        let plane = self.output[0] * self.output[1];
        let taps = geometry.kernel[0] * geometry.kernel[1];
        let spreads: Vec<Spread> = self
            .weights
            .chunks(outs * channels * taps)
            .flat_map(|floats| self.pairs().map(move |pair| (floats, pair)))
            .map(|(floats, [rows, columns])| {
                let weights = Weights {
                    floats,
                    lane_stride: taps,
                    channel_stride: channels * taps,
                    kernel: geometry.kernel,
                };
                let kernel = [rows.kernel.clone(), columns.kernel.clone()];
                Spread::new(*instruction_set, weights, [outs, channels], kernel)
            })
            .collect();
        let run = Run {
            operands: self,
            blocks: spreads[0].blocks().len(),
            band: spreads[0].band([self.phases[0][0].count, self.phases[1][0].count]),
            spreads,
        };
        let tasks = run.tasks();
        let fill = |target: &Output| {
            let work = self.gradient.geometry.weights() * plane * self.batch / tasks;
            (0..tasks)
                .into_par_iter()
                .with_min_len(TASK.div_ceil(work.max(1)))
                .for_each(|task| SCRATCH.with_borrow_mut(|scratch| run.compute(task, scratch, target)));
        };
        // SAFETY: the tasks cover every image, input channel and row of every phase, and each writes all
        // columns of its rows.
        unsafe { Output::fill(self.length(), fill) }
    }
}

/// A gradient with input channels spread over the lanes of vectors.
struct Run<'a> {
    operands: &'a Operands<'a>,
    /// For each group, for each row phase, for each column phase.
    spreads: Vec<Spread>,
    /// Blocks of input channels in a group.
    blocks: usize,
    /// Rows of a phase that are computed together.
    band: usize,
}

impl Run<'_> {
    fn bands(&self) -> usize {
        self.operands.phases[0][0].count.div_ceil(self.band)
    }

    fn tasks(&self) -> usize {
        self.operands.gradient.geometry.groups * self.blocks * self.operands.batch * self.bands()
    }

    /// Computes a block of channels of a band of rows of one image, in all phases.
    fn compute(&self, task: usize, scratch: &mut Scratch, target: &Output) {
        let Operands {
            gradient: Gradient { geometry, .. },
            batch,
            output,
            phases: [row_phases, column_phases],
            ..
        } = self.operands;
        let (rest, first_row) = (task / self.bands(), task % self.bands() * self.band);
        let (rest, image) = (rest / batch, rest % batch);
        let (group, block) = (rest / self.blocks, rest % self.blocks);
        let channels = geometry.in_channels / geometry.groups;
        let outs = geometry.out_channels / geometry.groups;
        let plane = output[0] * output[1];
        let planes = &self.operands.cotangent[(image * geometry.out_channels + group * outs) * plane..][..outs * plane];
        let pairs = row_phases.len() * column_phases.len();
        let spreads = self.spreads[group * pairs..][..pairs].chunks(column_phases.len());
        let Scratch { packed, sums } = scratch;
        for (row_phase, (rows, spreads)) in row_phases.iter().zip(spreads).enumerate() {
            let range = first_row..(first_row + self.band).min(rows.count);
            if range.is_empty() {
                continue;
            }
            let blocks: Vec<_> = spreads.iter().map(|spread| spread.blocks()[block]).collect();
            let (first, count) = (blocks[0].first, blocks[0].count);
            let distance = count * range.len() * column_phases[0].count;
            packed.resize(column_phases.len() * distance, 0.0);
            for (index, columns) in column_phases.iter().enumerate() {
                let image = Image {
                    planes,
                    size: *output,
                    taps: [&rows.taps, &columns.taps],
                    width: columns.count,
                };
                let packed = &mut packed[index * distance..];
                spreads[index].compute(&image, &blocks[index], range.clone(), &ZEROS, sums, packed);
            }
            for channel in 0..count {
                let plane = image * geometry.in_channels + group * channels + first + channel;
                let first_line = channel * range.len();
                if geometry.stride == [1, 1] {
                    let [height, width] = self.operands.size;
                    let start = (plane * height + range.start) * width;
                    // SAFETY: no two tasks share a row, and a task writes one channel at a time.
                    let target = unsafe { target.part(start, range.len() * width) };
                    target.copy_from_slice(&packed[first_line * width..][..range.len() * width]);
                    continue;
                }
                self.operands
                    .finish(plane, [row_phase, range.start, range.len()], target, |phase, row| {
                        &packed[phase * distance + (first_line + row) * column_phases[phase].count..]
                    });
            }
        }
    }
}
