//! Comparisons, logic and choice.

use std::cmp::Ordering;

use burn::backend::ops::FloatTensorOps;
use kmr_model::{DType, Tensor};

use super::{
    Operator, cast,
    host::{self, truths, with_number},
    movement::collect,
    onnx, strided,
};
use crate::interpreter::{B, Call, Float, Outputs, Value, mask, reshape};

pub const OPERATORS: &[Operator] = &[
    onnx("Equal", |call| compare(call, |order| order == Some(Ordering::Equal))),
    onnx("Less", |call| compare(call, |order| order == Some(Ordering::Less))),
    onnx("Greater", |call| {
        compare(call, |order| order == Some(Ordering::Greater))
    }),
    onnx("LessOrEqual", |call| {
        compare(call, |order| matches!(order, Some(Ordering::Less | Ordering::Equal)))
    }),
    onnx("GreaterOrEqual", |call| {
        compare(call, |order| matches!(order, Some(Ordering::Greater | Ordering::Equal)))
    }),
    onnx("Not", |call| {
        let tensor = call.tensor(0)?;
        if tensor.dtype() != DType::BOOL {
            return Err(host::unknown(call, tensor.dtype()));
        }
        let result = truths(call, tensor.shape(), tensor.bytes().iter().map(|&bit| bit == 0))?;
        Ok(vec![Value::Host(result)])
    }),
    onnx("And", |call| logic(call, |a, b| a && b)),
    onnx("Or", |call| logic(call, |a, b| a || b)),
    onnx("Xor", |call| logic(call, |a, b| a != b)),
    onnx("IsNaN", |call| test(call, |_| Box::new(f64::is_nan))),
    onnx("IsInf", |call| {
        test(call, |call| {
            let negative = call.int("detect_negative", 1) != 0;
            let positive = call.int("detect_positive", 1) != 0;
            Box::new(move |value| value.is_infinite() && if value < 0.0 { negative } else { positive })
        })
    }),
    onnx("Where", choose),
];

fn compare(call: &mut Call<'_>, holds: fn(Option<Ordering>) -> bool) -> Outputs {
    let (a, b) = (call.value(0)?, call.value(1)?);
    let (a, b) = host::broadcast(call, &a.into_tensor(), &b.into_tensor())?;
    // bool is ordered as its bytes are, half precision as float32.
    let comparable = |x: &Tensor| match x.dtype() {
        DType::BOOL => cast::converted(call, x, DType::UINT8),
        DType::FLOAT16 | DType::BFLOAT16 => cast::converted(call, x, DType::FLOAT),
        _ => Ok(x.clone()),
    };
    let (a, b) = (comparable(&a)?, comparable(&b)?);
    let result = with_number!(a.dtype(), N => {
        let (x, y) = (host::values::<N>(call, &a)?, host::values::<N>(call, &b)?);
        truths(call, a.shape(), x.iter().zip(y.iter()).map(|(x, y)| holds(x.partial_cmp(y))))
    }, else Err(host::unknown(call, a.dtype())))?;
    Ok(vec![Value::Host(result)])
}

fn logic(call: &mut Call<'_>, holds: fn(bool, bool) -> bool) -> Outputs {
    let (a, b) = (call.value(0)?, call.value(1)?);
    let (a, b) = host::broadcast(call, &a.into_tensor(), &b.into_tensor())?;
    if a.dtype() != DType::BOOL {
        return Err(host::unknown(call, a.dtype()));
    }
    let bits = a.bytes().iter().zip(b.bytes().iter());
    let result = truths(call, a.shape(), bits.map(|(&a, &b)| holds(a != 0, b != 0)))?;
    Ok(vec![Value::Host(result)])
}

/// A property of single floats.
type Property = Box<dyn Fn(f64) -> bool>;

/// Which elements have the property that the node asks for.
fn test(call: &mut Call<'_>, property: fn(&Call<'_>) -> Property) -> Outputs {
    let tensor = call.tensor(0)?;
    let cast::Numbers::Float(values) = cast::Numbers::of(&tensor).map_err(|message| call.unsupported(message))? else {
        return Err(host::unknown(call, tensor.dtype()));
    };
    let holds = property(call);
    let result = truths(call, tensor.shape(), values.into_iter().map(holds))?;
    Ok(vec![Value::Host(result)])
}

fn choose(call: &mut Call<'_>) -> Outputs {
    let condition = call.tensor(0)?;
    let (a, b) = (call.value(1)?, call.value(2)?);
    if condition.dtype() != DType::BOOL {
        return Err(call.wrong(format!("the condition is {}, not bool", condition.dtype())));
    }
    if a.dtype() != b.dtype() {
        return Err(call.wrong(format!("mixes {} and {}", a.dtype(), b.dtype())));
    }
    let shape = call.broadcast(&a.shape(), &b.shape())?;
    let shape = call.broadcast(&shape, condition.shape())?;
    host::count(call, &shape)?;
    let condition = strided::expand(&condition, &shape).map_err(|m| call.wrong(m))?;
    let chosen = condition.bytes().iter().map(|&bit| bit != 0);
    match (a, b) {
        (Value::Float(a), Value::Float(b)) => {
            let full = if shape.is_empty() { vec![1] } else { shape.clone() };
            let expand = |x: Float| expanded(x, &full);
            let result = B::float_mask_where(expand(b), mask(chosen.collect(), full.clone()), expand(a));
            Ok(vec![Value::Float(reshape(result, shape))])
        }
        (a, b) => {
            let places =
                |value: &Value| strided::positions(&shape, &strided::broadcast_strides(&value.shape(), &shape), 0);
            let first: usize = a.shape().iter().product();
            let pairs = places(&a).into_iter().zip(places(&b));
            let from = chosen
                .zip(pairs)
                .map(|(chosen, (x, y))| if chosen { x } else { first + y });
            let from = from.collect();
            Ok(vec![collect(call, vec![a, b], shape, from)?])
        }
    }
}

/// The tensor broadcast to `full`, which has at least rank 1.
pub fn expanded(float: Float, full: &[usize]) -> Float {
    let own = crate::interpreter::shape(&float);
    if own == full {
        return float;
    }
    let mut lead = vec![1; full.len() - own.len()];
    lead.extend(own);
    B::float_expand(reshape(float, lead), full.to_vec().into())
}
