//! Weights as a matrix of finite numbers.

use crate::{
    MethodError,
    error::{check_finite, check_length},
};

/// A matrix of finite float32 numbers, row by row: rows are output channels, columns are inputs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Matrix<'a> {
    rows: usize,
    columns: usize,
    values: &'a [f32],
}

impl<'a> Matrix<'a> {
    /// Views `values` as `rows` × `columns`.
    ///
    /// # Errors
    /// If the sizes do not fit, or a value is NaN or infinite: its row and column are named.
    pub fn new(rows: usize, columns: usize, values: &'a [f32]) -> Result<Self, MethodError> {
        check_length("a matrix", rows.saturating_mul(columns), values.len())?;
        check_finite("weight", columns, values)?;
        Ok(Self { rows, columns, values })
    }

    /// The number of output channels.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of inputs.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// All values, row by row.
    pub fn values(&self) -> &'a [f32] {
        self.values
    }

    /// One row.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize) -> &'a [f32] {
        &self.values[row * self.columns..][..self.columns]
    }

    /// The largest magnitude of every row; 0 where there are no columns.
    pub fn row_maxima(&self) -> Vec<f32> {
        (0..self.rows)
            .map(|row| self.row(row).iter().fold(0.0, |most: f32, value| most.max(value.abs())))
            .collect()
    }

    /// The largest magnitude of every column; 0 where there are no rows.
    pub fn column_maxima(&self) -> Vec<f32> {
        let mut maxima = vec![0.0_f32; self.columns];
        for row in 0..self.rows {
            for (most, value) in maxima.iter_mut().zip(self.row(row)) {
                *most = most.max(value.abs());
            }
        }
        maxima
    }
}
