//! Whether an output is the expected one.

use kmr_model::{DType, Tensor};

/// The tolerances of ONNX's own backend tests: `|a − e| ≤ ABSOLUTE + RELATIVE · |e|`.
const RELATIVE: f64 = 1e-3;
const ABSOLUTE: f64 = 1e-7;
/// Two units in the last place of bfloat16, which the same tests grant to that type.
const RELATIVE_BFLOAT16: f64 = 1.0 / 64.0;
/// Two units in the last place of float16: expected values of composed cases are rounded at every step, in an
/// order of their own, and lie no nearer to the exact ones.
const RELATIVE_FLOAT16: f64 = 1.0 / 512.0;

/// Four units in the last place of float32, times the largest expected number: where a sum's terms cancel out, the
/// expected values are themselves rounding errors of that size.
const CANCELED: f64 = 1.0 / (1 << 21) as f64;

/// The first difference between an output and the expected one, if there is one.
///
/// Floating-point numbers may differ by the tolerances, and NaN equals NaN; everything else is equal in
/// every bit.
pub fn difference(actual: &Tensor, expected: &Tensor) -> Option<String> {
    if let Some(difference) = type_difference(actual, expected) {
        return Some(difference);
    }
    let dtype = expected.dtype();
    let relative = match dtype {
        DType::BFLOAT16 => RELATIVE_BFLOAT16,
        DType::FLOAT16 => RELATIVE_FLOAT16,
        _ => RELATIVE,
    };
    let (Some(actual_values), Some(expected_values)) = (numbers(actual), numbers(expected)) else {
        return exact(actual, expected);
    };
    let absolute = if dtype == DType::FLOAT {
        let finite = expected_values.iter().filter(|value| value.is_finite());
        ABSOLUTE.max(finite.fold(0.0, |most: f64, value| most.max(value.abs())) * CANCELED)
    } else {
        ABSOLUTE
    };
    let close = |a: f64, e: f64| a == e || (a.is_nan() && e.is_nan()) || (a - e).abs() <= absolute + relative * e.abs();
    let mut pairs = actual_values.iter().zip(&expected_values);
    let position = pairs.position(|(&a, &e)| !close(a, e) || (e.is_infinite() && a != e))?;
    Some(format!(
        "element {position} of {:?} is {}; expected {}",
        expected.shape(),
        actual_values[position],
        expected_values[position]
    ))
}

/// The first difference in element type or shape.
pub fn type_difference(actual: &Tensor, expected: &Tensor) -> Option<String> {
    let (a, e) = (actual, expected);
    (a.dtype() != e.dtype() || a.shape() != e.shape()).then(|| {
        format!(
            "is {} {:?}; expected {} {:?}",
            a.dtype(),
            a.shape(),
            e.dtype(),
            e.shape()
        )
    })
}

/// The values of a type that is compared with tolerances, in float64; complex ones as pairs.
fn numbers(tensor: &Tensor) -> Option<Vec<f64>> {
    let bytes = tensor.bytes();
    match tensor.dtype() {
        DType::DOUBLE => Some(tensor.values::<f64>().ok()?.into_owned()),
        DType::COMPLEX128 => Some(chunks(bytes, f64::from_le_bytes)),
        DType::COMPLEX64 => Some(chunks(bytes, |value| f32::from_le_bytes(value).into())),
        DType::FLOAT | DType::FLOAT16 | DType::BFLOAT16 => {
            Some(tensor.to_f32().ok()?.iter().map(|&value| value.into()).collect())
        }
        _ => None,
    }
}

fn chunks<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    bytes.as_chunks::<N>().0.iter().map(|&chunk| read(chunk)).collect()
}

fn exact(actual: &Tensor, expected: &Tensor) -> Option<String> {
    let mut pairs = actual.bytes().iter().zip(expected.bytes());
    let position = pairs.position(|(a, e)| a != e)?;
    let width = expected.dtype().bits().map_or(1, |bits| bits.div_ceil(8));
    let element = position / width;
    let shown = |tensor: &Tensor| match tensor.to_i64() {
        Ok(values) => values[element].to_string(),
        Err(_) => {
            let bytes = &tensor.bytes()[element * width..][..width];
            format!("{bytes:02x?}")
        }
    };
    Some(format!(
        "element {element} (by whole bytes) of {:?} is {}; expected {}",
        expected.shape(),
        shown(actual),
        shown(expected)
    ))
}
