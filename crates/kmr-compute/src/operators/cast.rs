//! Conversions between element types.

mod narrow;

use half::{bf16, f16};
use kmr_model::{DType, Tensor};

use super::{Operator, onnx, strided::Cells};
use crate::{
    ComputeError,
    interpreter::{Call, Outputs, Value, from_vec, is_tracked},
};
use narrow::Format;
pub use narrow::{Overflow, ScaleRounding};

pub const OPERATORS: &[Operator] = &[
    onnx("Cast", |call| {
        let target = DType::from_number(call.int("to", 0) as i32);
        convert(call, target)
    }),
    onnx("CastLike", |call| {
        let target = call.value(1)?.dtype();
        convert(call, target)
    }),
    onnx("BitCast", reinterpret),
];

fn convert(call: &mut Call<'_>, target: DType) -> Outputs {
    let value = call.value(0)?;
    if value.dtype() == target {
        return Ok(vec![value]);
    }
    if matches!(&value, Value::Float(float) if is_tracked(float)) {
        return Err(call.unsupported(format!("has no derivative through {target}")));
    }
    let saturates = call.int("saturate", 1) != 0;
    let options = Options {
        overflow: if saturates {
            Overflow::Saturates
        } else {
            Overflow::Special
        },
        scale_rounding: match call.node.string("round_mode").unwrap_or("up") {
            "up" => ScaleRounding::Up,
            "down" => ScaleRounding::Down,
            "nearest" => ScaleRounding::Nearest,
            other => return Err(call.unsupported(format!("rounding mode `{other}` is not known"))),
        },
    };
    let tensor = value.into_tensor();
    if target == DType::FLOAT
        && let Some(values) = widened(&tensor)
    {
        return Ok(vec![Value::Float(from_vec(values, tensor.shape().to_vec()))]);
    }
    let result = cast_with(&tensor, target, &options).map_err(|message| call.unsupported(message))?;
    Ok(vec![Value::from_tensor(result)])
}

/// The values of a tensor of a type that weights are stored in, all of which float32 holds: without the wider numbers
/// that other types go through, which take several times the memory of a large weight.
fn widened(tensor: &Tensor) -> Option<Vec<f32>> {
    let nibbles = |value: fn(u8) -> f32| {
        let bytes = tensor.bytes().iter();
        let mut values: Vec<f32> = Vec::with_capacity(tensor.len() + 1);
        values.extend(bytes.flat_map(|byte| [value(byte & 0xf), value(byte >> 4)]));
        values.truncate(tensor.len());
        values
    };
    match tensor.dtype() {
        DType::FLOAT16 | DType::BFLOAT16 => Some(tensor.to_f32().ok()?.into_owned()),
        DType::INT8 => Some(tensor.values::<i8>().ok()?.iter().map(|&value| value.into()).collect()),
        DType::UINT8 => Some(tensor.bytes().iter().map(|&value| value.into()).collect()),
        DType::INT4 => Some(nibbles(|code| ((code << 4).cast_signed() >> 4).into())),
        DType::UINT4 => Some(nibbles(f32::from)),
        _ => None,
    }
}

/// The same bits under another type.
fn reinterpret(call: &mut Call<'_>) -> Outputs {
    let target = DType::from_number(call.int("to", 0) as i32);
    let tensor = call.constant(0)?;
    if tensor.dtype().bits().is_none() || tensor.dtype().bits() != target.bits() {
        return Err(call.wrong(format!("{} and {target} differ in width", tensor.dtype())));
    }
    let tensor = Tensor::new(target, tensor.shape().to_vec(), tensor.bytes().clone());
    let tensor = tensor.map_err(|error| call.wrong(error.to_string()))?;
    Ok(vec![Value::from_tensor(tensor)])
}

/// How a conversion treats what its target cannot hold.
pub struct Options {
    /// What becomes of values beyond an 8-bit float.
    pub overflow: Overflow,
    /// How float8e8m0 rounds.
    pub scale_rounding: ScaleRounding,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            overflow: Overflow::Saturates,
            scale_rounding: ScaleRounding::Up,
        }
    }
}

/// The values of a tensor of any number type, each exact.
pub enum Numbers {
    Float(Vec<f64>),
    Signed(Vec<i64>),
    Unsigned(Vec<u64>),
}

impl Numbers {
    /// The values of `tensor`.
    pub fn of(tensor: &Tensor) -> Result<Self, String> {
        macro_rules! widened {
            ($variant:ident, $rust:ty) => {{
                let values = tensor.values::<$rust>().map_err(|error| error.to_string())?;
                Self::$variant(values.iter().map(|&value| value.into()).collect())
            }};
        }
        Ok(match tensor.dtype() {
            DType::FLOAT => widened!(Float, f32),
            DType::DOUBLE => widened!(Float, f64),
            DType::FLOAT16 => widened!(Float, f16),
            DType::BFLOAT16 => widened!(Float, bf16),
            DType::INT8 => widened!(Signed, i8),
            DType::INT16 => widened!(Signed, i16),
            DType::INT32 => widened!(Signed, i32),
            DType::INT64 => widened!(Signed, i64),
            DType::UINT8 => widened!(Unsigned, u8),
            DType::UINT16 => widened!(Unsigned, u16),
            DType::UINT32 => widened!(Unsigned, u32),
            DType::UINT64 => widened!(Unsigned, u64),
            DType::BOOL => Self::Unsigned(tensor.bytes().iter().map(|&byte| u64::from(byte != 0)).collect()),
            DType::UINT4 | DType::UINT2 => {
                let cells = Cells::new(tensor)?;
                Self::Unsigned(cells.bytes.iter().map(|&cell| cell.into()).collect())
            }
            packed @ (DType::INT4 | DType::INT2) => {
                let shift = if packed == DType::INT4 { 4 } else { 6 };
                let signed = |&cell: &u8| i64::from((cell << shift).cast_signed() >> shift);
                Self::Signed(Cells::new(tensor)?.bytes.iter().map(signed).collect())
            }
            DType::FLOAT8E8M0 => Self::Float(tensor.bytes().iter().map(|&code| narrow::scale_value(code)).collect()),
            other => {
                let format = Format::of(other).ok_or_else(|| format!("the values of {other} are not known here"))?;
                let cells = Cells::new(tensor)?;
                Self::Float(cells.bytes.iter().map(|&code| format.value(code.into())).collect())
            }
        })
    }

    /// The values rounded to float64.
    pub fn into_f64(self) -> Vec<f64> {
        match self {
            Self::Float(values) => values,
            Self::Signed(values) => values.into_iter().map(|value| value as f64).collect(),
            Self::Unsigned(values) => values.into_iter().map(|value| value as f64).collect(),
        }
    }

    /// The values as a tensor of type `target`.
    pub fn into_tensor(self, target: DType, shape: Vec<usize>, options: &Options) -> Result<Tensor, String> {
        match target {
            // Directly, so that nothing is rounded twice.
            DType::FLOAT => {
                let values = match self {
                    Self::Float(values) => values.into_iter().map(|value| value as f32).collect(),
                    Self::Signed(values) => values.into_iter().map(|value| value as f32).collect(),
                    Self::Unsigned(values) => values.into_iter().map(|value| value as f32).collect(),
                };
                Ok(Tensor::from_vec(shape, values))
            }
            DType::DOUBLE => Ok(Tensor::from_vec(shape, self.into_f64())),
            DType::FLOAT8E8M0 => {
                let code = |value| narrow::scale_code(value, options.overflow, options.scale_rounding);
                let cells = self.into_f64().into_iter().map(code).collect();
                Cells::tensor(target, shape, cells)
            }
            DType::BOOL => {
                let cells = match self {
                    Self::Float(values) => values.into_iter().map(|value| u8::from(value != 0.0)).collect(),
                    Self::Signed(values) => values.into_iter().map(|value| u8::from(value != 0)).collect(),
                    Self::Unsigned(values) => values.into_iter().map(|value| u8::from(value != 0)).collect(),
                };
                Cells::tensor(target, shape, cells)
            }
            _ => match Format::of(target) {
                Some(format) if target == DType::FLOAT16 || target == DType::BFLOAT16 => {
                    let codes = self.into_f64().into_iter();
                    let codes = codes.flat_map(|value| format.code(value, Overflow::Special).to_le_bytes());
                    Cells::tensor(target, shape, codes.collect())
                }
                Some(format) => {
                    let codes = self.into_f64().into_iter();
                    let codes = codes.map(|value| format.code(value, options.overflow) as u8);
                    Cells::tensor(target, shape, codes.collect())
                }
                None => integers(target, shape, &self.into_bits(target)),
            },
        }
    }

    /// The values as integers whose low bits are those of `target`; floats are cut off towards zero.
    fn into_bits(self, target: DType) -> Vec<i64> {
        match self {
            Self::Float(values) if target == DType::UINT64 => values
                .into_iter()
                .map(|value| {
                    if value < 0.0 {
                        value as i64
                    } else {
                        (value as u64).cast_signed()
                    }
                })
                .collect(),
            Self::Float(values) => values.into_iter().map(|value| value as i64).collect(),
            Self::Signed(values) => values,
            Self::Unsigned(values) => values.into_iter().map(u64::cast_signed).collect(),
        }
    }
}

/// Integers as a tensor of an integer type; excess bits are cut off.
fn integers(dtype: DType, shape: Vec<usize>, values: &[i64]) -> Result<Tensor, String> {
    let size = match dtype {
        DType::INT64 | DType::UINT64 => 8,
        DType::INT32 | DType::UINT32 => 4,
        DType::INT16 | DType::UINT16 => 2,
        DType::INT8 | DType::UINT8 | DType::INT4 | DType::UINT4 | DType::INT2 | DType::UINT2 => 1,
        other => return Err(format!("cannot convert to {other}")),
    };
    let cells = values
        .iter()
        .flat_map(|value| value.to_le_bytes().into_iter().take(size));
    Cells::tensor(dtype, shape, cells.collect())
}

/// `tensor` converted as ONNX's `Cast` does: floats are rounded to nearest even, floats to integers
/// are cut off towards zero, everything but zero is true.
pub fn cast(tensor: &Tensor, target: DType) -> Result<Tensor, String> {
    cast_with(tensor, target, &Options::default())
}

fn cast_with(tensor: &Tensor, target: DType, options: &Options) -> Result<Tensor, String> {
    if tensor.dtype() == target {
        return Ok(tensor.clone());
    }
    let shape = tensor.shape().to_vec();
    if tensor.dtype() == DType::FLOAT && target == DType::FLOAT16 {
        let values = tensor.values::<f32>().map_err(|error| error.to_string())?;
        return Ok(Tensor::from_vec(
            shape,
            values.iter().map(|&value| f16::from_f32(value)).collect(),
        ));
    }
    let numbers = Numbers::of(tensor)?;
    numbers.into_tensor(target, shape, options)
}

/// Converts inside an operator.
pub fn converted(call: &Call<'_>, tensor: &Tensor, target: DType) -> Result<Tensor, ComputeError> {
    cast(tensor, target).map_err(|message| call.unsupported(message))
}
