//! Arithmetic with broadcasting: float32 on the device, integers exactly.

use burn::backend::{
    BoolDType, BoolStore,
    ops::{BoolTensorOps, FloatTensorOps},
};
use kmr_model::Tensor;

use super::{Operator, activation::scalar, cast::from_i64, onnx, strided};
use crate::{
    ComputeError,
    interpreter::{B, Call, Float, Outputs, Value, broadcast, is_tracked, reshape, shape, with_slice},
};

pub const OPERATORS: &[Operator] = &[
    onnx("Add", |call| binary(call, B::float_add, |a, b| Some(a.wrapping_add(b)))),
    onnx("Sub", |call| binary(call, B::float_sub, |a, b| Some(a.wrapping_sub(b)))),
    onnx("Mul", |call| binary(call, B::float_mul, |a, b| Some(a.wrapping_mul(b)))),
    onnx("Div", |call| binary(call, B::float_div, i64::checked_div)),
    onnx("Pow", power),
    onnx("Min", |call| variadic(call, |a, b| extreme(a, b, false), i64::min)),
    onnx("Max", |call| variadic(call, |a, b| extreme(a, b, true), i64::max)),
    onnx("Sum", |call| variadic(call, B::float_add, i64::wrapping_add)),
    onnx("Neg", |call| unary(call, B::float_neg, i64::wrapping_neg)),
    onnx("Abs", |call| unary(call, B::float_abs, i64::wrapping_abs)),
];

/// Both operands at the same rank, at least 1, and the shape of the result.
pub fn aligned(call: &Call<'_>, a: Float, b: Float) -> Result<(Float, Float, Vec<usize>), ComputeError> {
    let (sa, sb) = (shape(&a), shape(&b));
    let result = call.broadcast(&sa, &sb)?;
    let rank = result.len().max(1);
    let lead = |float: Float, shape: Vec<usize>| {
        let mut full = vec![1; rank - shape.len()];
        full.extend(shape);
        reshape(float, full)
    };
    Ok((lead(a, sa), lead(b, sb), result))
}

fn pair(
    call: &mut Call<'_>,
    a: Value,
    b: Value,
    floats: impl FnOnce(Float, Float) -> Float,
    integers: impl Fn(i64, i64) -> Option<i64>,
) -> Result<Value, ComputeError> {
    match (&a, &b) {
        (Value::Host(x), Value::Host(y)) if !x.dtype().is_float() && !y.dtype().is_float() => {
            if x.dtype() != y.dtype() {
                return Err(call.wrong(format!("mixes {} and {}", x.dtype(), y.dtype())));
            }
            let shape = call.broadcast(x.shape(), y.shape())?;
            let xs = expanded(call, x, &shape)?;
            let ys = expanded(call, y, &shape)?;
            let values = xs.iter().zip(&ys).map(|(&x, &y)| integers(x, y));
            let values = values.collect::<Option<Vec<i64>>>();
            let values = values.ok_or_else(|| call.wrong("divides by zero or overflows"))?;
            from_i64(x.dtype(), shape, &values)
                .map(Value::Host)
                .map_err(|message| call.wrong(message))
        }
        _ => {
            let a = call.widened(a)?;
            let b = call.widened(b)?;
            let (a, b, shape) = aligned(call, a, b)?;
            Ok(Value::Float(reshape(floats(a, b), shape)))
        }
    }
}

/// Integer values broadcast to `shape`.
fn expanded(call: &Call<'_>, tensor: &Tensor, shape: &[usize]) -> Result<Vec<i64>, ComputeError> {
    strided::expand(tensor, shape)
        .and_then(|tensor| tensor.to_i64().map_err(|e| e.to_string()))
        .map_err(|message| call.unsupported(message))
}

fn binary(call: &mut Call<'_>, floats: fn(Float, Float) -> Float, integers: fn(i64, i64) -> Option<i64>) -> Outputs {
    let (a, b) = (call.value(0)?, call.value(1)?);
    Ok(vec![pair(call, a, b, floats, integers)?])
}

fn variadic(call: &mut Call<'_>, floats: fn(Float, Float) -> Float, integers: fn(i64, i64) -> i64) -> Outputs {
    let mut result = call.value(0)?;
    for position in 1..call.input_count() {
        let next = call.value(position)?;
        result = pair(call, result, next, floats, |a, b| Some(integers(a, b)))?;
    }
    Ok(vec![result])
}

fn unary(call: &mut Call<'_>, floats: fn(Float) -> Float, integers: fn(i64) -> i64) -> Outputs {
    match call.value(0)? {
        Value::Host(tensor) if !tensor.dtype().is_float() => {
            let values = tensor.to_i64().map_err(|e| call.wrong(e.to_string()))?;
            let values: Vec<i64> = values.into_iter().map(integers).collect();
            from_i64(tensor.dtype(), tensor.shape().to_vec(), &values)
                .map(|tensor| vec![Value::Host(tensor)])
                .map_err(|message| call.wrong(message))
        }
        value => {
            let x = call.widened(value)?;
            Ok(vec![Value::Float(floats(x))])
        }
    }
}

/// The larger or smaller of two, NaN where either is.
fn extreme(a: Float, b: Float, larger: bool) -> Float {
    let rank_shape = broadcast(&shape(&a), &shape(&b));
    let full = rank_shape.unwrap_or_else(|| shape(&a));
    let expand = |x: Float| B::float_expand(x, full.clone().into());
    let (a, b) = (expand(a), expand(b));
    let boolean = BoolDType::from(BoolStore::Native);
    let compare = if larger {
        B::float_lower_equal
    } else {
        B::float_greater_equal
    };
    let takes_a = B::bool_not(compare(a.clone(), b.clone(), boolean));
    let result = B::float_mask_where(b.clone(), takes_a, a);
    let lost = B::float_is_nan(b.clone(), boolean);
    B::float_mask_where(result, lost, b)
}

fn power(call: &mut Call<'_>) -> Outputs {
    let (base, exponent) = (call.value(0)?, call.value(1)?);
    if let (Value::Host(a), Value::Host(b)) = (&base, &exponent)
        && !a.dtype().is_float()
        && !b.dtype().is_float()
    {
        let (base, exponent) = (base.clone(), exponent.clone());
        let power = |a: i64, b: i64| Some(a.wrapping_pow(u32::try_from(b).ok()?));
        return Ok(vec![pair(call, base, exponent, B::float_powf, power)?]);
    }
    let base = call.widened(base)?;
    let exponent = match exponent {
        Value::Host(tensor) if !tensor.dtype().is_float() => {
            let values = tensor.to_i64().map_err(|e| call.unsupported(e.to_string()))?;
            let values = values.into_iter().map(|v| v as f32).collect();
            crate::interpreter::from_vec(values, tensor.shape().to_vec())
        }
        value => call.widened(value)?,
    };
    let single = shape(&exponent).iter().product::<usize>() == 1 && shape(&exponent).len() <= shape(&base).len();
    if single && !is_tracked(&exponent) {
        let exponent = with_slice(exponent, |values| values[0]);
        let result = if exponent == 2.0 {
            B::float_mul(base.clone(), base)
        } else if exponent == 0.5 {
            B::float_sqrt(base)
        } else {
            B::float_powf_scalar(base, scalar(exponent))
        };
        return Ok(vec![Value::Float(result)]);
    }
    let (a, b, shape) = aligned(call, base, exponent)?;
    Ok(vec![Value::Float(reshape(B::float_powf(a, b), shape))])
}

/// `Clip` of integers.
pub fn clip_integers(call: &Call<'_>, tensor: &Tensor, low: Option<&Tensor>, high: Option<&Tensor>) -> Outputs {
    let wrong = |e: kmr_model::ModelError| call.wrong(e.to_string());
    let bound = |bound: Option<&Tensor>, default: i64| match bound {
        Some(bound) => bound.to_i64().map(|values| values[0]).map_err(wrong),
        None => Ok(default),
    };
    let (low, high) = (bound(low, i64::MIN)?, bound(high, i64::MAX)?);
    let values = tensor.to_i64().map_err(wrong)?;
    let values: Vec<i64> = values.into_iter().map(|v| v.max(low).min(high)).collect();
    from_i64(tensor.dtype(), tensor.shape().to_vec(), &values)
        .map(|tensor| vec![Value::Host(tensor)])
        .map_err(|message| call.wrong(message))
}
