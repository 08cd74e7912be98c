//! Loops over elements.

use rayon::prelude::*;

use crate::{
    GeometryError, InstructionSet,
    moments::{Channel, Planes},
    output::Output,
    vectorized::vectorized,
};

/// Floats of one task.
const TASK: usize = 1 << 15;

/// Coefficients of an input gradient: `cotangent * cotangents + (value - mean) * distances + constant`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Coefficients {
    pub cotangents: f32,
    pub distances: f32,
    pub constant: f32,
}

#[inline(always)]
fn positive(value: f32) -> f32 {
    if value < 0.0 { 0.0 } else { value }
}

vectorized! {
    /// Writes normalized `values`, with an addend.
    ///
    /// # Safety
    /// The planes of `target` are in use by nobody else.
    unsafe fn normalize(channel: &Channel, values: &[f32], add: Option<&[f32]>, planes: Planes, target: &Output) {
        for range in planes.ranges() {
            // SAFETY: the caller keeps these planes to this call.
            let target = unsafe { target.part(range.start, range.len()) };
            let values = &values[range.clone()];
            match (add, channel.relu) {
                (None, false) => map(target, values, values, |x, _| channel.apply(x)),
                (None, true) => map(target, values, values, |x, _| positive(channel.apply(x))),
                (Some(add), false) => map(target, values, &add[range], |x, y| channel.apply(x) + y),
                (Some(add), true) => map(target, values, &add[range], |x, y| positive(channel.apply(x) + y)),
            }
        }
    }
}

vectorized! {
    /// Writes the gradient by the `values` that were normalized.
    ///
    /// # Safety
    /// The planes of `target` are in use by nobody else.
    unsafe fn denormalize(
        channel: &Channel,
        coefficients: &Coefficients,
        values: &[f32],
        cotangents: &[f32],
        planes: Planes,
        target: &Output,
    ) {
        let Coefficients { cotangents: scale, distances, constant } = *coefficients;
        let gradient = |x: f32, cotangent: f32| cotangent * scale + ((x - channel.mean) * distances + constant);
        for range in planes.ranges() {
            // SAFETY: the caller keeps these planes to this call.
            let target = unsafe { target.part(range.start, range.len()) };
            let (values, cotangents) = (&values[range.clone()], &cotangents[range]);
            if channel.relu {
                map(target, values, cotangents, |x, y| gradient(x, channel.cotangent::<true>(x, y)));
            } else {
                map(target, values, cotangents, gradient);
            }
        }
    }
}

vectorized! {
    fn add_relu(values: &[f32], add: &[f32], target: &mut [f32]) {
        map(target, values, add, |x, y| positive(x + y));
    }
}

vectorized! {
    fn mask(outputs: &[f32], cotangents: &[f32], target: &mut [f32]) {
        map(target, outputs, cotangents, |output, cotangent| if output <= 0.0 { 0.0 } else { cotangent });
    }
}

#[inline(always)]
fn map(target: &mut [f32], first: &[f32], second: &[f32], function: impl Fn(f32, f32) -> f32) {
    for ((to, &x), &y) in target.iter_mut().zip(first).zip(second) {
        *to = function(x, y);
    }
}

/// `relu(values + add)`; NaN stays NaN.
///
/// # Errors
/// If the lengths differ.
pub fn add_relu(values: &[f32], add: &[f32]) -> Result<Vec<f32>, GeometryError> {
    let instruction_set = InstructionSet::detect();
    parallel(values, add, |x, y, target| instruction_set.add_relu(x, y, target))
}

/// The gradient of a relu by its input, from its output: the cotangent, or zero where `output` is not positive.
///
/// # Errors
/// If the lengths differ.
pub fn relu_gradient(output: &[f32], cotangent: &[f32]) -> Result<Vec<f32>, GeometryError> {
    let instruction_set = InstructionSet::detect();
    parallel(output, cotangent, |x, y, target| instruction_set.mask(x, y, target))
}

fn parallel(
    first: &[f32],
    second: &[f32],
    function: impl Fn(&[f32], &[f32], &mut [f32]) + Sync,
) -> Result<Vec<f32>, GeometryError> {
    if first.len() != second.len() {
        return Err(GeometryError(format!(
            "expected operands of one length; got {} and {}",
            first.len(),
            second.len()
        )));
    }
    let fill = |target: &Output| {
        first
            .par_chunks(TASK)
            .zip(second.par_chunks(TASK))
            .enumerate()
            .for_each(|(task, (first, second))| {
                // SAFETY: tasks write chunks of their own.
                let target = unsafe { target.part(task * TASK, first.len()) };
                function(first, second, target);
            });
    };
    // SAFETY: the chunks cover all floats.
    Ok(unsafe { Output::fill(first.len(), fill) })
}
