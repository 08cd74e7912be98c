//! Factors for weights that activations make salient (Lin et al., "AWQ", MLSys 2024).

use rayon::prelude::*;

use crate::{
    Matrix, MethodError, Scheme,
    error::{check_finite, check_length},
    quantize,
};

/// Exponents that are tried, 0 among them.
const STEPS: u32 = 20;
/// No factor is further from 1 than this, either way: scales are float16 in some formats.
const FARTHEST: f64 = 1e3;

/// The factors sⱼ by which the columns of all `layers` are multiplied before they are rounded by `scheme`, and what the
/// layers read is divided by: sⱼ = magnitudeⱼ^α, scaled so that the greatest and the least are each other's inverse,
/// with the α of 0, 1/20 … 19/20 that leaves the least of tr((Ŵ/s − W) H (Ŵ/s − W)ᵀ), added up over the layers
/// (the paper's equations 4 and 5, with the outputs' error taken from the Gram matrix). All ones are among them, so that
/// rounding to nearest is never worse with the factors than without.
///
/// `magnitude` is the size of each input, say its root mean square, `gram` the Gram matrix H: `columns` × `columns`, symmetric, row by
/// row. An input that is always 0 keeps the factor 1.
///
/// # Errors
/// If sizes do not fit, there is no layer, or a number is not finite.
pub fn scales(
    layers: &[Matrix<'_>],
    magnitude: &[f32],
    gram: &[f64],
    scheme: &Scheme,
) -> Result<Vec<f32>, MethodError> {
    let columns = magnitude.len();
    check_length("the Gram matrix", columns.saturating_mul(columns), gram.len())?;
    for layer in layers {
        check_length("the rows of a layer", columns, layer.columns())?;
    }
    if let Some(column) = magnitude.iter().position(|value| !(0.0..f32::INFINITY).contains(value)) {
        return Err(MethodError::NotFinite {
            what: "magnitude of inputs",
            row: 0,
            column,
            value: f64::from(magnitude[column]),
        });
    }
    check_finite("Gram matrix", columns, gram)?;
    let mut best = (f64::INFINITY, vec![1.0_f32; columns]);
    for step in 0..STEPS {
        let factors = factors(magnitude, f64::from(step) / f64::from(STEPS));
        let mut error = 0.0;
        for layer in layers {
            error += left(*layer, &factors, gram, scheme)?;
        }
        if error < best.0 {
            best = (error, factors);
        }
    }
    Ok(best.1)
}

/// magnitude^alpha, balanced about 1.
fn factors(magnitude: &[f32], alpha: f64) -> Vec<f32> {
    let powers: Vec<Option<f64>> = magnitude
        .iter()
        .map(|&value| value.is_normal().then(|| f64::from(value).powf(alpha)))
        .collect();
    let (least, most) = powers
        .iter()
        .flatten()
        .fold((f64::INFINITY, 0.0_f64), |(least, most), &power| {
            (least.min(power), most.max(power))
        });
    let middle = (least * most).sqrt();
    let factor = |power: f64| (power / middle).clamp(1.0 / FARTHEST, FARTHEST) as f32;
    powers.into_iter().map(|power| power.map_or(1.0, factor)).collect()
}

/// What rounding leaves of the layer's outputs.
fn left(layer: Matrix<'_>, factors: &[f32], gram: &[f64], scheme: &Scheme) -> Result<f64, MethodError> {
    let columns = factors.len();
    let scaled = layer.values().iter().zip(factors.iter().cycle());
    let scaled: Vec<f32> = scaled.map(|(weight, factor)| weight * factor).collect();
    let rounded = quantize(Matrix::new(layer.rows(), columns, &scaled)?, scheme, None)?.dequantize();
    let errors: Vec<f64> = layer
        .values()
        .par_chunks(columns.max(1))
        .zip(rounded.par_chunks(columns.max(1)))
        .map(|(weights, rounded)| {
            let off = weights.iter().zip(rounded).zip(factors);
            let off: Vec<f64> = off
                .map(|((&weight, &rounded), &factor)| f64::from(rounded) / f64::from(factor) - f64::from(weight))
                .collect();
            let image = gram
                .chunks(columns)
                .map(|row| row.iter().zip(&off).map(|(a, b)| a * b).sum::<f64>());
            image.zip(&off).map(|(image, off)| image * off).sum::<f64>()
        })
        .collect();
    Ok(errors.iter().sum())
}
