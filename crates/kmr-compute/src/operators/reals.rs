//! Floating-point tensors on the host: read as float64, computed with in it, and rounded once.
//!
//! For operators without a derivative whose cost does not matter; it serves every float type alike.

use kmr_model::{DType, Tensor};

use super::cast::cast;
use crate::{
    ComputeError,
    interpreter::{Call, Value},
};

/// A floating-point tensor.
pub struct Reals {
    /// The type it had, and results have.
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

impl Reals {
    /// Input `position`, which must be floating-point and off the tape.
    pub fn new(call: &mut Call<'_>, position: usize) -> Result<Self, ComputeError> {
        let tensor = call.constant(position)?;
        if !tensor.dtype().is_float() {
            return Err(call.unsupported(format!("input {position} is {}", tensor.dtype())));
        }
        Self::of(call, &tensor)
    }

    pub fn optional(call: &mut Call<'_>, position: usize) -> Result<Option<Self>, ComputeError> {
        call.has(position).then(|| Self::new(call, position)).transpose()
    }

    /// Any tensor of numbers that float64 holds exactly.
    pub fn of(call: &Call<'_>, tensor: &Tensor) -> Result<Self, ComputeError> {
        let wide = cast(tensor, DType::DOUBLE).map_err(|message| call.unsupported(message))?;
        let values = wide.values::<f64>().map_err(|e| call.wrong(e.to_string()))?;
        Ok(Self {
            dtype: tensor.dtype(),
            shape: tensor.shape().to_vec(),
            values: values.into_owned(),
        })
    }
}

/// `values` as a value of type `dtype`.
pub fn rounded(call: &Call<'_>, dtype: DType, shape: Vec<usize>, values: Vec<f64>) -> Result<Value, ComputeError> {
    let tensor = cast(&Tensor::from_vec(shape, values), dtype).map_err(|message| call.unsupported(message))?;
    Ok(Value::from_tensor(tensor))
}

/// The one number that input `position` holds.
pub fn number(call: &mut Call<'_>, position: usize) -> Result<f64, ComputeError> {
    let tensor = call.constant(position)?;
    let reals = Reals::of(call, &tensor)?;
    match reals.values[..] {
        [value] => Ok(value),
        _ => Err(call.wrong(format!("input {position} must be one number; got {:?}", reals.shape))),
    }
}

/// `count` copies of `fill`, for a shape that comes from values rather than from other shapes.
pub fn filled<T: Copy>(call: &Call<'_>, shape: &[usize], fill: T) -> Result<Vec<T>, ComputeError> {
    let count = shape.iter().try_fold(1_usize, |count, &size| count.checked_mul(size));
    let mut values = Vec::new();
    match count {
        Some(count) if values.try_reserve_exact(count).is_ok() => {
            values.resize(count, fill);
            Ok(values)
        }
        _ => Err(call.wrong(format!("shape {shape:?} is too large"))),
    }
}
