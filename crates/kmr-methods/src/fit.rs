//! Scales and zero points for given weights.

use kmr_kernels::{LANES, Lanewise, Levels};
use rayon::prelude::*;

use crate::{Granularity, Grid, Matrix, MethodError, error::check_length};

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
    let lanewise = Lanewise::detect();
    let (scales, zero_points) = (0..count)
        .into_par_iter()
        .map(|index| {
            let members = scheme.granularity.members(index, rows, columns);
            let first = members.start.checked_rem(columns).unwrap_or(0);
            let run = Run {
                weights: &weights.values()[members],
                importance: &importance[first..],
                grid: scheme.grid,
                lanewise,
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
    lanewise: Lanewise,
}

/// A scale and a zero point.
type Candidate = (f32, i32);

impl Run<'_> {
    fn fit(&self, clipping: Clipping) -> Candidate {
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
        let ranges = shrunken(low, high, self.grid).into_iter();
        let mut candidates = vec![whole];
        candidates.extend(ranges.map(|(low, high)| self.grid.cover(low, high)));
        let mut best = (f64::INFINITY, whole);
        for candidates in candidates.chunks(LANES) {
            best = self.better(best, candidates);
        }
        for _ in 0..8 {
            let next = self.better(best, &[self.refined(best.1)]);
            if next == best {
                break;
            }
            best = next;
        }
        best.1
    }

    /// The first of up to [`LANES`] candidates that has the least error, if that is less than the best one's; else the
    /// best.
    fn better(&self, best: (f64, Candidate), candidates: &[Candidate]) -> (f64, Candidate) {
        let errors = self.errors(candidates);
        let each = candidates.iter().zip(errors);
        each.fold(best, |best, (&candidate, error)| match error < best.0 {
            true => (error, candidate),
            false => best,
        })
    }

    /// The weights, from the first column that `importance` has to the last.
    fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.weights.chunks(self.importance.len())
    }

    /// The weighted squared errors of rounding to nearest, of up to [`LANES`] candidates.
    fn errors(&self, candidates: &[Candidate]) -> [f64; LANES] {
        let mut levels = Levels {
            scales: [1.0; LANES],
            low: [0.0; LANES],
            high: [0.0; LANES],
        };
        for (lane, &(scale, zero_point)) in candidates.iter().enumerate() {
            levels.scales[lane] = scale;
            (levels.low[lane], levels.high[lane]) = self.grid.levels(zero_point);
        }
        let mut errors = [0.0; LANES];
        for row in self.rows() {
            self.lanewise
                .add_rounding_errors(row, self.importance, &levels, &mut errors);
        }
        errors
    }

    /// The least-squares scale for the codes that rounding with another scale gives.
    fn refined(&self, (scale, zero_point): Candidate) -> Candidate {
        let (low, high) = self.grid.levels(zero_point);
        let mut sums = [0.0; 2];
        for row in self.rows() {
            self.lanewise
                .add_level_sums(row, self.importance, scale, [low, high], &mut sums);
        }
        let [along, square] = sums;
        if along > 0.0 && square > 0.0 {
            (self.grid.admissible(along / square), zero_point)
        } else {
            (scale, zero_point)
        }
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
