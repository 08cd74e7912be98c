//! Products of every two columns, for Gram matrices.

use rayon::prelude::*;

use crate::{InstructionSet, vectorized::vectorized};

/// Rows that are multiplied at once, in float32.
const ROWS: usize = 64;
/// Partial sums of the rows: row `i` goes into sum `i % PARTIAL`.
const PARTIAL: usize = 16;
/// Columns of a vector.
const WIDTH: usize = 16;
/// Rows of the sums that are made at once.
const TILE: usize = 4;

/// Rows that wait until there are enough of them to be multiplied.
#[derive(Clone, Debug)]
pub struct Products {
    instructions: InstructionSet,
    columns: usize,
    /// Numbers from a row to the next: whole vectors.
    stride: usize,
    rows: Vec<f32>,
    held: usize,
}

impl Products {
    /// Nothing of `columns` columns yet.
    pub fn new(columns: usize) -> Self {
        let stride = columns.next_multiple_of(WIDTH);
        Self {
            instructions: InstructionSet::detect(),
            columns,
            stride,
            rows: vec![0.0; stride * ROWS],
            held: 0,
        }
    }

    /// Adds the row that `write` writes. When there are enough, [`flush`](Self::flush)es them into `sums`.
    ///
    /// # Panics
    /// If `sums` is shorter than columns × columns.
    pub fn add(&mut self, write: impl FnOnce(&mut [f32]), sums: &mut [f64]) {
        write(&mut self.rows[self.held * self.stride..][..self.columns]);
        self.held += 1;
        if self.held == ROWS {
            self.flush(sums);
        }
    }

    /// Adds, for every two columns, the sum of the products of their numbers in the rows that wait: to the upper triangle of
    /// `sums`, columns × columns. What is below it means nothing. Products are added up in float32, 64 rows at a time, and
    /// rounded alike everywhere.
    ///
    /// # Panics
    /// As [`add`](Self::add).
    pub fn flush(&mut self, sums: &mut [f64]) {
        self.rows[self.held * self.stride..].fill(0.0);
        self.held = 0;
        let (columns, stride, rows) = (self.columns, self.stride, self.rows.as_slice());
        let sums = &mut sums[..columns * columns];
        sums.par_chunks_mut((columns * TILE).max(1))
            .enumerate()
            .for_each(|(tile, sums)| self.instructions.multiply(rows, stride, tile * TILE, columns, sums));
    }
}

vectorized! {
    /// Adds the products of columns from `first` on with all that are not before these.
    fn multiply(rows: &[f32], stride: usize, first: usize, columns: usize, sums: &mut [f64]) {
        for start in (first / WIDTH * WIDTH..columns).step_by(WIDTH) {
            let mut totals = [[0.0_f32; WIDTH]; TILE];
            for partial in 0..PARTIAL {
                let mut parts = [[0.0_f32; WIDTH]; TILE];
                for row in (partial..ROWS).step_by(PARTIAL) {
                    let row = &rows[row * stride..][..stride];
                    let others: &[f32; WIDTH] = vector(&row[start..]);
                    // Columns beyond the last are zeros up to `stride`, which is a multiple of the tile.
                    let own: &[f32; TILE] = vector(&row[first..]);
                    for (part, &own) in parts.iter_mut().zip(own) {
                        for (part, &other) in part.iter_mut().zip(others) {
                            *part = own.mul_add(other, *part);
                        }
                    }
                }
                for (total, part) in totals.iter_mut().zip(&parts) {
                    for (total, part) in total.iter_mut().zip(part) {
                        *total += part;
                    }
                }
            }
            for (sums, totals) in sums.chunks_exact_mut(columns).zip(&totals) {
                for (sum, &total) in sums[start..].iter_mut().zip(totals) {
                    *sum += f64::from(total);
                }
            }
        }
    }
}

#[inline(always)]
fn vector<const N: usize>(values: &[f32]) -> &[f32; N] {
    match values.first_chunk() {
        Some(vector) => vector,
        None => &[0.0; N],
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is meant.
    fn plain(rows: &[Vec<f32>], columns: usize) -> Vec<f64> {
        let mut sums = vec![0.0; columns * columns];
        for block in rows.chunks(ROWS) {
            for (at, sum) in sums.iter_mut().enumerate() {
                let mut parts = [0.0_f32; PARTIAL];
                for (row, numbers) in block.iter().enumerate() {
                    let part = &mut parts[row % PARTIAL];
                    *part = numbers[at / columns].mul_add(numbers[at % columns], *part);
                }
                *sum += f64::from(parts.iter().fold(0.0, |sum, part| sum + part));
            }
        }
        sums
    }

    proptest! {
        #[test]
        fn every_instruction_set_gives_the_same_bits(
            columns in 1_usize..37, rows in prop::collection::vec(prop::collection::vec(-4_f32..4.0, 37), 0..150),
        ) {
            let rows: Vec<Vec<f32>> = rows.into_iter().map(|row| row[..columns].to_vec()).collect();
            let expected = plain(&rows, columns);
            for instructions in InstructionSet::available() {
                let mut products = Products { instructions, ..Products::new(columns) };
                let mut sums = vec![0.0; columns * columns];
                rows.iter().for_each(|row| products.add(|own| own.copy_from_slice(row), &mut sums));
                products.flush(&mut sums);
                for (at, (found, expected)) in sums.iter().zip(&expected).enumerate() {
                    prop_assert!(at / columns > at % columns || found == expected, "{} {}", found, expected);
                }
            }
        }
    }
}
