//! Values that come from attributes and shapes.

use kmr_model::{DType, Tensor, codec};

use super::{Operator, cast, host, onnx, strided::Cells};
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
    onnx("EyeLike", eye),
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
    if value.len() != 1 {
        return Err(call.wrong(format!("the value must be one number; got {:?}", value.shape())));
    }
    let count = host::count(call, &shape)?;
    let cells = Cells::new(&value).map_err(|message| call.unsupported(message))?;
    let tensor = Cells::tensor(value.dtype(), shape, cells.bytes.repeat(count));
    Ok(vec![Value::from_tensor(tensor.map_err(|message| call.wrong(message))?)])
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
    let (start, limit, step) = (call.constant(0)?, call.constant(1)?, call.constant(2)?);
    let dtype = start.dtype();
    let bounds = [&start, &limit, &step];
    if bounds.iter().any(|bound| bound.len() != 1 || bound.dtype() != dtype) {
        return Err(call.wrong("needs three numbers of one type"));
    }
    let too_long = || call.wrong("the range is too long");
    let numbers = if dtype.is_float() {
        let number = |bound: &Tensor| cast::Numbers::of(bound).map(|numbers| numbers.into_f64()[0]);
        let bounds = (number(&start), number(&limit), number(&step));
        let (Ok(start), Ok(limit), Ok(step)) = bounds else {
            return Err(host::unknown(call, dtype));
        };
        let count = ((limit - start) / step).ceil().max(0.0);
        if step == 0.0 || !count.is_finite() {
            return Err(call.wrong(format!("from {start} to {limit} in steps of {step} is no range")));
        }
        let count = host::count(call, &[count as usize]).map_err(|_| too_long())?;
        cast::Numbers::Float((0..count).map(|position| start + position as f64 * step).collect())
    } else {
        let number = |bound: &Tensor| {
            let bound = cast::converted(call, bound, DType::INT64)?;
            host::integer(call, &bound)
        };
        let (start, limit, step) = (number(&start)?, number(&limit)?, number(&step)?);
        if step == 0 {
            return Err(call.wrong("the step is zero"));
        }
        let distance = i128::from(limit) - i128::from(start);
        let steps = if (distance > 0) == (step > 0) {
            distance.unsigned_abs().div_ceil(step.unsigned_abs().into())
        } else {
            0
        };
        let count = usize::try_from(steps).map_err(|_| too_long())?;
        let count = host::count(call, &[count]).map_err(|_| too_long())?;
        cast::Numbers::Signed((0..count).map(|position| start + position as i64 * step).collect())
    };
    let length = match &numbers {
        cast::Numbers::Float(values) => values.len(),
        cast::Numbers::Signed(values) => values.len(),
        cast::Numbers::Unsigned(values) => values.len(),
    };
    let tensor = numbers.into_tensor(dtype, vec![length], &cast::Options::default());
    Ok(vec![Value::from_tensor(
        tensor.map_err(|message| call.unsupported(message))?,
    )])
}

/// Ones on a diagonal of a matrix, zeros elsewhere.
fn eye(call: &mut Call<'_>) -> Outputs {
    let like = call.value(0)?;
    let target = call
        .node
        .int("dtype")
        .map_or(like.dtype(), |number| DType::from_number(number as i32));
    let shape = like.shape();
    let [rows, columns] = shape[..] else {
        return Err(call.wrong(format!("{shape:?} is no matrix")));
    };
    let diagonal = call.int("k", 0);
    let mut ones = vec![0_u8; rows * columns];
    for row in 0..rows {
        let column = (row as i64)
            .checked_add(diagonal)
            .and_then(|column| usize::try_from(column).ok());
        if let Some(column) = column.filter(|&column| column < columns) {
            ones[row * columns + column] = 1;
        }
    }
    let tensor = cast::converted(call, &Tensor::from_vec(shape, ones), target)?;
    Ok(vec![Value::from_tensor(tensor)])
}
