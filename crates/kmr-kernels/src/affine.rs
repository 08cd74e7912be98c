//! `x * scale + shift` per channel: batch normalization with known statistics.

use rayon::prelude::*;

use crate::GeometryError;

/// A factor and an addend per channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Affine {
    /// What each channel is multiplied by.
    pub scale: Vec<f32>,
    /// What is added to each channel after that.
    pub shift: Vec<f32>,
}

impl Affine {
    /// One element: two roundings, as everywhere that an [`Affine`] is applied.
    #[inline(always)]
    pub(crate) fn apply(value: f32, scale: f32, shift: f32) -> f32 {
        value * scale + shift
    }
}

/// Applies `affine` to `values` of shape `[batch, channels, plane]`, in place.
///
/// Bit-identical to the same affine in a convolution's [`Finish`](crate::Finish).
///
/// # Errors
/// If the sizes do not fit.
pub fn affine(values: &mut [f32], plane: usize, affine: &Affine) -> Result<(), GeometryError> {
    let channels = affine.scale.len();
    if affine.shift.len() != channels || !values.len().is_multiple_of((channels * plane).max(1)) {
        return Err(GeometryError(format!(
            "{} values are not a whole number of images of {channels} channels of {plane}",
            values.len()
        )));
    }
    if values.is_empty() {
        return Ok(());
    }
    values
        .par_chunks_mut(channels * plane)
        .with_min_len((1_usize << 16).div_ceil(channels * plane))
        .for_each(|image| {
            for (channel, values) in image.chunks_mut(plane).enumerate() {
                let (scale, shift) = (affine.scale[channel], affine.shift[channel]);
                for value in values {
                    *value = Affine::apply(*value, scale, shift);
                }
            }
        });
    Ok(())
}
