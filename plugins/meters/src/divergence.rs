//! `kl`: how far the model's distribution is from the original model's.

use kmr_sdk::{Host, MeasureRequest, Meter, Reading, Result};

use crate::{
    config::ClassConfig,
    measure::{Compared, paired},
    softmax::log_sum_exp,
};

/// KL(p ‖ q) = Σ p ln(p / q) in nats, of p = softmax(reference) and q = softmax(candidate). Infinite where q is
/// zero and p is not; NaN where the logits are no distribution.
pub fn kullback_leibler(reference: &[f32], candidate: &[f32]) -> f64 {
    let (from, to) = (log_sum_exp(reference), log_sum_exp(candidate));
    if from.is_nan() || to.is_nan() {
        return f64::NAN;
    }
    let terms = reference.iter().zip(candidate).map(|(&p, &q)| {
        let (log_p, log_q) = (f64::from(p) - from, f64::from(q) - to);
        let probability = log_p.exp();
        if probability == 0.0 {
            0.0
        } else {
            probability * (log_p - log_q)
        }
    });
    // Rounding alone can bring the sum below zero.
    terms.sum::<f64>().max(0.0)
}

/// The meter. The outputs must be logits, not probabilities.
pub struct Divergence(ClassConfig);

impl Meter for Divergence {
    type Config = ClassConfig;

    fn new(config: ClassConfig) -> Result<Self> {
        Ok(Self(config))
    }

    fn measure(&mut self, host: &Host<'_>, request: &MeasureRequest) -> Result<Reading> {
        paired(host, Compared::classes(&self.0), request, kullback_leibler)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_is_the_textbook_formula_in_this_direction() {
        // p = (1/2, 1/2), q = (1/4, 3/4)
        let (p, q) = ([0.0, 0.0], [0.0, 3_f32.ln()]);
        let forward = 0.5 * 2_f64.ln() + 0.5 * (2.0 / 3.0_f64).ln();
        let backward = 0.25 * 0.5_f64.ln() + 0.75 * 1.5_f64.ln();
        assert!((kullback_leibler(&p, &q) - forward).abs() < 1e-7);
        assert!((kullback_leibler(&q, &p) - backward).abs() < 1e-7);
    }

    #[test]
    fn masked_classes_cost_nothing_unless_the_reference_uses_them() {
        let masked = [0.0, f32::NEG_INFINITY];
        assert_eq!(kullback_leibler(&masked, &masked), 0.0);
        assert!((kullback_leibler(&masked, &[0.0, 0.0]) - 2_f64.ln()).abs() < 1e-15);
        assert_eq!(kullback_leibler(&[0.0, 0.0], &masked), f64::INFINITY);
        assert!(kullback_leibler(&[0.0, 0.0], &[f32::NAN, 0.0]).is_nan());
    }

    fn softmax(logits: &[f32]) -> Vec<f64> {
        let weights: Vec<f64> = logits.iter().map(|&logit| f64::from(logit).exp()).collect();
        let sum: f64 = weights.iter().sum();
        weights.into_iter().map(|weight| weight / sum).collect()
    }

    proptest! {
        // Pinsker: KL(p ‖ q) ≥ ‖p − q‖₁² / 2, which is never below zero.
        #[test]
        fn it_is_at_least_what_pinsker_says(pairs in prop::collection::vec((-30_f32..30.0, -30_f32..30.0), 1..20)) {
            let (reference, candidate): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            let (p, q) = (softmax(&reference), softmax(&candidate));
            let distance: f64 = p.iter().zip(&q).map(|(p, q)| (p - q).abs()).sum();
            prop_assert!(kullback_leibler(&reference, &candidate) >= distance * distance / 2.0 - 1e-12);
        }

        #[test]
        fn a_constant_added_to_either_changes_nothing(
            pairs in prop::collection::vec((-100_i16..100, -100_i16..100), 1..20), shift in -1000_i16..1000,
        ) {
            let (reference, candidate): (Vec<f32>, Vec<f32>) =
                pairs.into_iter().map(|(l, r)| (f32::from(l), f32::from(r))).unzip();
            let shifted = |logits: &[f32]| logits.iter().map(|logit| logit + f32::from(shift)).collect::<Vec<_>>();
            let expected = kullback_leibler(&reference, &candidate);
            prop_assert!((kullback_leibler(&shifted(&reference), &candidate) - expected).abs() < 1e-9);
            prop_assert!((kullback_leibler(&reference, &shifted(&candidate)) - expected).abs() < 1e-9);
        }
    }
}
