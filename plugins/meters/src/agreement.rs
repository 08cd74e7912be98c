//! `agreement`: how often the model gives the original model's answer.

use kmr_sdk::{Host, MeasureRequest, Meter, Reading, Result};

use crate::{
    accuracy::hit,
    config::ClassConfig,
    measure::{Compared, paired},
};

/// The class with the highest score, the lowest of equal ones; none where a score is NaN.
pub fn highest(scores: &[f32]) -> Option<usize> {
    let mut best = 0;
    for (class, score) in scores.iter().enumerate() {
        if score.is_nan() {
            return None;
        }
        if *score > scores[best] {
            best = class;
        }
    }
    (!scores.is_empty()).then_some(best)
}

/// 1 if both have their highest score at the same class, else 0, also where the candidate has a NaN; NaN where
/// the reference has one.
pub fn same_answer(reference: &[f32], candidate: &[f32]) -> f64 {
    highest(reference).map_or(f64::NAN, |answer| hit(candidate, answer, 1))
}

/// The meter.
pub struct Agreement(ClassConfig);

impl Meter for Agreement {
    type Config = ClassConfig;

    fn new(config: ClassConfig) -> Result<Self> {
        Ok(Self(config))
    }

    fn measure(&mut self, host: &Host<'_>, request: &MeasureRequest) -> Result<Reading> {
        paired(host, Compared::classes(&self.0), request, same_answer)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_the_highest_class_counts() {
        assert_eq!(same_answer(&[0.0, 2.0, 1.0], &[-9.0, 0.5, 0.4]), 1.0);
        assert_eq!(same_answer(&[0.0, 2.0, 1.0], &[0.0, 2.0, 2.1]), 0.0);
        assert_eq!(highest(&[1.0, 3.0, 3.0]), Some(1));
        assert_eq!(highest(&[f32::NEG_INFINITY; 2]), Some(0));
    }

    #[test]
    fn a_nan_candidate_disagrees_and_a_nan_reference_has_no_answer() {
        assert_eq!(same_answer(&[0.0, 1.0], &[f32::NAN, 1.0]), 0.0);
        assert!(same_answer(&[f32::NAN, 1.0], &[0.0, 1.0]).is_nan());
        assert!(same_answer(&[0.0, f32::NAN], &[0.0, 1.0]).is_nan());
    }

    proptest! {
        #[test]
        fn a_model_agrees_with_itself(scores in prop::collection::vec(-4_i8..4, 1..20)) {
            let scores: Vec<f32> = scores.into_iter().map(f32::from).collect();
            prop_assert_eq!(same_answer(&scores, &scores), 1.0);
        }

        #[test]
        fn agreement_is_mutual(pairs in prop::collection::vec((-4_i8..4, -4_i8..4), 2..8)) {
            let (left, right): (Vec<f32>, Vec<f32>) =
                pairs.into_iter().map(|(l, r)| (f32::from(l), f32::from(r))).unzip();
            prop_assert_eq!(same_answer(&left, &right), same_answer(&right, &left));
        }
    }
}
