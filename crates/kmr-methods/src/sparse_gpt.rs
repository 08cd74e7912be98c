//! SparseGPT: zeros that the weights which remain make up for.
//!
//! The error of a layer's outputs on the inputs X that were observed is tr((W − Ŵ) H (W − Ŵ)ᵀ) with the Gram matrix
//! H = XᵀX. SparseGPT (Frantar & Alistarh, "SparseGPT", ICML 2023) goes through the columns block by block, sets those
//! weights of a block to zero that cost least, w²/[H⁻¹]ⱼⱼ over the columns that are still free, and moves these so that
//! they make up best. With H = UᵀU both are read off U (as in [`gptq`](crate::gptq)): 1/[H⁻¹]ⱼⱼ is the square of a
//! pivot, and what has been done asks of a block what a triangular system says, so no inverse is ever taken.
//!
//! The paper never goes back to columns that it has passed. Here the weights that remain are moved on, one by one to
//! where the error is least while all others stay, until a number of passes is over.

mod pattern;
mod tile;

use kmr_kernels::LANES;
use rayon::prelude::*;

use crate::{Matrix, MethodError, metric::Metric};
pub use pattern::Pattern;
use pattern::Plan;
use tile::Tile;

/// How [`sparse_gpt`] goes about it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// What is added to the diagonal of the Gram matrix, as a part of its mean; in [0, 1].
    pub damping: f64,
    /// How often, at most, every weight that remains moves to where it lowers the error most while all others stay
    /// (coordinate descent), after all zeros are set.
    pub passes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            damping: 0.01,
            passes: 8,
        }
    }
}

/// `weights` with zeros by `pattern`, for inputs with the Gram matrix `gram`: `columns` × `columns`, symmetric, row by
/// row. Its scale (a sum or a mean over inputs) is of no matter.
///
/// Weights that are zero already stay so, and count as removed. Weights of columns whose diagonal is 0, which never had
/// an input, go first. Where damping does not make the matrix positive definite, it is raised in tenfold steps up to
/// the whole mean of the diagonal.
///
/// No row's error in the damped metric is larger, but for rounding to float32, than what the weights of least |w|·√Hⱼⱼ
/// leave when they are set to zero and nothing makes up for them (Wanda, arXiv 2306.11695).
///
/// # Errors
/// If sizes, pattern or options are outside their domain, the Gram matrix is not finite (row and column are named), or
/// far from positive semidefinite.
pub fn sparse_gpt(
    weights: Matrix<'_>,
    gram: &[f64],
    pattern: Pattern,
    options: &Options,
) -> Result<Vec<f32>, MethodError> {
    let plan = Plan::of(pattern, weights.columns())?;
    let order = plan.columns.iter().rev().copied().collect();
    let metric = Metric::new(gram, weights.columns(), options.damping, |_| order)?;
    let columns = weights.columns().max(1);
    let mut values = weights.values().to_vec();
    values
        .par_chunks_mut(LANES * columns)
        .enumerate()
        .for_each(|(at, values)| {
            let mut tile = Tile::new(weights, at * LANES);
            tile.sweep(&metric, &plan);
            tile.refine(&metric, options.passes);
            tile.store(values);
        });
    Ok(values)
}
