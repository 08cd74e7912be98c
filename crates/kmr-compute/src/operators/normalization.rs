//! Normalizations.

use burn::backend::ops::ModuleOps;
use kmr_kernels::Affine;

use super::{Operator, onnx};
use crate::{
    ComputeError,
    interpreter::{B, Call, Float, Outputs, Value, from_vec, into_vec, is_tracked, reshape, shape, with_slice},
};

pub const OPERATORS: &[Operator] = &[
    onnx("BatchNormalization", batch_normalization),
    onnx("LayerNormalization", layer_normalization),
];

/// Batch normalization by running statistics as one factor and one addend per channel, from scale,
/// bias, mean and variance; `None` if they differ in length or are on the tape.
pub(crate) fn running_affine(parameters: Vec<Float>, epsilon: f32) -> Option<Affine> {
    if parameters.iter().any(is_tracked) {
        return None;
    }
    let [scale, bias, mean, variance]: [Vec<f32>; 4] = parameters
        .into_iter()
        .map(|parameter| with_slice(parameter, <[f32]>::to_vec))
        .collect::<Vec<_>>()
        .try_into()
        .ok()?;
    let channels = scale.len();
    if [bias.len(), mean.len(), variance.len()] != [channels; 3] {
        return None;
    }
    // In float64, so that what is left to rounding is the one product and the one sum per element.
    let factor: Vec<f64> = (0..channels)
        .map(|c| f64::from(scale[c]) / (f64::from(variance[c]) + f64::from(epsilon)).sqrt())
        .collect();
    Some(Affine {
        shift: (0..channels)
            .map(|c| (f64::from(bias[c]) - f64::from(mean[c]) * factor[c]) as f32)
            .collect(),
        scale: factor.into_iter().map(|factor| factor as f32).collect(),
    })
}

fn batch_normalization(call: &mut Call<'_>) -> Outputs {
    let x = call.float(0)?;
    let mut parameters = Vec::with_capacity(4);
    for position in 1..5 {
        parameters.push(call.float(position)?);
    }
    let full = shape(&x);
    if full.len() < 2 || parameters.iter().any(|p| shape(p) != [full[1]]) {
        let shapes: Vec<_> = parameters.iter().map(shape).collect();
        return Err(call.wrong(format!("an input of {full:?} with parameters of {shapes:?}")));
    }
    if (1..5).any(|position| call.names_output(position)) {
        return Err(call.unsupported("updating running statistics is not supported"));
    }
    let epsilon = call.float_attribute("epsilon", 1e-5);
    if call.batch_statistics() {
        if full.iter().product::<usize>() == 0 {
            return Err(call.wrong("an empty batch has no statistics"));
        }
        let mut parameters = parameters.into_iter();
        let (Some(scale), Some(bias)) = (parameters.next(), parameters.next()) else {
            return Err(call.wrong("has no scale and bias"));
        };
        let normalized = B::batch_norm_train(x, scale, bias, f64::from(epsilon));
        return Ok(vec![Value::Float(normalized.output)]);
    }
    if !is_tracked(&x)
        && let Some(affine) = running_affine(parameters.clone(), epsilon)
    {
        let mut values = into_vec(x);
        let plane: usize = full[2..].iter().product();
        kmr_kernels::affine(&mut values, plane, &affine).map_err(|e| call.wrong(e.to_string()))?;
        return Ok(vec![Value::Float(from_vec(values, full))]);
    }
    let [scale, bias, mean, variance]: [Float; 4] =
        parameters.try_into().map_err(|_| call.wrong("needs four parameters"))?;
    let epsilon = f64::from(epsilon);
    Ok(vec![Value::Float(B::batch_norm(
        x, scale, bias, mean, variance, epsilon,
    ))])
}

fn layer_normalization(call: &mut Call<'_>) -> Outputs {
    let x = call.float(0)?;
    let scale = call.float(1)?;
    let bias = call.optional_float(2)?;
    if call.names_output(1) || call.names_output(2) {
        return Err(call.unsupported("mean and deviation are not given out"));
    }
    let full = shape(&x);
    let axis = call.axis(call.int("axis", -1), full.len())?;
    let inner: usize = full[axis..].iter().product();
    let outer: usize = full[..axis].iter().product();
    let flat = |call: &Call<'_>, parameter: Float| -> Result<Float, ComputeError> {
        let own = shape(&parameter);
        if own.iter().product::<usize>() != inner || !full.ends_with(&own) {
            return Err(call.wrong(format!("normalizes {:?} with {own:?}", &full[axis..])));
        }
        Ok(reshape(parameter, vec![inner]))
    };
    let scale = flat(call, scale)?;
    let bias = bias.map(|bias| flat(call, bias)).transpose()?;
    let epsilon = f64::from(call.float_attribute("epsilon", 1e-5));
    let normalized = B::layer_norm(reshape(x, vec![outer, inner]), scale, bias, epsilon);
    Ok(vec![Value::Float(reshape(normalized, full))])
}
