//! The damped Gram matrix, by itself and factorized.

use std::ops::Range;

use kmr_kernels::{LANES, Lanes, Lanewise, Panel};
use rayon::prelude::*;

use crate::{
    MethodError,
    cholesky::factorize,
    error::{check_finite, check_length},
    tiles::parts,
};

/// Columns that are gone through one by one before those behind them follow all at once.
pub(crate) const SECTION: usize = 64;

/// H = the Gram matrix plus a diagonal, both divided by the same power of two.
///
/// Both H and its factor are kept in float32, in panels of [`LANES`] neighboring columns: what multiplies them is as exact
/// as the weights are.
pub(crate) struct Metric {
    columns: usize,
    /// The diagonal of H; positive.
    diagonal: Vec<f64>,
    /// Whether a column never had an input.
    dead: Vec<bool>,
    /// The column at each position of the factor. The last position is rounded first.
    pub(crate) order: Vec<usize>,
    /// The diagonal of U, H = UᵀU in that order.
    pivots: Vec<f64>,
    /// Uᵀ, whose panels hold positions.
    factor: Vec<Panel>,
    /// H.
    product: Vec<Panel>,
    lanewise: Lanewise,
}

impl Metric {
    /// The metric of `gram` with `damping` of its mean diagonal added; where that does not make it positive definite,
    /// damping is raised in tenfold steps up to the whole mean. `order` names the column at each position.
    ///
    /// # Errors
    /// If sizes or the damping are outside their domain, the Gram matrix is not finite, or far from positive
    /// semidefinite.
    pub(crate) fn new(
        gram: &[f64],
        columns: usize,
        damping: f64,
        order: impl FnOnce(&[f64]) -> Vec<usize>,
    ) -> Result<Self, MethodError> {
        check(columns, gram, damping)?;
        let bare = |at: usize| gram[at * columns + at];
        let unit = unit((0..columns).map(bare).fold(0.0, f64::max));
        let bare: Vec<f64> = (0..columns).map(|at| bare(at) / unit).collect();
        if let Some(column) = bare.iter().position(|&value| value < 0.0) {
            return Err(MethodError::NotPositive { column });
        }
        let mean = bare.iter().sum::<f64>() / columns.max(1) as f64;
        let order = order(&bare);
        let mut relative = damping;
        loop {
            // Any positive number will do for a column that nothing depends on.
            let diagonal: Vec<f64> = bare
                .iter()
                .map(|&value| match value {
                    0.0 if mean > 0.0 => mean,
                    0.0 => 1.0,
                    _ => value + relative * mean,
                })
                .collect();
            let mut factor = vec![0.0; columns * columns];
            for (at, &row) in order.iter().enumerate() {
                for (value, &column) in factor[at * columns..][at..columns].iter_mut().zip(&order[at..]) {
                    *value = gram[row * columns + column] / unit;
                }
                factor[at * columns + at] = diagonal[row];
            }
            match factorize(&mut factor, columns) {
                Ok(()) => {
                    let mut product = panels(gram, columns, unit);
                    for (at, &value) in diagonal.iter().enumerate() {
                        product[at / LANES * columns + at][at % LANES] = value as f32;
                    }
                    return Ok(Self {
                        columns,
                        dead: bare.iter().map(|&value| value == 0.0).collect(),
                        diagonal,
                        order,
                        pivots: (0..columns).map(|at| factor[at * columns + at]).collect(),
                        factor: panels(&factor, columns, 1.0),
                        product,
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
        self.dead[column]
    }

    pub(crate) fn diagonal(&self) -> &[f64] {
        &self.diagonal
    }

    /// The factor's diagonal element.
    pub(crate) fn pivot(&self, position: usize) -> f64 {
        self.pivots[position]
    }

    /// What the row of U at `position` makes of the elements right behind it.
    pub(crate) fn near(&self, position: usize, behind: &[Panel]) -> Lanes {
        let rows = &self.factor[position / LANES * self.columns..][position + 1..];
        self.lanewise.dot(rows, position % LANES, behind)
    }

    /// What the rows of U at the positions of `block` make of the elements of `residual` behind the block.
    pub(crate) fn beyond(&self, block: Range<usize>, residual: &[Panel]) -> Vec<Lanes> {
        let end = block.end;
        self.multiply(&self.factor, block, end, &residual[end..])
    }

    /// What each lane of a residual, given by position, is in the metric: |U × residual|².
    pub(crate) fn error(&self, residual: &[Panel]) -> Lanes {
        let mut error = [0.0; LANES];
        for block in parts(0..residual.len(), LANES) {
            let beyond = self.beyond(block.clone(), residual);
            for (position, beyond) in block.clone().zip(beyond) {
                let near = self.near(position, &residual[position + 1..block.end]);
                for lane in 0..LANES {
                    let own = self.pivots[position] * f64::from(residual[position][lane]);
                    error[lane] += (own + near[lane] + beyond[lane]).powi(2);
                }
            }
        }
        error
    }

    /// The elements `rows` of H × vector, of which the elements from `first` on are given and others are 0.
    pub(crate) fn product(&self, rows: Range<usize>, first: usize, vector: &[Panel]) -> Vec<Lanes> {
        self.multiply(&self.product, rows, first, vector)
    }

    fn multiply(&self, matrix: &[Panel], rows: Range<usize>, first: usize, vector: &[Panel]) -> Vec<Lanes> {
        let panels = rows.start / LANES..rows.end.div_ceil(LANES);
        let mut products = vec![[[0.0; LANES]; LANES]; panels.len()];
        for (panel, products) in panels.clone().zip(&mut products) {
            let factors = &matrix[panel * self.columns..][first..];
            self.lanewise.add_products(factors, vector, products);
        }
        let mut products = products.into_flattened();
        products.drain(..rows.start - panels.start * LANES);
        products.truncate(rows.len());
        products
    }

    /// Coordinate descent: goes through `columns`, whose `gradient` is given, and moves each by what `step` makes of that.
    /// Whether anything moved.
    pub(crate) fn descend(
        &self,
        columns: Range<usize>,
        gradient: &mut [Lanes],
        mut step: impl FnMut(usize, &Lanes) -> Lanes,
    ) -> bool {
        let mut moved = false;
        for section in parts(columns.clone(), SECTION) {
            let mut steps = vec![[0.0; LANES]; section.len()];
            let mut moves = false;
            let (gradient, later) = gradient[section.start - columns.start..].split_at_mut(section.len());
            for at in 0..section.len() {
                let column = section.start + at;
                let own = step(column, &gradient[at]);
                if own != [0.0; LANES] {
                    moves = true;
                    steps[at] = own.map(|step| step as f32);
                    let rows = &self.product[column / LANES * self.columns..][column..];
                    self.lanewise.subtract(&mut gradient[at..], rows, column % LANES, &own);
                }
            }
            moved |= moves;
            if !moves || later.is_empty() {
                continue;
            }
            let products = self.product(section.end..columns.end, section.start, &steps);
            for (gradient, product) in later.iter_mut().zip(&products) {
                for (gradient, product) in gradient.iter_mut().zip(product) {
                    *gradient -= product;
                }
            }
        }
        moved
    }
}

/// The power of two that brings a number into [1, 2), as far as its inverse is a normal number, too. Numbers of any size are
/// divided by it without rounding, and what is left of a Gram matrix fits into float32.
fn unit(largest: f64) -> f64 {
    let exponent = (largest.to_bits() >> 52).clamp(1, 2045);
    f64::from_bits(exponent << 52)
}

/// A square matrix, divided by `unit`, in float32, its rows side by side in panels.
fn panels(matrix: &[f64], columns: usize, unit: f64) -> Vec<Panel> {
    let mut panels = vec![[0.0; LANES]; columns.div_ceil(LANES) * columns];
    panels
        .par_chunks_mut(columns.max(1))
        .zip(matrix.par_chunks((LANES * columns).max(1)))
        .for_each(|(panel, rows)| {
            for (lane, row) in rows.chunks(columns).enumerate() {
                for (panel, &value) in panel.iter_mut().zip(row) {
                    panel[lane] = (value / unit) as f32;
                }
            }
        });
    panels
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
