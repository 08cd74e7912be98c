//! Picking elements and slices by index.

use burn::backend::ops::FloatTensorOps;
use kmr_model::{DType, Tensor};

use super::{Operator, host, movement::collect, onnx, strided};
use crate::{
    ComputeError,
    interpreter::{B, Call, Outputs, Value, indices, reshape, shape},
};

pub const OPERATORS: &[Operator] = &[
    onnx("Gather", gather),
    onnx("GatherElements", gather_elements),
    onnx("GatherND", gather_slices),
    onnx("Compress", compress),
    onnx("ReverseSequence", reverse_sequence),
    onnx("OneHot", one_hot),
];

fn gather(call: &mut Call<'_>) -> Outputs {
    let data = call.value(0)?;
    let wanted = call.tensor(1)?;
    let full = data.shape();
    let axis = call.axis(call.int("axis", 0), full.len())?;
    let positions = indices_within(call, &wanted, full[axis])?;
    let mut result = full[..axis].to_vec();
    result.extend_from_slice(wanted.shape());
    result.extend_from_slice(&full[axis + 1..]);
    host::count(call, &result)?;
    Ok(vec![select(call, data, axis, &positions, result)?])
}

/// An index into `size` elements; a negative one counts from the end.
pub fn within(call: &Call<'_>, position: i64, size: usize) -> Result<usize, ComputeError> {
    let from_start = if position < 0 {
        position.saturating_add(size as i64)
    } else {
        position
    };
    usize::try_from(from_start)
        .ok()
        .filter(|&position| position < size)
        .ok_or_else(|| {
            let help = format!("what is looked up has {size} entries, counted from 0, or from -{size} at the end");
            call.wrong(format!("index {position} lies outside {size} elements"))
                .with_help(help)
        })
}

/// All elements of a tensor as indices into `size` elements.
fn indices_within(call: &Call<'_>, tensor: &Tensor, size: usize) -> Result<Vec<usize>, ComputeError> {
    let positions = tensor.to_i64().map_err(|error| call.wrong(error.to_string()))?;
    positions
        .into_iter()
        .map(|position| within(call, position, size))
        .collect()
}

/// The slices at `positions` along `axis`, as a value of shape `result`.
pub fn select(
    call: &Call<'_>,
    data: Value,
    axis: usize,
    positions: &[usize],
    result: Vec<usize>,
) -> Result<Value, ComputeError> {
    match data {
        Value::Float(float) => {
            let list = positions.iter().map(|&position| position as i64).collect();
            if positions.is_empty() || shape(&float).contains(&0) {
                return Ok(Value::from_tensor(Tensor::from_vec(result, Vec::<f32>::new())));
            }
            Ok(Value::Float(reshape(
                B::float_select(float, axis, indices(list)),
                result,
            )))
        }
        value => {
            let tensor = value.into_tensor();
            let cells = strided::Cells::new(&tensor).map_err(|message| call.unsupported(message))?;
            let inner = tensor.shape()[axis + 1..].iter().product::<usize>() * cells.size;
            let slab = tensor.shape()[axis] * inner;
            let mut bytes = Vec::new();
            if slab > 0 {
                for slab in cells.bytes.chunks(slab) {
                    for &position in positions {
                        bytes.extend_from_slice(&slab[position * inner..][..inner]);
                    }
                }
            }
            strided::Cells::tensor(tensor.dtype(), result, bytes)
                .map(Value::Host)
                .map_err(|message| call.wrong(message))
        }
    }
}

/// For each element of `wanted`, its position in `full` with the index along `axis` replaced by it.
pub fn along_axis(call: &Call<'_>, full: &[usize], wanted: &Tensor, axis: usize) -> Result<Vec<usize>, ComputeError> {
    let own = wanted.shape();
    let fits = own.len() == full.len() && (0..full.len()).all(|other| other == axis || own[other] <= full[other]);
    if !fits {
        return Err(call.wrong(format!("indices of {own:?} do not fit {full:?} along axis {axis}")));
    }
    let mut strides = strided::strides(full);
    let stride = std::mem::take(&mut strides[axis]) as usize;
    let bases = strided::positions(own, &strides, 0);
    let chosen = indices_within(call, wanted, full[axis])?;
    Ok(bases
        .into_iter()
        .zip(chosen)
        .map(|(base, index)| base + index * stride)
        .collect())
}

fn gather_elements(call: &mut Call<'_>) -> Outputs {
    let data = call.value(0)?;
    let wanted = call.tensor(1)?;
    let full = data.shape();
    let axis = call.axis(call.int("axis", 0), full.len())?;
    let from = along_axis(call, &full, &wanted, axis)?;
    Ok(vec![collect(call, vec![data], wanted.shape().to_vec(), from)?])
}

/// The first element of each slice of `full` that a row of `wanted` names, behind `batch` axes that both
/// share, and the shape of one slice.
pub fn slices(
    call: &Call<'_>,
    full: &[usize],
    wanted: &Tensor,
    batch: usize,
) -> Result<(Vec<usize>, Vec<usize>), ComputeError> {
    let own = wanted.shape();
    let depth = match own.last() {
        Some(&depth) if batch < own.len() && batch + depth <= full.len() && own[..batch] == full[..batch] => depth,
        _ => return Err(call.wrong(format!("indices of {own:?} do not fit {full:?} behind {batch} axes"))),
    };
    let strides = strided::strides(full);
    let numbers = wanted.to_i64().map_err(|error| call.wrong(error.to_string()))?;
    let rows: usize = own[..own.len() - 1].iter().product();
    let batches: usize = own[..batch].iter().product();
    let per_batch = rows / batches.max(1);
    let block: usize = full[batch..].iter().product();
    let mut starts = Vec::with_capacity(rows.min(wanted.len().max(1)));
    host::count(call, &own[..own.len() - 1])?;
    for row in 0..rows {
        let mut start = row / per_batch.max(1) * block;
        for (axis, &index) in (batch..).zip(&numbers[row * depth..][..depth]) {
            start += within(call, index, full[axis])? * strides[axis] as usize;
        }
        starts.push(start);
    }
    Ok((starts, full[batch + depth..].to_vec()))
}

fn gather_slices(call: &mut Call<'_>) -> Outputs {
    let data = call.value(0)?;
    let wanted = call.tensor(1)?;
    let batch = usize::try_from(call.int("batch_dims", 0)).map_err(|_| call.wrong("batch_dims is negative"))?;
    let (starts, slice) = slices(call, &data.shape(), &wanted, batch)?;
    let mut result = wanted.shape()[..wanted.shape().len() - 1].to_vec();
    result.extend_from_slice(&slice);
    host::count(call, &result)?;
    let inner: usize = slice.iter().product();
    let from = starts.iter().flat_map(|&start| start..start + inner).collect();
    Ok(vec![collect(call, vec![data], result, from)?])
}

fn compress(call: &mut Call<'_>) -> Outputs {
    let mut data = call.value(0)?;
    let condition = call.tensor(1)?;
    if condition.dtype() != DType::BOOL || condition.shape().len() != 1 {
        return Err(call.wrong("the condition is not a list of bool"));
    }
    let axis = match call.node.int("axis") {
        Some(axis) => call.axis(axis, data.shape().len())?,
        None => {
            let count = data.shape().iter().product();
            data = super::layout::with_shape(call, data, vec![count])?;
            0
        }
    };
    let mut result = data.shape();
    if condition.len() > result[axis] {
        return Err(call.wrong(format!("{} conditions for {} slices", condition.len(), result[axis])));
    }
    let chosen = condition.bytes().iter().enumerate();
    let chosen: Vec<usize> = chosen
        .filter(|&(_, &bit)| bit != 0)
        .map(|(position, _)| position)
        .collect();
    result[axis] = chosen.len();
    Ok(vec![select(call, data, axis, &chosen, result)?])
}

fn reverse_sequence(call: &mut Call<'_>) -> Outputs {
    let data = call.value(0)?;
    let lengths = call.integers(1)?;
    let full = data.shape();
    let time = call.axis(call.int("time_axis", 0), full.len())?;
    let batch = call.axis(call.int("batch_axis", 1), full.len())?;
    if time == batch || lengths.len() != full[batch] {
        return Err(call.wrong(format!("{} lengths for {full:?} along axis {batch}", lengths.len())));
    }
    if lengths.iter().any(|&length| length < 0 || length as usize > full[time]) {
        return Err(call.wrong(format!("lengths {lengths:?} exceed {}", full[time])));
    }
    let strides = strided::strides(&full);
    let identity = strided::positions(&full, &strides, 0);
    let index = |position: usize, axis: usize| position / strides[axis] as usize % full[axis];
    let from = identity.into_iter().map(|position| {
        let (step, length) = (index(position, time), lengths[index(position, batch)] as usize);
        let mirrored = if step < length { length - 1 - step } else { step };
        position - step * strides[time] as usize + mirrored * strides[time] as usize
    });
    let from = from.collect();
    Ok(vec![collect(call, vec![data], full, from)?])
}

fn one_hot(call: &mut Call<'_>) -> Outputs {
    let wanted = call.constant(0)?;
    let depth = call.constant(1)?;
    let values = call.value(2)?;
    if values.shape() != [2] || depth.len() != 1 {
        return Err(call.wrong("needs one depth and two values"));
    }
    let whole = |tensor: &Tensor| {
        let tensor = super::cast::converted(call, tensor, DType::INT64)?;
        tensor.to_i64().map_err(|error| call.wrong(error.to_string()))
    };
    let depth = whole(&depth)?[0];
    let size = usize::try_from(depth).map_err(|_| call.wrong(format!("depth {depth} is negative")))?;
    let rank = wanted.shape().len() + 1;
    let axis = call.axis(call.int("axis", -1), rank)?;
    let mut result = wanted.shape().to_vec();
    result.insert(axis, size);
    let count = host::count(call, &result)?;
    let inner: usize = wanted.shape()[axis..].iter().product();
    let mut from = vec![0; count];
    for (position, index) in whole(&wanted)?.into_iter().enumerate() {
        let index = if index < 0 { index.saturating_add(depth) } else { index };
        if (0..depth).contains(&index) {
            from[(position / inner * size + index as usize) * inner + position % inner] = 1;
        }
    }
    Ok(vec![collect(call, vec![values], result, from)?])
}
