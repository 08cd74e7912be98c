//! Layers to compress: weights, and Gram matrices of inputs that have a part in common.
#![allow(dead_code, reason = "every user takes a part of it")]

/// Numbers in [−1, 1) from a seed.
pub fn noise(mut state: u64) -> impl FnMut() -> f64 {
    state ^= 0x9e37_79b9_7f4a_7c15;
    move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    }
}

/// Weights, and the Gram matrix of inputs that have a part in common.
pub fn problem(rows: usize, columns: usize, seed: u64) -> (Vec<f32>, Vec<f64>) {
    let mut next = noise(seed);
    let weights = (0..rows * columns).map(|_| (next() + next() + next()) as f32).collect();
    let mut gram = vec![0.0; columns * columns];
    for _ in 0..2 * columns {
        let common = 2.0 * next();
        let input: Vec<f64> = (0..columns)
            .map(|at| (common + next()) * (1.0 + at as f64 % 3.0))
            .collect();
        for row in 0..columns {
            for column in 0..columns {
                gram[row * columns + column] += input[row] * input[column];
            }
        }
    }
    (weights, gram)
}

/// The Gram matrix with its diagonal damped.
pub fn damped(gram: &[f64], columns: usize, damping: f64) -> Vec<f64> {
    let mut gram = gram.to_vec();
    let mean = (0..columns).map(|at| gram[at * columns + at]).sum::<f64>() / columns as f64;
    for at in 0..columns {
        gram[at * columns + at] += damping * mean;
    }
    gram
}

/// The inverse, by Gauss–Jordan elimination.
pub fn inverse(matrix: &[f64], size: usize) -> Vec<f64> {
    let mut left = matrix.to_vec();
    let mut right = vec![0.0; size * size];
    (0..size).for_each(|at| right[at * size + at] = 1.0);
    for pivot in 0..size {
        let by = left[pivot * size + pivot];
        for column in 0..size {
            left[pivot * size + column] /= by;
            right[pivot * size + column] /= by;
        }
        for row in (0..size).filter(|&row| row != pivot) {
            let factor = left[row * size + pivot];
            for column in 0..size {
                left[row * size + column] -= factor * left[pivot * size + column];
                right[row * size + column] -= factor * right[pivot * size + column];
            }
        }
    }
    right
}
