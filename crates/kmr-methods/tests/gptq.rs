//! GPTQ against its definition, and the laws of what it promises.

mod common;
mod problems;

use common::{granularities, grids};
use kmr_methods::{
    Clipping, Granularity, Grid, Matrix, MethodError, Parameters, Quantized, Scheme, fit,
    gptq::{Options, gptq},
    quantize, round_to_nearest,
};
use problems::{damped, inverse, problem};
use proptest::prelude::*;

/// (w − ŵ) H (w − ŵ)ᵀ of every row.
fn errors(weights: &[f32], quantized: &Quantized, gram: &[f64]) -> Vec<f64> {
    let columns = quantized.columns;
    let off: Vec<f64> = weights
        .iter()
        .zip(quantized.dequantize())
        .map(|(&a, b)| f64::from(a) - f64::from(b))
        .collect();
    let energy = |off: &[f64]| {
        let image = gram
            .chunks(columns)
            .map(|row| row.iter().zip(off).map(|(a, b)| a * b).sum::<f64>());
        image.zip(off).map(|(a, b)| a * b).sum()
    };
    off.chunks(columns).map(energy).collect()
}

/// A bound on the error of scales and products that are rounded to float32.
fn float_noise(weights: &[f32], gram: &[f64]) -> f64 {
    let most = weights.iter().fold(0.0, |most: f32, weight| most.max(weight.abs()));
    gram.iter().map(|value| value.abs()).sum::<f64>() * (1e-7 * f64::from(most)).powi(2)
}

fn scheme(grid: Grid, granularity: Granularity) -> Scheme {
    Scheme {
        grid,
        granularity,
        clipping: Clipping::Mse,
    }
}

/// Without anything but the sweep.
fn plain() -> Options {
    Options {
        refit: false,
        passes: 0,
        ..Options::default()
    }
}

/// Rounding to nearest with the scales that GPTQ starts from.
fn nearest(matrix: Matrix<'_>, gram: &[f64], scheme: &Scheme) -> Quantized {
    let columns = matrix.columns();
    let diagonal: Vec<f64> = (0..columns).map(|at| gram[at * columns + at]).collect();
    quantize(matrix, scheme, Some(&diagonal)).unwrap()
}

/// Optimal brain quantization as its paper has it: round one weight, move those that remain by the
/// inverse Hessian, and take the column out of the inverse.
fn by_definition(weights: &[f32], gram: &[f64], order: &[usize], rounded: &Quantized) -> Vec<i16> {
    let size = rounded.columns;
    let mut codes = Vec::new();
    for (row, weights) in weights.chunks(size).enumerate() {
        let mut weights: Vec<f64> = weights.iter().map(|&weight| f64::from(weight)).collect();
        let mut hessian = inverse(gram, size);
        let mut row_codes = vec![0; size];
        let (scale, zero) = (rounded.scales[row], rounded.zero_points[row]);
        for &column in order {
            let parameters = Parameters {
                scales: vec![scale],
                zero_points: vec![zero],
            };
            let one = [weights[column] as f32];
            let one = Matrix::new(1, 1, &one).unwrap();
            let one = round_to_nearest(one, rounded.grid, Granularity::Tensor, parameters).unwrap();
            row_codes[column] = one.codes[0];
            let pivot = hessian[column * size + column];
            let off = (weights[column] - f64::from(one.dequantize()[0])) / pivot;
            let line = hessian[column * size..][..size].to_vec();
            for other in 0..size {
                weights[other] -= off * line[other];
                for at in 0..size {
                    hessian[other * size + at] -= line[other] * line[at] / pivot;
                }
            }
        }
        codes.extend(row_codes);
    }
    codes
}

#[test]
fn it_is_what_the_paper_defines() {
    for seed in 0..40 {
        let (rows, columns) = (5, 12);
        let (weights, gram) = problem(rows, columns, seed);
        let matrix = Matrix::new(rows, columns, &weights).unwrap();
        let metric = damped(&gram, columns, 0.01);
        let grid = if seed % 2 == 0 {
            Grid::symmetric(3)
        } else {
            Grid::asymmetric(4)
        }
        .unwrap();
        let scheme = scheme(grid, Granularity::Channel);
        let rounded = nearest(matrix, &metric, &scheme);
        let mut order: Vec<usize> = (0..columns).collect();
        for act_order in [false, true] {
            if act_order {
                order.sort_by(|&a, &b| gram[b * columns + b].total_cmp(&gram[a * columns + a]));
            }
            let ours = gptq(matrix, &gram, &scheme, &Options { act_order, ..plain() }).unwrap();
            let theirs = Quantized {
                codes: by_definition(&weights, &metric, &order, &rounded),
                ..rounded.clone()
            };
            assert_eq!(ours.scales, theirs.scales);
            let kept = errors(&weights, &rounded, &metric);
            let (ours_errors, errors) = (errors(&weights, &ours, &metric), errors(&weights, &theirs, &metric));
            for row in 0..rows {
                let span = row * columns..(row + 1) * columns;
                if errors[row] < kept[row] {
                    assert_eq!(ours.codes[span.clone()], theirs.codes[span], "seed {seed}, row {row}");
                } else {
                    assert_eq!(ours.codes[span.clone()], rounded.codes[span], "seed {seed}, row {row}");
                    assert!(ours_errors[row] <= errors[row]);
                }
            }
        }
    }
}

#[test]
fn it_halves_the_error_of_rounding_to_nearest() {
    for bits in [2, 3, 4] {
        let mut totals = [0.0; 3];
        for seed in 0..30 {
            let (weights, gram) = problem(8, 40, seed);
            let matrix = Matrix::new(8, 40, &weights).unwrap();
            let scheme = scheme(Grid::symmetric(bits).unwrap(), Granularity::Channel);
            let runs = [
                nearest(matrix, &gram, &scheme),
                gptq(matrix, &gram, &scheme, &plain()).unwrap(),
                gptq(matrix, &gram, &scheme, &Options::default()).unwrap(),
            ];
            let sums = runs.map(|run| errors(&weights, &run, &gram).iter().sum::<f64>());
            assert!(
                sums[1] < sums[0] && sums[2] < sums[0],
                "seed {seed}, {bits} bits: {sums:?}"
            );
            totals.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
        }
        println!("{bits} bits: {totals:?}");
        assert!(
            totals[1] < 0.5 * totals[0] && totals[2] < 0.98 * totals[1],
            "{bits} bits: {totals:?}"
        );
    }
}

fn options() -> impl Strategy<Value = Options> {
    (0.001_f64..0.2, any::<bool>(), any::<bool>(), 0_usize..4).prop_map(|(damping, act_order, refit, passes)| Options {
        damping,
        act_order,
        refit,
        passes,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_row_errs_more_than_rounding_to_nearest(
        rows in 1_usize..20, columns in 1_usize..30, seed: u64,
        grid in grids(), granularity in granularities(), options in options(),
    ) {
        let (weights, gram) = problem(rows, columns, seed);
        let matrix = Matrix::new(rows, columns, &weights).unwrap();
        let metric = damped(&gram, columns, options.damping);
        let scheme = scheme(grid, granularity);
        let rounded = errors(&weights, &nearest(matrix, &metric, &scheme), &metric);
        let quantized = gptq(matrix, &gram, &scheme, &options).unwrap();
        let slack = float_noise(&weights, &metric);
        for (ours, rounded) in errors(&weights, &quantized, &metric).iter().zip(rounded) {
            prop_assert!(*ours <= rounded * (1.0 + 1e-4) + slack, "{ours} > {rounded}");
        }
        let allowed = i32::from(grid.low())..=i32::from(grid.high());
        prop_assert!(quantized.codes.iter().all(|&code| allowed.contains(&i32::from(code))));
        prop_assert!(quantized.zero_points.iter().all(|zero| allowed.contains(zero)));
        prop_assert!(quantized.scales.iter().all(|scale| scale.is_normal() && *scale > 0.0));
    }

    #[test]
    fn refinement_never_errs_more_than_the_sweep(
        columns in prop_oneof![4 => 1_usize..30, 1 => 60_usize..200], seed: u64,
        grid in grids(), granularity in granularities(), passes in 0_usize..4,
    ) {
        let (weights, gram) = problem(3, columns, seed);
        let matrix = Matrix::new(3, columns, &weights).unwrap();
        let metric = damped(&gram, columns, 0.01);
        let total = |options: &Options| {
            let quantized = gptq(matrix, &gram, &scheme(grid, granularity), options).unwrap();
            errors(&weights, &quantized, &metric).iter().sum::<f64>()
        };
        let swept = total(&plain());
        let slack = float_noise(&weights, &metric);
        for refit in [false, true] {
            let error = total(&Options { refit, passes, ..Options::default() });
            prop_assert!(error <= swept * (1.0 + 1e-4) + slack, "{error} > {swept} with {passes} passes");
        }
    }

    #[test]
    fn a_channel_of_many_sections_is_as_good_as_no_single_move_can_better(columns in 130_usize..200, seed: u64) {
        let (weights, gram) = problem(2, columns, seed);
        let matrix = Matrix::new(2, columns, &weights).unwrap();
        let metric = damped(&gram, columns, 0.01);
        let scheme = scheme(Grid::symmetric(4).unwrap(), Granularity::Channel);
        let options = Options { passes: 100, ..Options::default() };
        let quantized = gptq(matrix, &gram, &scheme, &options).unwrap();
        let least = errors(&weights, &quantized, &metric);
        let slack = float_noise(&weights, &metric);
        for (at, &code) in quantized.codes.iter().enumerate() {
            for moved in [code - 1, code + 1] {
                let mut other = quantized.clone();
                other.codes[at] = moved.clamp(-8, 7);
                let error = errors(&weights, &other, &metric)[at / columns];
                prop_assert!(error >= least[at / columns] * (1.0 - 1e-4) - slack, "{at}");
            }
        }
    }

    #[test]
    fn the_scale_of_the_gram_matrix_is_of_no_matter(
        columns in 1_usize..80, seed: u64, grid in grids(), granularity in granularities(), exponent in -900_i32..900,
    ) {
        let (weights, gram) = problem(3, columns, seed);
        let matrix = Matrix::new(3, columns, &weights).unwrap();
        let scaled: Vec<f64> = gram.iter().map(|value| value * 2_f64.powi(exponent)).collect();
        let scheme = scheme(grid, granularity);
        let options = Options::default();
        prop_assert_eq!(gptq(matrix, &scaled, &scheme, &options), gptq(matrix, &gram, &scheme, &options));
    }

    #[test]
    fn inputs_without_correlation_leave_rounding_to_nearest(
        rows in 1_usize..20, columns in 1_usize..20, seed: u64,
        grid in grids(), granularity in granularities(), act_order: bool,
    ) {
        let (weights, gram) = problem(rows, columns, seed);
        let matrix = Matrix::new(rows, columns, &weights).unwrap();
        let mut diagonal = vec![0.0; columns * columns];
        (0..columns).for_each(|at| diagonal[at * columns + at] = gram[at * columns + at]);
        let rounded = nearest(matrix, &damped(&diagonal, columns, 0.01), &scheme(grid, granularity));
        let quantized = gptq(matrix, &diagonal, &scheme(grid, granularity), &Options { act_order, ..plain() }).unwrap();
        prop_assert_eq!(quantized, rounded);
    }
}

#[test]
fn weights_beyond_products_of_float32_are_rounded_all_the_same() {
    let (weights, gram) = problem(3, 80, 5);
    let weights: Vec<f32> = weights.iter().map(|weight| weight * 1e36).collect();
    let matrix = Matrix::new(3, 80, &weights).unwrap();
    let scheme = scheme(Grid::asymmetric(4).unwrap(), Granularity::Group(32));
    let metric = damped(&gram, 80, 0.01);
    let rounded: f64 = errors(&weights, &nearest(matrix, &metric, &scheme), &metric)
        .iter()
        .sum();
    let quantized = gptq(matrix, &gram, &scheme, &Options::default()).unwrap();
    let ours: f64 = errors(&weights, &quantized, &metric).iter().sum();
    assert!(ours <= rounded, "{ours} > {rounded}");
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let (weights, gram) = problem(37, 150, 5);
    let matrix = Matrix::new(37, 150, &weights).unwrap();
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let scheme = scheme(Grid::asymmetric(3).unwrap(), Granularity::Group(64));
        pool.install(|| gptq(matrix, &gram, &scheme, &Options::default()).unwrap())
    };
    let alone = run(1);
    assert_eq!(run(2), alone);
    assert_eq!(run(5), alone);
}

#[test]
fn a_row_does_not_depend_on_its_neighbors() {
    let (weights, gram) = problem(20, 33, 8);
    let scheme = scheme(Grid::symmetric(3).unwrap(), Granularity::Group(10));
    let all = gptq(
        Matrix::new(20, 33, &weights).unwrap(),
        &gram,
        &scheme,
        &Options::default(),
    )
    .unwrap();
    let last = &weights[19 * 33..];
    let alone = gptq(Matrix::new(1, 33, last).unwrap(), &gram, &scheme, &Options::default()).unwrap();
    assert_eq!(alone.codes, all.codes[19 * 33..]);
    assert_eq!(alone.scales, all.scales[19 * 4..]);
}

#[test]
fn columns_without_input_are_rounded_to_nearest() {
    let (weights, mut gram) = problem(3, 6, 1);
    for at in 0..6 {
        gram[2 * 6 + at] = 0.0;
        gram[at * 6 + 2] = 0.0;
    }
    let matrix = Matrix::new(3, 6, &weights).unwrap();
    let scheme = Scheme {
        clipping: Clipping::MinMax,
        ..scheme(Grid::symmetric(4).unwrap(), Granularity::Channel)
    };
    let rounded = quantize(matrix, &scheme, None).unwrap();
    for damping in [0.0, 0.01] {
        let quantized = gptq(matrix, &gram, &scheme, &Options { damping, ..plain() }).unwrap();
        (0..3).for_each(|row| assert_eq!(quantized.codes[row * 6 + 2], rounded.codes[row * 6 + 2]));
    }
    assert_eq!(gptq(matrix, &[0.0; 36], &scheme, &plain()).unwrap(), rounded);
}

#[test]
fn dependent_inputs_get_more_damping() {
    // Every input is the same.
    let weights = [0.3, -0.4, 0.9, 0.2];
    let matrix = Matrix::new(1, 4, &weights).unwrap();
    let scheme = scheme(Grid::symmetric(2).unwrap(), Granularity::Channel);
    let quantized = gptq(
        matrix,
        &[1.0; 16],
        &scheme,
        &Options {
            damping: 0.0,
            ..plain()
        },
    )
    .unwrap();
    let raised = gptq(matrix, &[1.0; 16], &scheme, &plain()).unwrap();
    assert_eq!(quantized, raised);
}

#[test]
fn what_is_no_gram_matrix_is_refused() {
    let weights = [1.0, 2.0];
    let matrix = Matrix::new(1, 2, &weights).unwrap();
    let scheme = scheme(Grid::symmetric(4).unwrap(), Granularity::Channel);
    let run = |gram: &[f64], options: &Options| gptq(matrix, gram, &scheme, options).unwrap_err();
    let default = Options::default();
    assert!(matches!(
        run(&[1.0; 3], &default),
        MethodError::Length {
            expected: 4,
            got: 3,
            ..
        }
    ));
    assert!(matches!(
        run(&[1.0, 0.0, f64::NAN, 1.0], &default),
        MethodError::NotFinite { row: 1, column: 0, .. }
    ));
    assert_eq!(
        run(&[1.0, 0.0, 0.0, -1.0], &default),
        MethodError::NotPositive { column: 1 }
    );
    assert!(matches!(
        run(&[1.0, 9.0, 9.0, 1.0], &default),
        MethodError::NotPositive { .. }
    ));
    let options = Options {
        damping: f64::NAN,
        ..default
    };
    assert!(matches!(
        run(&[1.0, 0.0, 0.0, 1.0], &options),
        MethodError::Domain { .. }
    ));
}

#[test]
fn nothing_to_quantize_is_no_error() {
    for (rows, columns) in [(0, 0), (0, 3), (3, 0)] {
        for granularity in [Granularity::Tensor, Granularity::Channel, Granularity::Group(2)] {
            let scheme = scheme(Grid::symmetric(4).unwrap(), granularity);
            let matrix = Matrix::new(rows, columns, &[]).unwrap();
            let gram = vec![1.0; columns * columns];
            let quantized = gptq(matrix, &gram, &scheme, &Options::default()).unwrap();
            assert_eq!(quantized.scales.len(), fit(matrix, &scheme, None).unwrap().scales.len());
            assert!(quantized.codes.is_empty());
        }
    }
}
