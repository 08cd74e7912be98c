//! Ranges of activations, from histograms of what was observed.

mod entropy;
mod histogram;

pub use histogram::Histogram;

use kmr_kernels::nearest_level;

use crate::{Grid, MethodError, fit::shrunken};

/// How a range is taken from a histogram.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RangeMethod {
    /// The least and the largest value.
    MinMax,
    /// What is left when (100 − this)/2 percent of the values are cut off at each end; in (0, 100].
    Percentile(f64),
    /// The threshold on magnitudes whose quantized distribution has the least Kullback–Leibler
    /// divergence from the observed one (S. Migacz, "8-bit Inference with TensorRT", GTC 2017).
    Entropy {
        /// The bits of a code, in 2..=8.
        bits: u8,
    },
    /// The range of the least squared error: of all values, or both ends on their own where the grid
    /// is asymmetric.
    Mse {
        /// The codes there are.
        grid: Grid,
    },
}

impl Histogram {
    /// The range (lowest, highest) to quantize, within the observed one.
    ///
    /// # Errors
    /// If nothing was observed, or the method's parameter is outside its domain.
    pub fn range(&self, method: RangeMethod) -> Result<(f32, f32), MethodError> {
        let (low, high) = self.bounds().ok_or(MethodError::NothingObserved)?;
        match method {
            RangeMethod::MinMax => Ok((low, high)),
            RangeMethod::Percentile(percent) => {
                if !(percent > 0.0 && percent <= 100.0) {
                    let (what, domain) = ("a percentile", "above 0 and at most 100");
                    return Err(MethodError::Domain {
                        what,
                        domain,
                        value: percent,
                    });
                }
                let cut = (1.0 - percent / 100.0) / 2.0;
                Ok((self.quantile(cut), self.quantile(1.0 - cut)))
            }
            RangeMethod::Entropy { bits } => {
                let bits = Grid::symmetric(bits)?.bits();
                let two_sided = low < 0.0 && high > 0.0;
                let levels = 1 << (bits - u8::from(two_sided));
                let (magnitudes, width) = self.magnitudes();
                let threshold = (entropy::threshold(magnitudes, levels) as f64 * width) as f32;
                Ok((low.max(-threshold), high.min(threshold)))
            }
            RangeMethod::Mse { grid } => {
                let whole = (f64::from(low).min(0.0), f64::from(high).max(0.0));
                let mut best = (f64::INFINITY, whole);
                for range in shrunken(whole.0, whole.1, grid) {
                    let error = self.error(grid, range);
                    if error < best.0 {
                        best = (error, range);
                    }
                }
                let (least, most) = best.1;
                Ok(((least as f32).max(low), (most as f32).min(high)))
            }
        }
    }

    /// The squared error of quantizing to a range.
    fn error(&self, grid: Grid, (low, high): (f64, f64)) -> f64 {
        let (scale, zero_point) = grid.cover(low, high);
        let (low, high) = grid.levels(zero_point);
        self.bins()
            .map(|(value, count)| {
                let off = value - f64::from(nearest_level(value as f32, scale, low, high) * scale);
                count as f64 * off * off
            })
            .sum()
    }
}

/// The scale and zero point of activations in a range, which is extended to hold 0; 0 is exact.
///
/// # Errors
/// If a bound is not finite, or they are in the wrong order.
pub fn activation_parameters(low: f32, high: f32, grid: Grid) -> Result<(f32, i32), MethodError> {
    for (value, what) in [(low, "the lowest activation"), (high, "the highest activation")] {
        if !value.is_finite() {
            return Err(MethodError::Domain {
                what,
                domain: "finite",
                value: f64::from(value),
            });
        }
    }
    if low > high {
        let (what, domain) = ("the highest activation", "at least the lowest");
        return Err(MethodError::Domain {
            what,
            domain,
            value: f64::from(high),
        });
    }
    Ok(grid.cover(f64::from(low), f64::from(high)))
}
