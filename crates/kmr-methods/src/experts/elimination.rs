//! Which experts a layer can do without.

use rayon::prelude::*;

use super::greatest;
use crate::{MethodError, error::check_length};

/// How a layer weighs the experts that it chooses by scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weighting {
    /// By the softmax over the scores of all experts.
    Softmax,
    /// By the softmax over the scores of the chosen ones.
    Chosen,
    /// Each in full.
    Full,
}

/// What each expert of a layer would make of each of some tokens, chosen or not.
#[derive(Clone, Copy, Debug)]
pub struct Outputs<'a> {
    /// The router's scores, tokens × experts.
    pub scores: &'a [f32],
    /// For each expert its outputs, tokens × width.
    pub made: &'a [Vec<f32>],
    /// How many experts a token is given to.
    pub top_k: usize,
    /// How the chosen ones are weighed.
    pub weighting: Weighting,
}

impl Outputs<'_> {
    fn tokens(&self) -> usize {
        self.scores.len() / self.made.len().max(1)
    }

    fn width(&self) -> usize {
        self.made.first().map_or(0, Vec::len) / self.tokens().max(1)
    }

    fn check(&self) -> Result<(), MethodError> {
        let (tokens, width) = (self.tokens(), self.width());
        check_length("the scores of a router", tokens * self.made.len(), self.scores.len())?;
        for made in self.made {
            check_length("the outputs of an expert", tokens * width, made.len())?;
        }
        if self.top_k == 0 || self.top_k > self.made.len() {
            return Err(MethodError::Domain {
                what: "the number of chosen experts",
                domain: "1 to the number of experts",
                value: self.top_k as f64,
            });
        }
        Ok(())
    }

    /// The experts in `kept` that a token chooses, with their weights.
    fn chosen(&self, token: usize, kept: &[usize]) -> Vec<(usize, f64)> {
        let experts = self.made.len();
        let scores: Vec<f32> = kept
            .iter()
            .map(|&expert| self.scores[token * experts + expert])
            .collect();
        let chosen = greatest(&scores, self.top_k);
        let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let share = |score: f32| f64::from(score - most).exp();
        let total: f64 = match self.weighting {
            Weighting::Softmax => scores.iter().map(|&score| share(score)).sum(),
            Weighting::Chosen => chosen.iter().map(|&at| share(scores[at])).sum(),
            Weighting::Full => 1.0,
        };
        let weight = |score: f32| match self.weighting {
            Weighting::Full => 1.0,
            _ => share(score) / total,
        };
        chosen.into_iter().map(|at| (kept[at], weight(scores[at]))).collect()
    }

    fn sum(&self, token: usize, kept: &[usize]) -> Vec<f64> {
        let width = self.width();
        let mut sum = vec![0.0; width];
        for (expert, weight) in self.chosen(token, kept) {
            let row = &self.made[expert][token * width..][..width];
            sum.iter_mut()
                .zip(row)
                .for_each(|(sum, &value)| *sum += weight * f64::from(value));
        }
        sum
    }
}

/// The squared error of the layer's outputs with the experts in `kept` alone, over the squares of what it makes with all.
///
/// # Errors
/// If sizes do not fit.
pub fn error(outputs: &Outputs<'_>, kept: &[usize]) -> Result<f64, MethodError> {
    outputs.check()?;
    let all: Vec<usize> = (0..outputs.made.len()).collect();
    let parts: Vec<(f64, f64)> = (0..outputs.tokens())
        .into_par_iter()
        .map(|token| {
            let (whole, part) = (outputs.sum(token, &all), outputs.sum(token, kept));
            let apart = whole.iter().zip(&part).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
            (apart, whole.iter().map(|value| value * value).sum::<f64>())
        })
        .collect();
    let sums = parts
        .iter()
        .fold((0.0, 0.0), |sums, part| (sums.0 + part.0, sums.1 + part.1));
    Ok(if sums.1 > 0.0 { sums.0 / sums.1 } else { 0.0 })
}

/// How much weight tokens give each expert, added up.
///
/// # Errors
/// If sizes do not fit.
pub fn weights(outputs: &Outputs<'_>) -> Result<Vec<f64>, MethodError> {
    outputs.check()?;
    let all: Vec<usize> = (0..outputs.made.len()).collect();
    let mut sums = vec![0.0; all.len()];
    for token in 0..outputs.tokens() {
        for (expert, weight) in outputs.chosen(token, &all) {
            sums[expert] += weight;
        }
    }
    Ok(sums)
}

/// Experts in the order in which they are to go, until `least` are left: each time the one without which the layer's
/// outputs stay closest to those with all ("Not All Experts are Equal", arXiv 2402.14800, section 3.1, one expert after
/// the other instead of all sets). No fewer than the chosen ones can be left.
///
/// # Errors
/// If sizes do not fit.
pub fn eliminate(outputs: &Outputs<'_>, least: usize) -> Result<Vec<usize>, MethodError> {
    outputs.check()?;
    let experts = outputs.made.len();
    let all: Vec<usize> = (0..experts).collect();
    let wholes: Vec<Vec<f64>> = (0..outputs.tokens())
        .into_par_iter()
        .map(|token| outputs.sum(token, &all))
        .collect();
    let mut kept = all;
    let mut gone = Vec::new();
    while kept.len() > least.max(outputs.top_k).max(1) {
        // Of each token, the error as it is; and for each expert that it has chosen, the error without that one.
        let errors: Vec<(f64, Vec<(usize, f64)>)> = (0..outputs.tokens())
            .into_par_iter()
            .map(|token| {
                let apart = |kept: &[usize]| -> f64 {
                    let sum = outputs.sum(token, kept);
                    sum.iter().zip(&wholes[token]).map(|(a, b)| (a - b).powi(2)).sum()
                };
                let without = |expert: usize| {
                    let rest: Vec<usize> = kept.iter().copied().filter(|&other| other != expert).collect();
                    (expert, apart(&rest))
                };
                // The softmax over all changes with whoever goes.
                let touched: Vec<usize> = match outputs.weighting {
                    Weighting::Softmax => kept.clone(),
                    _ => outputs
                        .chosen(token, &kept)
                        .into_iter()
                        .map(|(expert, _)| expert)
                        .collect(),
                };
                (apart(&kept), touched.into_iter().map(without).collect())
            })
            .collect();
        let mut growth = vec![0.0; experts];
        for (present, without) in &errors {
            for &(expert, error) in without {
                growth[expert] += error - present;
            }
        }
        let Some(next) = kept.iter().copied().min_by(|&a, &b| growth[a].total_cmp(&growth[b])) else {
            break;
        };
        kept.retain(|&expert| expert != next);
        gone.push(next);
    }
    Ok(gone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn weightings() -> impl Strategy<Value = Weighting> {
        prop_oneof![Just(Weighting::Softmax), Just(Weighting::Chosen), Just(Weighting::Full)]
    }

    proptest! {
        /// The first to go is the one whose absence leaves the least error of all.
        #[test]
        fn the_one_that_is_missed_least_goes_first(
            scores in prop::collection::vec(-2.0_f32..2.0, 6 * 4),
            made in prop::collection::vec(prop::collection::vec(-1.0_f32..1.0, 6 * 2), 4),
            top_k in 1_usize..4,
            weighting in weightings(),
        ) {
            let outputs = Outputs { scores: &scores, made: &made, top_k, weighting };
            let gone = eliminate(&outputs, 1).unwrap();
            prop_assert_eq!(gone.len(), 4 - top_k);
            let without = |expert: usize| {
                let rest: Vec<usize> = (0..4).filter(|&other| other != expert).collect();
                error(&outputs, &rest).unwrap()
            };
            for other in 0..4 {
                prop_assert!(without(gone[0]) <= without(other) + 1e-9);
            }
            prop_assert_eq!(error(&outputs, &[0, 1, 2, 3]).unwrap(), 0.0);
        }
    }

    #[test]
    fn an_expert_that_nobody_chooses_goes_first() {
        // Three tokens, three experts, one chosen.
        let scores = [9.0, 0.0, 1.0, 0.0, -1.0, 9.0, 9.0, 0.0, 1.0];
        let made = vec![vec![1.0; 3], vec![5.0; 3], vec![2.0; 3]];
        let outputs = Outputs {
            scores: &scores,
            made: &made,
            top_k: 1,
            weighting: Weighting::Chosen,
        };
        assert_eq!(eliminate(&outputs, 1).unwrap(), [1, 2]);
        assert!((error(&outputs, &[0]).unwrap() - 1.0 / 6.0).abs() < 1e-12);
        assert!(eliminate(&Outputs { top_k: 4, ..outputs }, 1).is_err());
        assert!(
            eliminate(
                &Outputs {
                    scores: &scores[1..],
                    ..outputs
                },
                1
            )
            .is_err()
        );
    }
}
