//! Arithmetic with broadcasting: float32 on the device, all other numbers exactly.

use burn::backend::{
    BoolDType, BoolStore,
    ops::{BoolTensorOps, FloatTensorOps},
};
use kmr_model::{DType, Tensor};

use super::{
    Operator,
    activation::scalar,
    cast,
    host::{self, Number, map_numbers, with_number, zip_numbers},
    onnx,
};
use crate::{
    ComputeError,
    interpreter::{B, Call, Float, Outputs, Recorded, Value, broadcast, is_tracked, reshape, shape, with_slice},
};

pub const OPERATORS: &[Operator] = &[
    onnx("Add", |call| {
        binary(call, B::float_add, |call, a, b| {
            zip_numbers!(call, a, b, N, |x: N, y: N| Some(x.add(y)))
        })
    })
    .recorded(same_shapes_added),
    onnx("Sub", |call| {
        binary(call, B::float_sub, |call, a, b| {
            zip_numbers!(call, a, b, N, |x: N, y: N| Some(x.subtract(y)))
        })
    }),
    onnx("Mul", |call| {
        binary(call, B::float_mul, |call, a, b| {
            zip_numbers!(call, a, b, N, |x: N, y: N| Some(x.multiply(y)))
        })
    }),
    onnx("Div", |call| {
        binary(call, B::float_div, |call, a, b| {
            zip_numbers!(call, a, b, N, |x: N, y: N| x.divide(y))
        })
    }),
    onnx("Mod", modulo),
    onnx("Pow", power),
    onnx("Min", |call| {
        variadic(
            call,
            |a, b| extreme(a, b, false),
            |call, a, b| zip_numbers!(call, a, b, N, |x: N, y: N| Some(x.smaller(y))),
        )
    }),
    onnx("Max", |call| {
        variadic(
            call,
            |a, b| extreme(a, b, true),
            |call, a, b| zip_numbers!(call, a, b, N, |x: N, y: N| Some(x.larger(y))),
        )
    }),
    onnx("Sum", |call| sum(call).map(|sum| vec![sum])),
    onnx("Mean", mean),
    onnx("Neg", |call| {
        unary(call, B::float_neg, |call, x| {
            map_numbers!(call, x, N, |x: N| x.negative())
        })
    }),
    onnx("Abs", |call| {
        unary(call, B::float_abs, |call, x| {
            map_numbers!(call, x, N, |x: N| x.absolute())
        })
    }),
    onnx("Sign", |call| {
        unary(call, sign, |call, x| map_numbers!(call, x, N, |x: N| x.sign()))
    }),
    onnx("BitShift", shift),
    onnx("BitwiseAnd", |call| bitwise(call, |a, b| a & b)),
    onnx("BitwiseOr", |call| bitwise(call, |a, b| a | b)),
    onnx("BitwiseXor", |call| bitwise(call, |a, b| a ^ b)),
    onnx("BitwiseNot", |call| {
        let x = call.tensor(0)?;
        let dtype = integer_type(call, &x)?;
        let bytes = x.bytes().iter().map(|byte| !byte).collect();
        Ok(vec![Value::Host(host::from_bytes(
            call,
            dtype,
            x.shape().to_vec(),
            bytes,
        )?)])
    }),
];

/// The sum of two tensors of one shape.
fn same_shapes_added(call: &mut Call<'_>, needs: &[bool]) -> Result<Option<Recorded>, ComputeError> {
    let (a, b) = (call.float(0)?, call.float(1)?);
    if shape(&a) != shape(&b) {
        return Ok(None);
    }
    let needs = [needs[0], needs[1]];
    Ok(Some(Recorded::one(B::float_add(a, b), move |cotangent| {
        Ok(needs.map(|needed| needed.then(|| cotangent.clone())).into())
    })))
}

/// An operation on tensors of one type and shape.
type OnHost = fn(&Call<'_>, &Tensor, &Tensor) -> Result<Tensor, ComputeError>;

/// How Burn's operations name their results' truth.
pub fn boolean() -> BoolDType {
    BoolDType::from(BoolStore::Native)
}

/// Both operands at the same rank, at least 1, and the shape of the result.
pub fn aligned(call: &Call<'_>, a: Float, b: Float) -> Result<(Float, Float, Vec<usize>), ComputeError> {
    let (sa, sb) = (shape(&a), shape(&b));
    let result = call.broadcast(&sa, &sb)?;
    host::count(call, &result)?;
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
    on_host: OnHost,
) -> Result<Value, ComputeError> {
    if a.dtype() != b.dtype() {
        return Err(call.wrong(format!("mixes {} and {}", a.dtype(), b.dtype())));
    }
    match a.dtype() {
        DType::FLOAT | DType::FLOAT16 | DType::BFLOAT16 => {
            let (a, b) = (call.widened(a)?, call.widened(b)?);
            let (a, b, shape) = aligned(call, a, b)?;
            Ok(Value::Float(reshape(floats(a, b), shape)))
        }
        _ => {
            let (a, b) = host::broadcast(call, &a.into_tensor(), &b.into_tensor())?;
            on_host(call, &a, &b).map(Value::Host)
        }
    }
}

fn binary(call: &mut Call<'_>, floats: fn(Float, Float) -> Float, on_host: OnHost) -> Outputs {
    let (a, b) = (call.value(0)?, call.value(1)?);
    Ok(vec![pair(call, a, b, floats, on_host)?])
}

fn fold(call: &mut Call<'_>, floats: fn(Float, Float) -> Float, on_host: OnHost) -> Result<Value, ComputeError> {
    let mut result = call.value(0)?;
    for position in 1..call.input_count() {
        let next = call.value(position)?;
        let sum = narrowed(call, result, &next)?;
        result = pair(call, sum, next, floats, on_host)?;
    }
    Ok(result)
}

/// A sum so far has been widened, where the next operand has not.
fn narrowed(call: &Call<'_>, sum: Value, next: &Value) -> Result<Value, ComputeError> {
    let half = matches!(next.dtype(), DType::FLOAT16 | DType::BFLOAT16);
    if half && sum.dtype() == DType::FLOAT && call.narrow() == Some(next.dtype()) {
        let tensor = cast::converted(call, &sum.into_tensor(), next.dtype())?;
        return Ok(Value::from_tensor(tensor));
    }
    Ok(sum)
}

fn variadic(call: &mut Call<'_>, floats: fn(Float, Float) -> Float, on_host: OnHost) -> Outputs {
    Ok(vec![fold(call, floats, on_host)?])
}

fn sum(call: &mut Call<'_>) -> Result<Value, ComputeError> {
    fold(call, B::float_add, |call, a, b| {
        zip_numbers!(call, a, b, N, |x: N, y: N| Some(x.add(y)))
    })
}

fn mean(call: &mut Call<'_>) -> Outputs {
    let count = call.input_count();
    let sum = sum(call)?;
    Ok(vec![match sum {
        Value::Float(sum) => Value::Float(B::float_div_scalar(sum, scalar(count as f32))),
        sum => {
            let tensor = sum.into_tensor();
            let by = Tensor::scalar(count as u64);
            let by = cast::converted(call, &by, tensor.dtype())?;
            let (tensor, by) = host::broadcast(call, &tensor, &by)?;
            Value::Host(zip_numbers!(call, &tensor, &by, N, |x: N, y: N| x.divide(y))?)
        }
    }])
}

/// A function of single elements: of float32 on the device, of other numbers on the host.
pub fn unary(
    call: &mut Call<'_>,
    floats: impl FnOnce(Float) -> Float,
    on_host: impl FnOnce(&Call<'_>, &Tensor) -> Result<Tensor, ComputeError>,
) -> Outputs {
    let value = call.value(0)?;
    Ok(vec![match value.dtype() {
        DType::FLOAT | DType::FLOAT16 | DType::BFLOAT16 => Value::Float(floats(call.widened(value)?)),
        _ => Value::Host(on_host(call, &value.into_tensor())?),
    }])
}

fn sign(x: Float) -> Float {
    let lost = B::float_is_nan(x.clone(), boolean());
    B::float_mask_where(B::float_sign(x.clone()), lost, x)
}

/// The larger or smaller of two, NaN where either is.
fn extreme(a: Float, b: Float, larger: bool) -> Float {
    let rank_shape = broadcast(&shape(&a), &shape(&b));
    let full = rank_shape.unwrap_or_else(|| shape(&a));
    let expand = |x: Float| B::float_expand(x, full.clone().into());
    let (a, b) = (expand(a), expand(b));
    let compare = if larger {
        B::float_lower_equal
    } else {
        B::float_greater_equal
    };
    let takes_a = B::bool_not(compare(a.clone(), b.clone(), boolean()));
    let result = B::float_mask_where(b.clone(), takes_a, a);
    let lost = B::float_is_nan(b.clone(), boolean());
    B::float_mask_where(result, lost, b)
}

fn modulo(call: &mut Call<'_>) -> Outputs {
    let like_c = call.int("fmod", 0) != 0;
    let (a, b) = (call.constant(0)?, call.constant(1)?);
    if !like_c && (a.dtype().is_float() || b.dtype().is_float()) && call.opset < 28 {
        return Err(call.unsupported(format!("elements of {} need fmod = 1 before opset 28", a.dtype())));
    }
    let (a, b) = host::broadcast(call, &a, &b)?;
    let (a, b) = (
        host::numbers(call, Value::Host(a))?,
        host::numbers(call, Value::Host(b))?,
    );
    let result = if like_c {
        zip_numbers!(call, &a, &b, N, |x: N, y: N| x.remainder(y))?
    } else {
        zip_numbers!(call, &a, &b, N, |x: N, y: N| x.modulo(y))?
    };
    Ok(vec![Value::from_tensor(result)])
}

fn power(call: &mut Call<'_>) -> Outputs {
    let (base, exponent) = (call.value(0)?, call.value(1)?);
    let base_type = base.dtype();
    if !matches!(base_type, DType::FLOAT | DType::FLOAT16 | DType::BFLOAT16) {
        let (base, exponent) = (base.into_tensor(), exponent.into_tensor());
        return power_on_host(call, &base, &exponent).map(|result| vec![Value::Host(result)]);
    }
    let base = call.widened(base)?;
    let exponent = match exponent {
        Value::Float(float) => float,
        // Not widened as an operand: the result has the type of the base.
        other => match Value::from_tensor(cast::converted(call, &other.into_tensor(), DType::FLOAT)?) {
            Value::Float(float) => float,
            _ => return Err(call.wrong("the exponent is no number")),
        },
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

/// Powers of float64 and of integers; those of integers by integers are exact, and wrap around.
fn power_on_host(call: &Call<'_>, base: &Tensor, exponent: &Tensor) -> Result<Tensor, ComputeError> {
    let shape = call.broadcast(base.shape(), exponent.shape())?;
    host::count(call, &shape)?;
    let expand = |x: &Tensor| super::strided::expand(x, &shape).map_err(|message| call.wrong(message));
    let (base, exponent) = (expand(base)?, expand(exponent)?);
    let exponents = cast::Numbers::of(&exponent).map_err(|message| call.unsupported(message))?;
    with_number!(base.dtype(), N => {
        let bases = host::values::<N>(call, &base)?;
        let bases = bases.iter().copied();
        let inexact = |x: N, y: f64| N::from_f64(x.to_f64().powf(y));
        let results: Option<Vec<N>> = match exponents {
            cast::Numbers::Float(values) => bases.zip(values).map(|(x, y)| Some(inexact(x, y))).collect(),
            _ if base.dtype().is_float() => {
                let values = exponents.into_f64();
                bases.zip(values).map(|(x, y)| Some(inexact(x, y))).collect()
            }
            cast::Numbers::Unsigned(values) => bases.zip(values).map(|(x, y)| Some(repeated(x, y))).collect(),
            cast::Numbers::Signed(values) => bases
                .zip(values)
                .map(|(x, y)| match u64::try_from(y) {
                    Ok(y) => Some(repeated(x, y)),
                    // One over the power, cut off towards zero: only those of 1 and -1 are not zero.
                    Err(_) if x == N::ZERO => None,
                    Err(_) if x.absolute() != N::ONE => Some(N::ZERO),
                    Err(_) => Some(if y % 2 == 0 { N::ONE } else { x }),
                })
                .collect(),
        };
        let results = results.ok_or_else(|| call.wrong("divides by zero or overflows"))?;
        Ok(Tensor::from_vec(shape, results))
    }, else Err(host::unknown(call, base.dtype())))
}

/// A power by repeated squaring.
fn repeated<N: Number>(mut base: N, mut exponent: u64) -> N {
    let mut result = N::ONE;
    while exponent > 0 {
        if exponent % 2 == 1 {
            result = result.multiply(base);
        }
        base = base.multiply(base);
        exponent /= 2;
    }
    result
}

fn integer_type(call: &Call<'_>, tensor: &Tensor) -> Result<DType, ComputeError> {
    let dtype = tensor.dtype();
    let whole =
        matches!(dtype.name(), Some(name) if name.contains("int")) && dtype.bits().is_some_and(|bits| bits >= 8);
    if whole {
        Ok(dtype)
    } else {
        Err(host::unknown(call, dtype))
    }
}

fn bitwise(call: &mut Call<'_>, function: fn(u8, u8) -> u8) -> Outputs {
    let (a, b) = (call.tensor(0)?, call.tensor(1)?);
    let (a, b) = host::broadcast(call, &a, &b)?;
    let dtype = integer_type(call, &a)?;
    let bytes = a.bytes().iter().zip(b.bytes().iter());
    let bytes = bytes.map(|(&a, &b)| function(a, b)).collect();
    Ok(vec![Value::Host(host::from_bytes(
        call,
        dtype,
        a.shape().to_vec(),
        bytes,
    )?)])
}

fn shift(call: &mut Call<'_>) -> Outputs {
    let left = match call.node.string("direction") {
        Some("LEFT") => true,
        Some("RIGHT") => false,
        other => return Err(call.wrong(format!("direction {other:?} is neither LEFT nor RIGHT"))),
    };
    let (a, b) = (call.tensor(0)?, call.tensor(1)?);
    let (a, b) = host::broadcast(call, &a, &b)?;
    macro_rules! shifted {
        ($($name:ident $rust:ty),*) => {
            match a.dtype() {
                $(DType::$name => host::zip::<$rust, $rust>(call, &a, &b, |x, y| {
                    // Shifting by the whole width leaves the sign of a right shift.
                    let steps = u32::try_from(y).unwrap_or(u32::MAX);
                    Some(if left {
                        x.checked_shl(steps).unwrap_or(0)
                    } else {
                        x.checked_shr(steps).unwrap_or(if x < <$rust as Number>::ZERO { !0 } else { 0 })
                    })
                }),)*
                other => Err(host::unknown(call, other)),
            }
        };
    }
    let result = shifted!(
        UINT8 u8, UINT16 u16, UINT32 u32, UINT64 u64, INT8 i8, INT16 i16, INT32 i32, INT64 i64
    )?;
    Ok(vec![Value::Host(result)])
}
