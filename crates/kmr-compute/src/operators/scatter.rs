//! Writing elements and slices by index.

use kmr_model::Tensor;

use super::{
    Operator,
    gather::{along_axis, slices},
    host::{self, Number, with_number},
    movement::collect,
    onnx, strided,
};
use crate::{
    ComputeError,
    interpreter::{Call, Outputs, Value},
};

pub const OPERATORS: &[Operator] = &[
    onnx("Scatter", scatter_elements),
    onnx("ScatterElements", scatter_elements),
    onnx("ScatterND", scatter_slices),
    onnx("TensorScatter", scatter_sequence),
];

fn scatter_elements(call: &mut Call<'_>) -> Outputs {
    let data = call.value(0)?;
    let wanted = call.tensor(1)?;
    let updates = call.value(2)?;
    if updates.shape() != wanted.shape() {
        return Err(call.wrong(format!("{:?} updates at {:?} indices", updates.shape(), wanted.shape())));
    }
    let full = data.shape();
    let axis = call.axis(call.int("axis", 0), full.len())?;
    let targets = along_axis(call, &full, &wanted, axis)?;
    write(call, data, updates, &targets)
}

fn scatter_slices(call: &mut Call<'_>) -> Outputs {
    let data = call.value(0)?;
    let wanted = call.tensor(1)?;
    let updates = call.value(2)?;
    let (starts, slice) = slices(call, &data.shape(), &wanted, 0)?;
    let mut expected = wanted.shape()[..wanted.shape().len() - 1].to_vec();
    expected.extend_from_slice(&slice);
    if updates.shape() != expected {
        return Err(call.wrong(format!("updates are {:?}; expected {expected:?}", updates.shape())));
    }
    let inner: usize = slice.iter().product();
    let targets: Vec<usize> = starts.iter().flat_map(|&start| start..start + inner).collect();
    write(call, data, updates, &targets)
}

/// `data` with `updates` written to, or combined with what is at, `targets`.
fn write(call: &mut Call<'_>, data: Value, updates: Value, targets: &[usize]) -> Outputs {
    let combine = call.node.string("reduction").unwrap_or("none").to_owned();
    if combine == "none" {
        return Ok(vec![overwrite(call, data, updates, targets)?]);
    }
    let off_tape = |value: Value| match &value {
        Value::Float(float) if crate::interpreter::is_tracked(float) => {
            Err(call.unsupported(format!("has no derivative with reduction `{combine}`")))
        }
        _ => Ok(value),
    };
    let (data, updates) = (off_tape(data)?, off_tape(updates)?);
    let data = host::numbers(call, data)?;
    let updates = host::numbers(call, updates)?;
    if data.dtype() != updates.dtype() {
        return Err(call.wrong(format!("mixes {} and {}", data.dtype(), updates.dtype())));
    }
    let result = with_number!(data.dtype(), N => {
        let function = match combine.as_str() {
            "add" => N::add,
            "mul" => N::multiply,
            "max" => N::larger,
            "min" => N::smaller,
            other => return Err(call.unsupported(format!("reduction `{other}` is not known"))),
        };
        let mut result = host::values::<N>(call, &data)?.into_owned();
        for (&target, &update) in targets.iter().zip(host::values::<N>(call, &updates)?.iter()) {
            result[target] = function(result[target], update);
        }
        Tensor::from_vec(data.shape().to_vec(), result)
    }, else return Err(host::unknown(call, data.dtype())));
    Ok(vec![Value::from_tensor(result)])
}

/// `data` with `updates` at `targets`, the last one of several.
fn overwrite(call: &Call<'_>, data: Value, updates: Value, targets: &[usize]) -> Result<Value, ComputeError> {
    let shape = data.shape();
    let count: usize = shape.iter().product();
    let mut from: Vec<usize> = (0..count).collect();
    for (position, &target) in targets.iter().enumerate() {
        from[target] = count + position;
    }
    collect(call, vec![data, updates], shape, from)
}

/// Writes a piece of a sequence into a cache, from an index of its own for each sample on.
fn scatter_sequence(call: &mut Call<'_>) -> Outputs {
    let (cache, update) = (call.value(0)?, call.value(1)?);
    let (full, own) = (cache.shape(), update.shape());
    let axis = call.axis(call.int("axis", -2), full.len())?;
    let fits = own.len() == full.len()
        && (0..full.len()).all(|other| {
            if other == axis {
                own[other] <= full[other]
            } else {
                own[other] == full[other]
            }
        });
    if !fits || axis == 0 {
        return Err(call.wrong(format!("an update of {own:?} does not fit {full:?} along axis {axis}")));
    }
    let circular = match call.node.string("mode").unwrap_or("linear") {
        "linear" => false,
        "circular" => true,
        other => return Err(call.unsupported(format!("mode `{other}` is not known"))),
    };
    let starts = call.optional_integers(2)?.unwrap_or_else(|| vec![0; full[0]]);
    if starts.len() != full[0] {
        return Err(call.wrong(format!("{} write indices for {} samples", starts.len(), full[0])));
    }
    let strides = strided::strides(&full);
    let own_strides = strided::strides(&own);
    let mut targets = Vec::with_capacity(own.iter().product());
    for position in strided::positions(&own, &own_strides, 0) {
        let mut target = 0;
        let mut sample = 0;
        for other in 0..full.len() {
            let mut index = position / own_strides[other] as usize % own[other];
            if other == 0 {
                sample = index;
            }
            if other == axis {
                let at = starts[sample].saturating_add(index as i64);
                let size = full[axis] as i64;
                let at = if circular { at.rem_euclid(size) } else { at };
                if !(0..size).contains(&at) {
                    return Err(call.wrong(format!("writes at {at} of {size}")));
                }
                index = at as usize;
            }
            target += index * strides[other] as usize;
        }
        targets.push(target);
    }
    Ok(vec![overwrite(call, cache, update, &targets)?])
}
