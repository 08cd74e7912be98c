//! The upper Cholesky factor of a large matrix.

use std::ops::Range;

use kmr_kernels::{LANES, Lanes, Lanewise};
use rayon::prelude::*;

use crate::tiles::parts;

/// Rows that are eliminated before the rest is brought up to date.
const PANEL: usize = 64;
/// Pivots below this part of their diagonal element are rounding.
const RANK: f64 = 1e-10;

/// Overwrites the upper triangle of the `size` × `size` matrix A with the upper U of A = UᵀU. Only
/// the upper triangle is read; what is left below it means nothing. Every element is one chain of
/// operations, whatever the number of threads.
///
/// # Errors
/// The first column that depends on those before it.
pub(crate) fn factorize(matrix: &mut [f64], size: usize) -> Result<(), usize> {
    let lanewise = Lanewise::detect();
    for Range { start, end } in parts(0..size, PANEL) {
        let (above, rest) = matrix.split_at_mut(end * size);
        let panel = &mut above[start * size..];
        eliminate(panel, start, size)?;
        let strips: Vec<Vec<Lanes>> = (end..size)
            .step_by(LANES)
            .map(|column| strip(panel, column, size))
            .collect();
        rest.par_chunks_mut(LANES * size).enumerate().for_each(|(at, rows)| {
            for (right, columns) in strips.iter().enumerate().skip(at) {
                let mut products = [[0.0; LANES]; LANES];
                lanewise.add_wide_products(&strips[at], columns, &mut products);
                for (row, products) in rows.chunks_mut(size).zip(&products) {
                    for (value, product) in row[end + right * LANES..].iter_mut().zip(products) {
                        *value -= product;
                    }
                }
            }
        });
    }
    Ok(())
}

/// Factorizes whole rows from `start` on, whose earlier columns are done.
fn eliminate(panel: &mut [f64], start: usize, size: usize) -> Result<(), usize> {
    let diagonal: Vec<f64> = panel.chunks(size).zip(start..).map(|(row, at)| row[at]).collect();
    for (done, diagonal) in diagonal.iter().enumerate() {
        let pivot = start + done;
        let (above, below) = panel.split_at_mut((done + 1) * size);
        let row = &mut above[done * size..];
        let square = row[pivot];
        if !(square > 0.0 && square > RANK * diagonal && square.is_finite()) {
            return Err(pivot);
        }
        let root = square.sqrt();
        row[pivot..].iter_mut().for_each(|value| *value /= root);
        for (other, at) in below.chunks_mut(size).zip(pivot + 1..) {
            let factor = row[at];
            for (value, &pivotal) in other[at..].iter_mut().zip(&row[at..]) {
                *value -= factor * pivotal;
            }
        }
    }
    Ok(())
}

/// A few columns of a panel, row by row; zeros beyond the last.
fn strip(panel: &[f64], column: usize, size: usize) -> Vec<Lanes> {
    let width = LANES.min(size - column);
    let narrow = |row: &[f64]| {
        let mut values = [0.0; LANES];
        values[..width].copy_from_slice(&row[column..column + width]);
        values
    };
    panel.chunks(size).map(narrow).collect()
}

#[cfg(test)]
mod tests {
    use super::factorize;
    use proptest::prelude::*;

    /// RᵀR + 0.1 × identity, of a random R.
    fn positive(size: usize, mut seed: u64) -> Vec<f64> {
        let mut next = || {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
        };
        let root: Vec<f64> = (0..size * size).map(|_| next()).collect();
        let mut matrix = vec![0.0; size * size];
        for row in 0..size {
            for column in 0..size {
                matrix[row * size + column] = (0..size)
                    .map(|at| root[at * size + row] * root[at * size + column])
                    .sum::<f64>();
            }
            matrix[row * size + row] += 0.1;
        }
        matrix
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn the_factor_times_its_transpose_is_the_matrix(size in 1_usize..150, seed: u64) {
            let matrix = positive(size, seed);
            let mut factor = matrix.clone();
            factorize(&mut factor, size).unwrap();
            for row in 0..size {
                for column in row..size {
                    let product: f64 =
                        (0..=row).map(|at| factor[at * size + row] * factor[at * size + column]).sum();
                    prop_assert!((product - matrix[row * size + column]).abs() < 1e-9 * size as f64);
                }
            }
        }
    }

    #[test]
    fn a_dependent_column_is_named() {
        let mut matrix = vec![1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0];
        assert_eq!(factorize(&mut matrix, 3), Err(1));
        assert_eq!(factorize(&mut [f64::NAN], 1), Err(0));
        assert_eq!(factorize(&mut [], 0), Ok(()));
    }
}
