//! `cosine` and `sqnr`: how close the output is to the original model's, as vectors.

use kmr_sdk::{Host, MeasureRequest, Meter, Reading, Result};

use crate::{
    config::OutputConfig,
    measure::{Compared, paired},
};

/// The greatest `sqnr` in dB, that of identical outputs; its negative is the least, that of noise on silence.
/// Float32 itself resolves about 150 dB.
pub const CEILING: f64 = 200.0;

fn products(left: &[f32], right: &[f32]) -> f64 {
    let pairs = left.iter().zip(right);
    pairs.map(|(&l, &r)| f64::from(l) * f64::from(r)).sum()
}

/// ⟨r, c⟩ / (‖r‖ ‖c‖), in [-1, 1]. Two zero vectors are alike (1); a zero vector and another are not (0). NaN
/// where an element is not finite.
pub fn cosine(reference: &[f32], candidate: &[f32]) -> f64 {
    // One root of the product: it is exact where both are the same, and squares of float32 do not overflow it.
    let lengths = (products(reference, reference) * products(candidate, candidate)).sqrt();
    if lengths == 0.0 {
        let both = reference.iter().chain(candidate).all(|&element| element == 0.0);
        return f64::from(both);
    }
    (products(reference, candidate) / lengths).clamp(-1.0, 1.0)
}

/// 10 lg(Σ r² / Σ (r − c)²) in dB, kept within ±[`CEILING`]. NaN where an element is not finite.
pub fn signal_to_noise(reference: &[f32], candidate: &[f32]) -> f64 {
    let pairs = reference.iter().zip(candidate);
    let noise: f64 = pairs.map(|(&r, &c)| (f64::from(r) - f64::from(c)).powi(2)).sum();
    let signal = products(reference, reference);
    if noise == 0.0 {
        return CEILING;
    }
    if !(noise.is_finite() && signal.is_finite()) {
        return f64::NAN;
    }
    (10.0 * (signal / noise).log10()).clamp(-CEILING, CEILING)
}

/// The meter of cosine similarity.
pub struct Cosine(OutputConfig);

impl Meter for Cosine {
    type Config = OutputConfig;

    fn new(config: OutputConfig) -> Result<Self> {
        Ok(Self(config))
    }

    fn measure(&mut self, host: &Host<'_>, request: &MeasureRequest) -> Result<Reading> {
        paired(host, Compared::directions(&self.0), request, cosine)
    }
}

/// The meter of the signal-to-quantization-noise ratio.
pub struct SignalToNoise(OutputConfig);

impl Meter for SignalToNoise {
    type Config = OutputConfig;

    fn new(config: OutputConfig) -> Result<Self> {
        Ok(Self(config))
    }

    fn measure(&mut self, host: &Host<'_>, request: &MeasureRequest) -> Result<Reading> {
        paired(host, Compared::whole(&self.0), request, signal_to_noise)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cosine_of_known_angles() {
        assert_eq!(cosine(&[3.0, 4.0], &[4.0, 3.0]), 24.0 / 25.0);
        assert_eq!(cosine(&[1.0, 0.0], &[0.0, 7.0]), 0.0);
        assert_eq!(cosine(&[1.0, 2.0], &[-2.0, -4.0]), -1.0);
        assert_eq!(cosine(&[0.0, 0.0], &[0.0, 0.0]), 1.0);
        assert_eq!(cosine(&[0.0, 0.0], &[0.0, 1.0]), 0.0);
        assert!(cosine(&[1.0, 0.0], &[f32::NAN, 0.0]).is_nan());
        assert!(cosine(&[0.0, 0.0], &[f32::NAN, 0.0]).is_nan());
        assert!(cosine(&[1.0, 0.0], &[f32::INFINITY, 0.0]).is_nan());
    }

    #[test]
    fn ratio_of_known_noise() {
        // Signal 25, noise 0.25: 20 dB.
        assert!((signal_to_noise(&[3.0, 4.0], &[3.0, 4.5]) - 20.0).abs() < 1e-12);
        assert_eq!(signal_to_noise(&[3.0, 4.0], &[0.0, 0.0]), 0.0);
        assert_eq!(signal_to_noise(&[3.0, 4.0], &[3.0, 4.0]), CEILING);
        assert_eq!(signal_to_noise(&[0.0], &[0.0]), CEILING);
        assert_eq!(signal_to_noise(&[0.0], &[1.0]), -CEILING);
        assert!(signal_to_noise(&[3.0], &[f32::NAN]).is_nan());
        assert!(signal_to_noise(&[3.0], &[f32::NEG_INFINITY]).is_nan());
    }

    proptest! {
        #[test]
        fn cosine_is_bounded_symmetric_and_blind_to_scale(
            pairs in prop::collection::vec((-1e3_f32..1e3, -1e3_f32..1e3), 1..40), exponent in -20_i32..20,
        ) {
            let (reference, candidate): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            let value = cosine(&reference, &candidate);
            prop_assert!((-1.0..=1.0).contains(&value));
            prop_assert_eq!(value, cosine(&candidate, &reference));
            prop_assert_eq!(cosine(&reference, &reference), 1.0);
            let scaled: Vec<f32> = candidate.iter().map(|element| element * 2_f32.powi(exponent)).collect();
            prop_assert!((value - cosine(&reference, &scaled)).abs() < 1e-12);
        }

        #[test]
        fn half_the_noise_is_six_decibel_more(
            pairs in prop::collection::vec((1_i16..1000, 1_i16..100), 1..40),
        ) {
            let reference: Vec<f32> = pairs.iter().map(|&(signal, _)| f32::from(signal)).collect();
            let with_noise = |share: f32| {
                let noisy: Vec<f32> = pairs.iter().map(|&(s, n)| f32::from(s) + share * f32::from(n)).collect();
                signal_to_noise(&reference, &noisy)
            };
            prop_assert!((with_noise(0.5) - with_noise(1.0) - 20.0 * 2_f64.log10()).abs() < 1e-9);
        }
    }
}
