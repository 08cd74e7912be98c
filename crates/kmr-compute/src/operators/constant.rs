//! Values that come from attributes and shapes.

use kmr_model::{DType, Tensor, codec};

use super::{Operator, onnx};
use crate::{
    ComputeError,
    interpreter::{Call, Outputs, Value},
};

pub const OPERATORS: &[Operator] = &[
    onnx("Constant", constant),
    onnx("ConstantOfShape", constant_of_shape),
    onnx("Shape", dimensions),
    onnx("Size", |call| {
        let count: usize = call.value(0)?.shape().iter().product();
        Ok(vec![Value::Host(Tensor::scalar(count as i64))])
    }),
    onnx("Range", range),
];

/// The tensor attribute `name`.
fn tensor_attribute(call: &Call<'_>, name: &str) -> Result<Option<Tensor>, ComputeError> {
    let message = call.node.attribute(name).and_then(|a| a.t.as_option());
    message
        .map(|message| codec::tensor_from_message(message).map_err(|e| call.wrong(e.to_string())))
        .transpose()
}

fn constant(call: &mut Call<'_>) -> Outputs {
    let node = call.node;
    let tensor = if let Some(tensor) = tensor_attribute(call, "value")? {
        tensor
    } else if let Some(value) = node.float("value_float") {
        Tensor::scalar(value)
    } else if let Some(value) = node.int("value_int") {
        Tensor::scalar(value)
    } else if let Some(values) = node.floats("value_floats") {
        Tensor::from_vec(vec![values.len()], values.to_vec())
    } else if let Some(values) = node.ints("value_ints") {
        Tensor::from_vec(vec![values.len()], values.to_vec())
    } else {
        return Err(call.unsupported("holds neither a tensor nor numbers"));
    };
    Ok(vec![Value::from_tensor(tensor)])
}

/// Sizes that come as a tensor.
pub fn sizes(call: &Call<'_>, values: Vec<i64>) -> Result<Vec<usize>, ComputeError> {
    values
        .iter()
        .map(|&size| usize::try_from(size))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| call.wrong(format!("shape {values:?} is negative")))
}

fn constant_of_shape(call: &mut Call<'_>) -> Outputs {
    let shape = call.integers(0)?;
    let shape = sizes(call, shape)?;
    let value = tensor_attribute(call, "value")?.unwrap_or_else(|| Tensor::scalar(0.0_f32));
    if value.len() != 1 || value.dtype().bits().is_none_or(|bits| bits < 8) {
        return Err(call.wrong(format!("the value must be one number; got {:?}", value.shape())));
    }
    let count = shape
        .iter()
        .try_fold(value.byte_len(), |product, &size| product.checked_mul(size));
    if count.is_none_or(|bytes| bytes > isize::MAX as usize) {
        return Err(call.wrong(format!("shape {shape:?} is too large")));
    }
    let bytes = value.bytes().repeat(shape.iter().product());
    let tensor = Tensor::new(value.dtype(), shape, bytes.into());
    Ok(vec![Value::from_tensor(tensor.map_err(|e| call.wrong(e.to_string()))?)])
}

fn dimensions(call: &mut Call<'_>) -> Outputs {
    let shape = call.value(0)?.shape();
    let rank = shape.len() as i64;
    let clamp = |position: i64| {
        let from_start = if position < 0 { position + rank } else { position };
        from_start.clamp(0, rank) as usize
    };
    let (start, end) = (clamp(call.int("start", 0)), clamp(call.int("end", rank)));
    let shape: Vec<i64> = shape[start..end.max(start)].iter().map(|&size| size as i64).collect();
    Ok(vec![Value::Host(Tensor::from_vec(vec![shape.len()], shape))])
}

fn range(call: &mut Call<'_>) -> Outputs {
    let (start, limit, step) = (call.tensor(0)?, call.tensor(1)?, call.tensor(2)?);
    if start.dtype() == DType::INT64 && [&start, &limit, &step].iter().all(|t| t.len() == 1) {
        let number = |tensor: &Tensor| tensor.to_i64().map_err(|e| call.wrong(e.to_string()));
        let (start, limit, step) = (number(&start)?[0], number(&limit)?[0], number(&step)?[0]);
        if step == 0 {
            return Err(call.wrong("the step is zero"));
        }
        let mut values = Vec::new();
        let mut next = start;
        while (step > 0 && next < limit) || (step < 0 && next > limit) {
            values.push(next);
            next = next.saturating_add(step);
        }
        return Ok(vec![Value::Host(Tensor::from_vec(vec![values.len()], values))]);
    }
    Err(call.unsupported("only ranges of int64 are supported"))
}
