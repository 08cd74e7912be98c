//! A few vectors side by side, so that one pass over a large matrix serves all of them.

use crate::{InstructionSet, vectorized::vectorized};

/// How many vectors.
pub const LANES: usize = 16;

/// The same element of each of them.
pub type Lanes = [f64; LANES];

/// Rows of a matrix that are gone through at once: their sums do not wait for one another.
const ROWS: usize = 4;

/// Sums over vectors side by side, each lane by itself and in the order of the elements. A product and the sum that it
/// goes into are rounded once, on every processor, so results are the same everywhere.
#[derive(Clone, Copy, Debug)]
pub struct Lanewise(InstructionSet);

impl Lanewise {
    /// With the best instructions that this processor has.
    pub fn detect() -> Self {
        Self(InstructionSet::detect())
    }

    /// Σ factors\[i\] × vector\[i\], over the shorter of the two.
    pub fn dot(self, factors: &[f64], vector: &[Lanes]) -> Lanes {
        let [sum] = self.dots(factors, [vector]);
        sum
    }

    /// [`dot`](Self::dot) with each of `vectors`, which are as long as one another.
    pub fn dots<const N: usize>(self, factors: &[f64], vectors: [&[Lanes]; N]) -> [Lanes; N] {
        let mut sums = [[0.0; LANES]; N];
        for (vectors, sums) in vectors.chunks(3).zip(sums.chunks_mut(3)) {
            if let [first, second, third] = vectors {
                self.0.dot_three(factors, first, second, third, sums);
            } else {
                let each = vectors.iter().zip(sums);
                each.for_each(|(vector, sum)| self.0.dot_one(factors, vector, sum));
            }
        }
        sums
    }

    /// For each row of `matrix`, whose rows have `stride` numbers, the [`dot`](Self::dot) of `vector` with what the row
    /// has from `first` on.
    ///
    /// # Panics
    /// If a row ends before the vector does.
    pub fn products(self, matrix: &[f64], stride: usize, first: usize, vector: &[Lanes]) -> Vec<Lanes> {
        let mut products = vec![[0.0; LANES]; matrix.len() / stride.max(1)];
        let rows = matrix.chunks(stride.max(1) * ROWS);
        for (rows, products) in rows.zip(products.chunks_mut(ROWS)) {
            if products.len() == ROWS {
                self.0.dot_rows(rows, stride, first, vector, products);
            } else {
                for (row, product) in rows.chunks_exact(stride).zip(products) {
                    self.0.dot_one(&row[first..][..vector.len()], vector, product);
                }
            }
        }
        products
    }

    /// vector\[i\] −= factors\[i\] × step.
    pub fn subtract(self, vector: &mut [Lanes], factors: &[f64], step: &Lanes) {
        self.0.subtract_scaled(vector, factors, step);
    }

    /// What [`subtract`](Self::subtract) does with one row of `matrix` after the other, from its number `first` on: row
    /// `rows[i]` with `steps[i]`. The matrix's rows have `stride` numbers.
    ///
    /// # Panics
    /// If a row ends before the vector does.
    pub fn subtract_rows(
        self,
        vector: &mut [Lanes],
        matrix: &[f64],
        stride: usize,
        first: usize,
        rows: &[usize],
        steps: &[Lanes],
    ) {
        self.0.subtract_all(vector, matrix, stride, first, rows, steps);
    }

    /// Adds, to each lane of `errors`, the squared errors of rounding weights to the lane's nearest level, times the
    /// weights' importance.
    pub fn add_rounding_errors(self, weights: &[f32], importance: &[f64], levels: &Levels, errors: &mut Lanes) {
        self.0.rounding_errors(weights, importance, levels, errors);
    }
}

vectorized! {
    fn dot_one(factors: &[f64], vector: &[Lanes], sum: &mut Lanes) {
        let mut own = [0.0; LANES];
        for (&factor, lanes) in factors.iter().zip(vector) {
            add(&mut own, factor, lanes);
        }
        *sum = own;
    }
}

vectorized! {
    fn dot_three(factors: &[f64], first: &[Lanes], second: &[Lanes], third: &[Lanes], sums: &mut [Lanes]) {
        let mut own = [[0.0; LANES]; 3];
        for (((&factor, first), second), third) in factors.iter().zip(first).zip(second).zip(third) {
            add(&mut own[0], factor, first);
            add(&mut own[1], factor, second);
            add(&mut own[2], factor, third);
        }
        sums.copy_from_slice(&own);
    }
}

vectorized! {
    fn dot_rows(rows: &[f64], stride: usize, first: usize, vector: &[Lanes], sums: &mut [Lanes]) {
        let mut own = [[0.0; LANES]; ROWS];
        let row = |at: usize| &rows[at * stride + first..][..vector.len()];
        let rows: [&[f64]; ROWS] = [row(0), row(1), row(2), row(3)];
        for (at, lanes) in vector.iter().enumerate() {
            for (own, row) in own.iter_mut().zip(rows) {
                add(own, row[at], lanes);
            }
        }
        sums.copy_from_slice(&own);
    }
}

vectorized! {
    fn subtract_scaled(vector: &mut [Lanes], factors: &[f64], step: &Lanes) {
        for (&factor, lanes) in factors.iter().zip(vector) {
            take(lanes, factor, step);
        }
    }
}

vectorized! {
    fn subtract_all(
        vector: &mut [Lanes],
        matrix: &[f64],
        stride: usize,
        first: usize,
        rows: &[usize],
        steps: &[Lanes],
    ) {
        let (whole, rest) = vector.as_chunks_mut::<ROWS>();
        let end = first + whole.len() * ROWS;
        for (lanes, first) in whole.iter_mut().zip((first..).step_by(ROWS)) {
            let mut own = *lanes;
            for (&row, step) in rows.iter().zip(steps) {
                let factors = &matrix[row * stride + first..][..ROWS];
                for (own, &factor) in own.iter_mut().zip(factors) {
                    take(own, factor, step);
                }
            }
            *lanes = own;
        }
        for (lanes, at) in rest.iter_mut().zip(end..) {
            for (&row, step) in rows.iter().zip(steps) {
                take(lanes, matrix[row * stride + at], step);
            }
        }
    }
}

vectorized! {
    fn rounding_errors(weights: &[f32], importance: &[f64], levels: &Levels, errors: &mut Lanes) {
        let mut own = *errors;
        for (&weight, &importance) in weights.iter().zip(importance) {
            for (lane, error) in own.iter_mut().enumerate() {
                let scale = levels.scales[lane];
                let level = nearest_level(weight, scale, levels.low[lane], levels.high[lane]);
                let off = f64::from(weight) - f64::from(level * scale);
                *error += importance * off * off;
            }
        }
        *errors = own;
    }
}

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
    // Adding 1.5 × 2^23 leaves no fraction bits; unlike `round_ties_even` it needs no call, and vectorizes.
    const SHIFT: f32 = 12_582_912.0;
    // `clamp` may panic, which would keep the loop around it from being vectorized.
    ((value / scale).max(low).min(high) + SHIFT) - SHIFT
}

#[inline(always)]
fn take(lanes: &mut Lanes, factor: f64, step: &Lanes) {
    for (lane, step) in lanes.iter_mut().zip(step) {
        *lane = factor.mul_add(-step, *lane);
    }
}

#[inline(always)]
fn add(sum: &mut Lanes, factor: f64, lanes: &Lanes) {
    for (sum, lane) in sum.iter_mut().zip(lanes) {
        *sum = factor.mul_add(*lane, *sum);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn noise(count: usize, seed: u64) -> Vec<f64> {
        let mut state = seed;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    fn lanes(count: usize, seed: u64) -> Vec<Lanes> {
        let values = noise(count * LANES, seed);
        values
            .chunks_exact(LANES)
            .map(|lanes| std::array::from_fn(|lane| lanes[lane]))
            .collect()
    }

    /// What is meant.
    fn plain(factors: &[f64], vector: &[Lanes]) -> Lanes {
        let lane = |lane: usize| {
            let pairs = factors.iter().zip(vector);
            pairs.fold(0.0, |sum, (factor, lanes)| factor.mul_add(lanes[lane], sum))
        };
        std::array::from_fn(lane)
    }

    proptest! {
        #[test]
        fn every_instruction_set_gives_the_same_bits(rows in 0_usize..11, columns in 1_usize..40, seed: u64) {
            let (matrix, vectors) = (noise(rows * columns, seed), [1, 2, 3].map(|at| lanes(columns, seed ^ at)));
            let first = seed as usize % columns;
            for set in InstructionSet::available() {
                let lanewise = Lanewise(set);
                let factors = noise(columns, seed ^ 9);
                let expected = [0, 1, 2].map(|at| plain(&factors, &vectors[at]));
                prop_assert_eq!(lanewise.dots(&factors, [&vectors[0], &vectors[1], &vectors[2]]), expected);
                prop_assert_eq!(lanewise.dots(&factors, [&vectors[0], &vectors[1]]), [expected[0], expected[1]]);
                prop_assert_eq!(lanewise.dot(&factors, &vectors[0]), expected[0]);
                let part = &vectors[0][first..];
                let products: Vec<Lanes> =
                    matrix.chunks_exact(columns).map(|row| plain(&row[first..], part)).collect();
                prop_assert_eq!(lanewise.products(&matrix, columns, first, part), products);
                let mut moved = vectors[0].clone();
                let step = &vectors[1][0];
                lanewise.subtract(&mut moved, &factors, step);
                for (at, moved) in moved.iter().enumerate() {
                    let expected: Lanes =
                        std::array::from_fn(|lane| factors[at].mul_add(-step[lane], vectors[0][at][lane]));
                    prop_assert_eq!(moved, &expected);
                }
                let chosen: Vec<usize> = (0..rows).rev().step_by(2).collect();
                let steps = &vectors[2][..chosen.len().min(columns)];
                let (mut at_once, mut one_by_one) = (part.to_vec(), part.to_vec());
                lanewise.subtract_rows(&mut at_once, &matrix, columns, first, &chosen, steps);
                for (row, step) in chosen.iter().zip(steps) {
                    lanewise.subtract(&mut one_by_one, &matrix[row * columns + first..][..part.len()], step);
                }
                prop_assert_eq!(at_once, one_by_one);
            }
        }
    }

    proptest! {
        #[test]
        fn errors_of_rounding_are_those_of_each_lane(weights in prop::collection::vec(-4_f32..4.0, 0..40), seed: u64) {
            let importance: Vec<f64> = noise(weights.len(), seed).into_iter().map(f64::abs).collect();
            let levels = Levels {
                scales: std::array::from_fn(|lane| 0.1 + lane as f32 / 16.0),
                low: std::array::from_fn(|lane| -(lane as f32)),
                high: std::array::from_fn(|lane| lane as f32 / 2.0),
            };
            for set in InstructionSet::available() {
                let mut errors = [0.0; LANES];
                Lanewise(set).add_rounding_errors(&weights, &importance, &levels, &mut errors);
                for (lane, error) in errors.into_iter().enumerate() {
                    let scale = levels.scales[lane];
                    let one = |(&weight, importance): (&f32, &f64)| {
                        let level = (weight / scale).clamp(levels.low[lane], levels.high[lane]).round_ties_even();
                        let off = f64::from(weight) - f64::from(level * scale);
                        importance * off * off
                    };
                    prop_assert_eq!(error, weights.iter().zip(&importance).map(one).fold(0.0, |sum, one| sum + one));
                }
            }
        }
    }
}
