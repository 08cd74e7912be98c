//! The damped Gram matrix, by itself and factorized.

use crate::{
    MethodError,
    cholesky::factorize,
    error::{check_finite, check_length},
    lanes::{Lanes, dot, subtract},
};

/// H = the Gram matrix plus a diagonal.
pub(crate) struct Metric<'a, G> {
    gram: &'a [G],
    columns: usize,
    /// The diagonal of H; positive.
    diagonal: Vec<f64>,
    /// What H has more than the Gram matrix on its diagonal.
    damping: Vec<f64>,
    /// The column at each position of the factor. The last position is rounded first.
    pub(crate) order: Vec<usize>,
    /// U of H = UᵀU in that order; upper.
    factor: Vec<f64>,
}

impl<'a, G: Copy + Into<f64>> Metric<'a, G> {
    /// The metric of `gram` with `damping` of its mean diagonal added; where that does not make it positive definite,
    /// damping is raised in tenfold steps up to the whole mean. `order` names the column at each position.
    ///
    /// # Errors
    /// If sizes or the damping are outside their domain, the Gram matrix is not finite, or far from positive
    /// semidefinite.
    pub(crate) fn new(
        gram: &'a [G],
        columns: usize,
        damping: f64,
        order: impl FnOnce(&[f64]) -> Vec<usize>,
    ) -> Result<Self, MethodError> {
        check(columns, gram, damping)?;
        let bare: Vec<f64> = (0..columns).map(|at| gram[at * columns + at].into()).collect();
        if let Some(column) = bare.iter().position(|&value| value < 0.0) {
            return Err(MethodError::NotPositive { column });
        }
        let mean = bare.iter().sum::<f64>() / columns.max(1) as f64;
        let order = order(&bare);
        let mut relative = damping;
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

    /// Whether a column never had an input.
    pub(crate) fn is_dead(&self, column: usize) -> bool {
        self.gram[column * self.columns + column].into() == 0.0
    }

    pub(crate) fn diagonal(&self) -> &[f64] {
        &self.diagonal
    }

    /// The factor's diagonal element and what follows it in its row.
    pub(crate) fn pivot(&self, position: usize) -> (f64, &[f64]) {
        let row = &self.factor[position * self.columns..][position..self.columns];
        (row[0], &row[1..])
    }

    /// H × vector.
    pub(crate) fn product(&self, vector: &[Lanes]) -> Vec<Lanes> {
        self.product_of(vector, 0)
    }

    /// H × vector, of which only the elements from `first` on are given and others are 0.
    pub(crate) fn product_of(&self, part: &[Lanes], first: usize) -> Vec<Lanes> {
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
    pub(crate) fn subtract(&self, product: &mut [Lanes], column: usize, step: &Lanes) {
        subtract(product, &self.gram[column * self.columns..][..self.columns], step);
        subtract(&mut product[column..=column], &self.damping[column..=column], step);
    }
}

fn check<G: Copy + Into<f64>>(columns: usize, gram: &[G], damping: f64) -> Result<(), MethodError> {
    if !(0.0..=1.0).contains(&damping) {
        let (what, domain) = ("the damping", "from 0 to 1");
        return Err(MethodError::Domain {
            what,
            domain,
            value: damping,
        });
    }
    check_length("the Gram matrix", columns.saturating_mul(columns), gram.len())?;
    check_finite("Gram matrix", columns, gram)
}
