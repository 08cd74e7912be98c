//! Weights that are rounded to integer levels: what that costs, and the scale that fits the levels best.

use crate::{LANES, Lanes, Lanewise, vectorized::vectorized};

/// What numbers are rounded to, lane by lane: `scale` × an integer from `low` to `high`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Levels {
    /// Positive.
    pub scales: [f32; LANES],
    /// The lowest integer.
    pub low: [f32; LANES],
    /// The highest one, not below the lowest.
    pub high: [f32; LANES],
}

/// The integer from `low` to `high` that is nearest to `value / scale`, ties to even. All of it is float32.
#[inline(always)]
pub fn nearest_level(value: f32, scale: f32, low: f32, high: f32) -> f32 {
    level(value / scale, low, high)
}

#[inline(always)]
fn level(value: f32, low: f32, high: f32) -> f32 {
    // Adding 1.5 × 2^23 leaves no fraction bits; unlike `round_ties_even` it needs no call, and vectorizes.
    const SHIFT: f32 = 12_582_912.0;
    // `clamp` may panic, which would keep the loop around it from being vectorized.
    (value.max(low).min(high) + SHIFT) - SHIFT
}

impl Lanewise {
    /// Adds, to each lane of `errors`, the squared errors of rounding weights to the lane's nearest level, times the
    /// weights' importance. Of two levels that are as near as float32 can tell either may be taken.
    pub fn add_rounding_errors(self, weights: &[f32], importance: &[f64], levels: &Levels, errors: &mut Lanes) {
        self.instructions().rounding_errors(weights, importance, levels, errors);
    }

    /// Σ importance × weight × level and Σ importance × level², over the nearest levels from `low` to `high` of weights at
    /// `scale`, added to `sums`: the least-squares scale of these levels is the one over the other.
    pub fn add_level_sums(
        self,
        weights: &[f32],
        importance: &[f64],
        scale: f32,
        [low, high]: [f32; 2],
        sums: &mut [f64; 2],
    ) {
        self.instructions()
            .level_sums(weights, importance, scale, low, high, sums);
    }
}

vectorized! {
    fn rounding_errors(weights: &[f32], importance: &[f64], levels: &Levels, errors: &mut Lanes) {
        // A division for each lane would take most of the time.
        let inverse = levels.scales.map(|scale| 1.0 / scale);
        let mut own = *errors;
        for (&weight, &importance) in weights.iter().zip(importance) {
            for (lane, error) in own.iter_mut().enumerate() {
                let level = level(weight * inverse[lane], levels.low[lane], levels.high[lane]);
                let off = f64::from(weight) - f64::from(level * levels.scales[lane]);
                *error += importance * off * off;
            }
        }
        *errors = own;
    }
}

vectorized! {
    fn level_sums(weights: &[f32], importance: &[f64], scale: f32, low: f32, high: f32, sums: &mut [f64; 2]) {
        let (mut along, mut square) = ([0.0; LANES], [0.0; LANES]);
        for (weights, importance) in weights.chunks(LANES).zip(importance.chunks(LANES)) {
            let lanes = along.iter_mut().zip(&mut square).zip(weights.iter().zip(importance));
            for ((along, square), (&weight, &importance)) in lanes {
                let level = f64::from(nearest_level(weight, scale, low, high));
                *along += importance * f64::from(weight) * level;
                *square += importance * level * level;
            }
        }
        sums[0] += along.iter().sum::<f64>();
        sums[1] += square.iter().sum::<f64>();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::InstructionSet;

    proptest! {
        #[test]
        fn errors_and_sums_are_those_of_each_weight(
            weighted in prop::collection::vec((-4_f32..4.0, 0_f64..1.0), 0..40), scale in 0.05_f32..1.0,
        ) {
            let (weights, importance): (Vec<f32>, Vec<f64>) = weighted.into_iter().unzip();
            let levels = Levels {
                scales: std::array::from_fn(|lane| 0.1 + lane as f32 / 16.0),
                low: std::array::from_fn(|lane| -(lane as f32)),
                high: std::array::from_fn(|lane| lane as f32 / 2.0),
            };
            let rounded =
                |weight: f32, scale: f32, low: f32, high: f32| (weight / scale).clamp(low, high).round_ties_even();
            let near = |found: f64, expected: f64| (found - expected).abs() <= 1e-5 * (1.0 + expected.abs());
            let mut first = None;
            for set in InstructionSet::available() {
                let lanewise = Lanewise::with(set);
                let (mut errors, mut sums) = ([0.0; LANES], [0.0; 2]);
                lanewise.add_rounding_errors(&weights, &importance, &levels, &mut errors);
                lanewise.add_level_sums(&weights, &importance, scale, [-7.0, 8.0], &mut sums);
                for (lane, &error) in errors.iter().enumerate() {
                    let one = |(&weight, importance): (&f32, &f64)| {
                        let level = rounded(weight, levels.scales[lane], levels.low[lane], levels.high[lane]);
                        importance * f64::from(weight - level * levels.scales[lane]).powi(2)
                    };
                    let expected = weights.iter().zip(&importance).map(one).sum();
                    prop_assert!(near(error, expected), "{error} {expected}");
                }
                let level = |weight: f32| f64::from(rounded(weight, scale, -7.0, 8.0));
                let each = || weights.iter().zip(&importance);
                let along = each().map(|(&weight, importance)| importance * f64::from(weight) * level(weight)).sum();
                let square = each().map(|(&weight, importance)| importance * level(weight).powi(2)).sum();
                prop_assert!(near(sums[0], along) && near(sums[1], square), "{sums:?} {along} {square}");
                prop_assert_eq!(first.get_or_insert((errors, sums)), &(errors, sums));
            }
        }
    }
}
