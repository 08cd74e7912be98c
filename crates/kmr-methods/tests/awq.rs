//! Factors of AWQ, and what they are good for.

mod problems;

use kmr_methods::{Clipping, Granularity, Grid, Matrix, MethodError, Scheme, awq::scales, quantize};
use problems::problem;
use proptest::prelude::*;

fn scheme(bits: u8, size: usize) -> Scheme {
    Scheme {
        grid: Grid::symmetric(bits).unwrap(),
        granularity: Granularity::Group(size),
        clipping: Clipping::MinMax,
    }
}

/// What rounding to nearest leaves of the outputs, where columns are multiplied by factors and divided after.
fn left(weights: &[f32], factors: &[f32], gram: &[f64], scheme: &Scheme) -> f64 {
    let columns = factors.len();
    let scaled: Vec<f32> = weights.iter().zip(factors.iter().cycle()).map(|(w, f)| w * f).collect();
    let matrix = Matrix::new(weights.len() / columns, columns, &scaled).unwrap();
    let rounded = quantize(matrix, scheme, None).unwrap().dequantize();
    let off: Vec<f64> = (0..weights.len())
        .map(|at| f64::from(rounded[at]) / f64::from(factors[at % columns]) - f64::from(weights[at]))
        .collect();
    let energy = |row: &[f64]| {
        let image = gram
            .chunks(columns)
            .map(|line| line.iter().zip(row).map(|(a, b)| a * b).sum::<f64>());
        image.zip(row).map(|(a, b)| a * b).sum::<f64>()
    };
    off.chunks(columns).map(energy).sum()
}

/// Inputs of which a few are much larger than the others, as transformers have them.
fn with_outliers(rows: usize, columns: usize, seed: u64) -> (Vec<f32>, Vec<f32>, Vec<f64>) {
    let (weights, mut gram) = problem(rows, columns, seed);
    let size = |at: usize| if at % 16 == 3 { 30.0 } else { 1.0 };
    for row in 0..columns {
        for column in 0..columns {
            gram[row * columns + column] *= size(row) * size(column);
        }
    }
    let magnitude = (0..columns).map(|at| gram[at * columns + at].sqrt() as f32).collect();
    (weights, magnitude, gram)
}

#[test]
fn salient_inputs_are_spared() {
    let mut totals = [0.0; 2];
    for seed in 0..10 {
        let (weights, magnitude, gram) = with_outliers(16, 64, seed);
        let scheme = scheme(3, 32);
        let layers = [Matrix::new(16, 64, &weights).unwrap()];
        let factors = scales(&layers, &magnitude, &gram, &scheme).unwrap();
        totals[0] += left(&weights, &[1.0; 64], &gram, &scheme);
        totals[1] += left(&weights, &factors, &gram, &scheme);
    }
    println!("{totals:?}");
    assert!(totals[1] < 0.5 * totals[0], "{totals:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50))]

    #[test]
    fn the_error_is_never_more_than_without(
        rows in 1_usize..8, columns in 1_usize..24, seed: u64, bits in 2_u8..=8, size in 2_usize..9,
    ) {
        let (weights, magnitude, gram) = with_outliers(rows, columns, seed);
        let (other, ..) = with_outliers(rows + 1, columns, seed ^ 1);
        let scheme = scheme(bits, size);
        let layers = [Matrix::new(rows, columns, &weights).unwrap(), Matrix::new(rows + 1, columns, &other).unwrap()];
        let factors = scales(&layers, &magnitude, &gram, &scheme).unwrap();
        prop_assert!(factors.iter().all(|factor| factor.is_normal() && *factor > 0.0));
        let both = |factors: &[f32]| left(&weights, factors, &gram, &scheme) + left(&other, factors, &gram, &scheme);
        let (with, without) = (both(&factors), both(&vec![1.0; columns]));
        prop_assert!(with <= without * (1.0 + 1e-9), "{} > {}", with, without);
    }
}

#[test]
fn inputs_that_are_always_zero_keep_their_factor() {
    let (weights, mut magnitude, mut gram) = with_outliers(4, 8, 2);
    magnitude[5] = 0.0;
    for at in 0..8 {
        gram[5 * 8 + at] = 0.0;
        gram[at * 8 + 5] = 0.0;
    }
    let layers = [Matrix::new(4, 8, &weights).unwrap()];
    assert_eq!(scales(&layers, &magnitude, &gram, &scheme(3, 8)).unwrap()[5], 1.0);
    let refused = |magnitude: &[f32], gram: &[f64]| scales(&layers, magnitude, gram, &scheme(3, 8)).unwrap_err();
    assert!(matches!(refused(&magnitude[1..], &gram), MethodError::Length { .. }));
    magnitude[1] = f32::NAN;
    assert!(matches!(
        refused(&magnitude, &gram),
        MethodError::NotFinite { column: 1, .. }
    ));
}
