//! Routed experts: how they are used, how alike they are, which can go, and what several become together.

mod elimination;
mod merging;

pub use elimination::{Outputs, Weighting, eliminate, error, weights};
pub use merging::{Neurons, alignment, averaged, groups};

/// How evenly experts are used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Balance {
    /// Standard deviation of the experts' loads, over their mean: 0 where all have the same.
    pub variation: f64,
    /// The load of the busiest expert, over the mean: 1 where all have the same.
    pub most: f64,
    /// Experts that nothing was given to.
    pub idle: usize,
}

/// The balance of these loads, each the number of tokens that an expert was given. All zero where there is no load.
pub fn balance(loads: &[u64]) -> Balance {
    let total: u64 = loads.iter().sum();
    if total == 0 {
        return Balance {
            idle: loads.len(),
            ..Balance::default()
        };
    }
    let mean = total as f64 / loads.len() as f64;
    let variance = loads.iter().map(|&load| (load as f64 - mean).powi(2)).sum::<f64>() / loads.len() as f64;
    Balance {
        variation: variance.sqrt() / mean,
        most: loads.iter().copied().max().unwrap_or(0) as f64 / mean,
        idle: loads.iter().filter(|&&load| load == 0).count(),
    }
}

/// The cosine of the angle between two lists of numbers; 0 where one is zero.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let norms = (product(a, a) * product(b, b)).sqrt();
    if norms > 0.0 { product(a, b) / norms } else { 0.0 }
}

/// The positions of the `count` greatest scores, the greatest first; of equal ones, the first first.
pub fn greatest(scores: &[f32], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order.truncate(count);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_are_balanced_or_not() {
        assert_eq!(
            balance(&[5, 5, 5]),
            Balance {
                variation: 0.0,
                most: 1.0,
                idle: 0
            }
        );
        let balance = balance(&[0, 4]);
        assert_eq!((balance.variation, balance.most, balance.idle), (1.0, 2.0, 1));
        assert_eq!(super::balance(&[0, 0]).idle, 2);
        assert_eq!(super::balance(&[]), Balance::default());
    }

    #[test]
    fn angles_and_ranks() {
        assert!((cosine(&[1.0, 0.0], &[2.0, 2.0]) - 0.5_f64.sqrt()).abs() < 1e-12);
        assert_eq!(cosine(&[0.0], &[1.0]), 0.0);
        assert_eq!(greatest(&[0.5, 2.0, 0.5, 1.0], 3), [1, 3, 0]);
    }
}
