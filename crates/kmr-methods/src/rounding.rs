//! Rounding to the nearest code.

use kmr_kernels::nearest_level;

use crate::{Granularity, Grid, Matrix, MethodError, Parameters, Quantized, Scheme, error::check_length, fit};

/// Fits scales to `weights` and rounds to nearest.
///
/// # Errors
/// As [`fit`].
pub fn quantize(weights: Matrix<'_>, scheme: &Scheme, importance: Option<&[f64]>) -> Result<Quantized, MethodError> {
    let parameters = fit(weights, scheme, importance)?;
    round_to_nearest(weights, scheme.grid, scheme.granularity, parameters)
}

/// Rounds every weight to its nearest code, ties to even, as ONNX's QuantizeLinear does: the quotient
/// in float32, rounded, plus the zero point, saturated.
///
/// # Errors
/// If `parameters` has not as many scales and zero points as `granularity` needs, a scale is not a
/// positive normal number, or a zero point is not among the codes.
pub fn round_to_nearest(
    weights: Matrix<'_>,
    grid: Grid,
    granularity: Granularity,
    parameters: Parameters,
) -> Result<Quantized, MethodError> {
    let (rows, columns) = (weights.rows(), weights.columns());
    let Parameters { scales, zero_points } = parameters;
    let count = granularity.count(rows, columns)?;
    check_length("the scales", count, scales.len())?;
    check_length("the zero points", count, zero_points.len())?;
    let mut codes = vec![0_i16; rows * columns];
    for (index, (&scale, &zero_point)) in scales.iter().zip(&zero_points).enumerate() {
        check(grid, scale, zero_point)?;
        let (low, high) = grid.levels(zero_point);
        let members = granularity.members(index, rows, columns);
        for (code, &weight) in codes[members.clone()].iter_mut().zip(&weights.values()[members]) {
            *code = (nearest_level(weight, scale, low, high) as i32 + zero_point) as i16;
        }
    }
    Ok(Quantized {
        rows,
        columns,
        granularity,
        grid,
        codes,
        scales,
        zero_points,
    })
}

fn check(grid: Grid, scale: f32, zero_point: i32) -> Result<(), MethodError> {
    let domain = |what, domain, value| Err(MethodError::Domain { what, domain, value });
    if !(scale.is_normal() && scale > 0.0) {
        return domain("a scale", "a positive normal number", f64::from(scale));
    }
    let (low, high) = (i32::from(grid.low()), i32::from(grid.high()));
    if !(low..=high).contains(&zero_point) || (grid.is_symmetric() && zero_point != 0) {
        return domain(
            "a zero point",
            "a code of an asymmetric grid, or 0",
            f64::from(zero_point),
        );
    }
    Ok(())
}
