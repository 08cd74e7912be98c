//! Picking slices by index.

use burn::backend::ops::FloatTensorOps;
use kmr_model::Tensor;

use super::{Operator, onnx, strided};
use crate::{
    ComputeError,
    interpreter::{B, Call, Outputs, Value, indices, reshape, shape},
};

pub const OPERATORS: &[Operator] = &[onnx("Gather", gather)];

fn gather(call: &mut Call<'_>) -> Outputs {
    let data = call.value(0)?;
    let wanted = call.tensor(1)?;
    let full = data.shape();
    let axis = call.axis(call.int("axis", 0), full.len())?;
    let positions = wanted.to_i64().map_err(|e| call.wrong(e.to_string()))?;
    let positions = within(call, &positions, full[axis])?;
    let mut result = full[..axis].to_vec();
    result.extend_from_slice(wanted.shape());
    result.extend_from_slice(&full[axis + 1..]);
    Ok(vec![select(call, data, axis, &positions, result)?])
}

/// Indices into `size` elements; negative ones count from the end.
fn within(call: &Call<'_>, positions: &[i64], size: usize) -> Result<Vec<usize>, ComputeError> {
    positions
        .iter()
        .map(|&position| {
            let from_start = if position < 0 { position + size as i64 } else { position };
            usize::try_from(from_start)
                .ok()
                .filter(|&position| position < size)
                .ok_or_else(|| call.wrong(format!("index {position} lies outside {size} elements")))
        })
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
        Value::Host(tensor) => {
            let size = strided::element_size(tensor.dtype()).map_err(|m| call.wrong(m))?;
            let inner = tensor.shape()[axis + 1..].iter().product::<usize>() * size;
            let slab = tensor.shape()[axis] * inner;
            let mut bytes = Vec::new();
            if slab > 0 {
                for slab in tensor.bytes().chunks(slab) {
                    for &position in positions {
                        bytes.extend_from_slice(&slab[position * inner..][..inner]);
                    }
                }
            }
            let tensor = Tensor::new(tensor.dtype(), result, bytes.into());
            Ok(Value::Host(tensor.map_err(|e| call.wrong(e.to_string()))?))
        }
    }
}
