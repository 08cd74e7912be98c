//! Reductions over axes.

use burn::backend::ops::FloatTensorOps;

use super::{Operator, onnx};
use crate::interpreter::{B, Call, Float, Outputs, Value, reshape, shape};

pub const OPERATORS: &[Operator] = &[
    onnx("ReduceMean", |call| reduce(call, 18, B::float_mean_dim)),
    onnx("ReduceSum", |call| reduce(call, 13, B::float_sum_dim)),
    onnx("ReduceMax", |call| reduce(call, 18, B::float_max_dim)),
    onnx("ReduceMin", |call| reduce(call, 18, B::float_min_dim)),
];

/// Reduces one axis after the other; `moved` is the opset that made `axes` an input.
fn reduce(call: &mut Call<'_>, moved: i64, function: fn(Float, usize) -> Float) -> Outputs {
    let mut x = call.float(0)?;
    let full = shape(&x);
    let axes = call.moved_integers("axes", 1, moved)?.unwrap_or_default();
    let axes = if axes.is_empty() {
        if call.int("noop_with_empty_axes", 0) == 1 {
            return Ok(vec![Value::Float(x)]);
        }
        (0..full.len()).collect()
    } else {
        call.axes(&axes, full.len())?
    };
    if axes.iter().any(|&axis| full[axis] == 0) {
        return Err(call.unsupported(format!("reduces an empty axis of {full:?}")));
    }
    for &axis in &axes {
        x = function(x, axis);
    }
    let keep = call.int("keepdims", 1) == 1;
    let result = (0..full.len())
        .filter(|axis| keep || !axes.contains(axis))
        .map(|axis| if axes.contains(&axis) { 1 } else { full[axis] });
    Ok(vec![Value::Float(reshape(x, result.collect()))])
}
