//! Softmax and its kin.

use burn::backend::ops::ActivationOps;
use kmr_model::{DType, Tensor};
use rayon::prelude::*;

use super::{Operator, host, onnx, order};
use crate::{
    ComputeError,
    interpreter::{B, Call, Float, Outputs, Value, from_vec, into_vec, is_tracked, reshape, shape},
};

pub const OPERATORS: &[Operator] = &[
    onnx("Softmax", |call| softmax(call, along, false)),
    onnx("LogSoftmax", |call| softmax(call, B::log_softmax, true)),
    onnx("Hardmax", hardmax),
];

/// The shape to compute with and the axis in it: before opset 13 the axes from `axis` on count as one.
fn arranged(call: &Call<'_>, full: &[usize]) -> Result<(Vec<usize>, usize), ComputeError> {
    if call.opset >= 13 {
        return Ok((full.to_vec(), call.axis(call.int("axis", -1), full.len())?));
    }
    let axis = call.axis(call.int("axis", 1), full.len())?;
    Ok((vec![full[..axis].iter().product(), full[axis..].iter().product()], 1))
}

/// The softmax along `axis`.
///
/// Burn adds float32 in one row, which loses digits on long axes; off the tape the sum is in float64.
pub fn along(x: Float, axis: usize) -> Float {
    if is_tracked(&x) {
        return B::softmax(x, axis);
    }
    let shape = shape(&x);
    let mut values = into_vec(x);
    let (starts, step) = order::lines(&shape, axis);
    if step == 1 {
        values.par_chunks_mut(shape[axis].max(1)).for_each(normalize);
    } else {
        let mut line = vec![0.0; shape[axis]];
        for start in starts {
            let at = |position: usize| start + position * step;
            line.iter_mut()
                .enumerate()
                .for_each(|(position, value)| *value = values[at(position)]);
            normalize(&mut line);
            line.iter()
                .enumerate()
                .for_each(|(position, value)| values[at(position)] = *value);
        }
    }
    from_vec(values, shape)
}

/// Makes numbers the shares of their exponentials.
fn normalize(line: &mut [f32]) {
    let greatest = line.iter().copied().fold(f32::NEG_INFINITY, host::Number::larger);
    let mut sum = 0.0;
    for value in line.iter_mut() {
        *value = (*value - greatest).exp();
        sum += f64::from(*value);
    }
    for value in line {
        *value = (f64::from(*value) / sum) as f32;
    }
}

fn softmax(call: &mut Call<'_>, function: fn(Float, usize) -> Float, logarithm: bool) -> Outputs {
    let value = call.value(0)?;
    let full = value.shape();
    let (arranged, axis) = arranged(call, &full)?;
    if full.contains(&0) {
        return Ok(vec![value]);
    }
    if value.dtype() != DType::DOUBLE {
        let x = call.widened(value)?;
        return Ok(vec![Value::Float(reshape(function(reshape(x, arranged), axis), full))]);
    }
    let tensor = value.into_tensor();
    let mut values = host::values::<f64>(call, &tensor)?.into_owned();
    let (starts, step) = order::lines(&arranged, axis);
    for start in starts {
        let places = || (0..arranged[axis]).map(|position| start + position * step);
        let greatest = places()
            .map(|at| values[at])
            .fold(f64::NEG_INFINITY, host::Number::larger);
        let sum: f64 = places().map(|at| (values[at] - greatest).exp()).sum();
        for at in places() {
            let shifted = values[at] - greatest;
            values[at] = if logarithm {
                shifted - sum.ln()
            } else {
                shifted.exp() / sum
            };
        }
    }
    Ok(vec![Value::Host(Tensor::from_vec(full, values))])
}

/// One at the first largest element, zero elsewhere.
fn hardmax(call: &mut Call<'_>) -> Outputs {
    let tensor = call.constant(0)?;
    let (arranged, axis) = arranged(call, tensor.shape())?;
    if tensor.is_empty() {
        return Ok(vec![Value::from_tensor(tensor)]);
    }
    let flat = tensor
        .reshaped(arranged.clone())
        .map_err(|error| call.wrong(error.to_string()))?;
    let positions = order::extremes(call, &flat, axis, true, false)?;
    let (starts, step) = order::lines(&arranged, axis);
    let mut chosen = vec![0_u8; tensor.len()];
    for (start, position) in starts.into_iter().zip(positions) {
        chosen[start + position * step] = 1;
    }
    let chosen = Tensor::from_vec(tensor.shape().to_vec(), chosen);
    Ok(vec![Value::from_tensor(super::cast::converted(
        call,
        &chosen,
        tensor.dtype(),
    )?)])
}
