//! Convolution with output channels spread over the lanes of vectors.

use rayon::prelude::*;

use super::{Operands, SCRATCH, Scratch};
use crate::{
    output::Output,
    spread::{Image, Spread},
    tap::Tap,
};

/// Multiplications that are worth a task of their own.
const TASK: usize = 100_000;

impl Operands<'_> {
    pub fn by_channels(&self, groups: &[Spread]) -> Vec<f32> {
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
}
