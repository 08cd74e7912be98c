//! GPTQ: codes that answer for one another's errors.
//!
//! The error of a layer's outputs on the inputs X that were observed is tr((W − Ŵ) H (W − Ŵ)ᵀ) with the
//! Gram matrix H = XᵀX. GPTQ (Frantar et al., ICLR 2023) rounds column by column and moves the columns
//! that remain so that they make up best for the error so far. With the Cholesky factorization
//! H = UᵀU that is Babai's nearest plane (Chen et al., 2025): the error of a row is |U(w − ŵ)|², whose
//! k-th term knows columns k and later alone, so rounding from the last column to the first, each to
//! what cancels its term, needs neither H⁻¹ nor any update of the weights.

mod tile;

use kmr_kernels::LANES;
use rayon::prelude::*;

use crate::{Granularity, Matrix, MethodError, Quantized, Scheme, fit, metric::Metric, quantize, round_to_nearest};
use tile::{Tile, refine};

/// Tiles that a thread goes through together.
const BAND: usize = 3;

/// What the fitted scales are multiplied by in trials.
const STRETCHES: [f64; 3] = [1.0, 1.15, 1.3];

/// How [`gptq`] goes about it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// What is added to the diagonal of the Gram matrix, as a part of its mean; in [0, 1].
    pub damping: f64,
    /// Whether columns are rounded by descending diagonal, not from first to last. Groups stay those of
    /// neighboring columns, and their scales are fixed before.
    pub act_order: bool,
    /// Whether scales follow what becomes of the weights: each row is also rounded with larger ones, as
    /// weights that make up for others need them, and keeps what serves it best; then scales are fitted
    /// to the codes by least squares in the metric of H, exactly for a channel, group after group for
    /// groups. A scale of the whole tensor stays.
    pub refit: bool,
    /// How often, at most, every code may move to where it lowers the error most while all others stay
    /// (coordinate descent): group by group, after the refit of the group's scales.
    pub passes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            damping: 0.01,
            act_order: true,
            refit: true,
            passes: 4,
        }
    }
}

/// Quantizes `weights` for inputs with the Gram matrix `gram`: `columns` × `columns`, symmetric,
/// row by row. Its scale (a sum or a mean over inputs) is of no matter.
///
/// Scales are first fitted with the damped diagonal as the columns' importance. Columns whose diagonal
/// is 0 never had an input; they are rounded to nearest. Where damping does not make the matrix
/// positive definite, it is raised in tenfold steps up to the whole mean of the diagonal.
///
/// No row's error in the damped metric is larger, but for rounding of that and of products to float32, than what rounding to
/// nearest leaves with the scales fitted first.
///
/// # Errors
/// If sizes or options are outside their domain, the Gram matrix is not finite (row and column are
/// named), or far from positive semidefinite.
pub fn gptq(weights: Matrix<'_>, gram: &[f64], scheme: &Scheme, options: &Options) -> Result<Quantized, MethodError> {
    let metric = Metric::new(gram, weights.columns(), options.damping, |diagonal| {
        let mut order: Vec<usize> = (0..diagonal.len()).rev().collect();
        if options.act_order {
            order.sort_by(|&a, &b| diagonal[a].total_cmp(&diagonal[b]));
        }
        order
    })?;
    if weights.values().is_empty() {
        return quantize(weights, scheme, None);
    }
    let parameters = fit(weights, scheme, Some(metric.diagonal()))?;
    let mut quantized = round_to_nearest(weights, scheme.grid, scheme.granularity, parameters)?;
    let refit = options.refit && scheme.granularity != Granularity::Tensor;
    let firsts: Vec<usize> = (0..weights.rows()).step_by(LANES).collect();
    let tiles: Vec<Tile> = firsts
        .par_chunks(BAND)
        .flat_map_iter(|firsts| {
            let mut tiles: Vec<Tile> = firsts
                .iter()
                .map(|&first| Tile::new(weights, &quantized, first))
                .collect();
            for tile in &mut tiles {
                tile.sweep(&metric, if refit { &STRETCHES } else { &STRETCHES[..1] });
            }
            refine(&mut tiles, &metric, options, refit);
            tiles
        })
        .collect();
    for tile in &tiles {
        tile.store(&mut quantized);
    }
    Ok(quantized)
}
