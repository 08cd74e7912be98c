//! `top1`, `top5` and `accuracy`: how often the label is among the highest scores.

use kmr_sdk::{Host, MeasureRequest, Meter, Reading, Result};

use crate::{
    config::{ClassConfig, OutputConfig},
    measure::labeled,
    positions::{self, Judged, TokenConfig},
};

/// 1 if class `label` is among the `count` highest scores, else 0. Of equal scores the one of the lower class
/// counts as higher; where a score is NaN there is no order, and the answer counts as wrong.
///
/// # Panics
/// If `label` is not among the scores.
pub fn hit(scores: &[f32], label: usize, count: usize) -> f64 {
    if scores.iter().any(|score| score.is_nan()) {
        return 0.0;
    }
    let own = scores[label];
    let ahead = scores[..label].iter().filter(|&&score| score >= own).count()
        + scores[label..].iter().filter(|&&score| score > own).count();
    f64::from(ahead < count)
}

/// The meter of the share of hits among the `COUNT` highest scores.
pub struct Top<const COUNT: usize>(ClassConfig);

impl<const COUNT: usize> Meter for Top<COUNT> {
    type Config = ClassConfig;

    fn new(config: ClassConfig) -> Result<Self> {
        Ok(Self(config))
    }

    fn measure(&mut self, host: &Host<'_>, request: &MeasureRequest) -> Result<Reading> {
        // Among no more than COUNT classes every answer is a hit, and says nothing.
        labeled(host, &self.0, request, COUNT + 1, |scores, label| {
            hit(scores, label, COUNT)
        })
    }
}

/// The meter of the share of answers that are right: one for each sample, or for each of its judged positions. Classes
/// are along the last axis.
pub struct Accuracy(TokenConfig);

impl Meter for Accuracy {
    type Config = OutputConfig;

    fn new(config: OutputConfig) -> Result<Self> {
        Ok(Self(TokenConfig {
            output: config.output,
            batch: config.batch,
            ..Default::default()
        }))
    }

    fn measure(&mut self, host: &Host<'_>, request: &MeasureRequest) -> Result<Reading> {
        positions::mean(&positions::labeled(
            host,
            &self.0,
            request,
            Judged::Class,
            |scores, label| hit(scores, label, 1),
        )?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_label_must_be_among_the_highest() {
        let scores = [0.1, 0.9, 0.5, 0.9, -2.0, f32::NEG_INFINITY];
        let hits = |count| (0..6).map(|label| hit(&scores, label, count)).collect::<Vec<_>>();
        assert_eq!(hits(1), [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(hits(2), [0.0, 1.0, 0.0, 1.0, 0.0, 0.0]);
        assert_eq!(hits(5), [1.0, 1.0, 1.0, 1.0, 1.0, 0.0]);
    }

    #[test]
    fn nan_is_wrong_wherever_it_stands() {
        for position in 0..3 {
            let mut scores = [0.0, 5.0, 1.0];
            scores[position] = f32::NAN;
            assert_eq!(hit(&scores, 1, 1), 0.0);
            assert_eq!(hit(&scores, 1, 3), 0.0);
        }
    }

    proptest! {
        #[test]
        fn as_many_labels_hit_as_are_asked_for(
            scores in prop::collection::vec(-4_i8..4, 1..20), count in 1_usize..8,
        ) {
            let scores: Vec<f32> = scores.into_iter().map(f32::from).collect();
            let hits: f64 = (0..scores.len()).map(|label| hit(&scores, label, count)).sum();
            prop_assert_eq!(hits, count.min(scores.len()) as f64);
        }

        #[test]
        fn a_constant_added_changes_nothing(
            scores in prop::collection::vec(-100_i16..100, 1..20), shift in -1000_i16..1000, count in 1_usize..6,
        ) {
            let scores: Vec<f32> = scores.into_iter().map(f32::from).collect();
            let shifted: Vec<f32> = scores.iter().map(|score| score + f32::from(shift)).collect();
            for label in 0..scores.len() {
                prop_assert_eq!(hit(&scores, label, count), hit(&shifted, label, count));
            }
        }
    }
}
