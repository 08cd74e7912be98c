//! Reductions over axes, and running sums and products along one.

use burn::backend::{
    Slice,
    ops::{FloatTensorOps, PadMode},
};
use kmr_model::{DType, Tensor};

use super::{
    Operator,
    activation::scalar,
    arithmetic::boolean,
    host::{self, Number, with_number},
    onnx, strided,
};
use crate::{
    ComputeError,
    interpreter::{B, Call, Float, Outputs, Value, reshape},
};

pub const OPERATORS: &[Operator] = &[
    onnx("ReduceSum", |call| reduce(call, 13, Kind::Sum)),
    onnx("ReduceMean", |call| reduce(call, 18, Kind::Mean)),
    onnx("ReduceMax", |call| reduce(call, 18, Kind::Max)),
    onnx("ReduceMin", |call| reduce(call, 18, Kind::Min)),
    onnx("ReduceProd", |call| reduce(call, 18, Kind::Product)),
    onnx("ReduceL1", |call| reduce(call, 18, Kind::L1)),
    onnx("ReduceL2", |call| reduce(call, 18, Kind::L2)),
    onnx("ReduceSumSquare", |call| reduce(call, 18, Kind::SumSquare)),
    onnx("ReduceLogSum", |call| reduce(call, 18, Kind::LogSum)),
    onnx("ReduceLogSumExp", |call| reduce(call, 18, Kind::LogSumExp)),
    onnx("CumSum", |call| running(call, B::float_cumsum, 0.0, false)),
    onnx("CumProd", |call| running(call, B::float_cumprod, 1.0, true)),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sum,
    Mean,
    Max,
    Min,
    Product,
    L1,
    L2,
    SumSquare,
    LogSum,
    LogSumExp,
}

/// Reduces some axes; `moved` is the opset that made `axes` an input.
fn reduce(call: &mut Call<'_>, moved: i64, kind: Kind) -> Outputs {
    let value = call.value(0)?;
    let full = value.shape();
    let axes = call.moved_integers("axes", 1, moved)?.unwrap_or_default();
    let axes = if !axes.is_empty() {
        call.axes(&axes, full.len())?
    } else if call.int("noop_with_empty_axes", 0) == 1 {
        // No axis is reduced; what is done to single elements is.
        Vec::new()
    } else {
        (0..full.len()).collect()
    };
    let keep = call.int("keepdims", 1) != 0;
    let result = (0..full.len())
        .filter(|axis| keep || !axes.contains(axis))
        .map(|axis| if axes.contains(&axis) { 1 } else { full[axis] })
        .collect();
    let float = matches!(value.dtype(), DType::FLOAT | DType::FLOAT16 | DType::BFLOAT16);
    if float && !full.contains(&0) {
        let x = call.widened(value)?;
        return Ok(vec![Value::Float(reshape(reduce_float(x, &axes, kind), result))]);
    }
    if matches!(&value, Value::Float(float) if crate::interpreter::is_tracked(float)) {
        return Err(call.unsupported(format!("has no derivative by {full:?}, which is empty")));
    }
    let is_bool = value.dtype() == DType::BOOL && matches!(kind, Kind::Max | Kind::Min);
    let mut tensor = host::numbers(call, value)?;
    if is_bool {
        tensor = super::cast::converted(call, &tensor, DType::UINT8)?;
    }
    let whole = !tensor.dtype().is_float();
    if whole && matches!(kind, Kind::LogSum | Kind::LogSumExp) {
        return Err(host::unknown(call, tensor.dtype()));
    }
    let mut reduced = with_number!(tensor.dtype(), N => {
        reduce_numbers::<N>(call, &tensor, &axes, kind, result)?
    }, else return Err(host::unknown(call, tensor.dtype())));
    if is_bool {
        reduced = super::cast::converted(call, &reduced, DType::BOOL)?;
    }
    Ok(vec![Value::from_tensor(reduced)])
}

/// One axis after the other; their sizes become 1.
fn reduce_float(x: Float, axes: &[usize], kind: Kind) -> Float {
    let over = |x: Float, function: fn(Float, usize) -> Float| axes.iter().fold(x, |x, &axis| function(x, axis));
    match kind {
        Kind::Sum => over(x, B::float_sum_dim),
        Kind::Mean => over(x, B::float_mean_dim),
        Kind::Max => over(x, B::float_max_dim),
        Kind::Min => over(x, B::float_min_dim),
        Kind::Product => over(x, B::float_prod_dim),
        Kind::L1 => over(B::float_abs(x), B::float_sum_dim),
        Kind::SumSquare => over(B::float_mul(x.clone(), x), B::float_sum_dim),
        Kind::L2 => B::float_sqrt(over(B::float_mul(x.clone(), x), B::float_sum_dim)),
        Kind::LogSum => B::float_log(over(x, B::float_sum_dim)),
        Kind::LogSumExp => {
            // Shifted by the maximum, where it is finite, so that nothing overflows.
            let greatest = over(B::float_detach(x.clone()), B::float_max_dim);
            let infinite = B::float_is_inf(greatest.clone(), boolean());
            let shift = B::float_mask_fill(greatest, infinite, scalar(0.0));
            let powers = B::float_exp(B::float_sub(x, shift.clone()));
            B::float_add(B::float_log(over(powers, B::float_sum_dim)), shift)
        }
    }
}

fn reduce_numbers<N: Number>(
    call: &Call<'_>,
    tensor: &Tensor,
    axes: &[usize],
    kind: Kind,
    result: Vec<usize>,
) -> Result<Tensor, ComputeError> {
    let full = tensor.shape();
    let kept: Vec<usize> = (0..full.len())
        .map(|axis| if axes.contains(&axis) { 1 } else { full[axis] })
        .collect();
    let groups = host::count(call, &kept)?;
    let strides = strided::broadcast_strides(&kept, full);
    let targets = strided::positions(full, &strides, 0);
    let values = host::values::<N>(call, tensor)?;
    let fold = |start: N, function: &dyn Fn(N, N) -> N| {
        let mut results = vec![start; groups];
        for (&target, &value) in targets.iter().zip(values.iter()) {
            results[target] = function(results[target], value);
        }
        results
    };
    let in_f64 = |values: Vec<N>, function: fn(f64) -> f64| -> Vec<N> {
        values
            .into_iter()
            .map(|value| N::from_f64(function(value.to_f64())))
            .collect()
    };
    let sum = || fold(N::ZERO, &|sum, value| sum.add(value));
    let squares = || fold(N::ZERO, &|sum, value| sum.add(value.multiply(value)));
    let reduced = match kind {
        Kind::Sum => sum(),
        Kind::Mean => {
            let count: usize = axes.iter().map(|&axis| full[axis]).product();
            let sums = sum().into_iter().map(|sum| {
                if tensor.dtype().is_float() {
                    Some(N::from_f64(sum.to_f64() / count as f64))
                } else {
                    mean_of_integers(sum, count)
                }
            });
            let means: Option<Vec<N>> = sums.collect();
            means.ok_or_else(|| call.wrong(format!("the mean over {axes:?} of {full:?} is no {}", tensor.dtype())))?
        }
        Kind::Max => fold(N::LOWEST, &N::larger),
        Kind::Min => fold(N::HIGHEST, &N::smaller),
        Kind::Product => fold(N::ONE, &|product, value| product.multiply(value)),
        Kind::L1 => fold(N::ZERO, &|sum, value| sum.add(value.absolute())),
        Kind::SumSquare => squares(),
        Kind::L2 => in_f64(squares(), f64::sqrt),
        Kind::LogSum => in_f64(sum(), f64::ln),
        Kind::LogSumExp => {
            let greatest = fold(N::LOWEST, &N::larger).into_iter();
            let greatest: Vec<f64> = greatest
                .map(N::to_f64)
                .map(|value| if value.is_infinite() { 0.0 } else { value })
                .collect();
            let mut sums = vec![0.0; groups];
            for (&target, &value) in targets.iter().zip(values.iter()) {
                sums[target] += (value.to_f64() - greatest[target]).exp();
            }
            let logs = sums.into_iter().zip(greatest);
            logs.map(|(sum, greatest)| N::from_f64(sum.ln() + greatest)).collect()
        }
    };
    Ok(Tensor::from_vec(result, reduced))
}

/// The quotient of an integer sum, cut off towards zero; `None` where the type does not hold the count.
fn mean_of_integers<N: Number>(sum: N, count: usize) -> Option<N> {
    let divisor = N::from_f64(count as f64);
    if divisor.to_f64() != count as f64 {
        None
    } else {
        sum.divide(divisor)
    }
}

/// `function` along an axis, which starts from `start` if the element itself does not count.
fn running(call: &mut Call<'_>, function: fn(Float, usize) -> Float, start: f32, product: bool) -> Outputs {
    let value = call.value(0)?;
    let full = value.shape();
    let axis = call.tensor(1)?;
    let axis = call.axis(host::integer(call, &axis)?, full.len())?;
    let exclusive = call.int("exclusive", 0) != 0;
    let reverse = call.int("reverse", 0) != 0;
    if full.contains(&0) {
        return Ok(vec![value]);
    }
    if matches!(value.dtype(), DType::FLOAT | DType::FLOAT16 | DType::BFLOAT16) {
        let mut x = call.widened(value)?;
        if reverse {
            x = B::float_flip(x, &[axis]);
        }
        if exclusive {
            // Everything moves on by one, and the last element leaves.
            let mut pads = vec![(0, 0); full.len()];
            pads[axis] = (1, 0);
            let slices: Vec<Slice> = full.iter().map(|&size| Slice::new(0, Some(size as isize), 1)).collect();
            x = B::float_slice(B::float_pad(x, &pads, PadMode::Constant(start)), &slices);
        }
        x = function(x, axis);
        if reverse {
            x = B::float_flip(x, &[axis]);
        }
        return Ok(vec![Value::Float(x)]);
    }
    let tensor = value.into_tensor();
    let (starts, step) = super::order::lines(&full, axis);
    let size = full[axis];
    let result = with_number!(tensor.dtype(), N => {
        let mut values = host::values::<N>(call, &tensor)?.into_owned();
        for line in starts {
            let mut sum = if product { N::ONE } else { N::ZERO };
            for position in 0..size {
                let position = if reverse { size - 1 - position } else { position };
                let value = &mut values[line + position * step];
                let next = if product { sum.multiply(*value) } else { sum.add(*value) };
                *value = if exclusive { sum } else { next };
                sum = next;
            }
        }
        Tensor::from_vec(full, values)
    }, else return Err(host::unknown(call, tensor.dtype())));
    Ok(vec![Value::Host(result)])
}
