//! Vectors side by side, so that one pass over a large matrix serves all of them.

use crate::{InstructionSet, vectorized::vectorized};

/// How many vectors.
pub const LANES: usize = 16;

/// The same element of each of them.
pub type Lanes = [f64; LANES];

/// [`Lanes`] in float32, as what is multiplied is kept: a matrix in panels of as many columns, or vectors.
pub type Panel = [f32; LANES];

/// Rows of panels whose products are added up in float32.
const PART: usize = 64;

/// Sums over panels. Products in float32 are fused with the sums that they go into, on every processor, so results are the
/// same everywhere.
#[derive(Clone, Copy, Debug)]
pub struct Lanewise(InstructionSet);

impl Lanewise {
    /// With the best instructions that this processor has.
    pub fn detect() -> Self {
        Self(InstructionSet::detect())
    }

    #[cfg(test)]
    pub(crate) fn with(instructions: InstructionSet) -> Self {
        Self(instructions)
    }

    pub(crate) fn instructions(self) -> InstructionSet {
        self.0
    }

    /// Adds ownᵀ × others to `sums`: for each column of the one and each of the other, the sum of the products of their
    /// numbers in all rows, of which there are as many as the shorter of the two has. Products are added up in float32, 64
    /// rows at a time.
    pub fn add_products(self, own: &[Panel], others: &[Panel], sums: &mut [Lanes; LANES]) {
        match self.0 {
            InstructionSet::Avx512 => self.0.products_of_eight(own, others, sums),
            _ => self.0.products_of_four(own, others, sums),
        }
    }

    /// The same of float64 numbers, which are added up in float64.
    pub fn add_wide_products(self, own: &[Lanes], others: &[Lanes], sums: &mut [Lanes; LANES]) {
        match self.0 {
            InstructionSet::Avx512 => self.0.wide_products_of_four(own, others, sums),
            _ => self.0.wide_products_of_two(own, others, sums),
        }
    }

    /// Σ own\[i\]\[column\] × vector\[i\] in float64, over the shorter of the two.
    pub fn dot(self, own: &[Panel], column: usize, vector: &[Panel]) -> Lanes {
        let mut sum = [0.0; LANES];
        self.0.dot_one(own, column, vector, &mut sum);
        sum
    }

    /// vector\[i\] −= own\[i\]\[column\] × step, over the shorter of the two.
    pub fn subtract(self, vector: &mut [Lanes], own: &[Panel], column: usize, step: &Lanes) {
        self.0.subtract_scaled(vector, own, column, step);
    }
}

vectorized! {
    fn products_of_eight(own: &[Panel], others: &[Panel], sums: &mut [Lanes; LANES]) {
        products::<2>(own, others, sums);
    }
}

vectorized! {
    fn products_of_four(own: &[Panel], others: &[Panel], sums: &mut [Lanes; LANES]) {
        products::<1>(own, others, sums);
    }
}

vectorized! {
    fn wide_products_of_four(own: &[Lanes], others: &[Lanes], sums: &mut [Lanes; LANES]) {
        wide_products::<4>(own, others, sums);
    }
}

vectorized! {
    fn wide_products_of_two(own: &[Lanes], others: &[Lanes], sums: &mut [Lanes; LANES]) {
        wide_products::<2>(own, others, sums);
    }
}

/// Columns of one panel whose sums the compiler keeps in registers; with more in one array it would leave them in memory.
const FEW: usize = 4;

/// [`Lanewise::add_products`], with `N` times [`FEW`] columns of `own` at once: as many as fill the registers.
#[inline(always)]
fn products<const N: usize>(own: &[Panel], others: &[Panel], sums: &mut [Lanes; LANES]) {
    for (own, others) in own.chunks(PART).zip(others.chunks(PART)) {
        for (at, sums) in sums.chunks_exact_mut(N * FEW).enumerate() {
            let mut parts = [[[0.0_f32; LANES]; FEW]; N];
            for (own, others) in own.iter().zip(others) {
                for (half, parts) in parts.iter_mut().enumerate() {
                    let own: &[f32; FEW] = few(own, at * N * FEW + half * FEW);
                    for (part, &own) in parts.iter_mut().zip(own) {
                        for (part, &other) in part.iter_mut().zip(others) {
                            *part = own.mul_add(other, *part);
                        }
                    }
                }
            }
            for (sums, parts) in sums.chunks_exact_mut(FEW).zip(&parts) {
                for (sums, parts) in sums.iter_mut().zip(parts) {
                    for (sum, &part) in sums.iter_mut().zip(parts) {
                        *sum += f64::from(part);
                    }
                }
            }
        }
    }
}

/// [`Lanewise::add_wide_products`], with `N` columns of `own` at once.
#[inline(always)]
fn wide_products<const N: usize>(own: &[Lanes], others: &[Lanes], sums: &mut [Lanes; LANES]) {
    for (sums, first) in sums.chunks_exact_mut(N).zip((0..).step_by(N)) {
        let mut totals = [[0.0; LANES]; N];
        for (own, others) in own.iter().zip(others) {
            for (total, &own) in totals.iter_mut().zip(few::<_, N>(own, first)) {
                for (total, &other) in total.iter_mut().zip(others) {
                    *total = own.mul_add(other, *total);
                }
            }
        }
        for (sums, total) in sums.iter_mut().zip(&totals) {
            for (sum, total) in sums.iter_mut().zip(total) {
                *sum += total;
            }
        }
    }
}

/// Some neighbors, `N` of which there are.
#[inline(always)]
fn few<T, const N: usize>(all: &[T; LANES], first: usize) -> &[T; N] {
    match all[first..].first_chunk() {
        Some(few) => few,
        None => unreachable!(),
    }
}

vectorized! {
    fn dot_one(own: &[Panel], column: usize, vector: &[Panel], sum: &mut Lanes) {
        let mut lanes = [0.0; LANES];
        for (own, vector) in own.iter().zip(vector) {
            let factor = f64::from(own[column]);
            for (lane, &value) in lanes.iter_mut().zip(vector) {
                *lane = factor.mul_add(f64::from(value), *lane);
            }
        }
        *sum = lanes;
    }
}

vectorized! {
    fn subtract_scaled(vector: &mut [Lanes], own: &[Panel], column: usize, step: &Lanes) {
        for (lanes, own) in vector.iter_mut().zip(own) {
            let factor = f64::from(own[column]);
            for (lane, step) in lanes.iter_mut().zip(step) {
                *lane = factor.mul_add(-step, *lane);
            }
        }
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

    fn panels(count: usize, seed: u64) -> Vec<Panel> {
        lanes(count, seed)
            .iter()
            .map(|lanes| lanes.map(|lane| lane as f32))
            .collect()
    }

    proptest! {
        #[test]
        fn every_instruction_set_gives_the_same_bits(rows in 0_usize..150, seed: u64) {
            // As in a matrix, where the panel goes on behind what is multiplied.
            let (own, others) = (panels(rows + seed as usize % 3, seed), panels(rows, seed ^ 1));
            let before = lanes(LANES, seed ^ 2);
            let step = lanes(1, seed ^ 3)[0];
            let column = seed as usize % LANES;
            for set in InstructionSet::available() {
                let lanewise = Lanewise(set);
                let mut sums = std::array::from_fn(|at| before[at]);
                lanewise.add_products(&own, &others, &mut sums);
                for (at, sums) in sums.iter().enumerate() {
                    for (lane, sum) in sums.iter().enumerate() {
                        let mut expected = before[at][lane];
                        for (own, others) in own.chunks(PART).zip(others.chunks(PART)) {
                            let each = own.iter().zip(others);
                            let part = each.fold(0.0_f32, |sum, (own, other)| own[at].mul_add(other[lane], sum));
                            expected += f64::from(part);
                        }
                        prop_assert_eq!(*sum, expected);
                    }
                }
                let wide = |panels: &[Panel]| panels.iter().map(|panel| panel.map(f64::from)).collect::<Vec<Lanes>>();
                let mut sums = std::array::from_fn(|at| before[at]);
                lanewise.add_wide_products(&wide(&own), &wide(&others), &mut sums);
                for (sums, before) in sums.iter().zip(&before).enumerate().map(|(at, (sums, before))| ((at, sums), before)) {
                    let at = sums.0;
                    for (lane, sum) in sums.1.iter().enumerate() {
                        let each = own.iter().zip(&others);
                        let term = |sum: f64, (own, other): (&Panel, &Panel)| {
                            f64::from(own[at]).mul_add(other[lane].into(), sum)
                        };
                        prop_assert_eq!(*sum, before[lane] + each.fold(0.0, term));
                    }
                }
                let dot = lanewise.dot(&own, column, &others);
                let mut moved = lanes(rows, seed ^ 4);
                lanewise.subtract(&mut moved, &own, column, &step);
                for lane in 0..LANES {
                    let factor = |own: &Panel| f64::from(own[column]);
                    let each = own.iter().zip(&others);
                    let expected = each.fold(0.0, |sum, (own, other)| factor(own).mul_add(other[lane].into(), sum));
                    prop_assert_eq!(dot[lane], expected);
                    for ((moved, own), before) in moved.iter().zip(&own).zip(lanes(rows, seed ^ 4)) {
                        prop_assert_eq!(moved[lane], factor(own).mul_add(-step[lane], before[lane]));
                    }
                }
            }
        }
    }
}
