//! Conversions between element types.

use half::{bf16, f16};
use kmr_model::{DType, Tensor};

use super::{Operator, onnx};
use crate::interpreter::{Call, Outputs, Value, is_tracked};

pub const OPERATORS: &[Operator] = &[
    onnx("Cast", |call| {
        let target = DType::from_number(call.int("to", 0) as i32);
        convert(call, target)
    }),
    onnx("CastLike", |call| {
        let target = call.value(1)?.dtype();
        convert(call, target)
    }),
];

fn convert(call: &mut Call<'_>, target: DType) -> Outputs {
    let value = call.value(0)?;
    if value.dtype() == target {
        return Ok(vec![value]);
    }
    if matches!(&value, Value::Float(float) if is_tracked(float)) {
        return Err(call.unsupported(format!("has no derivative through {target}")));
    }
    let result = cast(&value.into_tensor(), target).map_err(|message| call.unsupported(message))?;
    Ok(vec![Value::from_tensor(result)])
}

/// Integers as a tensor of an integer type or bool; excess bits are cut off.
pub fn from_i64(dtype: DType, shape: Vec<usize>, values: &[i64]) -> Result<Tensor, String> {
    macro_rules! narrow {
        ($rust:ty) => {
            Tensor::from_vec(shape, values.iter().map(|&v| v as $rust).collect::<Vec<_>>())
        };
    }
    Ok(match dtype {
        DType::INT64 => narrow!(i64),
        DType::INT32 => narrow!(i32),
        DType::INT16 => narrow!(i16),
        DType::INT8 => narrow!(i8),
        DType::UINT64 => narrow!(u64),
        DType::UINT32 => narrow!(u32),
        DType::UINT16 => narrow!(u16),
        DType::UINT8 => narrow!(u8),
        DType::BOOL => {
            let bytes: Vec<u8> = values.iter().map(|&v| u8::from(v != 0)).collect();
            Tensor::new(dtype, shape, bytes.into()).map_err(|error| error.to_string())?
        }
        other => return Err(format!("{other} is no integer type known here")),
    })
}

/// The values of any numeric type as integers.
fn to_i64(tensor: &Tensor) -> Result<Vec<i64>, String> {
    let text = |error: kmr_model::ModelError| error.to_string();
    macro_rules! widen {
        ($rust:ty) => {
            tensor
                .values::<$rust>()
                .map_err(text)?
                .iter()
                .map(|&v| v as i64)
                .collect()
        };
    }
    Ok(match tensor.dtype() {
        DType::INT16 => widen!(i16),
        DType::UINT16 => widen!(u16),
        DType::UINT32 => widen!(u32),
        DType::UINT64 => widen!(u64),
        _ => tensor.to_i64().map_err(text)?,
    })
}

/// `tensor` converted as ONNX's `Cast` does: floats are rounded to nearest even, floats to integers
/// are cut off towards zero, everything but zero is true.
pub fn cast(tensor: &Tensor, target: DType) -> Result<Tensor, String> {
    let shape = tensor.shape().to_vec();
    let text = |error: kmr_model::ModelError| error.to_string();
    if tensor.dtype().is_float() {
        let wide: Vec<f64> = match tensor.dtype() {
            DType::DOUBLE => tensor.values::<f64>().map_err(text)?.into_owned(),
            _ => tensor.to_f32().map_err(text)?.iter().map(|&v| v.into()).collect(),
        };
        return from_f64(target, shape, &wide);
    }
    let values = to_i64(tensor)?;
    if target.is_float() {
        let wide: Vec<f64> = if tensor.dtype() == DType::UINT64 {
            values.iter().map(|&v| v as u64 as f64).collect()
        } else {
            values.iter().map(|&v| v as f64).collect()
        };
        from_f64(target, shape, &wide)
    } else {
        from_i64(target, shape, &values)
    }
}

fn from_f64(target: DType, shape: Vec<usize>, values: &[f64]) -> Result<Tensor, String> {
    let values = values.iter();
    Ok(match target {
        DType::FLOAT => Tensor::from_vec(shape, values.map(|&v| v as f32).collect()),
        DType::DOUBLE => Tensor::from_vec(shape, values.copied().collect()),
        DType::FLOAT16 => Tensor::from_vec(shape, values.map(|&v| f16::from_f64(v)).collect()),
        DType::BFLOAT16 => Tensor::from_vec(shape, values.map(|&v| bf16::from_f64(v)).collect()),
        DType::UINT64 => Tensor::from_vec(shape, values.map(|&v| v as u64).collect()),
        DType::BOOL => {
            let bytes: Vec<u8> = values.map(|&v| u8::from(v != 0.0)).collect();
            Tensor::new(target, shape, bytes.into()).map_err(|error| error.to_string())?
        }
        _ => {
            let values: Vec<i64> = values.map(|&v| v as i64).collect();
            from_i64(target, shape, &values)?
        }
    })
}
