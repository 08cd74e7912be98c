//! Moving elements without computing.

use burn::backend::{
    Slice,
    ops::{FloatTensorOps, PadMode},
};
use kmr_model::{DType, Tensor};

use super::{
    Operator, cast,
    comparison::expanded,
    constant::sizes,
    gather::select,
    host,
    movement::{self, collect, map_axes},
    onnx, strided,
};
use crate::{
    ComputeError,
    interpreter::{B, Call, Outputs, Recorded, Value, from_vec, into_vec, reshape, shape},
};

pub const OPERATORS: &[Operator] = &[
    onnx("Dropout", dropout).recorded(dropped),
    onnx("Flatten", flatten).recorded(|call, _| in_order(call, flatten)),
    onnx("Reshape", reshaped).recorded(|call, _| in_order(call, reshaped)),
    onnx("Transpose", transpose),
    onnx("Squeeze", squeeze).recorded(|call, _| in_order(call, squeeze)),
    onnx("Unsqueeze", unsqueeze).recorded(|call, _| in_order(call, unsqueeze)),
    onnx("Concat", concat),
    onnx("Split", split),
    onnx("Slice", slice),
    onnx("Pad", pad),
    onnx("Expand", expand),
    onnx("Tile", tile),
    onnx("CenterCropPad", center),
    onnx("DepthToSpace", depth_to_space),
    onnx("SpaceToDepth", space_to_depth),
    onnx("Trilu", triangle),
];

/// An operator that gives its first input's elements in their order.
fn in_order(call: &mut Call<'_>, run: fn(&mut Call<'_>) -> Outputs) -> Result<Option<Recorded>, ComputeError> {
    let Some(full) = call.float_shape(0) else {
        return Ok(None);
    };
    match run(call)?.pop() {
        Some(Value::Float(result)) => Ok(Some(Recorded::one(result, move |cotangent| {
            Ok(vec![Some(reshape(cotangent, full))])
        }))),
        _ => Ok(None),
    }
}

/// Dropout in training: each element is kept by its own throw of dice, and then stands for those that are not.
fn dropped(call: &mut Call<'_>, _: &[bool]) -> Result<Option<Recorded>, ComputeError> {
    let Some(seed) = call.mode.dropout else {
        return Ok(None);
    };
    let ratio = match call.has(1) {
        true => f64::from(
            *call
                .tensor(1)?
                .to_f32()
                .map_err(|e| call.wrong(e.to_string()))?
                .first()
                .ok_or_else(|| call.wrong("an operand is empty"))?,
        ),
        false => f64::from(call.float_attribute("ratio", 0.5)),
    };
    if !(0.0..1.0).contains(&ratio) || call.names_output(1) {
        return Err(call.unsupported(format!("drops a share of {ratio}, or gives out which")));
    }
    let value = call.float(0)?;
    let full = shape(&value);
    let mut values = into_vec(value);
    let seed = dice(seed ^ dice(call.position as u64));
    let factor = (1.0 / (1.0 - ratio)) as f32;
    let kept = move |element: usize| dice(seed.wrapping_add(element as u64)) as f64 >= ratio * 2.0_f64.powi(64);
    let drop = move |values: &mut [f32]| {
        for (element, value) in values.iter_mut().enumerate() {
            *value = if kept(element) { *value * factor } else { 0.0 };
        }
    };
    drop(&mut values);
    Ok(Some(Recorded::one(from_vec(values, full.clone()), move |cotangent| {
        let mut values = into_vec(cotangent);
        drop(&mut values);
        Ok(vec![Some(from_vec(values, full))])
    })))
}

/// A number that looks random, after SplitMix64.
fn dice(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The same elements under another shape.
pub fn with_shape(call: &Call<'_>, value: Value, target: Vec<usize>) -> Result<Value, ComputeError> {
    let source = value.shape();
    if source == target {
        return Ok(value);
    }
    if host::count(call, &target)? != source.iter().product::<usize>() {
        return Err(call.wrong(format!("shape {source:?} cannot become {target:?}")));
    }
    Ok(match value {
        Value::Float(float) => Value::Float(reshape(float, target)),
        value => {
            let tensor = value.into_tensor().reshaped(target);
            Value::Host(tensor.map_err(|e| call.wrong(e.to_string()))?)
        }
    })
}

/// The axes in another order.
pub fn permute(call: &Call<'_>, value: Value, order: &[usize]) -> Result<Value, ComputeError> {
    let source = value.shape();
    let mut sorted = order.to_vec();
    sorted.sort_unstable();
    if !sorted.into_iter().eq(0..source.len()) {
        return Err(call.wrong(format!("perm {order:?} does not order the axes of {source:?}")));
    }
    if order.is_sorted() {
        return Ok(value);
    }
    Ok(match value {
        Value::Float(float) => Value::Float(B::float_permute(float, order)),
        value => {
            let strides = strided::strides(&source);
            let strides: Vec<isize> = order.iter().map(|&axis| strides[axis]).collect();
            let target = order.iter().map(|&axis| source[axis]).collect();
            let moved = strided::copy(&value.into_tensor(), target, &strides, 0);
            Value::Host(moved.map_err(|m| call.unsupported(m))?)
        }
    })
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
    Ok(vec![with_shape(call, value, target)?])
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
    Ok(vec![with_shape(call, value, target)?])
}

fn transpose(call: &mut Call<'_>) -> Outputs {
    let value = call.value(0)?;
    let rank = value.shape().len();
    let order = call.sizes("perm")?.unwrap_or_else(|| (0..rank).rev().collect());
    Ok(vec![permute(call, value, &order)?])
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
    Ok(vec![with_shape(call, value, keep.map(|axis| source[axis]).collect())?])
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
    Ok(vec![with_shape(call, value, target)?])
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
    let tensors: Vec<Tensor> = values.into_iter().map(Value::into_tensor).collect();
    let cells = tensors.iter().map(strided::Cells::new).collect::<Result<Vec<_>, _>>();
    let cells = cells.map_err(|m| call.unsupported(m))?;
    let outer: usize = result[..axis].iter().product();
    let mut bytes = Vec::new();
    if !result.contains(&0) {
        for slab in 0..outer {
            for (tensor, cells) in tensors.iter().zip(&cells) {
                let length = tensor.shape()[axis..].iter().product::<usize>() * cells.size;
                bytes.extend_from_slice(&cells.bytes[slab * length..][..length]);
            }
        }
    }
    let tensor = strided::Cells::tensor(dtype, result, bytes).map_err(|m| call.wrong(m))?;
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
            let count = call.int("num_outputs", outputs as i64);
            if count != outputs as i64 {
                return Err(call.wrong(format!("num_outputs is {count}, but there are {outputs} outputs")));
            }
            if call.opset < 18 && !source[axis].is_multiple_of(outputs) {
                return Err(call.wrong(format!("axis {axis} of {source:?} has no {outputs} equal parts")));
            }
            // The last parts are smaller, where the parts are not equal.
            let chunk = source[axis].div_ceil(outputs);
            let chunks = (0..outputs).map(|part| chunk.min(source[axis].saturating_sub(part * chunk)));
            chunks.collect()
        }
    };
    if lengths.iter().try_fold(0_usize, |sum, &length| sum.checked_add(length)) != Some(source[axis]) {
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
        value => {
            let strides = strided::strides(&source);
            let offset = bounds.iter().zip(&strides);
            let offset = offset.map(|(&(start, ..), &stride)| start as isize * stride).sum();
            let steps = bounds.iter().zip(&strides);
            let steps: Vec<isize> = steps.map(|(&(.., step), &stride)| step as isize * stride).collect();
            let moved = strided::copy(&value.into_tensor(), target, &steps, offset);
            Ok(Value::Host(moved.map_err(|m| call.unsupported(m))?))
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
            _ if size == 0 => (0, 0, 1),
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
    let mode = call.node.string("mode").unwrap_or("constant").to_owned();
    let value = call.value(0)?;
    let source = value.shape();
    let rank = source.len();
    let pads = call.moved_integers("pads", 1, 11)?.unwrap_or_default();
    let fill = if call.opset < 11 {
        let fill = Tensor::scalar(call.float_attribute("value", 0.0));
        Some(cast::converted(call, &fill, value.dtype())?)
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
    let mut around = vec![(0, 0); rank];
    for (position, &axis) in axes.iter().enumerate() {
        around[call.axis(axis, rank)?] = (pads[position], pads[position + axes.len()]);
    }
    if around.iter().all(|&ends| ends == (0, 0)) {
        return Ok(vec![value]);
    }
    let fill = match fill {
        Some(fill) if fill.dtype() == value.dtype() && fill.len() == 1 => fill,
        Some(fill) => {
            return Err(call.wrong(format!(
                "fills {} with {} {:?}",
                value.dtype(),
                fill.dtype(),
                fill.shape()
            )));
        }
        None => movement::zero(call, value.dtype())?.into_tensor(),
    };
    let target = source.iter().zip(&around).map(|(&size, &(before, after))| {
        let size = i64::try_from(size).ok()?.checked_add(before)?.checked_add(after)?;
        usize::try_from(size).ok()
    });
    let target: Option<Vec<usize>> = target.collect();
    let target = target.ok_or_else(|| call.wrong(format!("pads {around:?} leave nothing of {source:?}")))?;
    host::count(call, &target)?;
    if let (Value::Float(float), "constant") = (&value, mode.as_str())
        && around.iter().all(|&(before, after)| before >= 0 && after >= 0)
        && !source.contains(&0)
    {
        let fill = fill.to_f32().map_err(|e| call.wrong(e.to_string()))?[0];
        let around: Vec<(usize, usize)> = around.iter().map(|&(b, a)| (b as usize, a as usize)).collect();
        let padded = B::float_pad(float.clone(), &around, PadMode::Constant(fill));
        return Ok(vec![Value::Float(padded)]);
    }
    let mut maps = Vec::with_capacity(rank);
    for axis in 0..rank {
        let (size, before) = (source[axis] as i64, around[axis].0);
        if size == 0 && target[axis] > 0 && mode != "constant" {
            return Err(call.wrong(format!(
                "mode `{mode}` has nothing to repeat along axis {axis} of {source:?}"
            )));
        }
        let index = |position: usize| {
            let position = position as i64 - before;
            let inside = match mode.as_str() {
                "constant" => position,
                "edge" => position.clamp(0, size - 1),
                "wrap" => position.rem_euclid(size),
                "reflect" if size == 1 => 0,
                "reflect" => {
                    // The mirror stands on the last element: it does not come twice.
                    let period = 2 * (size - 1);
                    let position = position.rem_euclid(period);
                    position.min(period - position)
                }
                _ => return Err(call.unsupported(format!("padding mode `{mode}` is not known"))),
            };
            Ok((0..size).contains(&inside).then_some(inside as usize))
        };
        maps.push((0..target[axis]).map(index).collect::<Result<Vec<_>, _>>()?);
    }
    Ok(vec![map_axes(call, value, &maps, Some(Value::from_tensor(fill)))?])
}

/// Cuts or pads around the middle.
fn center(call: &mut Call<'_>) -> Outputs {
    let value = call.value(0)?;
    let wanted = call.integers(1)?;
    let wanted = sizes(call, wanted)?;
    let source = value.shape();
    let axes = match call.node.ints("axes") {
        Some(axes) => axes.to_vec(),
        None => (0..source.len() as i64).collect(),
    };
    if axes.len() != wanted.len() {
        return Err(call.wrong(format!("{} sizes for {} axes", wanted.len(), axes.len())));
    }
    let mut target = source.clone();
    for (&axis, &size) in axes.iter().zip(&wanted) {
        target[call.axis(axis, source.len())?] = size;
    }
    host::count(call, &target)?;
    let maps = source.iter().zip(&target).map(|(&size, &wanted)| {
        // An odd element is cut from, or put at, the end.
        let (cut, put) = (size.saturating_sub(wanted) / 2, wanted.saturating_sub(size) / 2);
        let index = |position: usize| Some((position + cut).checked_sub(put)?).filter(|&index| index < size);
        (0..wanted).map(index).collect()
    });
    let maps = maps.collect();
    Ok(vec![map_axes(call, value, &maps, None)?])
}

fn expand(call: &mut Call<'_>) -> Outputs {
    let value = call.value(0)?;
    let wanted = call.integers(1)?;
    let wanted = sizes(call, wanted)?;
    let target = call.broadcast(&value.shape(), &wanted)?;
    host::count(call, &target)?;
    Ok(vec![match value {
        Value::Float(float) if shape(&float) == target => Value::Float(float),
        Value::Float(float) if target.contains(&0) => {
            drop(float);
            Value::from_tensor(Tensor::from_vec(target, Vec::<f32>::new()))
        }
        Value::Float(float) => Value::Float(expanded(float, &target)),
        value => {
            let expanded = strided::expand(&value.into_tensor(), &target);
            Value::Host(expanded.map_err(|m| call.unsupported(m))?)
        }
    }])
}

fn tile(call: &mut Call<'_>) -> Outputs {
    let value = call.value(0)?;
    let repeats = call.integers(1)?;
    let repeats = sizes(call, repeats)?;
    let source = value.shape();
    if repeats.len() != source.len() {
        return Err(call.wrong(format!("{} repeats for {source:?}", repeats.len())));
    }
    let target = source
        .iter()
        .zip(&repeats)
        .map(|(&size, &times)| size.checked_mul(times));
    let target: Option<Vec<usize>> = target.collect();
    let target = target.ok_or_else(|| call.wrong(format!("repeats {repeats:?} are too large")))?;
    host::count(call, &target)?;
    let maps = source.iter().zip(&target);
    let maps = maps.map(|(&size, &total)| (0..total).map(|position| Some(position % size)).collect());
    let maps = maps.collect();
    Ok(vec![map_axes(call, value, &maps, None)?])
}

/// The attribute `blocksize`.
fn block_size(call: &Call<'_>) -> Result<usize, ComputeError> {
    let size = call.int("blocksize", 0);
    usize::try_from(size)
        .ok()
        .filter(|&size| size > 0)
        .ok_or_else(|| call.wrong(format!("blocks of size {size}")))
}

/// Whether blocks lie in front of the channels.
fn blocks_first(call: &Call<'_>) -> Result<bool, ComputeError> {
    match call.node.string("mode").unwrap_or("DCR") {
        "DCR" => Ok(true),
        "CRD" => Ok(false),
        other => Err(call.unsupported(format!("mode `{other}` is not known"))),
    }
}

fn depth_to_space(call: &mut Call<'_>) -> Outputs {
    let value = call.value(0)?;
    let block = block_size(call)?;
    let [batch, channels, height, width] = value.shape()[..] else {
        return Err(call.wrong(format!("{:?} is no stack of images", value.shape())));
    };
    let area = block.checked_mul(block).filter(|&area| channels.is_multiple_of(area));
    let area = area.ok_or_else(|| call.wrong(format!("{channels} channels do not fill blocks of {block}")))?;
    let depth = channels / area;
    let (split, order) = if blocks_first(call)? {
        (vec![batch, block, block, depth, height, width], [0, 3, 4, 1, 5, 2])
    } else {
        (vec![batch, depth, block, block, height, width], [0, 1, 4, 2, 5, 3])
    };
    let value = with_shape(call, value, split)?;
    let value = permute(call, value, &order)?;
    Ok(vec![with_shape(
        call,
        value,
        vec![batch, depth, height * block, width * block],
    )?])
}

fn space_to_depth(call: &mut Call<'_>) -> Outputs {
    let value = call.value(0)?;
    let block = block_size(call)?;
    let [batch, channels, height, width] = value.shape()[..] else {
        return Err(call.wrong(format!("{:?} is no stack of images", value.shape())));
    };
    if !height.is_multiple_of(block) || !width.is_multiple_of(block) {
        return Err(call.wrong(format!("{height} by {width} does not fill blocks of {block}")));
    }
    let (rows, columns) = (height / block, width / block);
    let order = if blocks_first(call)? {
        [0, 3, 5, 1, 2, 4]
    } else {
        [0, 1, 3, 5, 2, 4]
    };
    let value = with_shape(call, value, vec![batch, channels, rows, block, columns, block])?;
    let value = permute(call, value, &order)?;
    Ok(vec![with_shape(
        call,
        value,
        vec![batch, channels * block * block, rows, columns],
    )?])
}

/// The upper or lower triangle of each matrix, zero elsewhere.
fn triangle(call: &mut Call<'_>) -> Outputs {
    let value = call.value(0)?;
    let diagonal = match call.has(1) {
        true => {
            let diagonal = call.tensor(1)?;
            host::integer(call, &diagonal)?
        }
        false => 0,
    };
    let upper = call.int("upper", 1) != 0;
    let shape = value.shape();
    let [.., rows, columns] = shape[..] else {
        return Err(call.wrong(format!("{shape:?} is no matrix")));
    };
    let count: usize = shape.iter().product();
    let from = (0..count).map(|position| {
        let (row, column) = ((position / columns % rows) as i64, (position % columns) as i64);
        let beyond = column.saturating_sub(row);
        let kept = if upper { beyond >= diagonal } else { beyond <= diagonal };
        if kept { position } else { count }
    });
    let from = from.collect();
    let zero = movement::zero(call, value.dtype())?;
    Ok(vec![collect(call, vec![value, zero], shape, from)?])
}
