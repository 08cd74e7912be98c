//! Eigenvalues and eigenvectors of a symmetric matrix: Householder's reduction to three diagonals, then implicit QL
//! ("Matrix Computations", Golub and Van Loan, 8.3). Every element is one chain of additions, multiplications,
//! divisions and square roots, so the result depends neither on threads nor on a mathematics library.

use rayon::prelude::*;

/// Columns of the matrix of vectors that are rotated together.
const BLOCK: usize = 16;
/// Rotations that are gathered before they are applied.
const GATHERED: usize = 1 << 16;
/// Rounds of QL for one eigenvalue; three are usual.
const ROUNDS: usize = 64;
/// Rows below which threads cost more than they bring.
const ALONE: usize = 128;

/// Eigenvalues, falling, and vectors.
pub(super) struct Eigen {
    pub values: Vec<f64>,
    /// The vectors of the first values, of length 1, one after the other.
    pub vectors: Vec<f64>,
}

/// The eigenvalues of the symmetric `size` × `size` matrix, with the vectors of the greatest `most` of them.
pub(super) fn eigen(mut matrix: Vec<f64>, size: usize, most: usize) -> Eigen {
    let scale = matrix.iter().fold(0.0_f64, |scale, value| scale.max(value.abs()));
    if scale == 0.0 || !scale.is_finite() {
        let kept = most.min(size);
        let vectors = (0..kept * size).map(|at| f64::from(u8::from(at / size == at % size)));
        return Eigen {
            values: vec![0.0; size],
            vectors: vectors.collect(),
        };
    }
    matrix.iter_mut().for_each(|value| *value /= scale);
    let Tridiagonal {
        mut diagonal,
        beside,
        reflections,
    } = reduce(&mut matrix, size);
    let mut rotated = Rotated::identity(size);
    iterate(&mut diagonal, beside, &mut rotated);
    rotated.flush();
    let mut order: Vec<usize> = (0..size).collect();
    order.sort_by(|&a, &b| diagonal[b].total_cmp(&diagonal[a]));
    let vectors = order[..most.min(size)].par_iter().flat_map_iter(|&at| {
        let mut vector = rotated.row(at);
        for reflection in reflections.iter().rev() {
            reflection.apply(&mut vector);
        }
        vector
    });
    Eigen {
        vectors: vectors.collect(),
        values: order.iter().map(|&at| diagonal[at] * scale).collect(),
    }
}

/// The inner product, added up in eight interleaved sums.
pub(super) fn dot(left: &[f64], right: &[f64]) -> f64 {
    const LANES: usize = 8;
    let mut sums = [0.0; LANES];
    let (left_chunks, right_chunks) = (left.chunks_exact(LANES), right.chunks_exact(LANES));
    let rest = left_chunks.remainder().iter().zip(right_chunks.remainder());
    let rest: f64 = rest.map(|(left, right)| left * right).sum();
    for (left, right) in left_chunks.zip(right_chunks) {
        for lane in 0..LANES {
            sums[lane] += left[lane] * right[lane];
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// The reflection I − f v vᵀ on the elements from `start` on.
struct Reflection {
    start: usize,
    vector: Vec<f64>,
    factor: f64,
}

impl Reflection {
    fn apply(&self, values: &mut [f64]) {
        let values = &mut values[self.start..];
        let along = self.factor * dot(&self.vector, values);
        values
            .iter_mut()
            .zip(&self.vector)
            .for_each(|(value, v)| *value -= along * v);
    }
}

/// A matrix of three diagonals, and the reflections that made it from the original one.
struct Tridiagonal {
    diagonal: Vec<f64>,
    /// Beside the diagonal, with a 0 after the last.
    beside: Vec<f64>,
    reflections: Vec<Reflection>,
}

fn reduce(matrix: &mut [f64], size: usize) -> Tridiagonal {
    let mut reflections = Vec::new();
    let mut beside = vec![0.0; size];
    for step in 0..size.saturating_sub(1) {
        let start = step + 1;
        let column: Vec<f64> = matrix[step * size + start..(step + 1) * size].to_vec();
        let length = dot(&column, &column).sqrt();
        let rest = dot(&column[1..], &column[1..]);
        if rest == 0.0 {
            beside[step] = column[0];
            continue;
        }
        let target = if column[0] > 0.0 { -length } else { length };
        beside[step] = target;
        let mut vector = column;
        vector[0] -= target;
        let factor = 2.0 / dot(&vector, &vector);
        let below = &mut matrix[start * size..];
        let single = size - start < ALONE;
        let product = |row: &[f64]| factor * dot(&row[start..], &vector);
        let mut turned: Vec<f64> = if single {
            below.chunks(size).map(product).collect()
        } else {
            below.par_chunks(size).map(product).collect()
        };
        let along = 0.5 * factor * dot(&turned, &vector);
        turned
            .iter_mut()
            .zip(&vector)
            .for_each(|(value, v)| *value -= along * v);
        let update = |(at, row): (usize, &mut [f64])| {
            let (own, turn) = (vector[at], turned[at]);
            let others = vector.iter().zip(&turned);
            for (value, (other, other_turn)) in row[start..].iter_mut().zip(others) {
                *value -= own * other_turn + turn * other;
            }
        };
        if single {
            below.chunks_mut(size).enumerate().for_each(update);
        } else {
            below.par_chunks_mut(size).enumerate().for_each(update);
        }
        reflections.push(Reflection { start, vector, factor });
    }
    Tridiagonal {
        diagonal: (0..size).map(|at| matrix[at * size + at]).collect(),
        beside,
        reflections,
    }
}

/// Turns the diagonal into eigenvalues, and notes the rotations that do it.
fn iterate(diagonal: &mut [f64], mut beside: Vec<f64>, rotated: &mut Rotated) {
    let size = diagonal.len();
    for first in 0..size {
        for _ in 0..ROUNDS {
            let negligible = |at: usize| {
                let near = diagonal[at].abs() + diagonal[at + 1].abs();
                beside[at].abs() <= f64::EPSILON * near.max(f64::EPSILON)
            };
            let last = (first..size - 1).find(|&at| negligible(at)).unwrap_or(size - 1);
            if last == first {
                break;
            }
            sweep(diagonal, &mut beside, first, last, rotated);
        }
    }
}

fn sweep(diagonal: &mut [f64], beside: &mut [f64], first: usize, last: usize, rotated: &mut Rotated) {
    let slope = (diagonal[first + 1] - diagonal[first]) / (2.0 * beside[first]);
    let root = (slope * slope + 1.0).sqrt();
    let shift = slope + if slope >= 0.0 { root } else { -root };
    let mut g = diagonal[last] - diagonal[first] + beside[first] / shift;
    let (mut sine, mut cosine, mut moved) = (1.0, 1.0, 0.0);
    for at in (first..last).rev() {
        let f = sine * beside[at];
        let b = cosine * beside[at];
        let length = (f * f + g * g).sqrt();
        beside[at + 1] = length;
        if length == 0.0 {
            diagonal[at + 1] -= moved;
            beside[last] = 0.0;
            return;
        }
        sine = f / length;
        cosine = g / length;
        g = diagonal[at + 1] - moved;
        let r = (diagonal[at] - g) * sine + 2.0 * cosine * b;
        moved = sine * r;
        diagonal[at + 1] = g + moved;
        g = cosine * r - b;
        rotated.rotate(at, cosine, sine);
    }
    diagonal[first] -= moved;
    beside[first] = g;
    beside[last] = 0.0;
}

/// A square matrix whose rows are rotated against each other, in blocks of columns.
struct Rotated {
    size: usize,
    blocks: Vec<Vec<[f64; BLOCK]>>,
    pending: Vec<(usize, f64, f64)>,
}

impl Rotated {
    fn identity(size: usize) -> Self {
        let block = |block: usize| {
            let row = |row: usize| std::array::from_fn(|lane| f64::from(u8::from(block * BLOCK + lane == row)));
            (0..size).map(row).collect()
        };
        Self {
            size,
            blocks: (0..size.div_ceil(BLOCK)).map(block).collect(),
            pending: Vec::new(),
        }
    }

    /// Rotates rows `at` and `at` + 1.
    fn rotate(&mut self, at: usize, cosine: f64, sine: f64) {
        self.pending.push((at, cosine, sine));
        if self.pending.len() == GATHERED {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        self.blocks.par_iter_mut().for_each(|block| {
            for &(at, cosine, sine) in &pending {
                let (above, below) = (block[at], block[at + 1]);
                for lane in 0..BLOCK {
                    block[at + 1][lane] = sine * above[lane] + cosine * below[lane];
                    block[at][lane] = cosine * above[lane] - sine * below[lane];
                }
            }
        });
    }

    fn row(&self, row: usize) -> Vec<f64> {
        self.blocks
            .iter()
            .flat_map(|block| block[row])
            .take(self.size)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn symmetric(size: usize, mut seed: u64) -> Vec<f64> {
        let mut matrix = vec![0.0; size * size];
        for row in 0..size {
            for column in 0..=row {
                seed = seed
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let value = (seed >> 11) as f64 / (1_u64 << 52) as f64 - 1.0;
                matrix[row * size + column] = value;
                matrix[column * size + row] = value;
            }
        }
        matrix
    }

    fn check(matrix: &[f64], size: usize) {
        let scale = matrix.iter().fold(1e-300_f64, |most, value| most.max(value.abs()));
        let found = eigen(matrix.to_vec(), size, size);
        assert!(found.values.windows(2).all(|pair| pair[0] >= pair[1]));
        for (value, vector) in found.values.iter().zip(found.vectors.chunks(size)) {
            for row in 0..size {
                let product = dot(&matrix[row * size..][..size], vector);
                assert!((product - value * vector[row]).abs() < 1e-11 * size as f64 * scale);
            }
            for other in found.vectors.chunks(size) {
                let expected = f64::from(u8::from(std::ptr::eq(vector, other)));
                assert!((dot(vector, other) - expected).abs() < 1e-11 * size as f64);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn a_vector_is_only_stretched(size in 1_usize..40, seed: u64, scale in -60_i32..60) {
            let scale = 2_f64.powi(scale);
            let matrix: Vec<f64> = symmetric(size, seed).iter().map(|value| value * scale).collect();
            check(&matrix, size);
        }

        #[test]
        fn the_number_of_threads_changes_nothing(size in 130_usize..160, seed: u64) {
            let matrix = symmetric(size, seed);
            let on = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let found = pool.install(|| eigen(matrix.clone(), size, 4));
                (found.values, found.vectors)
            };
            let alone = on(1);
            prop_assert!(alone == on(2) && alone == on(4));
        }
    }

    #[test]
    fn repeated_and_missing_values() {
        check(&[0.0; 25], 5);
        let identity: Vec<f64> = (0..25).map(|at| f64::from(u8::from(at / 5 == at % 5))).collect();
        check(&identity, 5);
        check(&[1.0; 36], 6);
        // Two blocks of the same eigenvalues.
        check(
            &[
                2.0, 1.0, 0.0, 0.0, 1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 2.0, 1.0, 0.0, 0.0, 1.0, 2.0,
            ],
            4,
        );
        assert!(eigen(Vec::new(), 0, 3).vectors.is_empty());
    }
}
