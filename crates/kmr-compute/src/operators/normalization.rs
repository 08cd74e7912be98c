//! Normalizations.

use burn::backend::{
    Slice,
    ops::{FloatTensorOps, ModuleOps, PadMode},
};
use kmr_kernels::{Affine, BatchNormalization, NormalizationGradient, Statistics};

use super::{Operator, activation::scalar, onnx};
use crate::{
    ComputeError,
    interpreter::{
        B, Call, Float, Outputs, Recorded, Value, from_vec, into_vec, is_tracked, kernel_error, mask, reshape, shape,
        with_slice,
    },
};

pub const OPERATORS: &[Operator] = &[
    onnx("BatchNormalization", batch_normalization).recorded(batch_normalized),
    onnx("InstanceNormalization", instance_normalization),
    onnx("LayerNormalization", layer_normalization),
    onnx("GroupNormalization", group_normalization),
    onnx("RMSNormalization", root_mean_square),
    onnx("MeanVarianceNormalization", mean_variance),
    onnx("LpNormalization", power_normalization),
    onnx("LRN", local_response),
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
    let epsilon = call.float_attribute("epsilon", 1e-5);
    let updates = (1..5).any(|position| call.names_output(position));
    if updates && call.opset < 14 {
        return Err(call.unsupported("its statistics are given out only from opset 14 on"));
    }
    if call.batch_statistics() {
        if full.iter().product::<usize>() == 0 {
            return Err(call.wrong("an empty batch has no statistics"));
        }
        let [scale, bias, mean, variance]: [Float; 4] =
            parameters.try_into().map_err(|_| call.wrong("needs four parameters"))?;
        let normalized = B::batch_norm_train(x, scale, bias, f64::from(epsilon));
        let mut outputs = vec![Value::Float(normalized.output)];
        if updates {
            let momentum = call.float_attribute("momentum", 0.9);
            let moved = |running: Float, batch: Float| {
                let running = B::float_mul_scalar(running, scalar(momentum));
                let batch = B::float_mul_scalar(batch, scalar(1.0 - momentum));
                Value::Float(B::float_add(running, batch))
            };
            outputs.push(moved(mean, normalized.mean));
            outputs.push(moved(variance, normalized.variance));
        }
        return Ok(outputs);
    }
    if updates {
        return Err(call.unsupported("its statistics are given out only in training mode"));
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

/// Batch normalization of float32 with its derivative.
fn batch_normalized(call: &mut Call<'_>, needs: &[bool]) -> Result<Option<Recorded>, ComputeError> {
    let full = call.float_shape(0).unwrap_or_default();
    let fits = full.len() >= 2
        && !full.contains(&0)
        && (1..5).all(|position| call.float_shape(position).is_some_and(|shape| shape == full[1..2]))
        && !(1..5).any(|position| call.names_output(position));
    if !fits {
        return Ok(None);
    }
    let x = call.float(0)?;
    let [scale, bias, mean, variance]: [Vec<f32>; 4] = [1, 2, 3, 4]
        .map(|position| call.float(position).map(into_vec))
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?
        .try_into()
        .map_err(|_| call.wrong("needs four parameters"))?;
    let plane: usize = full[2..].iter().product();
    let epsilon = call.float_attribute("epsilon", 1e-5);
    let batch = call.batch_statistics();
    if !batch && (needs[3] || needs[4]) {
        return Ok(None);
    }
    let needs = [needs[0], needs[1], needs[2]];
    let mut moved = Vec::new();
    let (result, statistics) = if batch {
        let normalization = BatchNormalization {
            scale: &scale,
            bias: &bias,
            epsilon,
            relu: false,
        };
        let (values, statistics) =
            with_slice(x.clone(), |x| normalization.forward(x, None, plane)).map_err(kernel_error)?;
        let momentum = call.float_attribute("momentum", 0.9);
        let towards = |running: Vec<f32>, own: &[f32]| {
            let values = running
                .iter()
                .zip(own)
                .map(|(running, own)| running * momentum + own * (1.0 - momentum));
            from_vec(values.collect(), vec![own.len()])
        };
        moved.push((3, towards(mean, &statistics.mean)));
        moved.push((4, towards(variance, &statistics.variance)));
        (from_vec(values, full.clone()), statistics)
    } else {
        let inverse = variance
            .iter()
            .map(|v| (1.0 / (f64::from(*v) + f64::from(epsilon)).sqrt()) as f32)
            .collect();
        let parameters = [scale.clone(), bias.clone(), mean.clone(), variance.clone()];
        let parameters = parameters.map(|values| {
            let length = values.len();
            from_vec(values, vec![length])
        });
        let Some(affine) = running_affine(parameters.into(), epsilon) else {
            return Ok(None);
        };
        let mut values = into_vec(x.clone());
        kmr_kernels::affine(&mut values, plane, &affine).map_err(kernel_error)?;
        let statistics = Statistics {
            mean,
            variance,
            inverse_deviation: inverse,
        };
        (from_vec(values, full.clone()), statistics)
    };
    let mut recorded = Recorded::one(result, move |cotangent| {
        let normalization = BatchNormalization {
            scale: &scale,
            bias: &bias,
            epsilon,
            relu: false,
        };
        let gradient = with_slice(x, |x| {
            with_slice(cotangent, |cotangent| match batch {
                true => normalization.backward(&statistics, x, cotangent, plane),
                false => Ok(fixed_gradient(&scale, &statistics, x, cotangent, plane)),
            })
        });
        let gradient = gradient.map_err(kernel_error)?;
        let channels = vec![scale.len()];
        Ok(vec![
            needs[0].then(|| from_vec(gradient.input, full)),
            needs[1].then(|| from_vec(gradient.scale, channels.clone())),
            needs[2].then(|| from_vec(gradient.bias, channels)),
        ])
    });
    recorded.moved = moved;
    Ok(Some(recorded))
}

/// The gradients of a normalization by statistics that stay as they are.
fn fixed_gradient(
    scale: &[f32],
    statistics: &Statistics,
    x: &[f32],
    cotangent: &[f32],
    plane: usize,
) -> NormalizationGradient {
    let channels = scale.len();
    let mut sums = vec![[0.0_f64; 2]; channels];
    let mut input = vec![0.0; x.len()];
    let planes = x.chunks_exact(plane).zip(cotangent.chunks_exact(plane));
    for (position, ((x, cotangent), target)) in planes.zip(input.chunks_exact_mut(plane)).enumerate() {
        let channel = position % channels;
        let (mean, inverse) = (statistics.mean[channel], statistics.inverse_deviation[channel]);
        let factor = scale[channel] * inverse;
        let [products, sum] = &mut sums[channel];
        for ((x, slope), target) in x.iter().zip(cotangent).zip(target) {
            *target = slope * factor;
            *products += f64::from(slope * ((x - mean) * inverse));
            *sum += f64::from(*slope);
        }
    }
    NormalizationGradient {
        input,
        scale: sums.iter().map(|[products, _]| *products as f32).collect(),
        bias: sums.iter().map(|[_, sum]| *sum as f32).collect(),
    }
}

/// A matrix whose rows have mean 0 and variance 1, with the rows' means and the reciprocals of their deviations.
fn standardized(rows: Float, epsilon: f32) -> (Float, Float, Float) {
    let mean = B::float_mean_dim(rows.clone(), 1);
    let centered = B::float_sub(rows, mean.clone());
    let variance = B::float_mean_dim(B::float_mul(centered.clone(), centered.clone()), 1);
    let inverse = B::float_recip(B::float_sqrt(B::float_add_scalar(variance, scalar(epsilon))));
    (B::float_mul(centered, inverse.clone()), mean, inverse)
}

fn not_empty(call: &Call<'_>, full: &[usize]) -> Result<(), ComputeError> {
    if full.contains(&0) {
        return Err(call.unsupported(format!("an empty input of {full:?} has no statistics")));
    }
    Ok(())
}

/// `x · factor + addend`, where both have the shape of the axes of `x` from `axis` on, or broadcast to them.
fn scaled(call: &Call<'_>, x: Float, factor: Float, addend: Option<Float>, axis: usize) -> Result<Float, ComputeError> {
    let full = shape(&x);
    let lead = |parameter: Float| -> Result<Float, ComputeError> {
        let own = shape(&parameter);
        let fits = own.len() <= full.len()
            && own
                .iter()
                .rev()
                .zip(full.iter().rev())
                .all(|(own, full)| own == full || *own == 1)
            && (own.len() <= full.len() - axis || own[..own.len() + axis - full.len()].iter().all(|&size| size == 1));
        if !fits {
            return Err(call.wrong(format!("normalizes {:?} with {own:?}", &full[axis..])));
        }
        let mut padded = vec![1; full.len() - own.len()];
        padded.extend(own);
        Ok(reshape(parameter, padded))
    };
    let result = B::float_mul(x, lead(factor)?);
    match addend {
        Some(addend) => Ok(B::float_add(result, lead(addend)?)),
        None => Ok(result),
    }
}

fn layer_normalization(call: &mut Call<'_>) -> Outputs {
    let x = call.float(0)?;
    let scale = call.float(1)?;
    let bias = call.optional_float(2)?;
    let full = shape(&x);
    not_empty(call, &full)?;
    let axis = call.axis(call.int("axis", -1), full.len())?;
    let inner: usize = full[axis..].iter().product();
    let outer: usize = full[..axis].iter().product();
    let epsilon = call.float_attribute("epsilon", 1e-5);
    let flat = |parameter: &Float| shape(parameter) == full[axis..];
    let statistics = call.names_output(1) || call.names_output(2);
    if !statistics && flat(&scale) && bias.as_ref().is_none_or(flat) {
        let bias = bias.map(|bias| reshape(bias, vec![inner]));
        let rows = reshape(x, vec![outer, inner]);
        let normalized = B::layer_norm(rows, reshape(scale, vec![inner]), bias, f64::from(epsilon));
        return Ok(vec![Value::Float(reshape(normalized, full))]);
    }
    if statistics && call.narrow().is_some() {
        return Err(call.unsupported("statistics of narrow floats are not given out"));
    }
    let (rows, mean, inverse) = standardized(reshape(x, vec![outer, inner]), epsilon);
    let normalized = scaled(call, reshape(rows, full.clone()), scale, bias, axis)?;
    let mut lines = full;
    lines[axis..].fill(1);
    Ok(vec![
        Value::Float(normalized),
        Value::Float(reshape(mean, lines.clone())),
        Value::Float(reshape(inverse, lines)),
    ])
}

/// A parameter for each of `count` channels or groups, ready to be multiplied with `[batch, count, rest]`.
fn per_channel(call: &Call<'_>, parameter: Float, count: usize) -> Result<Float, ComputeError> {
    if shape(&parameter) != [count] {
        return Err(call.wrong(format!("{count} channels with parameters of {:?}", shape(&parameter))));
    }
    Ok(reshape(parameter, vec![1, count, 1]))
}

fn instance_normalization(call: &mut Call<'_>) -> Outputs {
    let (x, scale, bias) = (call.float(0)?, call.float(1)?, call.float(2)?);
    let full = shape(&x);
    not_empty(call, &full)?;
    if full.len() < 3 {
        return Err(call.wrong(format!("normalizes {full:?}")));
    }
    let plane: usize = full[2..].iter().product();
    let epsilon = call.float_attribute("epsilon", 1e-5);
    let (rows, _, _) = standardized(reshape(x, vec![full[0] * full[1], plane]), epsilon);
    let rows = reshape(rows, vec![full[0], full[1], plane]);
    let product = B::float_mul(rows, per_channel(call, scale, full[1])?);
    let sum = B::float_add(product, per_channel(call, bias, full[1])?);
    Ok(vec![Value::Float(reshape(sum, full))])
}

/// Before opset 21 there is one scale and one bias for each group, since then one for each channel.
fn group_normalization(call: &mut Call<'_>) -> Outputs {
    let (x, scale, bias) = (call.float(0)?, call.float(1)?, call.float(2)?);
    let full = shape(&x);
    not_empty(call, &full)?;
    let groups = usize::try_from(call.int("num_groups", 0)).unwrap_or(0);
    if full.len() < 2 || groups == 0 || !full[1].is_multiple_of(groups) {
        return Err(call.wrong(format!("normalizes {groups} groups of {full:?}")));
    }
    let whole: usize = full.iter().product();
    let rows = full[0] * groups;
    let epsilon = call.float_attribute("epsilon", 1e-5);
    let (rows, _, _) = standardized(reshape(x, vec![rows, whole / rows]), epsilon);
    let parts = if call.opset < 21 { groups } else { full[1] };
    let rows = reshape(rows, vec![full[0], parts, whole / (full[0] * parts)]);
    let product = B::float_mul(rows, per_channel(call, scale, parts)?);
    let sum = B::float_add(product, per_channel(call, bias, parts)?);
    Ok(vec![Value::Float(reshape(sum, full))])
}

fn root_mean_square(call: &mut Call<'_>) -> Outputs {
    let (x, scale) = (call.float(0)?, call.float(1)?);
    let full = shape(&x);
    not_empty(call, &full)?;
    let axis = call.axis(call.int("axis", -1), full.len())?;
    let inner: usize = full[axis..].iter().product();
    let outer: usize = full[..axis].iter().product();
    let rows = reshape(x, vec![outer, inner]);
    let square = B::float_mean_dim(B::float_mul(rows.clone(), rows.clone()), 1);
    let root = B::float_sqrt(B::float_add_scalar(
        square,
        scalar(call.float_attribute("epsilon", 1e-5)),
    ));
    let normalized = reshape(B::float_mul(rows, B::float_recip(root)), full);
    Ok(vec![Value::Float(scaled(call, normalized, scale, None, axis)?)])
}

fn mean_variance(call: &mut Call<'_>) -> Outputs {
    let x = call.float(0)?;
    let full = shape(&x);
    not_empty(call, &full)?;
    let axes = call.node.ints("axes").unwrap_or(&[0, 2, 3]).to_vec();
    let axes = call.axes(&axes, full.len())?;
    let mean = |x: Float| axes.iter().fold(x, |x, &axis| B::float_mean_dim(x, axis));
    let centered = B::float_sub(x.clone(), mean(x));
    let variance = mean(B::float_mul(centered.clone(), centered.clone()));
    // The addend is that of the function's body in the specification.
    let deviation = B::float_add_scalar(B::float_sqrt(variance), scalar(1e-9));
    Ok(vec![Value::Float(B::float_div(centered, deviation))])
}

fn power_normalization(call: &mut Call<'_>) -> Outputs {
    let x = call.float(0)?;
    let full = shape(&x);
    not_empty(call, &full)?;
    let axis = call.axis(call.int("axis", -1), full.len())?;
    let norm = match call.int("p", 2) {
        1 => B::float_sum_dim(B::float_abs(x.clone()), axis),
        2 => B::float_sqrt(B::float_sum_dim(B::float_mul(x.clone(), x.clone()), axis)),
        other => return Err(call.wrong(format!("attribute `p` is {other}; expected 1 or 2"))),
    };
    // Zeros stay zeros.
    let zeros = with_slice(norm.clone(), |norm| norm.iter().map(|&norm| norm == 0.0).collect());
    let lines = shape(&norm);
    let ones = from_vec(vec![1.0; lines.iter().product()], lines.clone());
    let norm = B::float_mask_where(norm, mask(zeros, lines), ones);
    Ok(vec![Value::Float(B::float_div(x, norm))])
}

/// Every element, divided by a power of the squares around it in other channels.
fn local_response(call: &mut Call<'_>) -> Outputs {
    let x = call.float(0)?;
    let full = shape(&x);
    not_empty(call, &full)?;
    let size = usize::try_from(call.int("size", 0)).ok().filter(|&size| size > 0);
    let size = size.ok_or_else(|| call.wrong("attribute `size` is not positive"))?;
    if full.len() < 3 {
        return Err(call.wrong(format!("normalizes {full:?}")));
    }
    let plane: usize = full[2..].iter().product();
    let (alpha, beta) = (call.float_attribute("alpha", 1e-4), call.float_attribute("beta", 0.75));
    let bias = call.float_attribute("bias", 1.0);
    let x = reshape(x, vec![full[0], full[1], plane]);
    let square = B::float_mul(x.clone(), x.clone());
    // Channel c sums those from c - (size - 1) / 2 rounded down to c + (size - 1) / 2 rounded up.
    let (before, after) = ((size - 1) / 2, size / 2);
    let (before, after) = (before.min(full[1]), after.min(full[1]));
    let padded = B::float_pad(square, &[(0, 0), (before, after), (0, 0)], PadMode::Constant(0.0));
    let mut sum: Option<Float> = None;
    for shift in 0..=before + after {
        let slices = [
            Slice::new(0, Some(full[0] as isize), 1),
            Slice::new(shift as isize, Some((shift + full[1]) as isize), 1),
            Slice::new(0, Some(plane as isize), 1),
        ];
        let part = B::float_slice(padded.clone(), &slices);
        sum = Some(match sum {
            Some(sum) => B::float_add(sum, part),
            None => part,
        });
    }
    let sum = sum.ok_or_else(|| call.wrong("sums nothing"))?;
    let base = B::float_add_scalar(B::float_mul_scalar(sum, scalar(alpha / size as f32)), scalar(bias));
    let factor = B::float_powf_scalar(base, scalar(-beta));
    Ok(vec![Value::Float(reshape(B::float_mul(x, factor), full))])
}
