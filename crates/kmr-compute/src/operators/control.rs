//! Operators that execute graphs inside of them.

use kmr_model::{DType, Dimension, Tensor};

use super::{Operator, data, pieces};
use crate::{
    ComputeError,
    interpreter::{Body, Call, Data, Datum, Value},
};

pub const OPERATORS: &[Operator] = &[data("If", branch), data("Loop", repeat), data("Scan", scan)];

/// How often a loop may run: a condition that is always true must end, too.
const ITERATIONS: i64 = 1 << 20;

/// A condition: one bool.
fn truth(call: &Call<'_>, value: Datum) -> Result<bool, ComputeError> {
    let tensor = value.tensor().map(Value::into_tensor);
    let bytes = tensor.as_ref().ok().filter(|tensor| tensor.dtype() == DType::BOOL);
    match bytes.map(|tensor| &tensor.bytes()[..]) {
        Some([byte]) => Ok(*byte != 0),
        _ => Err(call.wrong("a condition is not one bool")),
    }
}

/// Positions of the node's outputs that have names.
fn named(call: &Call<'_>) -> Vec<usize> {
    let outputs = 0..call.node.outputs().len();
    outputs.filter(|&position| call.names_output(position)).collect()
}

/// `values`, at the node's outputs `positions`; an empty sequence where nobody asks.
fn placed(call: &Call<'_>, positions: &[usize], values: Vec<Datum>) -> Vec<Datum> {
    let mut outputs = vec![Datum::Optional(None); call.node.outputs().len()];
    for (&position, value) in positions.iter().zip(values) {
        outputs[position] = value;
    }
    outputs
}

fn branch(call: &mut Call<'_>) -> Data {
    let condition = call.datum(0)?;
    let taken = match truth(call, condition)? {
        true => call.body("then_branch")?,
        false => call.body("else_branch")?,
    };
    let (outputs, inputs) = (call.node.outputs().len(), taken.inputs());
    if taken.outputs().len() < outputs || inputs != 0 {
        let message = format!(
            "`{}` has {inputs} inputs and {} outputs; expected none and {outputs}",
            taken.attribute(),
            taken.outputs().len()
        );
        return Err(call.wrong(message));
    }
    let wanted = named(call);
    let values = taken.ready(&wanted)?.run(Vec::new())?;
    Ok(placed(call, &wanted, values))
}

/// The size that axis 0 of a scan output that never ran has behind it: unknown sizes are 0, as in ONNX Runtime.
fn never(call: &Call<'_>, body: &Body<'_>, output: usize, axis: usize) -> Result<Value, ComputeError> {
    let declared = &body.outputs()[output];
    let (Some(dtype), Some(shape)) = (declared.dtype, &declared.shape) else {
        return Err(call.unsupported(format!(
            "runs zero times, and output {output} of its body declares neither type nor shape"
        )));
    };
    let sizes = shape.iter().map(|size| match size {
        Dimension::Fixed(size) => *size,
        _ => 0,
    });
    let mut shape: Vec<usize> = sizes.collect();
    shape.insert(axis.min(shape.len()), 0);
    let tensor = Tensor::new(dtype, shape, Vec::new().into());
    Ok(Value::from_tensor(tensor.map_err(|e| call.wrong(e.to_string()))?))
}

/// The tensor among a body's outputs that is stacked with those of other iterations.
fn scanned(call: &Call<'_>, value: Datum) -> Result<Value, ComputeError> {
    value
        .tensor()
        .map_err(|kind| call.wrong(format!("a scan output is {kind}; expected a tensor")))
}

fn repeat(call: &mut Call<'_>) -> Data {
    let count = match call.has(0) {
        true => match call.integers(0)?.as_slice() {
            [count] => Some(*count),
            _ => return Err(call.wrong("the trip count is not one number")),
        },
        false => None,
    };
    let mut goes_on = match call.optional_datum(1) {
        Some(condition) => truth(call, condition)?,
        None => true,
    };
    let states = call.input_count().saturating_sub(2);
    let mut carried = Vec::with_capacity(states);
    for position in 2..2 + states {
        carried.push(call.datum(position)?);
    }
    let body = call.body("body")?;
    let outputs = call.node.outputs().len();
    if body.inputs() != states + 2 || body.outputs().len() != outputs + 1 || outputs < states {
        return Err(call.wrong(format!(
            "carries {states} values and has {outputs} outputs; its body has {} inputs and {} outputs",
            body.inputs(),
            body.outputs().len()
        )));
    }
    let collected: Vec<usize> = (states..outputs)
        .filter(|&position| call.names_output(position))
        .collect();
    let wanted: Vec<usize> = (0..=states)
        .chain(collected.iter().map(|position| position + 1))
        .collect();
    let mut scans: Vec<Vec<Value>> = collected.iter().map(|_| Vec::new()).collect();
    if goes_on && count.is_none_or(|count| count > 0) {
        let ready = body.ready(&wanted)?;
        let mut iteration = 0;
        while goes_on && count.is_none_or(|count| iteration < count) {
            if iteration >= ITERATIONS {
                return Err(call.wrong(format!("does not end within {ITERATIONS} iterations")));
            }
            let mut inputs = vec![
                Datum::from_tensor(Tensor::scalar(iteration)),
                Datum::from_tensor(bool_scalar(call, goes_on)?),
            ];
            inputs.append(&mut carried);
            let mut results = ready.run(inputs)?.into_iter();
            let condition = results
                .next()
                .ok_or_else(|| call.wrong("its body gives no condition"))?;
            goes_on = truth(call, condition)?;
            carried.extend(results.by_ref().take(states));
            for (values, value) in scans.iter_mut().zip(results) {
                values.push(scanned(call, value)?);
            }
            iteration += 1;
        }
    }
    let mut positions: Vec<usize> = (0..states).collect();
    for (&position, values) in collected.iter().zip(scans) {
        let value = if values.is_empty() {
            never(call, body, position + 1, 0)?
        } else {
            pieces::stack(values, 0).map_err(|message| call.wrong(message))?
        };
        positions.push(position);
        carried.push(Datum::Tensor(value));
    }
    Ok(placed(call, &positions, carried))
}

fn bool_scalar(call: &Call<'_>, value: bool) -> Result<Tensor, ComputeError> {
    let tensor = Tensor::new(DType::BOOL, Vec::new(), vec![u8::from(value)].into());
    tensor.map_err(|error| call.wrong(error.to_string()))
}

/// A list attribute with an entry for each of `count` values, zeros by default.
fn entries(call: &Call<'_>, name: &str, count: usize) -> Result<Vec<i64>, ComputeError> {
    match call.node.ints(name) {
        None | Some([]) => Ok(vec![0; count]),
        Some(list) if list.len() == count => Ok(list.to_vec()),
        Some(list) => Err(call.wrong(format!("`{name}` has {} entries; expected {count}", list.len()))),
    }
}

fn scan(call: &mut Call<'_>) -> Data {
    if call.opset < 9 {
        return Err(call.unsupported("scans over batches (before version 9) are not supported"));
    }
    let count = call.int("num_scan_inputs", 0);
    let count = usize::try_from(count).ok().filter(|&count| count <= call.input_count());
    let count = count.ok_or_else(|| call.wrong("`num_scan_inputs` is not among the inputs"))?;
    let states = call.input_count() - count;
    let mut carried = Vec::with_capacity(states);
    for position in 0..states {
        carried.push(call.datum(position)?);
    }
    let axes = entries(call, "scan_input_axes", count)?;
    let mut inputs = Vec::with_capacity(count);
    for (position, axis) in axes.iter().enumerate() {
        let value = call.value(states + position)?;
        let axis = call.axis(*axis, value.shape().len())?;
        inputs.push((value, axis));
    }
    let backwards = entries(call, "scan_input_directions", count)?;
    let length = match inputs.first() {
        Some((value, axis)) => value.shape()[*axis],
        None => return Err(call.wrong("scans over nothing")),
    };
    if inputs.iter().any(|(value, axis)| value.shape()[*axis] != length) {
        return Err(call.wrong("its inputs differ in length"));
    }
    let body = call.body("body")?;
    let outputs = call.node.outputs().len();
    if body.inputs() != states + count || body.outputs().len() != outputs || outputs < states {
        return Err(call.wrong(format!(
            "has {states} states, {count} scan inputs and {outputs} outputs; its body has {} inputs and {} outputs",
            body.inputs(),
            body.outputs().len()
        )));
    }
    let output_axes = entries(call, "scan_output_axes", outputs - states)?;
    let output_backwards = entries(call, "scan_output_directions", outputs - states)?;
    let collected: Vec<usize> = (states..outputs)
        .filter(|&position| call.names_output(position))
        .collect();
    let wanted: Vec<usize> = (0..states).chain(collected.iter().copied()).collect();
    let mut scans: Vec<Vec<Value>> = collected.iter().map(|_| Vec::new()).collect();
    if length > 0 {
        let ready = body.ready(&wanted)?;
        for step in 0..length {
            let mut fed = std::mem::take(&mut carried);
            for ((value, axis), backwards) in inputs.iter().zip(&backwards) {
                let position = if *backwards == 1 { length - 1 - step } else { step };
                let element = pieces::element(value, *axis, position);
                fed.push(Datum::Tensor(element.map_err(|message| call.wrong(message))?));
            }
            let mut results = ready.run(fed)?.into_iter();
            carried.extend(results.by_ref().take(states));
            for (values, value) in scans.iter_mut().zip(results) {
                values.push(scanned(call, value)?);
            }
        }
    }
    let mut positions: Vec<usize> = (0..states).collect();
    for (&position, mut values) in collected.iter().zip(scans) {
        let axis = output_axes[position - states];
        let value = match values.first() {
            None => {
                let rank = body.outputs()[position].shape.as_ref().map_or(0, Vec::len);
                never(call, body, position, call.axis(axis, rank + 1)?)?
            }
            Some(first) => {
                let axis = call.axis(axis, first.shape().len() + 1)?;
                if output_backwards[position - states] == 1 {
                    values.reverse();
                }
                pieces::stack(values, axis).map_err(|message| call.wrong(message))?
            }
        };
        positions.push(position);
        carried.push(Datum::Tensor(value));
    }
    Ok(placed(call, &positions, carried))
}
