//! Quantization and dequantization, exact.

mod bytes;

use half::{bf16, f16};
use kmr_model::{DType, Tensor};

use super::{
    Operator,
    cast::{Numbers, Options, Overflow, cast},
    onnx,
    reals::Reals,
};
use crate::{
    ComputeError,
    interpreter::{Call, Outputs, Recorded, Value, from_vec, into_vec, shape, with_slice},
};

pub const OPERATORS: &[Operator] = &[
    onnx("QuantizeLinear", quantize).recorded(quantized),
    onnx("DequantizeLinear", dequantize).recorded(dequantized),
    onnx("DynamicQuantizeLinear", quantize_by_range),
];

/// Least and greatest value and bits of an integer type.
pub fn limits(dtype: DType) -> Option<(i32, i32, usize)> {
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
pub fn unpack(tensor: &Tensor) -> Option<Vec<i32>> {
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

/// Integers as a tensor of one of these types.
pub fn pack(dtype: DType, shape: Vec<usize>, values: &[i32]) -> Option<Tensor> {
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

/// Zero points of a float type must be zero.
fn zero_points(call: &Call<'_>, zero: &Tensor) -> Result<Vec<i32>, ComputeError> {
    if let Some(values) = unpack(zero) {
        return Ok(values);
    }
    let values = Reals::of(call, zero)?.values;
    if values.iter().any(|&value| value != 0.0) {
        return Err(call.wrong(format!("zero points of {} are not zero", zero.dtype())));
    }
    Ok(vec![0; values.len()])
}

fn scales(call: &mut Call<'_>, shape: &[usize], scale: &Tensor, zero: Option<&Tensor>) -> Result<Scales, ComputeError> {
    let granularity = Granularity::new(call, shape, scale.shape())?;
    let values: Vec<f32> = Reals::of(call, scale)?
        .values
        .into_iter()
        .map(|value| value as f32)
        .collect();
    let zeros = match zero {
        Some(zero) if zero.shape().iter().product::<usize>() == values.len() => zero_points(call, zero)?,
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

/// Rounds float32 numbers to a float type: what a quotient of two of its numbers is in that type.
fn rounding_to(call: &Call<'_>, dtype: DType) -> Result<fn(f32) -> f32, ComputeError> {
    match dtype {
        DType::FLOAT => Ok(|value| value),
        DType::FLOAT16 => Ok(|value| f16::from_f32(value).to_f32()),
        DType::BFLOAT16 => Ok(|value| bf16::from_f32(value).to_f32()),
        other => Err(call.unsupported(format!("divides in {other}"))),
    }
}

fn quantize(call: &mut Call<'_>) -> Outputs {
    let x = call.constant(0)?;
    let scale = call.constant(1)?;
    let zero = call.has(2).then(|| call.constant(2)).transpose()?;
    let named = call.int("output_dtype", 0);
    let target = match &zero {
        Some(zero) if named != 0 && DType::from_number(named as i32) != zero.dtype() => {
            return Err(call.wrong(format!(
                "output_dtype differs from the zero point's type, {}",
                zero.dtype()
            )));
        }
        Some(zero) => zero.dtype(),
        None if named == 0 => DType::UINT8,
        None => DType::from_number(named as i32),
    };
    if call.int("precision", 0) == 0
        && let Some(quantized) = bytes::quantize(&x, &scale, zero.as_ref(), target)
    {
        return Ok(vec![Value::Host(quantized)]);
    }
    // Integers count as float32; of two float types the wider one divides.
    let real = |dtype: DType| if dtype.is_float() { dtype } else { DType::FLOAT };
    let quotient = match (call.int("precision", 0), real(x.dtype()), real(scale.dtype())) {
        (0, of_x, of_scale) if of_x == of_scale || of_scale == DType::FLOAT => of_scale,
        (0, ..) => {
            return Err(call.unsupported(format!(
                "divides {} by {} in no stated precision",
                x.dtype(),
                scale.dtype()
            )));
        }
        (number, ..) => DType::from_number(number as i32),
    };
    let rounded = rounding_to(call, quotient)?;
    let values = Reals::of(call, &x)?.values;
    let (scale, zeros, uses) = scales(call, x.shape(), &scale, zero.as_ref())?;
    let steps = values
        .iter()
        .zip(&uses)
        .map(|(&value, &at)| rounded(rounded(value as f32) / rounded(scale[at])));
    let shape = x.shape().to_vec();
    if let Some((low, high, _)) = limits(target).filter(|&(.., bits)| bits <= 16) {
        let quantized: Vec<i32> = steps
            .zip(&uses)
            // NaN becomes zero here, as the conversion of floats to integers has it.
            .map(|(steps, &at)| {
                let steps = steps.round_ties_even() as i32;
                steps.saturating_add(zeros[at]).clamp(low, high)
            })
            .collect();
        let tensor = pack(target, shape, &quantized);
        let tensor = tensor.ok_or_else(|| call.wrong("does not fill its shape"))?;
        return Ok(vec![Value::Host(tensor)]);
    }
    let known = [
        DType::FLOAT8E4M3FN,
        DType::FLOAT8E4M3FNUZ,
        DType::FLOAT8E5M2,
        DType::FLOAT8E5M2FNUZ,
    ];
    if !known.contains(&target) {
        return Err(call.unsupported(format!("quantizes to {target}")));
    }
    let options = Options {
        overflow: if call.int("saturate", 1) == 0 {
            Overflow::Special
        } else {
            Overflow::Saturates
        },
        ..Options::default()
    };
    let numbers = Numbers::Float(steps.map(f64::from).collect());
    let tensor = numbers.into_tensor(target, shape, &options);
    Ok(vec![Value::Host(tensor.map_err(|message| call.unsupported(message))?)])
}

/// Quantization whose rounding counts as the identity where the mode says so: the cotangent of the integers is that of
/// the real numbers which they round. With that of [`dequantized`], the derivative by the scale is that of "Learned Step
/// Size Quantization" (arXiv 1902.08153, equation 3).
fn quantized(call: &mut Call<'_>, needs: &[bool]) -> Result<Option<Recorded>, ComputeError> {
    if !call.mode.straight_through {
        return Ok(None);
    }
    let Some((low, high, _)) = quantized_type(call).and_then(limits).filter(|&(.., bits)| bits <= 16) else {
        return Ok(None);
    };
    let (x, scale) = (call.float(0)?, call.float(1)?);
    let zero = call.has(2).then(|| call.constant(2)).transpose()?;
    let (full, scales_shape) = (shape(&x), shape(&scale));
    call.give_back(0, Value::Float(x.clone()));
    call.give_back(1, Value::Float(scale.clone()));
    if let Some(zero) = &zero {
        call.give_back(2, Value::Host(zero.clone()));
    }
    let scale = Value::Float(scale).into_tensor();
    let (scale, zeros, uses) = scales(call, &full, &scale, zero.as_ref())?;
    let output = quantize(call)?.remove(0);
    let needs = [needs[0], needs[1]];
    Ok(Some(Recorded::value(output, move |cotangent| {
        let mut by_scale = vec![0.0_f64; scale.len()];
        let mut by_input = into_vec(cotangent);
        with_slice(x, |x| {
            for ((slope, &value), &at) in by_input.iter_mut().zip(x).zip(&uses) {
                let steps = (value / scale[at]).round_ties_even() + zeros[at] as f32;
                let inside = steps >= low as f32 && steps <= high as f32;
                *slope = if inside { *slope / scale[at] } else { 0.0 };
                by_scale[at] -= f64::from(*slope) * f64::from(value / scale[at]);
            }
        });
        let by_scale = by_scale.into_iter().map(|slope| slope as f32).collect();
        Ok(vec![
            needs[0].then(|| from_vec(by_input, full)),
            needs[1].then(|| from_vec(by_scale, scales_shape)),
        ])
    })))
}

/// The type that a quantization gives.
fn quantized_type(call: &Call<'_>) -> Option<DType> {
    match (call.dtype(2), call.int("output_dtype", 0)) {
        (Some(zero), _) => Some(zero),
        (None, 0) => Some(DType::UINT8),
        (None, number) => Some(DType::from_number(i32::try_from(number).ok()?)),
    }
}

/// Dequantization with its derivative by the integers, as real numbers, and by the scale.
fn dequantized(call: &mut Call<'_>, needs: &[bool]) -> Result<Option<Recorded>, ComputeError> {
    let integers = call.dtype(0).and_then(limits).is_some();
    if !integers || call.float_shape(1).is_none() || call.int("output_dtype", 0) > 1 {
        return Ok(None);
    }
    let (x, scale) = (call.tensor(0)?, call.float(1)?);
    let zero = call.has(2).then(|| call.constant(2)).transpose()?;
    call.give_back(0, Value::Host(x.clone()));
    call.give_back(1, Value::Float(scale.clone()));
    if let Some(zero) = &zero {
        call.give_back(2, Value::Host(zero.clone()));
    }
    let (full, scales_shape) = (x.shape().to_vec(), shape(&scale));
    let scale = Value::Float(scale).into_tensor();
    let (scale, zeros, uses) = scales(call, &full, &scale, zero.as_ref())?;
    let output = dequantize(call)?.remove(0);
    let needs = [needs[0], needs[1]];
    Ok(Some(Recorded::value(output, move |cotangent| {
        let mut slopes = into_vec(cotangent);
        let mut by_scale = vec![0.0_f64; scale.len()];
        if needs[1] {
            let codes = unpack(&x).unwrap_or_default();
            for ((slope, code), &at) in slopes.iter().zip(codes).zip(&uses) {
                by_scale[at] += f64::from(*slope) * f64::from(code - zeros[at]);
            }
        }
        for (slope, &at) in slopes.iter_mut().zip(&uses) {
            *slope *= scale[at];
        }
        let by_scale = by_scale.into_iter().map(|slope| slope as f32).collect();
        Ok(vec![
            needs[0].then(|| from_vec(slopes, full)),
            needs[1].then(|| from_vec(by_scale, scales_shape)),
        ])
    })))
}

fn dequantize(call: &mut Call<'_>) -> Outputs {
    let x = call.constant(0)?;
    let scale = call.constant(1)?;
    let zero = call.has(2).then(|| call.constant(2)).transpose()?;
    if call.int("output_dtype", 0) == 0
        && let Some(real) = bytes::dequantize(&x, &scale, zero.as_ref())
    {
        return Ok(vec![Value::from_tensor(real)]);
    }
    let values: Vec<f64> = match unpack(&x) {
        Some(values) => values.into_iter().map(f64::from).collect(),
        None => Reals::of(call, &x)?.values,
    };
    if let Some(zero) = &zero
        && zero.dtype() != x.dtype()
    {
        return Err(call.wrong(format!("{} with zero points of {}", x.dtype(), zero.dtype())));
    }
    let result_type = match call.int("output_dtype", 0) {
        0 => scale.dtype(),
        number => DType::from_number(number as i32),
    };
    if !result_type.is_float() {
        return Err(call.unsupported(format!("dequantizes to {result_type}")));
    }
    let (scale, zeros, uses) = scales(call, x.shape(), &scale, zero.as_ref())?;
    let floats: Vec<f32> = values
        .iter()
        .zip(&uses)
        .map(|(&value, &at)| (value - f64::from(zeros[at])) as f32 * scale[at])
        .collect();
    let tensor = Tensor::from_vec(x.shape().to_vec(), floats);
    let tensor = cast(&tensor, result_type).map_err(|message| call.wrong(message))?;
    Ok(vec![Value::from_tensor(tensor)])
}

/// Quantizes to uint8 by the range of the values, which always holds zero.
fn quantize_by_range(call: &mut Call<'_>) -> Outputs {
    let x = call.constant(0)?;
    if x.dtype() != DType::FLOAT {
        return Err(call.unsupported(format!("quantizes {:?} of {}", x.shape(), x.dtype())));
    }
    let values = x.to_f32().map_err(|e| call.wrong(e.to_string()))?;
    let low = values.iter().fold(0.0_f32, |low, &value| low.min(value));
    let high = values.iter().fold(0.0_f32, |high, &value| high.max(value));
    let scale = if low == high { 1.0 } else { high - low } / 255.0;
    let zero = (-low / scale).clamp(0.0, 255.0).round_ties_even();
    let quantized = values
        .iter()
        .map(|&value| ((value / scale).round_ties_even() + zero).clamp(0.0, 255.0) as u8)
        .collect();
    Ok(vec![
        Value::Host(Tensor::from_vec(x.shape().to_vec(), quantized)),
        Value::from_tensor(Tensor::scalar(scale)),
        Value::Host(Tensor::scalar(zero as u8)),
    ])
}
