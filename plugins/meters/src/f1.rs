//! `f1`: precision and recall of classes.

use kmr_sdk::{Error, Host, MeasureRequest, Meter, Reading, Result};
use serde::Deserialize;

use crate::{
    agreement::highest,
    config::ClassConfig,
    measure::labeled,
    ratio::{Share, linearized},
};

/// Which classes count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct F1Config {
    /// The only class that counts; all that occur, equally, if none is given.
    pub positive: Option<usize>,
    /// The value that is judged; the model's first output if none is given.
    pub output: Option<String>,
    /// Samples per batch; the host chooses if none is given.
    pub batch: Option<usize>,
}

/// F1 = 2 TP / (2 TP + FP + FN) of a class, or the mean of those of all classes that occur among labels or answers, with
/// a score for each sample; see [`linearized`]. None if no class occurs.
fn f1(answers: &[(Option<usize>, usize)], positive: Option<usize>) -> Option<(f64, Vec<f64>)> {
    let greatest = answers
        .iter()
        .map(|(answer, label)| answer.map_or(*label, |answer| answer.max(*label)))
        .max()?;
    let classes = positive.map_or(0..=greatest, |class| class..=class);
    let of = |class: usize| {
        let share = |(answer, label): &(Option<usize>, usize)| {
            let (found, there) = (f64::from(*answer == Some(class)), f64::from(*label == class));
            Share {
                above: 2.0 * found * there,
                below: found + there,
            }
        };
        linearized(&answers.iter().map(share).collect::<Vec<_>>())
    };
    let classes: Vec<_> = classes.filter_map(of).collect();
    if classes.is_empty() {
        return None;
    }
    let count = classes.len() as f64;
    let value = classes.iter().map(|(value, _)| value).sum::<f64>() / count;
    let score = |sample: usize| classes.iter().map(|(_, scores)| scores[sample]).sum::<f64>() / count;
    Some((value, (0..answers.len()).map(score).collect()))
}

/// The meter of F1.
pub struct F1(F1Config);

impl Meter for F1 {
    type Config = F1Config;

    fn new(config: F1Config) -> Result<Self> {
        Ok(Self(config))
    }

    fn measure(&mut self, host: &Host<'_>, request: &MeasureRequest) -> Result<Reading> {
        let config = ClassConfig {
            output: self.0.output.clone(),
            batch: self.0.batch,
            ..Default::default()
        };
        let mut answers = Vec::new();
        labeled(host, &config, request, 2, |scores, label| {
            answers.push((highest(scores), label));
            0.0
        })?;
        let Some((value, scores)) = f1(&answers, self.0.positive) else {
            let message = "no sample has the class `positive`, and none is taken for it";
            return Err(Error::invalid_request(message).at("config.positive"));
        };
        Ok(Reading {
            value,
            scores,
            ..Default::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_is_the_textbook_formula() {
        // Class 1: 2 found, 1 missed, 1 mistaken; class 0: 3 found, 1 missed, 1 mistaken.
        let answers =
            [(1, 1), (1, 1), (0, 1), (1, 0), (0, 0), (0, 0), (0, 0)].map(|(answer, label)| (Some(answer), label));
        let (of_one, _) = f1(&answers, Some(1)).unwrap();
        assert!((of_one - 4.0 / 6.0).abs() < 1e-15);
        let (mean, scores) = f1(&answers, None).unwrap();
        assert!((mean - (4.0 / 6.0 + 6.0 / 8.0) / 2.0).abs() < 1e-15);
        assert!((scores.iter().sum::<f64>() / 7.0 - mean).abs() < 1e-15);
        assert_eq!(f1(&answers, Some(2)), None);
        assert_eq!(f1(&[(Some(0), 0)], None).unwrap().0, 1.0);
        // No answer is a mistake of no class.
        assert_eq!(f1(&[(Some(0), 0), (None, 0)], None).unwrap().0, 2.0 / 3.0);
    }

    proptest! {
        #[test]
        fn it_lies_between_none_and_all(
            answers in prop::collection::vec((prop::option::of(0_usize..4), 0_usize..4), 1..40),
        ) {
            let (value, scores) = f1(&answers, None).unwrap();
            prop_assert!((-1e-12..=1.0 + 1e-12).contains(&value));
            prop_assert!((scores.iter().sum::<f64>() / scores.len() as f64 - value).abs() < 1e-9);
            let right: Vec<_> = answers.iter().map(|(_, label)| (Some(*label), *label)).collect();
            prop_assert_eq!(f1(&right, None).unwrap().0, 1.0);
        }
    }
}
