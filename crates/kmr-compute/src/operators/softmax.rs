//! Softmax and its kin.

use burn::backend::ops::ActivationOps;
use kmr_model::{DType, Tensor};

use super::{Operator, host, onnx, order};
use crate::{
    ComputeError,
    interpreter::{B, Call, Float, Outputs, Value, reshape},
};

pub const OPERATORS: &[Operator] = &[
    onnx("Softmax", |call| softmax(call, B::softmax, false)),
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
