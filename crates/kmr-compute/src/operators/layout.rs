//! Moving elements without computing.

use burn::backend::{
    Slice,
    ops::{FloatTensorOps, PadMode},
};
use kmr_model::{DType, Tensor};

use super::{Operator, comparison::expanded, constant::sizes, gather::select, onnx, strided};
use crate::{
    ComputeError,
    interpreter::{B, Call, Outputs, Value, reshape, shape},
};

pub const OPERATORS: &[Operator] = &[
    onnx("Dropout", dropout),
    onnx("Flatten", flatten),
    onnx("Reshape", reshaped),
    onnx("Transpose", transpose),
    onnx("Squeeze", squeeze),
    onnx("Unsqueeze", unsqueeze),
    onnx("Concat", concat),
    onnx("Split", split),
    onnx("Slice", slice),
    onnx("Pad", pad),
    onnx("Expand", expand),
];

/// The same elements under another shape.
fn with_shape(call: &Call<'_>, value: Value, target: Vec<usize>) -> Outputs {
    let source = value.shape();
    if source.iter().product::<usize>() != target.iter().product::<usize>() {
        return Err(call.wrong(format!("shape {source:?} cannot become {target:?}")));
    }
    Ok(vec![match value {
        Value::Float(float) => Value::Float(reshape(float, target)),
        Value::Host(tensor) => Value::Host(tensor.reshaped(target).map_err(|e| call.wrong(e.to_string()))?),
    }])
}

/// At inference nothing is dropped.
fn dropout(call: &mut Call<'_>) -> Outputs {
    let value = call.value(0)?;
    let mut number = |position, default: f32| match call.has(position) {
        true => {
            let tensor = call.tensor(position)?;
            let tensor = super::cast(&tensor, DType::FLOAT).map_err(|message| call.wrong(message))?;
            let values = tensor.to_f32().map_err(|e| call.wrong(e.to_string()))?;
            values.first().copied().ok_or_else(|| call.wrong("an operand is empty"))
        }
        false => Ok(default),
    };
    if number(2, 0.0)? != 0.0 && number(1, 0.5)? != 0.0 {
        return Err(call.unsupported("drops random values in training mode"));
    }
    let mut outputs = vec![value];
    if call.names_output(1) {
        let shape = outputs[0].shape();
        let kept = vec![1_u8; shape.iter().product()];
        let mask = Tensor::new(DType::BOOL, shape, kept.into());
        outputs.push(Value::Host(mask.map_err(|e| call.wrong(e.to_string()))?));
    }
    Ok(outputs)
}

fn flatten(call: &mut Call<'_>) -> Outputs {
    let value = call.value(0)?;
    let shape = value.shape();
    let axis = call.int("axis", 1);
    let axis = if axis == shape.len() as i64 {
        shape.len()
    } else {
        call.axis(axis, shape.len())?
    };
    let target = vec![shape[..axis].iter().product(), shape[axis..].iter().product()];
    with_shape(call, value, target)
}

fn reshaped(call: &mut Call<'_>) -> Outputs {
    let value = call.value(0)?;
    let wanted = if call.opset < 5 {
        call.node.ints("shape").unwrap_or_default().to_vec()
    } else {
        call.integers(1)?
    };
    let source = value.shape();
    let zero_is_copied = call.int("allowzero", 0) == 0;
    let mut target = Vec::with_capacity(wanted.len());
    let mut inferred = None;
    for (position, &size) in wanted.iter().enumerate() {
        target.push(match size {
            -1 if inferred.is_none() => {
                inferred = Some(position);
                1
            }
            0 if zero_is_copied => *source
                .get(position)
                .ok_or_else(|| call.wrong(format!("shape {wanted:?} copies a size that {source:?} does not have")))?,
            size => usize::try_from(size).map_err(|_| call.wrong(format!("shape {wanted:?} is no shape")))?,
        });
    }
    if let Some(position) = inferred {
        let (known, count): (usize, usize) = (target.iter().product(), source.iter().product());
        if known == 0 || !count.is_multiple_of(known) {
            return Err(call.wrong(format!("shape {source:?} cannot become {wanted:?}")));
        }
        target[position] = count / known;
    }
    with_shape(call, value, target)
}

fn transpose(call: &mut Call<'_>) -> Outputs {
    let value = call.value(0)?;
    let source = value.shape();
    let order = call.sizes("perm")?.unwrap_or_else(|| (0..source.len()).rev().collect());
    let mut sorted = order.clone();
    sorted.sort_unstable();
    if !sorted.into_iter().eq(0..source.len()) {
        return Err(call.wrong(format!("perm {order:?} does not order the axes of {source:?}")));
    }
    Ok(vec![match value {
        Value::Float(float) if source.len() < 2 => Value::Float(float),
        Value::Float(float) => Value::Float(B::float_permute(float, &order)),
        Value::Host(tensor) => {
            let strides = strided::strides(&source);
            let strides: Vec<isize> = order.iter().map(|&axis| strides[axis]).collect();
            let target = order.iter().map(|&axis| source[axis]).collect();
            let moved = strided::copy(&tensor, target, &strides, 0);
            Value::Host(moved.map_err(|m| call.wrong(m))?)
        }
    }])
}

fn squeeze(call: &mut Call<'_>) -> Outputs {
    let value = call.value(0)?;
    let source = value.shape();
    let axes = match call.moved_integers("axes", 1, 13)? {
        Some(axes) => call.axes(&axes, source.len())?,
        None => (0..source.len()).filter(|&axis| source[axis] == 1).collect(),
    };
    if let Some(&axis) = axes.iter().find(|&&axis| source[axis] != 1) {
        return Err(call.wrong(format!("axis {axis} of {source:?} is not 1")));
    }
    let keep = (0..source.len()).filter(|axis| !axes.contains(axis));
    with_shape(call, value, keep.map(|axis| source[axis]).collect())
}

fn unsqueeze(call: &mut Call<'_>) -> Outputs {
    let value = call.value(0)?;
    let axes = call.moved_integers("axes", 1, 13)?.unwrap_or_default();
    let rank = value.shape().len() + axes.len();
    let sorted = call.axes(&axes, rank)?;
    if sorted.len() != axes.len() {
        return Err(call.wrong(format!("axes {axes:?} repeat one")));
    }
    let mut target = value.shape();
    for axis in sorted {
        target.insert(axis, 1);
    }
    with_shape(call, value, target)
}

fn concat(call: &mut Call<'_>) -> Outputs {
    let mut values = Vec::with_capacity(call.input_count());
    for position in 0..call.input_count() {
        values.push(call.value(position)?);
    }
    let Some(first) = values.first() else {
        return Err(call.wrong("has no inputs"));
    };
    let (mut result, dtype) = (first.shape(), first.dtype());
    let axis = call.axis(call.int("axis", 0), result.len())?;
    result[axis] = 0;
    for value in &values {
        let shape = value.shape();
        let fits =
            shape.len() == result.len() && (0..shape.len()).all(|other| other == axis || shape[other] == result[other]);
        if !fits || value.dtype() != dtype {
            return Err(call.wrong(format!(
                "{dtype} {result:?} and {} {shape:?} do not join along axis {axis}",
                value.dtype()
            )));
        }
        result[axis] += shape[axis];
    }
    values.retain(|value| value.shape()[axis] != 0);
    if values.len() == 1 {
        return Ok(values);
    }
    let floats: Vec<_> = values
        .iter()
        .filter_map(|value| match value {
            Value::Float(float) => Some(float.clone()),
            Value::Host(_) => None,
        })
        .collect();
    if dtype == DType::FLOAT && !result.contains(&0) {
        drop(values);
        return Ok(vec![Value::Float(B::float_cat(floats, axis))]);
    }
    let size = strided::element_size(dtype).map_err(|m| call.wrong(m))?;
    let tensors: Vec<Tensor> = values.into_iter().map(Value::into_tensor).collect();
    let outer: usize = result[..axis].iter().product();
    let mut bytes = Vec::new();
    for slab in 0..outer {
        for tensor in &tensors {
            let length = tensor.shape()[axis..].iter().product::<usize>() * size;
            bytes.extend_from_slice(&tensor.bytes()[slab * length..][..length]);
        }
    }
    let tensor = Tensor::new(dtype, result, bytes.into()).map_err(|e| call.wrong(e.to_string()))?;
    Ok(vec![Value::from_tensor(tensor)])
}

fn split(call: &mut Call<'_>) -> Outputs {
    let value = call.value(0)?;
    let source = value.shape();
    let axis = call.axis(call.int("axis", 0), source.len())?;
    let lengths = match call.moved_integers("split", 1, 13)? {
        Some(lengths) => sizes(call, lengths)?,
        None => {
            let outputs = call.node.outputs().len();
            let count = call.int("num_outputs", outputs as i64).max(1) as usize;
            let chunk = source[axis].div_ceil(count);
            let chunks = (0..count).map(|part| chunk.min(source[axis].saturating_sub(part * chunk)));
            chunks.collect()
        }
    };
    if lengths.iter().sum::<usize>() != source[axis] {
        return Err(call.wrong(format!("parts {lengths:?} do not make up axis {axis} of {source:?}")));
    }
    let mut start = 0;
    lengths
        .into_iter()
        .map(|length| {
            let mut bounds = whole(&source);
            bounds[axis] = (start as i64, length, 1);
            start += length;
            cut(call, value.clone(), &bounds)
        })
        .collect()
}

/// For each axis: the first element, how many, and the step between them.
type Bounds = Vec<(i64, usize, i64)>;

fn whole(shape: &[usize]) -> Bounds {
    shape.iter().map(|&size| (0, size, 1)).collect()
}

/// The elements within `bounds`, which lie inside the value.
fn cut(call: &Call<'_>, value: Value, bounds: &Bounds) -> Result<Value, ComputeError> {
    let source = value.shape();
    let target: Vec<usize> = bounds.iter().map(|&(_, count, _)| count).collect();
    match value {
        Value::Float(float) => {
            if target.contains(&0) {
                return Ok(Value::from_tensor(Tensor::from_vec(target, Vec::<f32>::new())));
            }
            let slices: Vec<Slice> = bounds
                .iter()
                .zip(&source)
                .map(|(&(start, count, step), &size)| match step {
                    1 => Slice::new(start as isize, Some(start as isize + count as isize), 1),
                    _ => Slice::new(0, Some(size as isize), 1),
                })
                .collect();
            let mut value = Value::Float(B::float_slice(float, &slices));
            for (axis, &(start, count, step)) in bounds.iter().enumerate() {
                if step != 1 {
                    let positions = (0..count as i64).map(|k| (start + k * step) as usize);
                    let positions: Vec<usize> = positions.collect();
                    let mut shape = value.shape();
                    shape[axis] = count;
                    value = select(call, value, axis, &positions, shape)?;
                }
            }
            Ok(value)
        }
        Value::Host(tensor) => {
            let strides = strided::strides(&source);
            let offset = bounds.iter().zip(&strides);
            let offset = offset.map(|(&(start, ..), &stride)| start as isize * stride).sum();
            let steps = bounds.iter().zip(&strides);
            let steps: Vec<isize> = steps.map(|(&(.., step), &stride)| step as isize * stride).collect();
            let moved = strided::copy(&tensor, target, &steps, offset);
            Ok(Value::Host(moved.map_err(|m| call.wrong(m))?))
        }
    }
}

fn slice(call: &mut Call<'_>) -> Outputs {
    let value = call.value(0)?;
    let source = value.shape();
    let list = |call: &mut Call<'_>, name: &str, position: usize| call.moved_integers(name, position, 10);
    let starts = list(call, "starts", 1)?.unwrap_or_default();
    let ends = list(call, "ends", 2)?.unwrap_or_default();
    let axes = list(call, "axes", 3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = list(call, "steps", 4)?.unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
        return Err(call.wrong("starts, ends, axes and steps differ in length"));
    }
    let mut bounds = whole(&source);
    for (position, &axis) in axes.iter().enumerate() {
        let axis = call.axis(axis, source.len())?;
        let (size, step) = (source[axis] as i64, steps[position]);
        let from_start = |index: i64| {
            if index < 0 { index.saturating_add(size) } else { index }
        };
        let (start, end) = (from_start(starts[position]), from_start(ends[position]));
        bounds[axis] = match step {
            0 => return Err(call.wrong("a step is zero")),
            1.. => {
                let (start, end) = (start.clamp(0, size), end.clamp(0, size));
                let count = (end - start).max(0) as u64;
                (start, count.div_ceil(step as u64) as usize, step)
            }
            _ => {
                let (start, end) = (start.clamp(0, size - 1), end.clamp(-1, size - 1));
                let count = (start - end).max(0) as u64;
                (start, count.div_ceil(step.unsigned_abs()) as usize, step)
            }
        };
    }
    Ok(vec![cut(call, value, &bounds)?])
}

fn pad(call: &mut Call<'_>) -> Outputs {
    let mode = call.node.string("mode").unwrap_or("constant");
    if mode != "constant" {
        return Err(call.unsupported(format!("padding mode `{mode}` is not supported")));
    }
    let source_value = call.value(0)?;
    let source = source_value.shape();
    let rank = source.len();
    let pads = call.moved_integers("pads", 1, 11)?.unwrap_or_default();
    let fill = if call.opset < 11 {
        Some(Tensor::scalar(call.float_attribute("value", 0.0)))
    } else if call.has(2) {
        Some(call.constant(2)?)
    } else {
        None
    };
    let axes = match call.optional_integers(3)? {
        Some(axes) => axes,
        None => (0..rank as i64).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return Err(call.wrong(format!("pads {pads:?} do not fit {} axes", axes.len())));
    }
    let pads = sizes(call, pads).map_err(|_| call.unsupported("negative pads are not supported"))?;
    let mut around = vec![(0, 0); rank];
    for (position, &axis) in axes.iter().enumerate() {
        around[call.axis(axis, rank)?] = (pads[position], pads[position + axes.len()]);
    }
    match source_value {
        Value::Float(float) => {
            let fill = match fill {
                Some(fill) if fill.len() == 1 => fill.to_f32().map_err(|e| call.wrong(e.to_string()))?[0],
                Some(fill) => return Err(call.wrong(format!("fills with {:?}", fill.shape()))),
                None => 0.0,
            };
            if around.iter().all(|&(before, after)| before + after == 0) {
                return Ok(vec![Value::Float(float)]);
            }
            let padded = B::float_pad(float, &around, PadMode::Constant(fill));
            Ok(vec![Value::Float(padded)])
        }
        Value::Host(tensor) => {
            let size = strided::element_size(tensor.dtype()).map_err(|m| call.wrong(m))?;
            let fill = match &fill {
                Some(fill) if fill.dtype() == tensor.dtype() && fill.len() == 1 => fill.bytes().to_vec(),
                Some(_) => return Err(call.wrong("fills with another type")),
                None => vec![0; size],
            };
            let target = source.iter().zip(&around);
            let target: Vec<usize> = target.map(|(&size, &(b, a))| size + b + a).collect();
            let strides = strided::strides(&target);
            let own = strided::strides(&source);
            let mut bytes = fill.repeat(target.iter().product());
            for (position, element) in tensor.bytes().chunks(size).enumerate() {
                let mut at = 0;
                for axis in 0..rank {
                    let index = position / own[axis] as usize % source[axis].max(1);
                    at += (index + around[axis].0) * strides[axis] as usize;
                }
                bytes[at * size..][..size].copy_from_slice(element);
            }
            let tensor = Tensor::new(tensor.dtype(), target, bytes.into());
            Ok(vec![Value::Host(tensor.map_err(|e| call.wrong(e.to_string()))?)])
        }
    }
}

fn expand(call: &mut Call<'_>) -> Outputs {
    let value = call.value(0)?;
    let wanted = call.integers(1)?;
    let wanted = sizes(call, wanted)?;
    let target = call.broadcast(&value.shape(), &wanted)?;
    Ok(vec![match value {
        Value::Float(float) if shape(&float) == target => Value::Float(float),
        Value::Float(float) if target.contains(&0) => {
            drop(float);
            Value::from_tensor(Tensor::from_vec(target, Vec::<f32>::new()))
        }
        Value::Float(float) => Value::Float(expanded(float, &target)),
        Value::Host(tensor) => Value::Host(strided::expand(&tensor, &target).map_err(|m| call.wrong(m))?),
    }])
}
