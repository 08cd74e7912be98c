//! Laws of approximation by low rank.

use kmr_methods::{
    Matrix, MethodError,
    low_rank::{Decomposition, Factors, with_constant},
};
use proptest::prelude::*;

fn noise(count: usize, mut seed: u64) -> Vec<f32> {
    let mut next = || {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// tr((E − X) C (E − X)ᵀ).
fn error(matrix: &[f32], other: &[f32], columns: usize, moments: Option<&[f64]>) -> f64 {
    let rows = matrix.chunks(columns).zip(other.chunks(columns));
    rows.map(|(own, other)| {
        let off: Vec<f64> = own
            .iter()
            .zip(other)
            .map(|(a, b)| f64::from(*a) - f64::from(*b))
            .collect();
        let plain = || off.iter().map(|value| value * value).sum::<f64>();
        moments.map_or_else(plain, |moments| {
            (0..columns * columns)
                .map(|at| off[at / columns] * moments[at] * off[at % columns])
                .sum()
        })
    })
    .sum()
}

/// Second moments of `samples` inputs, singular where these are fewer than columns.
fn moments(columns: usize, samples: usize, seed: u64) -> Vec<f64> {
    let inputs = noise(columns * samples, seed);
    let product = |a: usize, b: usize| -> f64 {
        inputs
            .chunks(columns)
            .map(|x| f64::from(x[a]) * f64::from(x[b]))
            .sum::<f64>()
            / samples as f64
    };
    (0..columns * columns)
        .map(|at| product((at / columns).min(at % columns), (at / columns).max(at % columns)))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn no_competitor_is_closer(
        rows in 1_usize..12, columns in 1_usize..12, rank in 0_usize..6, seed: u64,
        samples in prop::option::of(1_usize..24), step in 0.001_f32..1.0,
    ) {
        let matrix = noise(rows * columns, seed);
        let moments = samples.map(|samples| moments(columns, samples, seed ^ 1));
        let moments = moments.as_deref();
        let found = Decomposition::of(Matrix::new(rows, columns, &matrix).unwrap(), moments, rank).unwrap();
        let factors = found.factors(rank);
        let product = if rank == 0 { vec![0.0; rows * columns] } else { factors.product() };
        let own = error(&matrix, &product, columns, moments);
        let total = error(&matrix, &vec![0.0; matrix.len()], columns, moments);
        let promised: f64 = found.singular_values()[rank.min(rows.min(columns))..].iter().map(|v| v * v).sum();
        prop_assert!((own - promised).abs() <= 1e-4 * total.max(1e-9), "{own} is not {promised} of {total}");
        if rank == 0 {
            return Ok(());
        }
        let competitor = |left: Vec<f32>, right: Vec<f32>| {
            error(&matrix, &Factors { rank, left, right }.product(), columns, moments)
        };
        let slack = 1e-4 * total;
        let random = competitor(noise(rows * rank, seed ^ 2), noise(rank * columns, seed ^ 3));
        prop_assert!(own <= random + slack);
        let near = |values: &[f32], seed| -> Vec<f32> {
            values.iter().zip(noise(values.len(), seed)).map(|(value, by)| value + step * by).collect()
        };
        let beside = competitor(near(&factors.left, seed ^ 4), near(&factors.right, seed ^ 5));
        prop_assert!(own <= beside + slack);
    }

    #[test]
    fn a_matrix_of_low_rank_comes_back(
        rows in 1_usize..20, columns in 1_usize..20, rank in 1_usize..5, seed: u64, exponent in -30_i32..30,
    ) {
        let scale = 2_f32.powi(exponent);
        let left = noise(rows * rank, seed).iter().map(|value| value * scale).collect();
        let matrix = Factors { rank, left, right: noise(rank * columns, seed ^ 1) }.product();
        let found = Decomposition::of(Matrix::new(rows, columns, &matrix).unwrap(), None, rank + 2).unwrap();
        let largest = matrix.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        for (value, back) in matrix.iter().zip(found.factors(rank + 2).product()) {
            prop_assert!((value - back).abs() <= 1e-5 * largest, "{value} {back}");
        }
    }

    #[test]
    fn a_constant_error_is_made_up_for_as_far_as_a_product_can(
        rows in 1_usize..6, columns in 1_usize..6, rank in 1_usize..4, samples in 1_usize..20, seed: u64,
        corrected: bool, step in 0.01_f32..1.0,
    ) {
        let matrix = noise(rows * columns, seed);
        let inputs: Vec<f32> = noise(columns * samples, seed ^ 1).iter().map(|value| value + 0.7).collect();
        let means: Vec<f32> = (0..columns)
            .map(|at| (inputs.iter().skip(at).step_by(columns).map(|&v| f64::from(v)).sum::<f64>() / samples as f64) as f32)
            .collect();
        let moment = |a: usize, b: usize| -> f64 {
            inputs.chunks(columns).map(|x| f64::from(x[a]) * f64::from(x[b])).sum::<f64>() / samples as f64
        };
        let moments: Vec<f64> = (0..columns * columns).map(|at| moment(at / columns, at % columns)).collect();
        let product = |matrix: &[f32], x: &[f32], row: usize| -> f64 {
            matrix[row * columns..][..columns].iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum()
        };
        let constant: Vec<f64> = match corrected {
            true => (0..rows).map(|row| -product(&matrix, &means, row)).collect(),
            false => noise(rows, seed ^ 2).into_iter().map(f64::from).collect(),
        };
        let error = |other: &[f32]| -> f64 {
            let off = |x: &[f32], row: usize| product(&matrix, x, row) + constant[row] - product(other, x, row);
            inputs.chunks(columns).flat_map(|x| (0..rows).map(move |row| (x, row))).map(|(x, row)| off(x, row).powi(2)).sum()
        };
        let view = Matrix::new(rows, columns, &matrix).unwrap();
        let aim = with_constant(view, &constant, &means, &moments).unwrap();
        let aim = Matrix::new(rows, columns, &aim).unwrap();
        let factors = Decomposition::of(aim, Some(&moments), rank).unwrap().factors(rank);
        let own = error(&factors.product());
        let near = |values: &[f32], seed| -> Vec<f32> {
            values.iter().zip(noise(values.len(), seed)).map(|(value, by)| value + step * by).collect()
        };
        let beside = Factors { rank, left: near(&factors.left, seed ^ 4), right: near(&factors.right, seed ^ 5) };
        let plain = Decomposition::of(view, Some(&moments), rank).unwrap().factors(rank);
        let slack = 1e-3 * error(&vec![0.0; matrix.len()]) + 1e-6;
        prop_assert!(own <= error(&beside.product()) + slack && own <= error(&plain.product()) + slack);
    }

    #[test]
    fn equal_inputs_are_no_inputs(rows in 1_usize..10, columns in 1_usize..10, seed: u64) {
        let matrix = noise(rows * columns, seed);
        let matrix = Matrix::new(rows, columns, &matrix).unwrap();
        let identity: Vec<f64> = (0..columns * columns)
            .map(|at| if at / columns == at % columns { 1.0 } else { 0.0 })
            .collect();
        let plain = Decomposition::of(matrix, None, 3).unwrap();
        let weighted = Decomposition::of(matrix, Some(&identity), 3).unwrap();
        for (plain, weighted) in plain.singular_values().iter().zip(weighted.singular_values()) {
            prop_assert!((plain - weighted).abs() < 1e-6);
        }
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let (rows, columns) = (160, 140);
    let matrix = noise(rows * columns, 3);
    let moments = moments(columns, 300, 4);
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| Decomposition::of(Matrix::new(rows, columns, &matrix).unwrap(), Some(&moments), 8).unwrap())
    };
    let alone = on(1);
    assert!(alone == on(2) && alone == on(4));
}

#[test]
fn what_cannot_be_decomposed_is_named() {
    let matrix = Matrix::new(1, 2, &[1.0, 2.0]).unwrap();
    let refused = |moments: &[f64]| Decomposition::of(matrix, Some(moments), 1).unwrap_err();
    let short = refused(&[1.0]).to_string();
    assert_eq!(short, "the second moments must have 4 elements; it has 1");
    let broken = refused(&[1.0, f64::NAN, 0.0, 1.0]);
    assert!(
        matches!(
            broken,
            MethodError::NotFinite {
                what: "second moment",
                row: 0,
                column: 1,
                ..
            }
        ),
        "{broken}"
    );
}

#[test]
fn nothing_has_no_singular_values() {
    for (rows, columns) in [(0, 0), (0, 3), (3, 0)] {
        let found = Decomposition::of(Matrix::new(rows, columns, &[]).unwrap(), None, 2).unwrap();
        assert!(found.singular_values().iter().all(|&value| value == 0.0));
        assert_eq!(found.factors(2).left.len(), rows * 2);
    }
    let zeros = Decomposition::of(Matrix::new(2, 3, &[0.0; 6]).unwrap(), None, 2).unwrap();
    assert_eq!(zeros.factors(2).product(), [0.0; 6]);
}

/// How long a layer of a language model takes; `--ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn time() {
    for size in [256, 768, 1536] {
        let matrix = noise(size * size, 7);
        let start = std::time::Instant::now();
        let found = Decomposition::of(Matrix::new(size, size, &matrix).unwrap(), None, 16).unwrap();
        println!("{size}: {:?}, {}", start.elapsed(), found.singular_values()[0]);
    }
}
