//! Scales and zero points for given weights.

use rayon::prelude::*;

use crate::{Granularity, Grid, Matrix, MethodError, error::check_length, rounding::level};

/// How weights become integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scheme {
    /// The codes there are.
    pub grid: Grid,
    /// Who shares a scale.
    pub granularity: Granularity,
    /// What the scale must reach.
    pub clipping: Clipping,
}

/// What a scale is fitted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Clipping {
    /// The range of the weights.
    MinMax,
    /// The least squared error of rounding to nearest, weighted by the columns' importance: a search
    /// over shrunken ranges (both ends on their own where the grid is asymmetric), then least squares
    /// for the scale in turn with rounding.
    Mse,
}

/// Scales and zero points, in the order of [`Granularity::count`].
#[derive(Clone, Debug, PartialEq)]
pub struct Parameters {
    /// Positive, normal numbers.
    pub scales: Vec<f32>,
    /// Codes; 0 for a symmetric grid.
    pub zero_points: Vec<i32>,
}

/// Fits scales and zero points to `weights`.
///
/// `importance` has a factor ≥ 0 for the squared error of each column: the diagonal of the Gram
/// matrix of the inputs. Weights that are all zero have scale 1.
///
/// # Errors
/// If a group has no members, or `importance` has not one finite factor ≥ 0 a column.
pub fn fit(weights: Matrix<'_>, scheme: &Scheme, importance: Option<&[f64]>) -> Result<Parameters, MethodError> {
    let (rows, columns) = (weights.rows(), weights.columns());
    let count = scheme.granularity.count(rows, columns)?;
    let importance = match importance {
        Some(factors) => {
            check_length("the importance of columns", columns, factors.len())?;
            if let Some(&value) = factors.iter().find(|factor| !(factor.is_finite() && **factor >= 0.0)) {
                let (what, domain) = ("the importance of a column", "finite and at least 0");
                return Err(MethodError::Domain { what, domain, value });
            }
            factors.to_vec()
        }
        None => vec![1.0; columns],
    };
    let (scales, zero_points) = (0..count)
        .into_par_iter()
        .map(|index| {
            let members = scheme.granularity.members(index, rows, columns);
            let first = members.start.checked_rem(columns).unwrap_or(0);
            let run = Run {
                weights: &weights.values()[members],
                importance: &importance[first..],
                grid: scheme.grid,
            };
            run.fit(scheme.clipping)
        })
        .unzip();
    Ok(Parameters { scales, zero_points })
}

/// Weights that share a scale: part of a row, or whole rows.
struct Run<'a> {
    weights: &'a [f32],
    /// From the first weight's column on to the last column.
    importance: &'a [f64],
    grid: Grid,
}

impl Run<'_> {
    fn fit(&self, clipping: Clipping) -> (f32, i32) {
        let bound = |fold: fn(f64, f64) -> f64| {
            self.weights
                .iter()
                .fold(0.0, |bound, &weight| fold(bound, weight.into()))
        };
        let (low, high) = (bound(f64::min), bound(f64::max));
        let whole = self.grid.cover(low, high);
        if clipping == Clipping::MinMax || low == high {
            return whole;
        }
        let mut best = (self.error(whole), whole);
        for (low, high) in shrunken(low, high, self.grid) {
            best = self.better(best, self.grid.cover(low, high));
        }
        for _ in 0..8 {
            let next = self.better(best, self.refined(best.1));
            if next == best {
                break;
            }
            best = next;
        }
        best.1
    }

    /// The candidate with its error, if that is less than the best one's; else the best.
    fn better(&self, best: (f64, (f32, i32)), candidate: (f32, i32)) -> (f64, (f32, i32)) {
        let error = self.error(candidate);
        if error < best.0 { (error, candidate) } else { best }
    }

    /// The weighted squared error of rounding to nearest.
    fn error(&self, (scale, zero_point): (f32, i32)) -> f64 {
        let (low, high) = self.grid.levels(zero_point);
        self.sum(|weight, factor| {
            let off = f64::from(weight) - f64::from(level(weight, scale, low, high) * scale);
            factor * off * off
        })
    }

    /// The least-squares scale for the codes that rounding with another scale gives.
    fn refined(&self, (scale, zero_point): (f32, i32)) -> (f32, i32) {
        let (low, high) = self.grid.levels(zero_point);
        let level = |weight| f64::from(level(weight, scale, low, high));
        let along = self.sum(|weight, factor| factor * f64::from(weight) * level(weight));
        let square = self.sum(|weight, factor| factor * level(weight) * level(weight));
        if along > 0.0 && square > 0.0 {
            (self.grid.admissible(along / square), zero_point)
        } else {
            (scale, zero_point)
        }
    }

    fn sum(&self, term: impl Fn(f32, f64) -> f64) -> f64 {
        self.weights
            .chunks(self.importance.len())
            .flat_map(|row| row.iter().zip(self.importance))
            .map(|(&weight, &factor)| term(weight, factor))
            .sum()
    }
}

/// Ranges within [low, high], low ≤ 0 ≤ high, that may be worth clipping to.
pub(crate) fn shrunken(low: f64, high: f64, grid: Grid) -> Vec<(f64, f64)> {
    const ENDS: [f64; 11] = [1.0, 0.98, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3];
    if grid.is_symmetric() || low == 0.0 || high == 0.0 {
        return (10..=40)
            .rev()
            .map(|part| f64::from(part) / 40.0)
            .map(|part| (low * part, high * part))
            .collect();
    }
    ENDS.iter()
        .flat_map(|below| ENDS.map(|above| (low * below, high * above)))
        .collect()
}
