//! The gradient by the input.
//!
//! An input row that lies at `v` in the padded input receives from every kernel row whose distance has
//! the same remainder modulo the stride as `v`. Rows of one remainder form a phase: a convolution with
//! stride 1 of the cotangent with those kernel rows, turned around. The same holds for columns.

mod channels;
mod phase;
mod positions;

use std::cell::RefCell;

use phase::Phase;

use super::{Gradient, expect};
use crate::{GeometryError, output::Output, tile::WIDEST};

/// The bias of a block.
const ZEROS: [f32; WIDEST] = [0.0; WIDEST];

/// Scratch memory of one thread.
#[derive(Default)]
struct Scratch {
    packed: Vec<f32>,
    sums: Vec<f32>,
}

thread_local!(static SCRATCH: RefCell<Scratch> = RefCell::default());

impl Gradient {
    /// The gradient by the input, `[batch, in_channels, height, width]`.
    ///
    /// `weights` has shape `[out_channels, in_channels / groups, height, width]`, and `size` is the
    /// height and width of the convolution's input. Every element is one chain of multiply-adds in the
    /// order (kernel column, kernel row, output channel).
    ///
    /// # Errors
    /// If `weights` or `cotangent` has another length than the sizes say, or the kernel does not fit.
    pub fn input(
        &self,
        weights: &[f32],
        cotangent: &[f32],
        batch: usize,
        size: [usize; 2],
    ) -> Result<Vec<f32>, GeometryError> {
        let geometry = &self.geometry;
        expect("weights", weights, geometry.weights())?;
        let output = self.output(cotangent, batch, size)?;
        let length = batch * geometry.in_channels * size[0] * size[1];
        if length == 0 {
            return Ok(Vec::new());
        }
        let operands = Operands {
            gradient: self,
            weights,
            cotangent,
            batch,
            size,
            output,
            phases: [0, 1].map(|axis| Phase::all(geometry, axis, size[axis])),
        };
        let (channels, outs) = (
            geometry.in_channels / geometry.groups,
            geometry.out_channels / geometry.groups,
        );
        if self.instruction_set.spreads(outs, channels, 1) {
            Ok(operands.by_channels())
        } else {
            operands.by_positions()
        }
    }
}

/// What a gradient is computed from.
struct Operands<'a> {
    gradient: &'a Gradient,
    weights: &'a [f32],
    cotangent: &'a [f32],
    batch: usize,
    size: [usize; 2],
    output: [usize; 2],
    /// Those of rows and of columns.
    phases: [Vec<Phase>; 2],
}

impl Operands<'_> {
    fn length(&self) -> usize {
        self.batch * self.gradient.geometry.in_channels * self.size[0] * self.size[1]
    }

    /// All pairs of a row phase and a column phase.
    fn pairs(&self) -> impl Iterator<Item = [&Phase; 2]> {
        let [rows, columns] = &self.phases;
        rows.iter()
            .flat_map(move |row| columns.iter().map(move |column| [row, column]))
    }
}

impl Operands<'_> {
    /// Moves the sums of some rows of one phase of a plane to their place.
    ///
    /// `rows` holds the phase, its first row and how many; `sums` gives the sums of a column phase in one
    /// of them.
    fn finish<'s>(&self, plane: usize, rows: [usize; 3], target: &Output, sums: impl Fn(usize, usize) -> &'s [f32]) {
        let [height, width] = self.size;
        let [row_stride, stride] = self.gradient.geometry.stride;
        let [phase, first, count] = rows;
        for row in 0..count {
            let at = (first + row) * row_stride + phase;
            if at >= height {
                break;
            }
            // SAFETY: no two tasks share a row, and a task writes one row at a time.
            let target = unsafe { target.part((plane * height + at) * width, width) };
            match stride {
                1 => target.copy_from_slice(&sums(0, row)[..width]),
                2 if width > 1 => interleave(target, sums(0, row), sums(1, row)),
                stride => {
                    for phase in 0..stride.min(width) {
                        for (to, from) in target.iter_mut().skip(phase).step_by(stride).zip(sums(phase, row)) {
                            *to = *from;
                        }
                    }
                }
            }
        }
    }
}

/// Fills `target` from `even` and `odd` in turn.
fn interleave(target: &mut [f32], even: &[f32], odd: &[f32]) {
    let (pairs, last) = target.as_chunks_mut::<2>();
    for ((pair, &even), &odd) in pairs.iter_mut().zip(even).zip(odd) {
        *pair = [even, odd];
    }
    if let Some(last) = last.first_mut() {
        *last = even[pairs.len()];
    }
}
