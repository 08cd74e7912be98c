//! Quantization and dequantization, exact.

use kmr_model::{DType, Tensor};

use super::{Operator, cast::cast, onnx};
use crate::{
    ComputeError,
    interpreter::{Call, Outputs, Value},
};

pub const OPERATORS: &[Operator] = &[onnx("QuantizeLinear", quantize), onnx("DequantizeLinear", dequantize)];

/// Least and greatest value and bits of an integer type.
fn limits(dtype: DType) -> Option<(i32, i32, usize)> {
    Some(match dtype {
        DType::INT8 => (-128, 127, 8),
        DType::UINT8 => (0, 255, 8),
        DType::INT16 => (-32_768, 32_767, 16),
        DType::UINT16 => (0, 65_535, 16),
        DType::INT4 => (-8, 7, 4),
        DType::UINT4 => (0, 15, 4),
        DType::INT2 => (-2, 1, 2),
        DType::UINT2 => (0, 3, 2),
        DType::INT32 => (i32::MIN, i32::MAX, 32),
        _ => return None,
    })
}

/// Integers of any of these types; packed ones start at the low bits.
fn unpack(tensor: &Tensor) -> Option<Vec<i32>> {
    let (low, _, bits) = limits(tensor.dtype())?;
    let bytes = tensor.bytes();
    Some(match bits {
        32 => bytes
            .chunks_exact(4)
            .map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect(),
        16 if low < 0 => bytes
            .chunks_exact(2)
            .map(|b| i16::from_le_bytes([b[0], b[1]]).into())
            .collect(),
        16 => bytes
            .chunks_exact(2)
            .map(|b| u16::from_le_bytes([b[0], b[1]]).into())
            .collect(),
        8 if low < 0 => bytes.iter().map(|&b| (b as i8).into()).collect(),
        8 => bytes.iter().map(|&b| b.into()).collect(),
        _ => {
            let per_byte = 8 / bits;
            (0..tensor.len())
                .map(|position| {
                    let shift = position % per_byte * bits;
                    let value = i32::from(bytes[position / per_byte] >> shift) & ((1 << bits) - 1);
                    if low < 0 && value >= 1 << (bits - 1) {
                        value - (1 << bits)
                    } else {
                        value
                    }
                })
                .collect()
        }
    })
}

fn pack(dtype: DType, shape: Vec<usize>, values: &[i32]) -> Option<Tensor> {
    let (_, _, bits) = limits(dtype)?;
    let bytes: Vec<u8> = match bits {
        32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        16 => values.iter().flat_map(|&v| (v as u16).to_le_bytes()).collect(),
        8 => values.iter().map(|&v| v as u8).collect(),
        _ => values
            .chunks(8 / bits)
            .map(|chunk| {
                let parts = chunk.iter().enumerate();
                parts.fold(0, |byte, (k, &v)| byte | ((v & ((1 << bits) - 1)) << (k * bits)) as u8)
            })
            .collect(),
    };
    Tensor::new(dtype, shape, bytes.into()).ok()
}

/// Which scale each element uses.
struct Granularity {
    /// Elements of one step along the axis.
    inner: usize,
    /// Size of the axis.
    size: usize,
    /// Steps along the axis that share a scale.
    block: usize,
    /// Scales along the axis.
    scales: usize,
}

impl Granularity {
    fn new(call: &Call<'_>, shape: &[usize], scale: &[usize]) -> Result<Self, ComputeError> {
        if scale.iter().product::<usize>() == 1 && scale.len() <= 1 {
            let length = shape.iter().product::<usize>().max(1);
            return Ok(Self {
                inner: length,
                size: 1,
                block: 1,
                scales: 1,
            });
        }
        let axis = call.axis(call.int("axis", 1), shape.len())?;
        let inner = shape[axis + 1..].iter().product();
        let size = shape[axis];
        let block = call.int("block_size", 0);
        if scale.len() == 1 && scale[0] == size {
            return Ok(Self {
                inner,
                size,
                block: 1,
                scales: size,
            });
        }
        let block = usize::try_from(block).unwrap_or(0);
        let blocked = scale.len() == shape.len()
            && block > 0
            && (0..shape.len()).all(|other| {
                let expected = if other == axis {
                    size.div_ceil(block)
                } else {
                    shape[other]
                };
                scale[other] == expected
            });
        if !blocked {
            return Err(call.wrong(format!("scales of {scale:?} do not fit {shape:?} along axis {axis}")));
        }
        Ok(Self {
            inner,
            size,
            block,
            scales: size.div_ceil(block),
        })
    }

    /// The scale of element `position`.
    fn scale(&self, position: usize, per_axis: bool) -> usize {
        let step = position / self.inner % self.size / self.block;
        if per_axis {
            return step;
        }
        let outer = position / (self.inner * self.size);
        (outer * self.scales + step) * self.inner + position % self.inner
    }
}

/// Scales as float32, zero points as integers, and for each element which of them it uses.
type Scales = (Vec<f32>, Vec<i32>, Vec<usize>);

fn scales(call: &mut Call<'_>, shape: &[usize], scale: &Tensor, zero: Option<&Tensor>) -> Result<Scales, ComputeError> {
    let granularity = Granularity::new(call, shape, scale.shape())?;
    let values = scale.to_f32().map_err(|e| call.wrong(e.to_string()))?.into_owned();
    let zeros = match zero {
        Some(zero) if zero.shape().iter().product::<usize>() == values.len() => {
            unpack(zero).ok_or_else(|| call.unsupported(format!("zero points are {}", zero.dtype())))?
        }
        Some(zero) => {
            return Err(call.wrong(format!(
                "scales of {:?} with zero points of {:?}",
                scale.shape(),
                zero.shape()
            )));
        }
        None => vec![0; values.len()],
    };
    let per_axis = scale.shape().len() <= 1;
    let length: usize = shape.iter().product();
    let uses = (0..length)
        .map(|position| granularity.scale(position, per_axis))
        .collect();
    Ok((values, zeros, uses))
}

fn quantize(call: &mut Call<'_>) -> Outputs {
    let x = call.constant(0)?;
    let scale = call.constant(1)?;
    let zero = call.optional_value(2).map(Value::into_tensor);
    let target = match (&zero, call.int("output_dtype", 0)) {
        (Some(zero), _) => zero.dtype(),
        (None, 0) => DType::UINT8,
        (None, number) => DType::from_number(number as i32),
    };
    let Some((low, high, bits)) = limits(target).filter(|&(.., bits)| bits < 32) else {
        return Err(call.unsupported(format!("quantizes to {target}")));
    };
    debug_assert!(bits <= 16);
    let values = x.to_f32().map_err(|e| call.wrong(e.to_string()))?.into_owned();
    let (scale, zeros, uses) = scales(call, x.shape(), &scale, zero.as_ref())?;
    let quantized: Vec<i32> = values
        .iter()
        .zip(&uses)
        .map(|(&value, &at)| {
            // NaN becomes zero here, as the conversion of floats to integers has it.
            let steps = (value / scale[at]).round_ties_even();
            (steps as i32).saturating_add(zeros[at]).clamp(low, high)
        })
        .collect();
    let tensor = pack(target, x.shape().to_vec(), &quantized);
    let tensor = tensor.ok_or_else(|| call.wrong("does not fill its shape"))?;
    Ok(vec![Value::Host(tensor)])
}

fn dequantize(call: &mut Call<'_>) -> Outputs {
    let x = call.constant(0)?;
    let scale = call.constant(1)?;
    let zero = call.optional_value(2).map(Value::into_tensor);
    let Some(values) = unpack(&x) else {
        return Err(call.unsupported(format!("dequantizes {}", x.dtype())));
    };
    if let Some(zero) = &zero
        && zero.dtype() != x.dtype()
    {
        return Err(call.wrong(format!("{} with zero points of {}", x.dtype(), zero.dtype())));
    }
    let result_type = scale.dtype();
    let (scale, zeros, uses) = scales(call, x.shape(), &scale, zero.as_ref())?;
    let floats: Vec<f32> = values
        .iter()
        .zip(&uses)
        .map(|(&value, &at)| (i64::from(value) - i64::from(zeros[at])) as f32 * scale[at])
        .collect();
    let tensor = Tensor::from_vec(x.shape().to_vec(), floats);
    let tensor = cast(&tensor, result_type).map_err(|message| call.wrong(message))?;
    Ok(vec![Value::from_tensor(tensor)])
}
