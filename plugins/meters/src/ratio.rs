//! Ratios of sums, as scores of samples.

/// What a sample adds to numerator and denominator.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Share {
    pub above: f64,
    pub below: f64,
}

/// R = Σ above / Σ below, and a score for each sample: R + n (above − R · below) / Σ below.
///
/// Scores have the mean R, and their differences between two models vary as those of R do (the delta method; Oehlert, "A
/// Note on the Delta Method", The American Statistician 46:27–29, 1992), so that paired tests of means hold for ratios.
/// None if nothing is below.
pub fn linearized(shares: &[Share]) -> Option<(f64, Vec<f64>)> {
    let above: f64 = shares.iter().map(|share| share.above).sum();
    let below: f64 = shares.iter().map(|share| share.below).sum();
    if below == 0.0 {
        return None;
    }
    let ratio = above / below;
    let weight = shares.len() as f64 / below;
    let score = |share: &Share| ratio + weight * (share.above - ratio * share.below);
    Some((ratio, shares.iter().map(score).collect()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_mean_of_scores_is_the_ratio(
            shares in prop::collection::vec((0_f64..100.0, 1_u8..200), 1..50),
        ) {
            let shares: Vec<Share> =
                shares.into_iter().map(|(above, below)| Share { above, below: below.into() }).collect();
            let (ratio, scores) = linearized(&shares).unwrap();
            let mean = scores.iter().sum::<f64>() / scores.len() as f64;
            prop_assert!((mean - ratio).abs() <= 1e-12 * ratio.abs().max(1.0));
        }

        /// With one sample left out, a score moves by what the ratio moves, to first order.
        #[test]
        fn scores_are_what_samples_bring(
            shares in prop::collection::vec((1_f64..2.0, 100_f64..110.0), 50..60),
        ) {
            let shares: Vec<Share> =
                shares.into_iter().map(|(above, below)| Share { above, below }).collect();
            let (ratio, scores) = linearized(&shares).unwrap();
            let (without, _) = linearized(&shares[1..]).unwrap();
            let count = shares.len() as f64;
            let jackknife = count * ratio - (count - 1.0) * without;
            prop_assert!((jackknife - scores[0]).abs() <= 0.01 * ratio);
        }
    }

    #[test]
    fn equal_shares_make_plain_means() {
        let shares = [1.0, 2.0, 6.0].map(|above| Share { above, below: 1.0 });
        assert_eq!(linearized(&shares), Some((3.0, vec![1.0, 2.0, 6.0])));
        assert_eq!(linearized(&[Share::default()]), None);
        assert_eq!(linearized(&[]), None);
    }
}
