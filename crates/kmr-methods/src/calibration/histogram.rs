//! A histogram that grows with what it sees.

use crate::MethodError;

/// At most so many bins.
const BINS: i64 = 2048;
/// Bins are no narrower than this power of two below the largest magnitude: float32 has no more digits.
const DIGITS: i32 = 30;

/// Counts of values in up to 2048 equal bins, with the exact least and largest value.
///
/// Bins are as wide as the smallest power of two that does with that many, and zero is between two of
/// them. So the bins follow from the least and largest value, and wider ones are unions of narrower
/// ones: the histogram of some values is the same in whatever order and batches they come.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    bounds: Option<(f32, f32)>,
    /// Bin i is [i, i + 1) × 2^exponent.
    exponent: i32,
    /// The bin that is counted first.
    first: i64,
    counts: Vec<u64>,
}

impl Histogram {
    /// Nothing counted yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts `values`.
    ///
    /// # Errors
    /// If one is NaN or infinite; then none is counted.
    pub fn add(&mut self, values: &[f32]) -> Result<(), MethodError> {
        if let Some(position) = values.iter().position(|value| !value.is_finite()) {
            let value = values[position];
            return Err(MethodError::NotFiniteValue { position, value });
        }
        let Some(&start) = values.first() else { return Ok(()) };
        let bounds = values
            .iter()
            .fold((start, start), |(low, high), &value| (low.min(value), high.max(value)));
        self.grow(bounds);
        let inverse = power(-self.exponent);
        for &value in values {
            self.counts[((f64::from(value) * inverse).floor() as i64 - self.first) as usize] += 1;
        }
        Ok(())
    }

    /// Counts what another histogram has counted.
    pub fn merge(&mut self, other: &Histogram) {
        if let Some(bounds) = other.bounds {
            self.grow(bounds);
            self.count(other);
        }
    }

    /// The least and the largest value; none if there was no value.
    pub fn bounds(&self) -> Option<(f32, f32)> {
        self.bounds
    }

    /// The number of values.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The middle of every bin, kept within the bounds, and its count.
    pub fn bins(&self) -> impl Iterator<Item = (f64, u64)> {
        let (low, high) = self.bounds.unwrap_or_default();
        let width = power(self.exponent);
        self.counts.iter().zip(self.first..).map(move |(&count, bin)| {
            let middle = (bin as f64 + 0.5) * width;
            (middle.clamp(f64::from(low), f64::from(high)), count)
        })
    }

    /// The value that a part of all values, in [0, 1], lies below, as if values were spread evenly in
    /// their bins; 0 if there is none.
    pub fn quantile(&self, part: f64) -> f32 {
        let (low, high) = self.bounds.unwrap_or_default();
        let mut rest = part * self.total() as f64;
        for (&count, bin) in self.counts.iter().zip(self.first..) {
            if count > 0 && rest <= count as f64 {
                let value = (bin as f64 + rest / count as f64) * power(self.exponent);
                return (value as f32).clamp(low, high);
            }
            rest -= count as f64;
        }
        high
    }

    /// Counts of magnitudes from 0 on, in up to 2048 bins, and the width of these.
    pub(super) fn magnitudes(&self) -> (Vec<u64>, f64) {
        let fold = |bin: i64| if bin < 0 { -1 - bin } else { bin };
        let last = fold(self.first).max(fold(self.first + self.counts.len() as i64 - 1));
        let mut shift = 0;
        while last >> shift >= BINS {
            shift += 1;
        }
        let mut magnitudes = vec![0; (last >> shift) as usize + 1];
        for (&count, bin) in self.counts.iter().zip(self.first..) {
            magnitudes[(fold(bin) >> shift) as usize] += count;
        }
        (magnitudes, power(self.exponent + shift))
    }

    /// Makes room for values within bounds.
    fn grow(&mut self, (low, high): (f32, f32)) {
        let (low, high) = self
            .bounds
            .map_or((low, high), |bounds| (bounds.0.min(low), bounds.1.max(high)));
        if self.bounds == Some((low, high)) {
            return;
        }
        let exponent = exponent(f64::from(low), f64::from(high));
        let bin = |value: f32| (f64::from(value) * power(-exponent)).floor() as i64;
        let first = bin(low);
        let grown = Self {
            bounds: Some((low, high)),
            exponent,
            first,
            counts: vec![0; (bin(high) - first) as usize + 1],
        };
        let old = std::mem::replace(self, grown);
        self.count(&old);
    }

    /// Adds the counts of a histogram whose bins are no wider and within these.
    fn count(&mut self, other: &Histogram) {
        let shift = (self.exponent - other.exponent).min(63);
        for (&count, bin) in other.counts.iter().zip(other.first..) {
            self.counts[((bin >> shift) - self.first) as usize] += count;
        }
    }
}

/// The exponent of the narrowest bins that do.
fn exponent(low: f64, high: f64) -> i32 {
    let magnitude = high.max(-low);
    let does = |exponent: i32| {
        let inverse = power(-exponent);
        (high * inverse).floor() - (low * inverse).floor() < BINS as f64 && magnitude * inverse < power(DIGITS)
    };
    let estimate = ((high - low) / BINS as f64).max(magnitude / power(DIGITS)).log2();
    let mut exponent = (estimate as i32).saturating_sub(2).max(-180);
    while !does(exponent) {
        exponent += 1;
    }
    exponent
}

/// 2^exponent, exactly.
fn power(exponent: i32) -> f64 {
    f64::from_bits(((1023 + exponent) as u64) << 52)
}
