//! Comparisons, logic and choice.

use std::cmp::Ordering;

use burn::backend::ops::FloatTensorOps;
use kmr_model::{DType, Tensor};

use super::{Operator, onnx, strided};
use crate::{
    ComputeError,
    interpreter::{B, Call, Float, Outputs, Value, mask, reshape},
};

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
        let bits = tensor.to_i64().map_err(|e| call.wrong(e.to_string()))?;
        let shape = tensor.shape().to_vec();
        truths(call, shape, bits.iter().map(|&bit| bit == 0))
    }),
    onnx("And", |call| logic(call, |a, b| a && b)),
    onnx("Or", |call| logic(call, |a, b| a || b)),
    onnx("Where", choose),
];

fn truths(call: &Call<'_>, shape: Vec<usize>, values: impl Iterator<Item = bool>) -> Outputs {
    let bytes: Vec<u8> = values.map(u8::from).collect();
    let tensor = Tensor::new(DType::BOOL, shape, bytes.into());
    let tensor = tensor.map_err(|e| call.wrong(e.to_string()))?;
    Ok(vec![Value::Host(tensor)])
}

/// Both inputs, of one type and broadcast to one shape.
fn operands(call: &mut Call<'_>) -> Result<(Tensor, Tensor), ComputeError> {
    let (a, b) = (call.tensor(0)?, call.tensor(1)?);
    if a.dtype() != b.dtype() {
        return Err(call.wrong(format!("mixes {} and {}", a.dtype(), b.dtype())));
    }
    let shape = call.broadcast(a.shape(), b.shape())?;
    let expand = |x: &Tensor| strided::expand(x, &shape).map_err(|message| call.wrong(message));
    Ok((expand(&a)?, expand(&b)?))
}

fn compare(call: &mut Call<'_>, holds: fn(Option<Ordering>) -> bool) -> Outputs {
    let (a, b) = operands(call)?;
    let wrong = |e: kmr_model::ModelError| call.wrong(e.to_string());
    let shape = a.shape().to_vec();
    if a.dtype().is_float() {
        let (x, y) = (a.to_f32().map_err(wrong)?, b.to_f32().map_err(wrong)?);
        truths(
            call,
            shape,
            x.iter().zip(y.iter()).map(|(x, y)| holds(x.partial_cmp(y))),
        )
    } else {
        let unknown = |e: kmr_model::ModelError| call.unsupported(e.to_string());
        let (x, y) = (a.to_i64().map_err(unknown)?, b.to_i64().map_err(unknown)?);
        truths(call, shape, x.iter().zip(&y).map(|(x, y)| holds(Some(x.cmp(y)))))
    }
}

fn logic(call: &mut Call<'_>, holds: fn(bool, bool) -> bool) -> Outputs {
    let (a, b) = operands(call)?;
    let bits = a.bytes().iter().zip(b.bytes().iter());
    truths(call, a.shape().to_vec(), bits.map(|(&a, &b)| holds(a != 0, b != 0)))
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
            let wrong = |message: String| call.wrong(message);
            let a = strided::expand(&a.into_tensor(), &shape).map_err(wrong)?;
            let b = strided::expand(&b.into_tensor(), &shape).map_err(wrong)?;
            let size = strided::element_size(a.dtype()).map_err(wrong)?;
            let mut bytes = Vec::with_capacity(a.byte_len());
            let elements = a.bytes().chunks(size).zip(b.bytes().chunks(size));
            for (chosen, (a, b)) in chosen.zip(elements) {
                bytes.extend_from_slice(if chosen { a } else { b });
            }
            let result = Tensor::new(a.dtype(), shape, bytes.into());
            Ok(vec![Value::Host(result.map_err(|e| call.wrong(e.to_string()))?)])
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
