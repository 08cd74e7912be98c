//! The best approximation of a matrix by one of low rank, and ranks under one budget of parameters.
//!
//! What is approximated is the error E of a compressed layer, rows × columns. Plainly the best matrix of rank r is the
//! truncated singular value decomposition (Eckart and Young, 1936). Where the second moments C = mean(xxᵀ) of the
//! layer's inputs are known, the error of its *outputs* counts: ‖(E − X) S‖ for a root S of C, SSᵀ = C. That is least
//! for X = U Uᵀ E, U being the first r left singular vectors of E S: the minimum that EoRA (arXiv 2410.21271) reaches
//! by way of the inverse of S, without it, so that C may be singular.
//!
//! Singular vectors come from the eigenvectors of the smaller Gram matrix in float64. Squaring loses what is below
//! 10⁻⁸ of the largest singular value, which float32 input does not have anyway.

mod allocation;
mod symmetric;

use rayon::prelude::*;

use crate::{
    Matrix, MethodError,
    error::{check_finite, check_length},
};
pub use allocation::{Spectrum, allocate};
use symmetric::{dot, eigen};

/// Squares of singular values below this part of the largest one are rounding.
const ROUNDING: f64 = 1e-13;

/// The part of a squared mean that is rounding of float32.
const MEANS: f64 = 1e-12;

/// The first singular vectors of a matrix, in the norm that its inputs give it.
#[derive(Clone, Debug, PartialEq)]
pub struct Decomposition {
    rows: usize,
    columns: usize,
    singular_values: Vec<f64>,
    /// Orthonormal vectors of `rows` elements, one after the other.
    left: Vec<f64>,
    /// What each of them takes from the matrix: vectors of `columns` elements.
    right: Vec<f64>,
}

/// A product of rank r: `left` (rows × r) times `right` (r × columns), both row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct Factors {
    /// r, which may be more than the matrix's own rank: the rest is zero.
    pub rank: usize,
    /// rows × r.
    pub left: Vec<f32>,
    /// r × columns.
    pub right: Vec<f32>,
}

impl Decomposition {
    /// Decomposes `matrix`, with vectors for ranks up to `most`. `second_moments` is the mean of xxᵀ of the inputs, columns
    /// × columns; without it all inputs count alike.
    ///
    /// # Errors
    /// If `second_moments` has another size or holds what is no finite number.
    pub fn of(matrix: Matrix<'_>, second_moments: Option<&[f64]>, most: usize) -> Result<Self, MethodError> {
        let (rows, columns) = (matrix.rows(), matrix.columns());
        let values: Vec<f64> = matrix.values().iter().map(|&value| value.into()).collect();
        let moments = second_moments.map(|moments| checked(moments, columns)).transpose()?;
        let (squares, left) = if rows <= columns {
            wide(&values, rows, columns, moments.as_deref(), most)
        } else {
            tall(&values, rows, columns, moments, most)
        };
        let transposed = transpose(&values, rows, columns);
        let right = left
            .par_chunks(rows.max(1))
            .flat_map_iter(|vector| transposed.chunks(rows).map(|column| dot(vector, column)))
            .collect();
        Ok(Self {
            rows,
            columns,
            singular_values: squares.into_iter().map(|square| square.max(0.0).sqrt()).collect(),
            left,
            right,
        })
    }

    /// The singular values of the matrix (times the root of the second moments), falling: min(rows, columns) of them.
    /// The squared error of the best matrix of rank r is the sum of the squares from position r on.
    pub fn singular_values(&self) -> &[f64] {
        &self.singular_values
    }

    /// The best approximation of this rank, its two factors equally long in each component. Ranks beyond those that the
    /// decomposition was asked for are filled up with zeros.
    pub fn factors(&self, rank: usize) -> Factors {
        let (rows, columns) = (self.rows, self.columns);
        let mut left = vec![0.0; rows * rank];
        let mut right = vec![0.0; rank * columns];
        let components = self.left.chunks(rows.max(1)).zip(self.right.chunks(columns.max(1)));
        for (component, (own_left, own_right)) in components.enumerate().take(rank) {
            let length = dot(own_right, own_right).sqrt().sqrt();
            if length == 0.0 {
                continue;
            }
            for (row, value) in own_left.iter().enumerate() {
                left[row * rank + component] = (value * length) as f32;
            }
            for (column, value) in own_right.iter().enumerate() {
                right[component * columns + column] = (value / length) as f32;
            }
        }
        Factors { rank, left, right }
    }
}

impl Factors {
    /// The product, rows × columns, row by row, added up in float64.
    pub fn product(&self) -> Vec<f32> {
        let Self { rank, left, right } = self;
        if *rank == 0 {
            return Vec::new();
        }
        let columns = right.len() / rank;
        let row = |row: &[f32]| {
            let mut sums = vec![0.0_f64; columns];
            for (factor, values) in row.iter().zip(right.chunks(columns.max(1))) {
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum += f64::from(*factor) * f64::from(*value);
                }
            }
            sums.into_iter().map(|sum| sum as f32)
        };
        left.par_chunks(*rank).flat_map_iter(row).collect()
    }
}

/// Second moments as a symmetric matrix.
fn checked(moments: &[f64], columns: usize) -> Result<Vec<f64>, MethodError> {
    check_length("the second moments", columns.saturating_mul(columns), moments.len())?;
    check_finite("second moment", columns, moments)?;
    let mut moments = moments.to_vec();
    symmetrize(&mut moments, columns);
    Ok(moments)
}

/// Squared singular values and left vectors of E S where E has no more rows than columns: those of E C Eᵀ.
fn wide(values: &[f64], rows: usize, columns: usize, moments: Option<&[f64]>, most: usize) -> (Vec<f64>, Vec<f64>) {
    let gram = match moments {
        Some(moments) => {
            let mut gram = products(&products(values, moments, columns), values, columns);
            symmetrize(&mut gram, rows);
            gram
        }
        None => products(values, values, columns),
    };
    let found = eigen(gram, rows, most);
    let kept = significant(&found.values).min(most);
    let vectors = found.vectors[..kept * rows].to_vec();
    (found.values, vectors)
}

/// The same where E has more rows than columns, by way of the right vectors.
fn tall(values: &[f64], rows: usize, columns: usize, moments: Option<Vec<f64>>, most: usize) -> (Vec<f64>, Vec<f64>) {
    let weighted = match moments {
        Some(moments) => {
            let root = eigen(moments, columns, columns);
            let lengths: Vec<f64> = root.values.iter().map(|value| value.max(0.0).sqrt()).collect();
            let mut product = products(values, &root.vectors, columns);
            for row in product.chunks_mut(columns.max(1)) {
                row.iter_mut()
                    .zip(&lengths)
                    .for_each(|(value, length)| *value *= length);
            }
            product
        }
        None => values.to_vec(),
    };
    let transposed = transpose(&weighted, rows, columns);
    let found = eigen(products(&transposed, &transposed, rows), columns, most);
    let kept = significant(&found.values).min(most);
    let mut left = products(&found.vectors[..kept * columns], &weighted, columns);
    for vector in left.chunks_mut(rows.max(1)) {
        let length = dot(vector, vector).sqrt();
        vector.iter_mut().for_each(|value| *value /= length);
    }
    (found.values, left)
}

/// The matrix that stands for an error whose outputs are off by a constant, too: E x + c for each input x. A product
/// without a bias that comes closest to E + c zᵀ, z = C⁺μ, in the norm of the second moments C comes closest to both
/// together, μ being the mean input. Where a bias makes up for the error's mean already (c = −E μ), nothing of it is
/// left to be made up for twice.
///
/// # Errors
/// If the lengths do not go together, or a number is not finite.
pub fn with_constant(
    matrix: Matrix<'_>,
    constant: &[f64],
    means: &[f32],
    second_moments: &[f64],
) -> Result<Vec<f32>, MethodError> {
    let columns = matrix.columns();
    check_length("the constant", matrix.rows(), constant.len())?;
    check_length("the means", columns, means.len())?;
    let moments = checked(second_moments, columns)?;
    let means: Vec<f64> = means.iter().map(|&mean| mean.into()).collect();
    let solution = solved(&moments, &means);
    let rows = matrix.values().chunks(columns.max(1)).zip(constant);
    let row = |(row, constant): (&[f32], &f64)| -> Vec<f32> {
        let sums = row.iter().zip(&solution);
        sums.map(|(value, z)| (f64::from(*value) + constant * z) as f32)
            .collect()
    };
    Ok(rows.flat_map(row).collect())
}

/// The shortest z with C z = μ, by conjugate gradients: μ is in the range of C.
fn solved(moments: &[f64], means: &[f64]) -> Vec<f64> {
    let columns = means.len();
    let mut solution = vec![0.0; columns];
    let mut rest = means.to_vec();
    let mut direction = rest.clone();
    let mut square = dot(&rest, &rest);
    // Means of float32 have a little outside of the range, along which there is no end.
    let enough = MEANS * square;
    let largest = (0..columns).map(|at| moments[at * columns + at]).fold(0.0, f64::max);
    for _ in 0..(2 * columns).min(400) {
        if square <= enough {
            break;
        }
        let turned: Vec<f64> = moments.par_chunks(columns).map(|row| dot(row, &direction)).collect();
        let curvature = dot(&direction, &turned);
        if curvature <= ROUNDING * largest * dot(&direction, &direction) {
            break;
        }
        let step = square / curvature;
        solution
            .iter_mut()
            .zip(&direction)
            .for_each(|(z, along)| *z += step * along);
        rest.iter_mut()
            .zip(&turned)
            .for_each(|(left, turned)| *left -= step * turned);
        let next = dot(&rest, &rest);
        direction
            .iter_mut()
            .zip(&rest)
            .for_each(|(along, left)| *along = left + next / square * *along);
        square = next;
    }
    solution
}

/// How many of these falling squares are more than rounding.
fn significant(squares: &[f64]) -> usize {
    let least = squares.first().map_or(0.0, |most| most * ROUNDING);
    squares
        .iter()
        .take_while(|&&square| square > least && square > 0.0)
        .count()
}

/// left × rightᵀ of two matrices with rows of `length`.
fn products(left: &[f64], right: &[f64], length: usize) -> Vec<f64> {
    if length == 0 {
        return Vec::new();
    }
    let row = |row: &[f64]| -> Vec<f64> { right.chunks(length).map(|other| dot(row, other)).collect() };
    let rows: Vec<Vec<f64>> = left.par_chunks(length).map(row).collect();
    rows.concat()
}

fn transpose(values: &[f64], rows: usize, columns: usize) -> Vec<f64> {
    let mut turned = vec![0.0; values.len()];
    for (row, values) in values.chunks(columns.max(1)).enumerate() {
        for (column, value) in values.iter().enumerate() {
            turned[column * rows + row] = *value;
        }
    }
    turned
}

/// The mean of a square matrix and its transpose.
fn symmetrize(matrix: &mut [f64], size: usize) {
    for row in 0..size {
        for column in 0..row {
            let mean = 0.5 * (matrix[row * size + column] + matrix[column * size + row]);
            matrix[row * size + column] = mean;
            matrix[column * size + row] = mean;
        }
    }
}
