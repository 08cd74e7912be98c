//! `loss`: the cross entropy with the labels.

use kmr_sdk::{Host, MeasureRequest, Meter, Reading, Result};

use crate::{config::ClassConfig, measure::labeled, softmax::log_sum_exp};

/// −ln softmax(logits)\[label\], in nats. Not finite where the logits are no distribution, or where the label
/// has probability zero.
///
/// # Panics
/// If `label` is not among the logits.
pub fn cross_entropy(logits: &[f32], label: usize) -> f64 {
    log_sum_exp(logits) - f64::from(logits[label])
}

/// The meter. The output must be logits, not probabilities.
pub struct Loss(ClassConfig);

impl Meter for Loss {
    type Config = ClassConfig;

    fn new(config: ClassConfig) -> Result<Self> {
        Ok(Self(config))
    }

    fn measure(&mut self, host: &Host<'_>, request: &MeasureRequest) -> Result<Reading> {
        labeled(host, &self.0, request, 2, cross_entropy)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_is_the_textbook_formula() {
        // softmax(ln 1, ln 2, ln 5) = (1, 2, 5) / 8
        let logits = [0.0, 2_f32.ln(), 5_f32.ln()];
        for (label, share) in [(0, 1.0), (1, 2.0), (2, 5.0_f64)] {
            let expected = -(share / 8.0).ln();
            assert!((cross_entropy(&logits, label) - expected).abs() < 1e-6, "{label}");
        }
        assert!((cross_entropy(&[0.0; 10], 3) - 10_f64.ln()).abs() < 1e-14);
    }

    #[test]
    fn a_confident_mistake_costs_its_margin() {
        assert_eq!(cross_entropy(&[2000.0, 0.0], 1), 2000.0);
        assert_eq!(cross_entropy(&[2000.0, 0.0], 0), 0.0);
        assert_eq!(cross_entropy(&[0.0, f32::NEG_INFINITY], 1), f64::INFINITY);
    }

    proptest! {
        #[test]
        fn probabilities_of_all_labels_sum_to_one(logits in prop::collection::vec(-80_f32..80.0, 1..30)) {
            let sum: f64 = (0..logits.len()).map(|label| (-cross_entropy(&logits, label)).exp()).sum();
            prop_assert!((sum - 1.0).abs() < 1e-12);
        }
    }
}
