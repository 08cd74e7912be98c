//! Spectra and the windows for them, computed in float64.

use std::f64::consts::TAU;

use kmr_model::DType;

use super::{
    Operator, onnx,
    reals::{Reals, filled, number, rounded},
};
use crate::{
    ComputeError,
    interpreter::{Call, Outputs},
};

pub const OPERATORS: &[Operator] = &[
    onnx("HannWindow", |call| window(call, &[0.5, -0.5])),
    onnx("HammingWindow", |call| window(call, &[25.0 / 46.0, -21.0 / 46.0])),
    onnx("BlackmanWindow", |call| window(call, &[0.42, -0.5, 0.08])),
    onnx("MelWeightMatrix", mel_weights),
    onnx("DFT", transform),
    onnx("STFT", short_time),
];

/// A whole number of elements that input `position` holds.
fn count(call: &mut Call<'_>, position: usize) -> Result<usize, ComputeError> {
    let value = number(call, position)?;
    if value.fract() != 0.0 || !(0.0..=u32::MAX.into()).contains(&value) {
        return Err(call.wrong(format!("input {position} is {value}; expected a size")));
    }
    Ok(value as usize)
}

fn output_type(call: &Call<'_>) -> DType {
    DType::from_number(call.int("output_datatype", 1) as i32)
}

/// A sum of cosines; coefficient k is that of k periods.
fn window(call: &mut Call<'_>, coefficients: &[f64]) -> Outputs {
    let size = count(call, 0)?;
    let period = if call.int("periodic", 1) == 0 {
        size.saturating_sub(1)
    } else {
        size
    };
    if period == 0 && size > 0 {
        return Err(call.unsupported("a symmetric window of one element is not specified"));
    }
    let mut values = filled(call, &[size], 0.0)?;
    for (at, value) in values.iter_mut().enumerate() {
        let angle = TAU * at as f64 / period as f64;
        let terms = coefficients.iter().enumerate();
        *value = terms.map(|(k, factor)| factor * (angle * k as f64).cos()).sum();
    }
    Ok(vec![rounded(call, output_type(call), vec![size], values)?])
}

fn mel_weights(call: &mut Call<'_>) -> Outputs {
    let (bins, length) = (count(call, 0)?, count(call, 1)?);
    let rate = number(call, 2)?;
    let (low, high) = (number(call, 3)?, number(call, 4)?);
    let spectrum = length / 2 + 1;
    let mel = |hertz: f64| 2595.0 * (1.0 + hertz / 700.0).log10();
    let step = (mel(high) - mel(low)) / (bins as f64 + 2.0);
    let mut edges = Vec::new();
    for at in 0..bins + 2 {
        let hertz = 700.0 * (10_f64.powf((at as f64 * step + mel(low)) / 2595.0) - 1.0);
        let edge = ((length as f64 + 1.0) * hertz / rate).floor();
        if !(0.0..=spectrum as f64).contains(&edge) {
            return Err(call.wrong(format!(
                "the edges {low} and {high} Hz lie outside a spectrum of {rate} Hz"
            )));
        }
        edges.push(edge as usize);
    }
    let mut values = filled(call, &[spectrum, bins], 0.0)?;
    for bin in 0..bins {
        let [left, center, right] = [edges[bin], edges[bin + 1], edges[bin + 2]];
        if center < left || right < center || center >= spectrum {
            return Err(call.wrong(format!(
                "the edges {low} and {high} Hz lie outside a spectrum of {rate} Hz"
            )));
        }
        if left == center {
            values[center * bins + bin] = 1.0;
        } else {
            for line in left..=center {
                values[line * bins + bin] = (line - left) as f64 / (center - left) as f64;
            }
        }
        for line in center..right {
            values[line * bins + bin] = (right - line) as f64 / (right - center) as f64;
        }
    }
    Ok(vec![rounded(call, output_type(call), vec![spectrum, bins], values)?])
}

/// A complex number.
type Complex = [f64; 2];

/// The first `bins` values of the discrete Fourier transform of `signal`; `sign` is that of the exponent.
fn spectrum(signal: &[Complex], bins: usize, sign: f64) -> Vec<Complex> {
    let length = signal.len();
    let roots: Vec<Complex> = (0..length)
        .map(|k| {
            let angle = sign * TAU * k as f64 / length as f64;
            [angle.cos(), angle.sin()]
        })
        .collect();
    (0..bins)
        .map(|bin| {
            let mut sum = [0.0; 2];
            let mut at = 0;
            for value in signal {
                let root = roots[at];
                sum[0] += value[0] * root[0] - value[1] * root[1];
                sum[1] += value[0] * root[1] + value[1] * root[0];
                at = (at + bin) % length;
            }
            sum
        })
        .collect()
}

fn complex(values: &[f64], parts: usize, at: usize) -> Complex {
    match parts {
        2 => [values[2 * at], values[2 * at + 1]],
        _ => [values[at], 0.0],
    }
}

fn transform(call: &mut Call<'_>) -> Outputs {
    let x = Reals::new(call, 0)?;
    let length = if call.has(1) { Some(count(call, 1)?) } else { None };
    let axis = match call.opset {
        ..20 => call.int("axis", 1),
        _ if call.has(2) => number(call, 2)? as i64,
        _ => -2,
    };
    let rank = x.shape.len();
    let axis = call.axis(axis, rank)?;
    let parts = x.shape[rank - 1];
    if axis + 1 == rank || !(1..=2).contains(&parts) || x.shape.contains(&0) {
        return Err(call.wrong(format!("transforms axis {axis} of {:?}", x.shape)));
    }
    let (inverse, one_sided) = (call.int("inverse", 0) == 1, call.int("onesided", 0) == 1);
    if one_sided && !inverse && parts == 2 {
        return Err(call.unsupported("the spectrum of a complex signal is not one-sided"));
    }
    if one_sided && inverse && parts == 1 {
        return Err(call.unsupported("a real one-sided spectrum"));
    }
    let size = x.shape[axis];
    let to_real = one_sided && inverse;
    let length = length.unwrap_or(if to_real { 2 * (size - 1) } else { size });
    if length == 0 {
        return Err(call.wrong("a transform of length 0"));
    }
    let bins = if one_sided && !inverse { length / 2 + 1 } else { length };
    let mut result = x.shape.clone();
    result[axis] = bins;
    result[rank - 1] = if to_real { 1 } else { 2 };
    let out_parts = result[rank - 1];
    let mut values = filled(call, &result, 0.0)?;
    let inner: usize = x.shape[axis + 1..rank - 1].iter().product();
    let outer: usize = x.shape[..axis].iter().product();
    let mut signal = filled(call, &[length], [0.0; 2])?;
    for line in 0..outer * inner {
        let (before, after) = (line / inner, line % inner);
        let read = |at: usize| complex(&x.values, parts, (before * size + at) * inner + after);
        for (at, value) in signal.iter_mut().enumerate() {
            *value = if to_real && at > length / 2 {
                let [real, imaginary] = if length - at < size {
                    read(length - at)
                } else {
                    [0.0; 2]
                };
                [real, -imaginary]
            } else if at < size {
                read(at)
            } else {
                [0.0; 2]
            };
        }
        let (sign, factor) = if inverse {
            (1.0, 1.0 / length as f64)
        } else {
            (-1.0, 1.0)
        };
        for (bin, value) in spectrum(&signal, bins, sign).into_iter().enumerate() {
            let at = ((before * bins + bin) * inner + after) * out_parts;
            for part in 0..out_parts {
                values[at + part] = value[part] * factor;
            }
        }
    }
    Ok(vec![rounded(call, x.dtype, result, values)?])
}

fn short_time(call: &mut Call<'_>) -> Outputs {
    let x = Reals::new(call, 0)?;
    let step = count(call, 1)?;
    let window = Reals::optional(call, 2)?;
    let length = if call.has(3) { Some(count(call, 3)?) } else { None };
    let &[batch, samples, parts] = &x.shape[..] else {
        return Err(call.wrong(format!("a signal of {:?}", x.shape)));
    };
    let length = length
        .or(window.as_ref().map(|window| window.values.len()))
        .unwrap_or(samples);
    if window.as_ref().is_some_and(|window| window.values.len() != length) {
        return Err(call.unsupported(format!("a window that is not as long as a frame, {length}")));
    }
    let one_sided = call.int("onesided", 1) == 1;
    if one_sided && parts == 2 {
        return Err(call.unsupported("the spectrum of a complex signal is not one-sided"));
    }
    if !(1..=2).contains(&parts) || step == 0 || length == 0 || length > samples {
        return Err(call.wrong(format!(
            "frames of {length} at steps of {step} in a signal of {:?}",
            x.shape
        )));
    }
    let frames = (samples - length) / step + 1;
    let bins = if one_sided { length / 2 + 1 } else { length };
    let shape = vec![batch, frames, bins, 2];
    let mut values = filled(call, &shape, 0.0)?;
    for (line, output) in values.chunks_mut(bins * 2).enumerate() {
        let first = line / frames * samples + line % frames * step;
        let signal: Vec<Complex> = (0..length)
            .map(|at| {
                let weight = window.as_ref().map_or(1.0, |window| window.values[at]);
                complex(&x.values, parts, first + at).map(|part| part * weight)
            })
            .collect();
        for (output, value) in output.chunks_mut(2).zip(spectrum(&signal, bins, -1.0)) {
            output.copy_from_slice(&value);
        }
    }
    Ok(vec![rounded(call, x.dtype, shape, values)?])
}
