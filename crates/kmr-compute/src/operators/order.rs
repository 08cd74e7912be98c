//! Operators that put elements in order.

use std::cmp::Ordering;

use kmr_model::Tensor;

use super::{Operator, cast::Numbers, movement::collect, onnx, strided};
use crate::{
    ComputeError,
    interpreter::{Call, Outputs, Value},
};

pub const OPERATORS: &[Operator] = &[
    onnx("ArgMax", |call| extreme_position(call, true)),
    onnx("ArgMin", |call| extreme_position(call, false)),
    onnx("TopK", top),
    onnx("Unique", unique),
    onnx("NonZero", non_zero),
];

/// For each element a number that is ordered as the elements are; NaN is above all, and both zeros are
/// one.
fn ranks(call: &Call<'_>, tensor: &Tensor) -> Result<Vec<u64>, ComputeError> {
    const SIGN: u64 = 1 << 63;
    let numbers = Numbers::of(tensor).map_err(|message| call.unsupported(message))?;
    Ok(match numbers {
        Numbers::Unsigned(values) => values,
        Numbers::Signed(values) => values.into_iter().map(|value| value.cast_unsigned() ^ SIGN).collect(),
        Numbers::Float(values) => values
            .into_iter()
            .map(|value| match value {
                value if value.is_nan() => u64::MAX,
                0.0 => SIGN,
                value if value < 0.0 => !value.to_bits(),
                value => value.to_bits() | SIGN,
            })
            .collect(),
    })
}

/// The lines of `shape` along `axis`: their first elements, in row-major order of the other axes, and the
/// step between their elements.
pub fn lines(shape: &[usize], axis: usize) -> (Vec<usize>, usize) {
    let strides = strided::strides(shape);
    let mut others = shape.to_vec();
    others[axis] = 1;
    (strided::positions(&others, &strides, 0), strides[axis] as usize)
}

/// The position of the largest or smallest element of each line; NaN is both.
pub fn extremes(
    call: &Call<'_>,
    tensor: &Tensor,
    axis: usize,
    largest: bool,
    last: bool,
) -> Result<Vec<usize>, ComputeError> {
    let size = tensor.shape()[axis];
    let mut ranks = ranks(call, tensor)?;
    if !largest {
        // NaN stays on top.
        for rank in &mut ranks {
            *rank = if *rank == u64::MAX && is_float(tensor) {
                *rank
            } else {
                !*rank
            };
        }
    }
    let (starts, step) = lines(tensor.shape(), axis);
    if size == 0 && !starts.is_empty() {
        return Err(call.wrong(format!("has no elements along axis {axis} of {:?}", tensor.shape())));
    }
    let best = |start: usize| {
        let mut best = 0;
        for position in 1..size {
            let (new, old) = (ranks[start + position * step], ranks[start + best * step]);
            if new > old || (last && new == old) {
                best = position;
            }
        }
        best
    };
    Ok(starts.into_iter().map(best).collect())
}

fn is_float(tensor: &Tensor) -> bool {
    matches!(tensor.dtype().name(), Some(name) if name.contains("float"))
}

fn extreme_position(call: &mut Call<'_>, largest: bool) -> Outputs {
    let tensor = call.tensor(0)?;
    let axis = call.axis(call.int("axis", 0), tensor.shape().len())?;
    let positions = extremes(call, &tensor, axis, largest, call.int("select_last_index", 0) != 0)?;
    let positions = positions.into_iter().map(|position| position as i64).collect();
    let mut result = tensor.shape().to_vec();
    if call.int("keepdims", 1) == 0 {
        result.remove(axis);
    } else {
        result[axis] = 1;
    }
    Ok(vec![Value::Host(Tensor::from_vec(result, positions))])
}

fn top(call: &mut Call<'_>) -> Outputs {
    let value = call.value(0)?;
    let count = if call.opset < 10 {
        call.int("k", -1)
    } else {
        let count = call.tensor(1)?;
        super::host::integer(call, &count)?
    };
    let shape = value.shape();
    let axis = call.axis(call.int("axis", -1), shape.len())?;
    let count = usize::try_from(count)
        .ok()
        .filter(|&count| count <= shape[axis])
        .ok_or_else(|| call.wrong(format!("asks for {count} of {} elements", shape[axis])))?;
    let largest = call.int("largest", 1) != 0;
    let ranks = ranks(call, &value.clone().into_tensor())?;
    let (starts, step) = lines(&shape, axis);
    let mut result = shape.clone();
    result[axis] = count;
    // In the order of lines first; then where each line's elements belong.
    let (targets, target_step) = lines(&result, axis);
    let mut from = vec![0; result.iter().product()];
    let mut chosen = vec![0_i64; from.len()];
    if count > 0 {
        for (&start, &target) in starts.iter().zip(&targets) {
            let mut order: Vec<usize> = (0..shape[axis]).collect();
            order.sort_by(|&a, &b| {
                let (x, y) = (ranks[start + a * step], ranks[start + b * step]);
                if largest { y.cmp(&x) } else { x.cmp(&y) }
            });
            for (place, &position) in order[..count].iter().enumerate() {
                from[target + place * target_step] = start + position * step;
                chosen[target + place * target_step] = position as i64;
            }
        }
    }
    let values = collect(call, vec![value], result.clone(), from)?;
    Ok(vec![values, Value::Host(Tensor::from_vec(result, chosen))])
}

fn unique(call: &mut Call<'_>) -> Outputs {
    let mut value = call.value(0)?;
    let axis = match call.node.int("axis") {
        Some(axis) => call.axis(axis, value.shape().len())?,
        None => {
            let count = value.shape().iter().product();
            value = super::layout::with_shape(call, value, vec![count])?;
            0
        }
    };
    let shape = value.shape();
    let ranks = ranks(call, &value.clone().into_tensor())?;
    let mut across = shape.clone();
    across[axis] = 1;
    let strides = strided::strides(&shape);
    let offsets = strided::positions(&across, &strides, 0);
    let step = strides[axis] as usize;
    let compare = |a: usize, b: usize| {
        let pairs = offsets.iter();
        let mut orders = pairs.map(|offset| ranks[offset + a * step].cmp(&ranks[offset + b * step]));
        orders.find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
    };
    // Sorting is stable: the first of a group is the first in the input.
    let mut order: Vec<usize> = (0..shape[axis]).collect();
    order.sort_by(|&a, &b| compare(a, b));
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for position in order {
        match groups.last_mut() {
            Some(group) if compare(group[0], position).is_eq() => group.push(position),
            _ => groups.push(vec![position]),
        }
    }
    if call.int("sorted", 1) == 0 {
        groups.sort_by_key(|group| group[0]);
    }
    let mut inverse = vec![0_i64; shape[axis]];
    for (place, group) in groups.iter().enumerate() {
        for &position in group {
            inverse[position] = place as i64;
        }
    }
    let list = |values: Vec<i64>| Value::Host(Tensor::from_vec(vec![values.len()], values));
    let first: Vec<usize> = groups.iter().map(|group| group[0]).collect();
    let mut result = shape;
    result[axis] = first.len();
    Ok(vec![
        super::gather::select(call, value, axis, &first, result)?,
        list(first.iter().map(|&position| position as i64).collect()),
        list(inverse),
        list(groups.iter().map(|group| group.len() as i64).collect()),
    ])
}

fn non_zero(call: &mut Call<'_>) -> Outputs {
    let tensor = call.tensor(0)?;
    let truth = super::cast::converted(call, &tensor, kmr_model::DType::BOOL)?;
    let found = truth.bytes().iter().enumerate();
    let found: Vec<usize> = found
        .filter(|&(_, &bit)| bit != 0)
        .map(|(position, _)| position)
        .collect();
    let strides = strided::strides(tensor.shape());
    let mut indices = Vec::with_capacity(found.len() * strides.len());
    for (&size, stride) in tensor.shape().iter().zip(strides) {
        indices.extend(found.iter().map(|&position| (position / stride as usize % size) as i64));
    }
    let shape = vec![tensor.shape().len(), found.len()];
    Ok(vec![Value::Host(Tensor::from_vec(shape, indices))])
}
