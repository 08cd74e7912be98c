//! Several experts become one.

use super::greatest;
use crate::{MethodError, assignment::assign, error::check_length};

/// The neurons of an expert: `width` numbers for each, all that the network has about it (what it reads, its bias, what
/// it writes).
#[derive(Clone, Copy, Debug)]
pub struct Neurons<'a> {
    /// Numbers of a neuron.
    pub width: usize,
    /// Neuron by neuron.
    pub values: &'a [f32],
}

impl Neurons<'_> {
    fn count(&self) -> usize {
        self.values.len() / self.width.max(1)
    }
}

/// For each neuron of `model`, the neuron of `other` that does the most alike: the permutation with the greatest sum of
/// products ("Git Re-Basin", arXiv 2209.04836, section 3.2, one layer).
///
/// # Errors
/// If the two differ in size, or a number is not finite.
pub fn alignment(model: Neurons<'_>, other: Neurons<'_>) -> Result<Vec<usize>, MethodError> {
    check_length("the neurons of an expert", model.values.len(), other.values.len())?;
    check_length(
        "the neurons of an expert",
        model.count() * model.width,
        model.values.len(),
    )?;
    let (count, width) = (model.count(), model.width);
    let rows = |neurons: Neurons<'_>, at: usize| neurons.values[at * width..][..width].to_vec();
    let mut costs = Vec::with_capacity(count * count);
    for at in 0..count {
        let own = rows(model, at);
        costs.extend((0..count).map(|theirs| {
            let theirs = &other.values[theirs * width..][..width];
            -own.iter()
                .zip(theirs)
                .map(|(&a, &b)| f64::from(a) * f64::from(b))
                .sum::<f64>()
        }));
    }
    assign(&costs, count, &vec![1; count])
}

/// The mean of experts by `weights`, the neurons of each put in the order of the first one's before.
///
/// # Errors
/// As [`alignment`]; or if there is no expert, or their weights do not add up to more than 0.
pub fn averaged(experts: &[Neurons<'_>], weights: &[f64]) -> Result<Vec<f32>, MethodError> {
    check_length("the weights of experts", experts.len(), weights.len())?;
    let total: f64 = weights.iter().sum();
    let (Some(&first), true) = (experts.first(), total > 0.0 && total.is_finite()) else {
        return Err(MethodError::Domain {
            what: "the sum of the weights of experts",
            domain: "greater than 0",
            value: total,
        });
    };
    let width = first.width;
    let mut sums = vec![0.0_f64; first.values.len()];
    for (&expert, weight) in experts.iter().zip(weights) {
        let order = alignment(first, expert)?;
        for (sums, from) in sums.chunks_mut(width.max(1)).zip(order) {
            let row = &expert.values[from * width..][..width];
            sums.iter_mut()
                .zip(row)
                .for_each(|(sum, &value)| *sum += weight / total * f64::from(value));
        }
    }
    Ok(sums.into_iter().map(|sum| sum as f32).collect())
}

/// Groups of experts that become one each: those in `leaders`, each followed by the others that are most like it by
/// `likeness`, experts × experts ("Merge, Then Compress", arXiv 2310.01334, section 3.1). In the order of `leaders`.
///
/// # Errors
/// If there is no leader, or one is no expert.
pub fn groups(leaders: &[usize], likeness: &[f32], experts: usize) -> Result<Vec<Vec<usize>>, MethodError> {
    check_length(
        "the likeness of experts",
        experts.saturating_mul(experts),
        likeness.len(),
    )?;
    let outside = leaders.iter().copied().find(|&leader| leader >= experts);
    if let Some(leader) = outside.or(leaders.is_empty().then_some(0)) {
        return Err(MethodError::Domain {
            what: "an expert that leads others",
            domain: "one of the experts",
            value: leader as f64,
        });
    }
    let mut groups: Vec<Vec<usize>> = leaders.iter().map(|&leader| vec![leader]).collect();
    for expert in (0..experts).filter(|expert| !leaders.contains(expert)) {
        let to_leaders: Vec<f32> = leaders
            .iter()
            .map(|&leader| likeness[expert * experts + leader])
            .collect();
        if let Some(&nearest) = greatest(&to_leaders, 1).first() {
            groups[nearest].push(expert);
        }
    }
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// An expert and the same with its neurons in another order are one expert.
        #[test]
        fn the_order_of_neurons_does_not_matter(
            values in prop::collection::vec(-1.0_f32..1.0, 6 * 4),
            order in Just((0..6).collect::<Vec<usize>>()).prop_shuffle(),
        ) {
            let turned: Vec<f32> = order.iter().flat_map(|&at| values[at * 4..][..4].to_vec()).collect();
            let expert = |values| Neurons { width: 4, values };
            let merged = averaged(&[expert(&values), expert(&turned)], &[1.0, 3.0]).unwrap();
            for (merged, value) in merged.iter().zip(&values) {
                prop_assert!((merged - value).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn experts_follow_those_that_they_are_like() {
        let likeness = [
            [1.0, 0.1, 0.0, 0.9],
            [0.1, 1.0, 0.8, 0.2],
            [0.0, 0.8, 1.0, 0.1],
            [0.9, 0.2, 0.1, 1.0],
        ];
        let likeness = likeness.concat();
        assert_eq!(groups(&[0, 2], &likeness, 4).unwrap(), [vec![0, 3], vec![2, 1]]);
        assert_eq!(groups(&[0, 1, 2, 3], &likeness, 4).unwrap().len(), 4);
        assert!(groups(&[], &likeness, 4).is_err());
        assert!(groups(&[4], &likeness, 4).is_err());
        assert!(groups(&[0], &likeness, 3).is_err());
    }

    #[test]
    fn weights_have_to_weigh() {
        let expert = Neurons {
            width: 1,
            values: &[1.0, 2.0],
        };
        assert!(averaged(&[], &[]).is_err());
        assert!(averaged(&[expert], &[0.0]).is_err());
        assert!(
            averaged(
                &[
                    expert,
                    Neurons {
                        width: 1,
                        values: &[1.0]
                    }
                ],
                &[1.0, 1.0]
            )
            .is_err()
        );
        assert_eq!(averaged(&[expert], &[2.0]).unwrap(), [1.0, 2.0]);
    }
}
