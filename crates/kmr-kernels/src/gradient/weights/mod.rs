//! The gradient by the weights.
//!
//! There are two ways. With many input channels, input and cotangent are turned around so that all channels
//! of a position lie together, and each tap sums outer products over the positions that it reaches. With
//! few, the input is rearranged as for the convolution, and the cotangent with the same distances between
//! rows and images, zeros between them: every weight's gradient is then a sum of products over positions
//! at a constant offset.
//!
//! Either way, images are divided into pieces by the sizes alone, pieces into a fixed number of chains, and
//! the sums of the chains are added in their order.

mod rearranged;
mod turned;

use std::cell::RefCell;

use rayon::prelude::*;
use rearranged::Rearranged;
use turned::Turned;

use super::{Gradient, expect};
use crate::GeometryError;

/// Sums that are computed independently.
const CHAINS: usize = 16;
/// Input channels from which on outer products pay.
const MANY_CHANNELS: usize = 4;

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
        let operands = Operands {
            gradient: self,
            input,
            cotangent,
            size,
            output,
        };
        if geometry.in_channels / geometry.groups >= MANY_CHANNELS {
            return Ok(Turned::new(operands).sum(batch));
        }
        Rearranged::sum(operands, batch)
    }
}

/// Sums of `length` floats that `accumulate` adds to for each piece, in an order that depends on nothing else.
fn chains(pieces: usize, length: usize, accumulate: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let count = CHAINS.min(pieces);
    let chains: Vec<Vec<f32>> = (0..count)
        .into_par_iter()
        .map(|chain| {
            let mut sums = vec![0.0; length];
            for piece in pieces * chain / count..pieces * (chain + 1) / count {
                accumulate(piece, &mut sums);
            }
            sums
        })
        .collect();
    let mut chains = chains.into_iter();
    let mut result = chains.next().unwrap_or_else(|| vec![0.0; length]);
    for chain in chains {
        result.iter_mut().zip(chain).for_each(|(sum, chain)| *sum += chain);
    }
    result
}

/// What a gradient is computed from.
#[derive(Clone, Copy)]
struct Operands<'a> {
    gradient: &'a Gradient,
    input: &'a [f32],
    cotangent: &'a [f32],
    size: [usize; 2],
    output: [usize; 2],
}
