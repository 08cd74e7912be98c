//! Bias correction.

use crate::{Matrix, MethodError, Quantized, error::check_length};

/// What must be added to the bias of each output channel so that its mean stays as it was:
/// (W − Ŵ) E\[x\] (Nagel et al., ICCV 2019).
///
/// `means` is the mean of each column's input; of a convolution, that of the input channel for each of
/// its taps (padding apart).
///
/// # Errors
/// If the sizes differ.
pub fn correction(weights: Matrix<'_>, quantized: &Quantized, means: &[f32]) -> Result<Vec<f32>, MethodError> {
    check_length("the means of columns", weights.columns(), means.len())?;
    let rounded = quantized.dequantize();
    check_length("the quantized weights", weights.values().len(), rounded.len())?;
    let columns = weights.columns();
    Ok((0..weights.rows())
        .map(|row| {
            let pairs = weights.row(row).iter().zip(&rounded[row * columns..]);
            let terms = pairs
                .zip(means)
                .map(|((&weight, &rounded), &mean)| (f64::from(weight) - f64::from(rounded)) * f64::from(mean));
            terms.sum::<f64>() as f32
        })
        .collect())
}
