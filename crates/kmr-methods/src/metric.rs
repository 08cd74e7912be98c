//! The damped Gram matrix, by itself and factorized.

use std::ops::Range;

use kmr_kernels::{LANES, Lanes, Lanewise};

use crate::{
    MethodError,
    cholesky::factorize,
    error::{check_finite, check_length},
};

/// Columns, or positions of the factor, that are gone through one by one before the others follow all at once.
pub(crate) const BLOCK: usize = 32;

/// H = the Gram matrix plus a diagonal.
pub(crate) struct Metric<'a> {
    gram: &'a [f64],
    columns: usize,
    /// The diagonal of H; positive.
    diagonal: Vec<f64>,
    /// What H has more than the Gram matrix on its diagonal.
    damping: Vec<f64>,
    /// The column at each position of the factor. The last position is rounded first.
    pub(crate) order: Vec<usize>,
    /// U of H = UᵀU in that order; upper.
    factor: Vec<f64>,
    pub(crate) lanewise: Lanewise,
}

impl<'a> Metric<'a> {
    /// The metric of `gram` with `damping` of its mean diagonal added; where that does not make it positive definite,
    /// damping is raised in tenfold steps up to the whole mean. `order` names the column at each position.
    ///
    /// # Errors
    /// If sizes or the damping are outside their domain, the Gram matrix is not finite, or far from positive
    /// semidefinite.
    pub(crate) fn new(
        gram: &'a [f64],
        columns: usize,
        damping: f64,
        order: impl FnOnce(&[f64]) -> Vec<usize>,
    ) -> Result<Self, MethodError> {
        check(columns, gram, damping)?;
        let bare: Vec<f64> = (0..columns).map(|at| gram[at * columns + at]).collect();
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
                    *value = gram[row * columns + column];
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
                        lanewise: Lanewise::detect(),
                    });
                }
                Err(at) if relative >= 1.0 => return Err(MethodError::NotPositive { column: order[at] }),
                Err(_) => relative = (10.0 * relative).clamp(0.01, 1.0),
            }
        }
    }

    /// Whether a column never had an input.
    pub(crate) fn is_dead(&self, column: usize) -> bool {
        self.gram[column * self.columns + column] == 0.0
    }

    pub(crate) fn diagonal(&self) -> &[f64] {
        &self.diagonal
    }

    /// The factor's diagonal element and what follows it in its row.
    pub(crate) fn pivot(&self, position: usize) -> (f64, &[f64]) {
        let row = &self.factor[position * self.columns..][position..self.columns];
        (row[0], &row[1..])
    }

    /// What the rows of U at the positions of `block` make of the elements of `residual` behind the block.
    pub(crate) fn beyond(&self, block: Range<usize>, residual: &[Lanes]) -> Vec<Lanes> {
        let rows = &self.factor[block.start * self.columns..block.end * self.columns];
        self.lanewise
            .products(rows, self.columns, block.end, &residual[block.end..])
    }

    /// What each lane of a residual, given by position, is in the metric: |U × residual|².
    pub(crate) fn error(&self, residual: &[Lanes]) -> Lanes {
        let mut error = [0.0; LANES];
        for start in (0..residual.len()).step_by(BLOCK) {
            let end = residual.len().min(start + BLOCK);
            let beyond = self.beyond(start..end, residual);
            for (position, beyond) in (start..end).zip(beyond) {
                let (pivot, row) = self.pivot(position);
                let near = &residual[position + 1..end];
                let near = self.lanewise.dot(&row[..near.len()], near);
                for lane in 0..LANES {
                    error[lane] += (pivot * residual[position][lane] + near[lane] + beyond[lane]).powi(2);
                }
            }
        }
        error
    }

    /// H × vector.
    pub(crate) fn product(&self, vector: &[Lanes]) -> Vec<Lanes> {
        self.product_of(vector, 0, 0..self.columns)
    }

    /// These elements of H × vector, of which only the elements from `first` on are given and others are 0.
    pub(crate) fn product_of(&self, part: &[Lanes], first: usize, elements: Range<usize>) -> Vec<Lanes> {
        let rows = &self.gram[elements.start * self.columns..elements.end * self.columns];
        let mut product = self.lanewise.products(rows, self.columns, first, part);
        for (column, lanes) in (first..).zip(part) {
            if elements.contains(&column) {
                for (product, lane) in product[column - elements.start].iter_mut().zip(lanes) {
                    *product += self.damping[column] * lane;
                }
            }
        }
        product
    }

    /// Coordinate descent: goes through the columns, moves each by what `step` makes of its gradient, and takes H's column
    /// × that from the `gradient`. Whether anything moved.
    pub(crate) fn descend(&self, gradient: &mut [Lanes], mut step: impl FnMut(usize, &Lanes) -> Lanes) -> bool {
        let mut moved = false;
        for start in (0..gradient.len()).step_by(BLOCK) {
            let end = gradient.len().min(start + BLOCK);
            let (mut columns, mut steps) = (Vec::new(), Vec::new());
            for column in start..end {
                let own = step(column, &gradient[column]);
                if own != [0.0; LANES] {
                    let row = &self.gram[column * self.columns..];
                    self.lanewise
                        .subtract(&mut gradient[start..end], &row[start..end], &own);
                    let damping = &self.damping[column..=column];
                    self.lanewise.subtract(&mut gradient[column..=column], damping, &own);
                    columns.push(column);
                    steps.push(own);
                }
            }
            moved |= !columns.is_empty();
            for (first, last) in [(0, start), (end, gradient.len())] {
                let part = &mut gradient[first..last];
                self.lanewise
                    .subtract_rows(part, self.gram, self.columns, first, &columns, &steps);
            }
        }
        moved
    }
}

fn check(columns: usize, gram: &[f64], damping: f64) -> Result<(), MethodError> {
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
