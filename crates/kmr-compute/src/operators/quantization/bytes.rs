//! Float32 numbers to bytes and back by one scale: what activations go through between every two layers.

use kmr_model::{DType, Tensor};
use rayon::prelude::*;

use super::limits;

/// Elements that one thread takes at a time.
const PART: usize = 1 << 15;

/// The zero point and limits of a byte type, if there is one scale for all elements and the type is one.
fn single(dtype: DType, scale: &Tensor, zero: Option<&Tensor>) -> Option<(f32, i32, i32, i32)> {
    let (low, high, _) = limits(dtype).filter(|&(.., bits)| bits == 8)?;
    let one = |tensor: &Tensor| tensor.len() == 1 && tensor.shape().len() <= 1;
    let zero = match zero {
        None => 0,
        Some(zero) if one(zero) && zero.dtype() == dtype => {
            let byte = *zero.bytes().first()?;
            if low < 0 {
                i32::from(byte as i8)
            } else {
                i32::from(byte)
            }
        }
        Some(_) => return None,
    };
    let scale = *scale.values::<f32>().ok().filter(|_| one(scale))?.first()?;
    Some((scale, zero, low, high))
}

/// As QuantizeLinear has it; none where this is another case.
pub fn quantize(x: &Tensor, scale: &Tensor, zero: Option<&Tensor>, target: DType) -> Option<Tensor> {
    let (scale, zero, low, high) = single(target, scale, zero)?;
    let values = x.values::<f32>().ok()?;
    let mut bytes = vec![0_u8; values.len()];
    let parts = bytes.par_chunks_mut(PART).zip(values.par_chunks(PART));
    parts.for_each(|(bytes, values)| {
        for (byte, &value) in bytes.iter_mut().zip(values) {
            // Adding 1.5 × 2^23 rounds to nearest, ties to even; beyond 2^20 a byte is saturated anyway.
            const SHIFT: f32 = 12_582_912.0;
            const FAR: f32 = 1_048_576.0;
            let steps = ((value / scale).clamp(-FAR, FAR) + SHIFT) - SHIFT;
            // NaN becomes zero here, as the conversion of floats to integers has it.
            *byte = (steps as i32 + zero).clamp(low, high) as u8;
        }
    });
    Tensor::new(target, x.shape().to_vec(), bytes.into()).ok()
}

/// As DequantizeLinear has it, to float32; none where this is another case.
pub fn dequantize(x: &Tensor, scale: &Tensor, zero: Option<&Tensor>) -> Option<Tensor> {
    let (scale, zero, low, _) = single(x.dtype(), scale, zero)?;
    let table: Vec<f32> = (0..=255_u8)
        .map(|byte| {
            let code = if low < 0 {
                i32::from(byte as i8)
            } else {
                i32::from(byte)
            };
            (code - zero) as f32 * scale
        })
        .collect();
    let mut values = vec![0.0_f32; x.len()];
    let parts = values.par_chunks_mut(PART).zip(x.bytes().par_chunks(PART));
    parts.for_each(|(values, bytes)| {
        for (value, &byte) in values.iter_mut().zip(bytes) {
            *value = table[usize::from(byte)];
        }
    });
    Some(Tensor::from_vec(x.shape().to_vec(), values))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_those_of_the_definition() {
        let values: Vec<f32> = (-4000..4000)
            .map(|at| at as f32 * 0.013)
            .chain([
                f32::NAN,
                f32::INFINITY,
                f32::NEG_INFINITY,
                1e30,
                -1e30,
                0.5,
                1.5,
                2.5,
                -0.5,
            ])
            .collect();
        let x = Tensor::from_vec(vec![values.len()], values.clone());
        for (target, zero, low, high) in [(DType::UINT8, 7, 0, 255), (DType::INT8, -3, -128, 127)] {
            let point = Tensor::new(target, vec![], vec![zero as u8].into()).unwrap();
            for scale in [0.05_f32, 1.0] {
                let scale_tensor = Tensor::scalar(scale);
                let quantized = quantize(&x, &scale_tensor, Some(&point), target).unwrap();
                let expected: Vec<u8> = values
                    .iter()
                    .map(|value| {
                        ((value / scale).round_ties_even() as i32)
                            .saturating_add(zero)
                            .clamp(low, high) as u8
                    })
                    .collect();
                assert_eq!(quantized.bytes()[..], expected[..]);
                let real = dequantize(&quantized, &scale_tensor, Some(&point)).unwrap();
                let code = |byte: u8| {
                    if low < 0 {
                        i32::from(byte as i8)
                    } else {
                        i32::from(byte)
                    }
                };
                let expected: Vec<f32> = expected
                    .iter()
                    .map(|&byte| (code(byte) - zero) as f32 * scale)
                    .collect();
                assert_eq!(*real.values::<f32>().unwrap(), expected);
            }
        }
    }
}
