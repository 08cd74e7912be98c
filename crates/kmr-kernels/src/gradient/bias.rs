//! The gradient by the bias.

use rayon::prelude::*;

use super::Gradient;
use crate::GeometryError;

impl Gradient {
    /// The gradient by the bias, `[out_channels]`: sums of the cotangent, taken in float64.
    ///
    /// `size` is the height and width of the convolution's input.
    ///
    /// # Errors
    /// If `cotangent` has another length than the sizes say, or the kernel does not fit.
    pub fn bias(&self, cotangent: &[f32], batch: usize, size: [usize; 2]) -> Result<Vec<f32>, GeometryError> {
        let output = self.output(cotangent, batch, size)?;
        let channels = self.geometry.out_channels;
        let plane = output[0] * output[1];
        let sum = |channel: usize| {
            let planes = (0..batch).map(|image| &cotangent[(image * channels + channel) * plane..][..plane]);
            planes.map(sum).sum::<f64>() as f32
        };
        Ok((0..channels).into_par_iter().map(sum).collect())
    }
}

/// Sums in several lanes, which compilers turn into vectors.
fn sum(values: &[f32]) -> f64 {
    let (chunks, rest) = values.as_chunks::<8>();
    let mut lanes = [0.0_f64; 8];
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(value);
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|&value| f64::from(value)).sum::<f64>()
}
