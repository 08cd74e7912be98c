//! The damped Gram matrix, by itself and factorized.

use super::{
    Options,
    lanes::{Lanes, dot, subtract},
};
use crate::{MethodError, cholesky::factorize};

/// H = the Gram matrix plus a diagonal.
pub(super) struct Metric<'a, G> {
    gram: &'a [G],
    columns: usize,
    /// The diagonal of H; positive.
    diagonal: Vec<f64>,
    /// What H has more than the Gram matrix on its diagonal.
    damping: Vec<f64>,
    /// The column at each position of the factor. The last position is rounded first.
    pub(super) order: Vec<usize>,
    /// U of H = UᵀU in that order; upper.
    factor: Vec<f64>,
}

impl<'a, G: Copy + Into<f64>> Metric<'a, G> {
    pub(super) fn new(gram: &'a [G], columns: usize, options: &Options) -> Result<Self, MethodError> {
        let bare: Vec<f64> = (0..columns).map(|at| gram[at * columns + at].into()).collect();
        if let Some(column) = bare.iter().position(|&value| value < 0.0) {
            return Err(MethodError::NotPositive { column });
        }
        let mean = bare.iter().sum::<f64>() / columns.max(1) as f64;
        let mut order: Vec<usize> = (0..columns).rev().collect();
        if options.act_order {
            order.sort_by(|&a, &b| bare[a].total_cmp(&bare[b]));
        }
        let mut relative = options.damping;
        loop {
            // Any positive number will do for a column that nothing depends on.
            let damping: Vec<f64> = bare
                .iter()
                .map(|&value| match value {
                    0.0 if mean > 0.0 => mean,
                    0.0 => 1.0,
                    _ => relative * mean,
                })
                .collect();
            let mut factor = vec![0.0; columns * columns];
            for (at, &row) in order.iter().enumerate() {
                for (value, &column) in factor[at * columns..][at..columns].iter_mut().zip(&order[at..]) {
                    *value = gram[row * columns + column].into();
                }
                factor[at * columns + at] += damping[row];
            }
            match factorize(&mut factor, columns) {
                Ok(()) => {
                    let diagonal = bare.iter().zip(&damping).map(|(value, more)| value + more).collect();
                    return Ok(Self {
                        gram,
                        columns,
                        diagonal,
                        damping,
                        order,
                        factor,
                    });
                }
                Err(at) if relative >= 1.0 => return Err(MethodError::NotPositive { column: order[at] }),
                Err(_) => relative = (10.0 * relative).clamp(0.01, 1.0),
            }
        }
    }

    pub(super) fn diagonal(&self) -> &[f64] {
        &self.diagonal
    }

    /// The factor's diagonal element and what follows it in its row.
    pub(super) fn pivot(&self, position: usize) -> (f64, &[f64]) {
        let row = &self.factor[position * self.columns..][position..self.columns];
        (row[0], &row[1..])
    }

    /// H × vector.
    pub(super) fn product(&self, vector: &[Lanes]) -> Vec<Lanes> {
        self.product_of(vector, 0)
    }

    /// H × vector, of which only the elements from `first` on are given and others are 0.
    pub(super) fn product_of(&self, part: &[Lanes], first: usize) -> Vec<Lanes> {
        let mut product: Vec<Lanes> = (0..self.columns)
            .map(|row| dot(&self.gram[row * self.columns + first..][..part.len()], part))
            .collect();
        for ((product, lanes), damping) in product[first..].iter_mut().zip(part).zip(&self.damping[first..]) {
            for (product, lane) in product.iter_mut().zip(lanes) {
                *product += damping * lane;
            }
        }
        product
    }

    /// product −= H's column × step.
    pub(super) fn subtract(&self, product: &mut [Lanes], column: usize, step: &Lanes) {
        subtract(product, &self.gram[column * self.columns..][..self.columns], step);
        subtract(&mut product[column..=column], &self.damping[column..=column], step);
    }
}
