//! Pearson's and Spearman's correlation, as scores of samples.

/// r of two lists, with a score for each pair: r + z_x z_y − r (z_x² + z_y²) / 2, where z is a number in standard
/// deviations from its mean. The last terms are the influence of the pair on r (Devlin, Gnanadesikan and Kettenring,
/// "Robust Estimation and Outlier Detection with Correlation Coefficients", Biometrika 62:531–545, 1975), and their mean
/// is 0. None if a list does not vary.
pub fn pearson(left: &[f64], right: &[f64]) -> Option<(f64, Vec<f64>)> {
    let (left, right) = (standardized(left)?, standardized(right)?);
    let products = left.iter().zip(&right).map(|(left, right)| left * right);
    let value = (products.sum::<f64>() / left.len() as f64).clamp(-1.0, 1.0);
    let score = |(left, right): (&f64, &f64)| value + left * right - value * (left * left + right * right) / 2.0;
    Some((value, left.iter().zip(&right).map(score).collect()))
}

/// Pearson's of the ranks; equal numbers share the mean of their ranks.
pub fn spearman(left: &[f64], right: &[f64]) -> Option<(f64, Vec<f64>)> {
    pearson(&ranks(left), &ranks(right))
}

fn standardized(values: &[f64]) -> Option<Vec<f64>> {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
    let deviation = variance.sqrt();
    // Rounding alone makes equal numbers differ from their mean.
    let floor = 1e-14 * values.iter().fold(0.0_f64, |greatest, value| greatest.max(value.abs()));
    (deviation > floor).then(|| values.iter().map(|value| (value - mean) / deviation).collect())
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|left, right| values[*left].total_cmp(&values[*right]));
    let mut ranks = vec![0.0; values.len()];
    let mut before = 0;
    for equal in order.chunk_by(|left, right| values[*left] == values[*right]) {
        let rank = before as f64 + (equal.len() + 1) as f64 / 2.0;
        for at in equal {
            ranks[*at] = rank;
        }
        before += equal.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranks_of_equal_numbers_are_shared() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0]);
        assert_eq!(ranks(&[0.0, -0.0]), [1.5, 1.5]);
    }

    #[test]
    fn what_does_not_vary_has_no_correlation() {
        assert_eq!(pearson(&[0.1; 7], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]), None);
        assert_eq!(pearson(&[1.0], &[1.0]), None);
    }

    proptest! {
        #[test]
        fn lines_correlate_fully_and_scores_have_the_mean(
            pairs in prop::collection::vec((-100_i32..100, -100_i32..100), 3..40), slope in 1_i32..9,
        ) {
            let (left, right): (Vec<f64>, Vec<f64>) = pairs.iter().map(|(l, r)| (f64::from(*l), f64::from(*r))).unzip();
            let line: Vec<f64> = left.iter().map(|value| 3.0 - f64::from(slope) * value).collect();
            for correlation in [pearson, spearman] {
                if let Some((value, scores)) = correlation(&left, &right) {
                    let mean = scores.iter().sum::<f64>() / scores.len() as f64;
                    prop_assert!((mean - value).abs() < 1e-12);
                }
                if let Some((value, _)) = correlation(&left, &line) {
                    prop_assert!((value + 1.0).abs() < 1e-12);
                }
            }
        }
    }
}
